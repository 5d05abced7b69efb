"""How a server serves."""

from dataclasses import dataclass, replace
from pathlib import Path

from jang_runtime._errors import InvalidRequestError
from jang_runtime._model import ModelInfo
from jang_runtime._service.transport import TlsFiles


@dataclass(frozen=True)
class ServiceOptions:
    """How a server serves.

    Attributes:
        listen: "HOST:PORT" or "unix:PATH"; port 0 takes a free one.
        allow_insecure: Whether to listen beyond this machine without TLS or without tokens.
        tls: Files for encrypted connections; None for none.
        token_file: Tokens of which a caller has to have one; None asks for none.
        metrics_listen: "HOST:PORT" of Prometheus metrics over HTTP; None for none.
        log_prompts: Whether texts of prompts are logged.
        max_queued: Requests that wait; one more is refused.
        max_prompt_tokens: Of a prompt, context or text; None means the model's context.
        max_tokens: To generate; None means the model's context.
        max_message_bytes: Of a message to the server.
        max_unread_bytes: Of results that one caller has not read yet.
        delta_seconds: In which tokens that follow a message of a stream wait for the next one; the
            first token and the end never wait. With more than 4 streams it is a quarter of this
            for each, up to twice this. 0 sends every token by itself.
        drain_seconds: For requests under way to end when the server is to end.
    """

    listen: str = "127.0.0.1:50051"
    allow_insecure: bool = False
    tls: TlsFiles | None = None
    token_file: Path | None = None
    metrics_listen: str | None = None
    log_prompts: bool = False
    max_queued: int = 256
    max_prompt_tokens: int | None = None
    max_tokens: int | None = None
    max_message_bytes: int = 16 * 10**6
    max_unread_bytes: int = 4 * 2**20
    delta_seconds: float = 0.1
    drain_seconds: float = 30.0


def check_service_options(options: ServiceOptions) -> None:
    """Check the numbers.

    Raises:
        InvalidRequestError: Naming the first option that is out of range.
    """
    for name in ("max_queued", "max_prompt_tokens", "max_tokens", "max_unread_bytes"):
        value: int | None = getattr(options, name)
        if value is not None and value < 1:
            raise InvalidRequestError(name, value, "1 or more")
    if not 1024 <= options.max_message_bytes < 2**31:
        raise InvalidRequestError("max_message_bytes", options.max_message_bytes, "1024 to 2**31-1")
    if not 0 <= options.delta_seconds <= 10:
        raise InvalidRequestError("delta_seconds", options.delta_seconds, "0 to 10")
    if not 0 <= options.drain_seconds < float("inf"):
        raise InvalidRequestError("drain_seconds", options.drain_seconds, "0 or more")


@dataclass(frozen=True)
class RequestLimits:
    """What a request may ask for; fields as in the API's `Limits`, and the model's context."""

    max_prompt_tokens: int
    max_tokens: int
    context_length: int


def request_limits(options: ServiceOptions, info: ModelInfo) -> RequestLimits:
    """The options' limits, or those of the model where they are lower."""
    limits = RequestLimits(info.context_length, info.context_length, info.context_length)
    if options.max_prompt_tokens is not None:
        most = min(options.max_prompt_tokens, info.context_length)
        limits = replace(limits, max_prompt_tokens=most)
    if options.max_tokens is not None:
        limits = replace(limits, max_tokens=min(options.max_tokens, info.context_length))
    return limits
