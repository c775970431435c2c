"""One odd owner (a container, a network, an image) does not keep the others from being taken up or shown."""

from __future__ import annotations

import logging
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

from pydantic import ValidationError

from engine.spec.errors import EngineError

log = logging.getLogger(__name__)
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)
"""What reading a document raises that is not what it should be."""


@contextmanager
def alone(what: str, faults: MutableMapping[str, str] | None = None) -> Iterator[None]:
    """Let a failure be that of one owner: it is logged and, with a sentence, kept in `faults`; the next one follows."""
    try:
        yield
    except Exception as err:
        log.error("%s is not as it should be: %s", what, reason(err), exc_info=not isinstance(err, EngineError))
        if faults is not None:
            faults[what] = f"{what} is not as it should be: {reason(err)}"
    else:
        if faults is not None:
            faults.pop(what, None)


def reason(err: Exception) -> str:
    """Return in one line why a document could not be read, or what is made of it not be done."""
    if isinstance(err, EngineError):
        return str(err)
    if isinstance(err, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in err.errors()[:3])
    return f"{type(err).__name__}: {err}"
