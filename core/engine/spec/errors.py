"""The closed set of error kinds: each has an HTTP status and says what, which driver, why, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class EngineError(Exception):
    """Base of every error that reaches a person.

    `what` says what could not be done, `why` the cause, `hint` what to do next, `driver` which driver was asked.
    `details` is machine-readable (a JSON object). Never raised itself: raise one of the kinds below.
    """

    kind: ClassVar[str] = "internal"
    """What programs call it."""
    status: ClassVar[int] = 500
    """HTTP status of an answer that carries it."""

    def __init__(
        self,
        what: str,
        *,
        why: str = "",
        hint: str = "",
        driver: str = "",
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint
        self.driver = driver
        self.details = dict(details or {})

    def __str__(self) -> str:
        text = self.what
        if self.driver:
            text += f" (driver {self.driver})"
        if self.why:
            text += f": {self.why}"
        if self.hint:
            text = text.rstrip(".") + f". {self.hint}"
        return text


class InvalidParameter(EngineError):
    """The request itself is wrong: malformed, unknown option, out of range."""

    kind = "invalid-parameter"
    status = 400


class Forbidden(EngineError):
    """The request is understood and refused by policy."""

    kind = "forbidden"
    status = 403


class NotFound(EngineError):
    """The object, driver or image that was named does not exist."""

    kind = "not-found"
    status = 404


class Conflict(EngineError):
    """The request contradicts what exists: a name or address is taken, an object is in use."""

    kind = "conflict"
    status = 409


class Unsupported(EngineError):
    """The driver, the kernel or this version cannot do it."""

    kind = "unsupported"
    status = 501


class Unavailable(EngineError):
    """Something that is needed is not there now; the same request may succeed later."""

    kind = "unavailable"
    status = 503


class Locked(Unavailable):
    """The key of something encrypted cannot be had now. Nothing was touched; it works once the key is given."""

    kind = "locked"


class DeadlineExceeded(Unavailable):
    """An operation did not end in its time and was given up; nothing of it is left."""

    kind = "deadline-exceeded"


class DriverFault(EngineError):
    """A driver raised, hung or returned something that is not a valid answer: a bug of the driver."""

    kind = "driver-fault"


class ApplyFailed(EngineError):
    """The host refused a part of a plan; everything new was undone.

    `details` carries `resource` (its key), `errno` where the kernel gave one, and `left` (keys that could not be
    undone).
    """

    kind = "apply-failed"


class Internal(EngineError):
    """A fault of the engine itself."""
