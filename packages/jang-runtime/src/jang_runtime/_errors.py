"""Errors of jang-runtime.

JangRuntimeError
├── ModelError              the directory is no model that can be run
│   └── AnotherRankError        of several processes, another one says why
├── InvalidRequestError     a request asks for what cannot be done
│   ├── InvalidMetadataError    the same of a key of a call's metadata
│   ├── ModelNotFoundError      a model that is not served
│   └── NoChatTemplateError     a conversation, and the model has no template for one
├── CacheTooSmallError      the memory for keys and values is too small for this request, ever
├── QueueFullError          too many requests wait; later this one may fit
├── RequestIdInUseError     a request of that name is under way
├── NotServingError         the server is loading its model, or about to end
├── UnauthenticatedError    the caller has no token, or one that the server does not know
├── SlowReaderError         results were not read, and more of them are not kept
├── AbortedError            the request was stopped by its name
├── GenerationError         a request failed inside the engine, alone
├── EngineStoppedError      the engine has ended and takes no more requests
├── InterruptedInThreadError    a signal ended the service inside MLX
├── ListenError             the server cannot listen where it was asked to
├── ServerError             a server answered a client of ours with an error, or not at all
├── ClientOptionError       a client of ours was given options that it cannot follow
└── BenchError              a program that was to be measured failed
"""


class JangRuntimeError(Exception):
    """Root of all errors of jang-runtime; the message is one line."""


class ModelError(JangRuntimeError):
    """The directory is no model that can be run."""


class AnotherRankError(ModelError):
    """What was to be done was not, for the reason that another rank gives."""


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


class InvalidMetadataError(InvalidRequestError):
    """A key of a call's metadata has a value that it cannot have; arguments as for its base."""


class NoChatTemplateError(InvalidRequestError):
    """A conversation was sent, and the model has no template for one."""

    def __init__(self, field: str) -> None:
        super().__init__(field, "a conversation", "text: this model has no chat template")


class ModelNotFoundError(InvalidRequestError):
    """A request names a model that is not served.

    Args:
        asked: The name.
        served: The name of the model that is.
    """

    def __init__(self, asked: str, served: str) -> None:
        super().__init__("model", repr(asked), f"{served!r}, the model that is served, or none")


class CacheTooSmallError(JangRuntimeError):
    """The memory for keys and values is too small for this request, whatever else runs."""


class QueueFullError(JangRuntimeError):
    """Too many requests wait.

    Args:
        limit: How many may be under way, those that wait included.
        retry_after: Seconds after which it is worth asking again.
        things: What is counted.
    """

    def __init__(self, limit: int, retry_after: float, things: str = "requests") -> None:
        super().__init__(f"queue: found it full, expected at most {limit:,} {things} in it")
        self.retry_after = retry_after


class RequestIdInUseError(JangRuntimeError):
    """A request of that name is under way."""


class NotServingError(JangRuntimeError):
    """The server does not serve at this moment.

    Args:
        message: Why.
        retry_after: Seconds after which it is worth asking again; None while it ends.
    """

    def __init__(self, message: str, retry_after: float | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnauthenticatedError(JangRuntimeError):
    """The caller has no token, or one that the server does not know.

    Args:
        message: What is missing; never the token.
        has_token: Whether there was one.
    """

    def __init__(self, message: str, has_token: bool) -> None:
        super().__init__(message)
        self.has_token = has_token


class SlowReaderError(JangRuntimeError):
    """Results were not read, and the server keeps no more of them."""


class AbortedError(JangRuntimeError):
    """The request was stopped by its name."""


class GenerationError(JangRuntimeError):
    """A request failed inside the engine, alone; others go on."""


class EngineStoppedError(JangRuntimeError):
    """The engine has ended and takes no more requests."""


class InterruptedInThreadError(JangRuntimeError):
    """A signal ended the service while a thread is somewhere in MLX, which nobody can stop."""


class ListenError(JangRuntimeError):
    """The server cannot listen where it was asked to."""


class ServerError(JangRuntimeError):
    """A server answered a client of ours with an error, or not at all.

    Args:
        message: Server, status and the server's own words.
        code: Name of the gRPC status, such as "RESOURCE_EXHAUSTED".
        reason: The API's word for it, such as "QUEUE_FULL"; empty where the server gave none.
        field: The field of the request, or key of the metadata, that is wrong; else empty.
        request_id: The request's name in the server's log; empty if it got none.
        retry_after: Seconds after which the server would be asked again; None if it did not say.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        reason: str = "",
        field: str = "",
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.field = field
        self.request_id = request_id
        self.retry_after = retry_after


class ClientOptionError(JangRuntimeError):
    """A client of ours was given options that it cannot follow."""


class BenchError(JangRuntimeError):
    """A program that was to be measured failed."""
