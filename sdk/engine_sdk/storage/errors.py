"""Errors of clients, in the engine's kinds and without secrets."""

from __future__ import annotations

import asyncio
import html
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from engine_sdk.contract import (
    Conflict,
    DeadlineExceeded,
    DriverFault,
    EngineError,
    Forbidden,
    InvalidParameter,
    NotFound,
    Unavailable,
    Unsupported,
)

MASK = "****"
SHORTEST = 4
"""A secret of fewer characters is not searched for: it would mask half of every message, and protect nothing."""
_LONGEST_REASON = 300
"""Characters of a client's own message that are repeated; obstore adds pages of debug output."""

KINDS: Mapping[type[BaseException], type[EngineError]] = {
    FileNotFoundError: NotFound,
    FileExistsError: Conflict,
    IsADirectoryError: Conflict,
    NotADirectoryError: Conflict,
    PermissionError: Forbidden,
    TimeoutError: DeadlineExceeded,
    asyncio.TimeoutError: DeadlineExceeded,
    NotImplementedError: Unsupported,
    ImportError: Unsupported,
    ValueError: InvalidParameter,
    OSError: Unavailable,
    EOFError: Unavailable,
}
"""By exception: the kind of error. The most derived class counts."""
NAMED_KINDS: Mapping[str, type[EngineError]] = {
    "AlreadyExistsError": Conflict,  # obstore
    "PreconditionError": Conflict,
    "PermissionDeniedError": Forbidden,
    "UnauthenticatedError": Forbidden,
    "NotSupportedError": Unsupported,
    "InvalidPathError": InvalidParameter,
    "UnknownConfigurationKeyError": InvalidParameter,
    "GenericError": Unavailable,
    "PermissionDenied": Forbidden,  # asyncssh
    "HostKeyNotVerifiable": Forbidden,
    "SFTPPermissionDenied": Forbidden,
    "SFTPNoSuchFile": NotFound,
    "DisconnectError": Unavailable,
    "SFTPError": Unavailable,
    "ClientError": Unavailable,  # aiohttp
    "FSTimeoutError": DeadlineExceeded,  # fsspec
}
"""The same by the name of a class, for clients that are not imported here."""
_DENIED = re.compile(r"\b(401|403)\b|AccessDenied|SignatureDoesNotMatch|InvalidAccessKeyId|AuthenticationFailed")
_NOBODY = re.compile(r"169\.254\.169\.254|metadata\.google\.internal")
"""Where clients ask a cloud for the credentials of its machine, when they have been given none."""
_OVER = re.compile(r"operation timed out|deadline has elapsed", re.IGNORECASE)
_NOWHERE = re.compile(r"NoSuchBucket|ContainerNotFound|specified bucket does not exist")
_UNREADABLE = re.compile(r'object with invalid path: Error parsing Path "(.*?)": ', re.DOTALL)
"""obstore's word on a listing with a key that it cannot have: one with control characters. The rest is not listed."""
_XML = re.compile(r"\s*(?:<\?xml\b.*?\?>)?\s*<(\w+)\b[^>]*>.*?(?:</\1>|\Z)", re.DOTALL)
_CODE = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(r"<Message>\s*([^<\n]*)")
_HINTS: Mapping[type[EngineError], str] = {
    Forbidden: "Check the credentials, and what they may do there",
    Unavailable: "Check the address and that the server runs; the request may succeed later",
    DeadlineExceeded: "Check the address and that the server runs; the request may succeed later",
}


def mask(text: str, secrets: Iterable[bytes]) -> str:
    """Return a text with every secret in it replaced, also in the spelling of a URL."""
    for word in _spellings(secrets):
        text = text.replace(word, MASK)
    return text


def _spellings(secrets: Iterable[bytes]) -> list[str]:
    from urllib.parse import quote, quote_plus

    words = set()
    for secret in secrets:
        text = secret.decode(errors="replace").strip()
        if len(text) >= SHORTEST:
            words |= {text, quote(text, safe=""), quote(text), quote_plus(text), repr(text)[1:-1]}
    return sorted(words, key=len, reverse=True)


def plain(text: str) -> str:
    """Return a server's error with its XML as a sentence: S3's, Azure's and Google's have a code and a message."""

    def say(found: re.Match[str]) -> str:
        code, message = _CODE.search(found[0]), _MESSAGE.search(found[0])
        said = [part[1].strip() for part in (code, message) if part]
        return " " + html.unescape(": ".join(filter(None, said)) or "its answer is XML that says nothing")

    return _XML.sub(say, text).strip() if "<" in text else text.strip()


class Translator:
    """Turns what a client raises into errors of the engine, in a `with` statement.

    `secrets` are masked in every text, and an original error that contains one is not chained: a traceback would print
    it. `kinds` adds to or replaces entries of `KINDS`.
    """

    def __init__(
        self,
        driver: str,
        secrets: Iterable[bytes] = (),
        kinds: Mapping[type[BaseException], type[EngineError]] | None = None,
    ) -> None:
        self.driver = driver
        self._secrets = tuple(secrets)
        self._kinds = {**KINDS, **(kinds or {})}

    def __repr__(self) -> str:
        return f"Translator({self.driver!r})"

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Translate what is raised in the block; `what` says what could not be done."""
        try:
            yield
        except EngineError as err:
            err.driver = err.driver or self.driver
            raise
        except Exception as err:
            error = self.error(what, err)
            if self._leaks(err):
                raise error from None
            raise error from err

    def error(self, what: str, err: BaseException) -> EngineError:
        """Return the error of the engine for one of a client."""
        kind = self.kind(err)
        if _NOBODY.search(str(err)):
            return Forbidden(
                mask(what, self._secrets),
                driver=self.driver,
                why="no credentials were given, and no cloud answers for this machine",
                hint=f"Name them by options (engine driver show {self.driver}), or start `engine daemon` with them in "
                "its environment",
            )
        if unreadable := _UNREADABLE.search(str(err)):
            return InvalidParameter(
                mask(what, self._secrets),
                driver=self.driver,
                why=mask(f"the key {unreadable[1]!r} has a character that this client cannot read", self._secrets),
                hint="Remove or rename that object with another tool",
            )
        first = (plain(str(err).partition("\n\nDebug source")[0]) or "no reason given")[:_LONGEST_REASON]
        why = mask(f"{type(err).__name__}: {first}", self._secrets)
        return kind(mask(what, self._secrets), driver=self.driver, why=why, hint=_HINTS.get(kind, ""))

    def kind(self, err: BaseException) -> type[EngineError]:
        """Return the kind of error that a client's is."""
        status = getattr(err, "status", None)
        if status in (401, 403):
            return Forbidden
        if status in (404, 410):
            return NotFound
        for cls in type(err).__mro__:
            kind = self._kinds.get(cls) or NAMED_KINDS.get(cls.__name__)
            if kind is None:
                continue
            if kind is Unavailable and _DENIED.search(str(err)):
                return Forbidden
            if kind is Unavailable and _NOWHERE.search(str(err)):
                return NotFound
            return DeadlineExceeded if kind is Unavailable and _OVER.search(str(err)) else kind
        return DriverFault

    def _leaks(self, err: BaseException) -> bool:
        text = "".join(traceback.format_exception(err))
        return any(word in text for word in _spellings(self._secrets))
