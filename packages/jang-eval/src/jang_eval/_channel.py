"""How servers are connected to, and what is said where a call fails."""

import json
from typing import Any, Final, cast

import grpc

from jang_eval._access import Access
from jang_eval._errors import TargetError

# gRPC's own retries. Where the server says how long to wait, or not to ask again, in
# `grpc-retry-pushback-ms`, that is what they do; 5 is the most that gRPC allows.
_SERVICE_CONFIG: Final = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "jang.runtime.v1.RuntimeService"}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "10s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
                },
            }
        ]
    }
)
_CHANNEL_OPTIONS: Final = [
    # A proxy in the environment is meant for the web, not for the machine in the next room.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config", _SERVICE_CONFIG),
    # A row of logits is as long as the vocabulary.
    ("grpc.max_receive_message_length", 64 * 2**20),
]
_EXPLANATIONS: Final = {
    grpc.StatusCode.UNAVAILABLE: "not reachable ({details}), expected a JANG server there",
    grpc.StatusCode.DEADLINE_EXCEEDED: "found no answer after {timeout:g} s, expected one in time",
    grpc.StatusCode.UNIMPLEMENTED: "found another service ({details}), expected jang.runtime.v1",
}
_REFUSAL: Final = "found {code} ({details}), expected an answer"


def open_channel(address: str, access: Access) -> grpc.Channel:
    """A connection to a server, made when it is first needed."""
    credentials = access.credentials
    if credentials is None:
        return grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
    return grpc.secure_channel(address, credentials, options=_CHANNEL_OPTIONS)


def explained(error: grpc.RpcError, address: str, timeout: float) -> TargetError:
    """A failed call in one line.

    Args:
        error: Why it failed.
        address: Of the server.
        timeout: Seconds that were allowed.
    """
    # Every error of a call carries a status; grpc's types say so only for the call.
    code, details = cast(Any, error).code(), cast(Any, error).details()
    template = _EXPLANATIONS.get(code, _REFUSAL)
    message = template.format(code=code.name, details=details, timeout=timeout)
    # Details come from outside, in as many lines as they like.
    return TargetError(" ".join(f"server {address}: {message}".split()))
