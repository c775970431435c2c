"""How a process inside of a container's root says no."""


class Refusal(Exception):
    """An error for the client: `kind` is one of engine.spec.errors'."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind
