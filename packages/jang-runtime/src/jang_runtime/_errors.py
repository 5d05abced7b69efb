"""Errors of jang-runtime.

JangRuntimeError
├── ModelError              the directory is no model that can be run
├── InvalidRequestError     a request asks for what cannot be done
├── GenerationError         a request failed inside the engine, alone
├── EngineStoppedError      the engine has ended and takes no more requests
├── ListenError             the server cannot listen where it was asked to
├── ServerError             a server answered a client of ours with an error, or not at all
└── BenchError              a program that was to be measured failed
"""


class JangRuntimeError(Exception):
    """Root of all errors of jang-runtime; the message is one line."""


class ModelError(JangRuntimeError):
    """The directory is no model that can be run."""


class InvalidRequestError(JangRuntimeError):
    """A request asks for what cannot be done.

    Args:
        field: The request's field, as the protobuf definition names it.
        found: What stands there.
        expected: What could stand there.
    """

    def __init__(self, field: str, found: object, expected: str) -> None:
        super().__init__(f"{field}: found {found}, expected {expected}")
        self.field = field


class GenerationError(JangRuntimeError):
    """A request failed inside the engine, alone; others go on."""


class EngineStoppedError(JangRuntimeError):
    """The engine has ended and takes no more requests."""


class ListenError(JangRuntimeError):
    """The server cannot listen where it was asked to."""


class ServerError(JangRuntimeError):
    """A server answered a client of ours with an error, or not at all."""


class BenchError(JangRuntimeError):
    """A program that was to be measured failed."""
