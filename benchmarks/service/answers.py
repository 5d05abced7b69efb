"""Whether the answers that a client got are whole, in order, and those of its request."""

from collections.abc import Sequence
from typing import Any

from jang_proto.runtime.v1 import runtime_pb2 as pb
from service.plans import Plan


def outcome_of(responses: Sequence[Any]) -> str:
    """The outcome of a call that ended well."""
    finished = _finished(responses)
    if finished is None:
        return "OK"
    name = pb.FinishReason.Name(finished.finish_reason)
    return f"OK {name.removeprefix('FINISH_REASON_')}"


def fault_of(plan: Plan, responses: Sequence[Any], twins: Sequence[pb.GenerateResponse]) -> str:
    """What is wrong with the responses of a call that ended well; empty if nothing is."""
    match plan.method:
        case "GenerateStream":
            return _fault_of_stream(plan, responses) or _fault_of_twin(
                plan, _joined(responses), twins
            )
        case "Generate":
            (response,) = responses
            return _fault_of_count(response) or _fault_of_twin(plan, response, twins)
        case "Score":
            wanted, found = len(plan.message.continuations), len(responses[0].scores)
            return "" if wanted == found else f"{found} scores for {wanted} continuations"
        case "Logits":
            return _fault_of_logits(responses)
        case "Tokenize":
            return "" if responses[0].token_ids else "no tokens"
        case _:
            return ""


def _finished(responses: Sequence[Any]) -> Any:
    if not responses or "finished" not in responses[-1].DESCRIPTOR.fields_by_name:
        return None
    return responses[-1].finished


def _is_cancelled(finished: Any) -> bool:
    return finished.finish_reason == pb.FINISH_REASON_CANCELLED


def _fault_of_stream(plan: Plan, responses: Sequence[Any]) -> str:
    kinds = [response.WhichOneof("event") for response in responses]
    if not kinds or kinds[-1] != "finished" or kinds.count("finished") != 1:
        return f"not one end, which is the last: {kinds}"
    # One that is aborted while it waits never begins.
    if kinds == ["finished"] and _is_cancelled(responses[-1].finished):
        return ""
    if kinds[0] != "started" or responses[0].started.request_id != plan.name:
        return "not begun by its own start"
    middle = kinds[1:-1]
    pieces = middle.count("prompt_logprobs")
    # Cancelled before the first token, the log-probabilities may not have come.
    if _is_cancelled(responses[-1].finished) and not middle:
        return ""
    is_asked = plan.message.logprobs.HasField("prompt")
    in_order = ["prompt_logprobs"] * pieces + ["delta"] * (len(middle) - pieces)
    if middle != in_order or is_asked != bool(pieces):
        return f"events in another order: {sorted(set(kinds))}"
    return _fault_of_count(_joined(responses))


def _joined(responses: Sequence[Any]) -> pb.GenerateResponse:
    """What Generate would have answered."""
    whole = pb.GenerateResponse(finished=responses[-1].finished)
    for response in responses:
        if response.WhichOneof("event") == "delta":
            whole.text += response.delta.text
            whole.token_ids.extend(response.delta.token_ids)
            whole.logprobs.extend(response.delta.logprobs)
    return whole


def _fault_of_count(answer: pb.GenerateResponse) -> str:
    counted = answer.finished.usage.completion_tokens
    found = len(answer.token_ids)
    # A cancelled one may have tokens whose text was not complete.
    if found != counted and not (_is_cancelled(answer.finished) and found <= counted):
        return f"{found} tokens, {counted} counted"
    if answer.logprobs and len(answer.logprobs) != found:
        return f"{len(answer.logprobs)} log-probabilities of {found} tokens"
    return ""


def _fault_of_twin(
    plan: Plan, answer: pb.GenerateResponse, twins: Sequence[pb.GenerateResponse]
) -> str:
    if plan.twin is None or _is_cancelled(answer.finished):
        return ""
    alone = twins[plan.twin]
    same = (answer.text, answer.token_ids) == (alone.text, alone.token_ids)
    return "" if same else f"another text than alone: {answer.text!r}, not {alone.text!r}"


def _fault_of_logits(responses: Sequence[Any]) -> str:
    if responses[0].WhichOneof("event") != "started":
        return "not begun by its start"
    rows = [response.rows for response in responses[1:-1]]
    positions = [position for part in rows for position in part.positions]
    if positions != list(range(responses[0].started.prompt_tokens)):
        return f"logits after {len(positions)} of {responses[0].started.prompt_tokens} tokens"
    if any(len(part.values) != 4 * part.vocabulary_size * len(part.positions) for part in rows):
        return "rows of logits of another length"
    return ""
