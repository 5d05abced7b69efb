"""What a command does when it is told to end."""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any, Final

import typer

_ENDED: Final = "interrupted; the same command goes on from here"


@contextmanager
def ending_in_order() -> Generator[None]:
    """Ends what was begun, and keeps what there is, on SIGTERM and SIGHUP too, as on Ctrl-C."""

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    # nohup has what it starts ignore SIGHUP, and that is to stay so.
    heard = [
        each
        for each in (signal.SIGTERM, signal.SIGHUP)
        # Only the main thread may say what signals do.
        if current_thread() is main_thread() and signal.getsignal(each) is not signal.SIG_IGN
    ]
    before = {each: signal.signal(each, end) for each in heard}
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        typer.echo(_ENDED, err=True)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
