"""The daemon's own log: lines for people, or JSON objects for programs."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from engine.spec.errors import InvalidParameter

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line; what a caller gave as `extra` (driver, object, operation) becomes fields of it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(level: str, format: str) -> None:
    """Send the log to standard error. Raises InvalidParameter for an unknown level or format."""
    if level not in LEVELS:
        raise InvalidParameter(f"unknown log level {level!r}", hint=f"Known: {', '.join(LEVELS)}.")
    if format not in FORMATS:
        raise InvalidParameter(f"unknown log format {format!r}", hint=f"Known: {', '.join(FORMATS)}.")
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if format == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
