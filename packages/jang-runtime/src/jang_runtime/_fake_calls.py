"""What the fake server keeps of its calls, and how it lets them fail."""

import threading
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import grpc
from google.protobuf.message import Message
from grpc_status import rpc_status

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_runtime._errors import (
    JangRuntimeError,
    ModelNotFoundError,
    RequestIdInUseError,
    UnauthenticatedError,
)
from jang_runtime._service.metadata import request_id
from jang_runtime._service.statuses import code_of, status_of

# A status alone is what a proxy or a load balancer in between would answer.
Failure: TypeAlias = JangRuntimeError | grpc.StatusCode


@dataclass
class FakeCall:
    """A call that the fake server got.

    Attributes:
        method: Such as "GenerateStream".
        request: Its message.
        metadata: What came with it, by key; values that are text.
        request_id: The client's name for it, or the one that the server invented.
        outcome: Name of the status with which it ended, such as "OK" or "CANCELLED"; empty while
            it is under way.
    """

    method: str
    request: Message
    metadata: dict[str, str]
    request_id: str
    outcome: str = ""


class RunningCall:
    """A call under way, for the code that answers it."""

    def __init__(self, record: FakeCall, context: grpc.ServicerContext) -> None:
        self.record = record
        self.is_aborted = False
        self._arrived = time.monotonic()
        self._context = context
        self._is_named = False
        self._stopped = threading.Event()

    @property
    def is_over(self) -> bool:
        """Whether there is no more to do: it was aborted, or nobody waits for it any more."""
        return self._stopped.is_set()

    def is_late(self, stopping: pb.Stopping) -> bool:
        """Whether the request's time limit has passed."""
        seconds = time.monotonic() - self._arrived
        return stopping.HasField("time_limit_seconds") and seconds >= stopping.time_limit_seconds

    def tell_name(self) -> None:
        """Send the call's name ahead of its first answer."""
        if not self._is_named:
            self._is_named = True
            self._context.send_initial_metadata((self.name_metadata(),))

    def name_metadata(self) -> tuple[str, str]:
        """The call's name as metadata."""
        return "x-request-id", self.record.request_id

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end of the call or an abort."""
        self._stopped.wait(seconds)

    def stop(self) -> None:
        """End its pauses."""
        self._stopped.set()


@dataclass
class _Planned:
    failure: Failure
    method: str
    times: int
    after_events: int


class CallBook:
    """All calls of one fake server, and the failures that wait for some of them.

    Args:
        token: What every call has to bring; none if empty.
        model: The name of the model; calls for others are refused.
    """

    def __init__(self, token: str, model: str) -> None:
        self._token = token
        self._model = model
        self._changed = threading.Condition()
        self._calls: list[RunningCall] = []
        self._planned: list[_Planned] = []

    def records(self) -> list[FakeCall]:
        """The calls so far, in the order in which they came."""
        with self._changed:
            return [call.record for call in self._calls]

    def plan(self, failure: Failure, method: str, times: int, after_events: int) -> None:
        """Let coming calls fail."""
        with self._changed:
            self._planned.append(_Planned(failure, method, times, after_events))

    def wait_until_idle(self, seconds: float) -> bool:
        """Wait until no call is under way; returns whether that came to be."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running(), seconds)

    def running(self) -> int:
        """How many calls are under way."""
        with self._changed:
            return len(self._running())

    def abort(self, name: str) -> bool:
        """Stop a call by its name; returns whether there was one."""
        with self._changed:
            found = [call for call in self._running() if call.record.request_id == name]
            for call in found:
                call.is_aborted = True
                call.stop()
        return bool(found)

    @contextmanager
    def call(
        self, method: str, request: Message, context: grpc.ServicerContext
    ) -> Generator[RunningCall]:
        """Everything around the work of one call."""
        call = self._begin(method, request, context)
        if not context.add_callback(lambda: self._end(call, _left(context))):
            self._end(call, _left(context))
        try:
            self._check(call)
            self.fail_after(call, 0)
            yield call
            call.tell_name()
            self._end(call, "OK")
        except _StatusError as error:
            self._end(call, error.code.name)
            context.abort(error.code, "as planned")
        except JangRuntimeError as error:
            self._end(call, code_of(error).name)
            status = rpc_status.to_status(status_of(error))
            # Beside the status, as on the real server: no headers were sent if nothing was.
            context.set_trailing_metadata((*(status.trailing_metadata or ()), call.name_metadata()))
            context.abort(status.code, status.details)
        except Exception:
            # The answer of the user's own function; gRPC writes the traceback to the log.
            self._end(call, "UNKNOWN")
            raise

    def fail_after(self, call: RunningCall, events: int) -> None:
        """Let a call fail if that was planned after this many of its events."""
        with self._changed:
            for planned in self._planned:
                fits = planned.method in ("", call.record.method)
                if fits and planned.after_events == events and planned.times > 0:
                    planned.times -= 1
                    break
            else:
                return
        if isinstance(planned.failure, JangRuntimeError):
            raise planned.failure
        raise _StatusError(planned.failure)

    def _running(self) -> list[RunningCall]:
        return [call for call in self._calls if not call.record.outcome]

    def _begin(self, method: str, request: Message, context: grpc.ServicerContext) -> RunningCall:
        metadata = {
            key: value for key, value in context.invocation_metadata() if isinstance(value, str)
        }
        name = metadata.get("x-request-id", uuid.uuid4().hex)
        call = RunningCall(FakeCall(method, request, metadata, name), context)
        with self._changed:
            self._calls.append(call)
        return call

    def _check(self, call: RunningCall) -> None:
        """Refuse what a real server would refuse because of the metadata or the model."""
        if self._token:
            sent = call.record.metadata.get("authorization", "")
            if sent != f"Bearer {self._token}":
                raise UnauthenticatedError("authorization: expected the token", bool(sent))
        name = request_id([call.record.request_id], "")
        with self._changed:
            if sum(other.record.request_id == name for other in self._running()) > 1:
                raise RequestIdInUseError(f"x-request-id: {name} is under way")
        asked: str = getattr(call.record.request, "model", "")
        if asked not in ("", self._model):
            raise ModelNotFoundError(asked, self._model)

    def _end(self, call: RunningCall, outcome: str) -> None:
        with self._changed:
            # The first end counts: gRPC's own word of it comes after ours.
            call.record.outcome = call.record.outcome or outcome
            call.stop()
            self._changed.notify_all()


class _StatusError(Exception):
    """A failure that was planned as a status without details."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__(code.name)
        self.code = code


def _left(context: grpc.ServicerContext) -> str:
    """How a call ended that the server did not end."""
    return "DEADLINE_EXCEEDED" if context.time_remaining() <= 0 else "CANCELLED"
