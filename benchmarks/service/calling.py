"""One request of a load test over gRPC, from its plan to what came of it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1.runtime_pb2 import DESCRIPTOR
from jang_runtime._call_errors import server_error
from service.answers import fault_of, outcome_of
from service.plans import CANCELLED, HUNG, Plan

_SERVICE: Final = DESCRIPTOR.services_by_name["RuntimeService"]
_STREAMS: Final = frozenset(method.name for method in _SERVICE.methods if method.server_streaming)
_RESPONSES: Final[Mapping[str, Any]] = {
    method.name: getattr(pb, method.output_type.name) for method in _SERVICE.methods
}
# Every request has ended by then.
_GUARD_SECONDS: Final = 60.0
_SLOW_SECONDS: Final = 0.02
_STALLED_SECONDS: Final = 12.0


@dataclass(frozen=True)
class Result:
    """What came of a request.

    Attributes:
        plan: The request.
        outcome: As in `plans`.
        fault: What was wrong with its responses; empty if nothing was.
        aborted: Whether its Abort found it under way; None if none was sent.
        retry_after: Seconds that the server told its client to wait; None if it did not.
    """

    plan: Plan
    outcome: str
    fault: str
    aborted: bool | None
    retry_after: float | None = None


async def perform(
    plan: Plan,
    channel: grpc.aio.Channel,
    other: grpc.aio.Channel,
    twins: Sequence[pb.GenerateResponse],
) -> Result:
    """Make a call and read its answer.

    Args:
        plan: What to ask, how to read it, and when to stop.
        channel: Where the call goes.
        other: Another connection, for Abort.
        twins: Answers known before.
    """
    call = _call(plan, channel)
    ender = _Ender(plan, call, other)
    responses: list[Any] = []
    try:
        async with asyncio.timeout(_GUARD_SECONDS):
            await _read(plan, call, ender, responses)
    except TimeoutError:
        call.cancel()
        return Result(plan, HUNG, "", await ender.close())
    except asyncio.CancelledError:
        # The call's, not this task's.
        if not call.cancelled():
            raise
        return Result(plan, CANCELLED, "", await ender.close())
    except grpc.aio.AioRpcError as error:
        found = server_error("", error, plan.name)
        outcome = f"{found.code} {found.reason}".strip()
        return Result(plan, outcome, "", await ender.close(), found.retry_after)
    fault = fault_of(plan, responses, twins)
    return Result(plan, outcome_of(responses), fault, await ender.close())


def _call(plan: Plan, channel: grpc.aio.Channel) -> Any:
    path = f"/{_SERVICE.full_name}/{plan.method}"
    make = channel.unary_stream if plan.method in _STREAMS else channel.unary_unary
    response = _RESPONSES.get(plan.method, pb.AbortResponse)
    # Bytes are sent as they are, whatever they are.
    method: Any = make(path, _as_bytes, response.FromString)
    return method(plan.message, timeout=plan.deadline, metadata=plan.metadata)


def _as_bytes(message: Any) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


async def _read(plan: Plan, call: Any, ender: "_Ender", responses: list[Any]) -> None:
    if plan.method not in _STREAMS:
        responses.append(await call)
        return
    async for response in call:
        responses.append(response)
        await ender.note(len(responses))
        if plan.reader == "slow":
            await asyncio.sleep(_SLOW_SECONDS)
        elif plan.reader == "stalled" and len(responses) == 1:
            await asyncio.sleep(_STALLED_SECONDS)


class _Ender:
    """Ends a call before its time, as planned."""

    def __init__(self, plan: Plan, call: Any, other: grpc.aio.Channel) -> None:
        self._plan, self._call, self._other = plan, call, other
        self._was_running: bool | None = None
        self._has_begun = False
        self._timer: asyncio.Task[None] | None = None
        ending = plan.ending
        if ending is None:
            return
        if ending.after_events is None:
            self._timer = asyncio.create_task(self._later(ending.after_seconds))
        elif ending.after_events == 0:
            call.cancel()

    async def note(self, events: int) -> None:
        """Say how many responses have come."""
        ending = self._plan.ending
        if ending is not None and ending.after_events == events:
            await self._end()

    async def close(self) -> bool | None:
        """Stop the clock, or wait for the Abort that it has sent; what that said."""
        if self._timer is not None:
            if not self._has_begun:
                self._timer.cancel()
            await asyncio.wait([self._timer])
        return self._was_running

    async def _later(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._end()

    async def _end(self) -> None:
        self._has_begun = True
        assert self._plan.ending is not None
        if self._plan.ending.by == "client":
            self._call.cancel()
            return
        abort: Any = self._other.unary_unary(
            f"/{_SERVICE.full_name}/Abort", _as_bytes, pb.AbortResponse.FromString
        )
        name = (("x-request-id", f"abort-{self._plan.name}"),)
        answer = await abort(pb.AbortRequest(request_id=self._plan.name), metadata=name)
        self._was_running = answer.was_running
