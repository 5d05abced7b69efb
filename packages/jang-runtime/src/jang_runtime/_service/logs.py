"""Log lines of the service: one event each, with named fields, as text or as JSON."""

import json
import logging
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO, TypeAlias

LogFormat: TypeAlias = Literal["text", "json"]

_FIELDS: Final = "jang_fields"
# Of grpc.aio, as an error with a traceback, when an answer finds its call cancelled.
_GRPC_LOGGER: Final = "grpc._cython.cygrpc"
_CLIENT_HAS_LEFT: Final = "ExecuteBatchError raised in core by servicer method"


def log_event(
    logger: logging.Logger,
    event: str,
    fields: Mapping[str, object],
    level: int = logging.INFO,
    error: BaseException | None = None,
) -> None:
    """Write one event.

    Args:
        logger: Where to.
        event: What happened, in one word such as "call".
        fields: What is known of it; those that are None or "" are left out.
        level: Of `logging`.
        error: One whose traceback is written too.
    """
    known = {name: value for name, value in fields.items() if value is not None and value != ""}
    logger.log(level, event, exc_info=error, extra={_FIELDS: known})


@contextmanager
def logging_to(form: LogFormat, stream: TextIO | None = None) -> Generator[None]:
    """Send the log lines of this process to a stream for a while: ours, and warnings of libraries.

    Args:
        form: "text" for people, "json" for programs: one object in each line.
        stream: Where to; stderr if None.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(_is_of_interest)
    everybody, ours = logging.getLogger(), logging.getLogger("jang_runtime")
    level = ours.level
    everybody.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        everybody.removeHandler(handler)
        ours.setLevel(level)


def _is_of_interest(record: logging.LogRecord) -> bool:
    """Whether a record says what the line of its call does not: gRPC reports clients that left."""
    return not (record.name == _GRPC_LOGGER and record.getMessage().startswith(_CLIENT_HAS_LEFT))


class JsonFormatter(logging.Formatter):
    """One JSON object in each line: time, level, event, then the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for a record."""
        return json.dumps(self._entry(record), ensure_ascii=True, default=str)

    def _entry(self, record: logging.LogRecord) -> dict[str, object]:
        entry: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            **_event(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return entry


class TextFormatter(logging.Formatter):
    """A line for people: time, level, event, then `name=value` for the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for a record, and a traceback below it where there is one."""
        fields = _event(record)
        event = fields.pop("event")
        named = (f"{name}={_quoted(value)}" for name, value in fields.items())
        line = " ".join([_time(record), record.levelname.lower(), str(event), *named])
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _event(record: logging.LogRecord) -> dict[str, object]:
    """Event and fields of a record; what libraries log is an event named "message"."""
    fields: dict[str, Any] | None = getattr(record, _FIELDS, None)
    if fields is None:
        return {"event": "message", "logger": record.name, "message": record.getMessage()}
    return {"event": record.getMessage(), **fields}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _quoted(value: object) -> str:
    """A value without spaces as it is, others as JSON: nobody can put a line into the log."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    plain = text.isprintable() and not set(text) & set(' "=\\')
    return text if plain else json.dumps(text, ensure_ascii=True)
