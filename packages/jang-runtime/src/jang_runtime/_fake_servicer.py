"""The calls of the fake server."""

import math
from collections.abc import Iterator
from typing import Final

import grpc
import numpy as np

from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc
from jang_runtime._errors import AbortedError, InvalidRequestError
from jang_runtime._fake_calls import CallBook, RunningCall
from jang_runtime._fake_model import (
    CONTEXT_LENGTH,
    VOCABULARY_SIZE,
    Planned,
    check_tokens,
    logits_after,
    logprobs_after,
    plan_answer,
    text_of,
    token_logprobs,
    tokens_of,
)
from jang_runtime._fake_script import Script, continuation_tokens, question_of
from jang_runtime._requests import (
    check_continuation_count,
    check_last_position,
    check_positions,
)

# Of logits, and of log-probabilities of a prompt.
_ROWS_IN_A_MESSAGE: Final = 16


class FakeServicer(runtime_pb2_grpc.RuntimeServiceServicer):
    """jang.runtime.v1.RuntimeService after a script."""

    def __init__(self, script: Script, calls: CallBook) -> None:
        self._script = script
        self._calls = calls

    def GenerateStream(
        self, request: pb.GenerateStreamRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateStreamResponse]:
        """Stream a scripted answer, a word at a time."""
        with self._calls.call("GenerateStream", request, context) as call:
            call.pause(self._script.delay)
            for sent, event in enumerate(self._events(request, call), start=1):
                call.tell_name()
                yield event
                self._calls.fail_after(call, sent)

    def Generate(
        self, request: pb.GenerateRequest, context: grpc.ServicerContext
    ) -> pb.GenerateResponse:
        """Answer with a scripted answer."""
        with self._calls.call("Generate", request, context) as call:
            call.pause(self._script.delay)
            response = pb.GenerateResponse()
            for event in self._events(request, call):
                response.text += event.delta.text
                response.token_ids.extend(event.delta.token_ids)
                response.logprobs.extend(event.delta.logprobs)
                if event.HasField("prompt_logprobs"):
                    response.prompt_logprobs.SetInParent()
                    response.prompt_logprobs.tokens.extend(event.prompt_logprobs.tokens)
                if event.HasField("finished"):
                    response.finished.CopyFrom(event.finished)
            return response

    def Score(self, request: pb.ScoreRequest, context: grpc.ServicerContext) -> pb.ScoreResponse:
        """Score continuations, by the script or by chance that repeats."""
        with self._calls.call("Score", request, context) as call:
            self._work(call)
            check_continuation_count(len(request.continuations))
            scores = [
                self._score(request.context, continuation, index)
                for index, continuation in enumerate(request.continuations)
            ]
            usage = pb.Usage(
                prompt_tokens=len(self._script.prompt_tokens("context", request.context)),
                completion_tokens=sum(len(score.token_ids) for score in scores),
            )
            return pb.ScoreResponse(scores=scores, usage=usage, timings=pb.Timings())

    def Logits(
        self, request: pb.LogitsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.LogitsResponse]:
        """Stream rows of logits."""
        with self._calls.call("Logits", request, context) as call:
            self._work(call)
            for sent, event in enumerate(self._logits_events(request, call), start=1):
                call.tell_name()
                yield event
                self._calls.fail_after(call, sent)

    def Tokenize(
        self, request: pb.TokenizeRequest, context: grpc.ServicerContext
    ) -> pb.TokenizeResponse:
        """Make tokens of text."""
        with self._calls.call("Tokenize", request, context) as call:
            self._work(call)
            return pb.TokenizeResponse(
                token_ids=self._script.prompt_tokens("prompt", request.prompt)
            )

    def Detokenize(
        self, request: pb.DetokenizeRequest, context: grpc.ServicerContext
    ) -> pb.DetokenizeResponse:
        """Make text of tokens."""
        with self._calls.call("Detokenize", request, context) as call:
            self._work(call)
            check_tokens("token_ids", request.token_ids)
            skip = not request.HasField("skip_special_tokens") or request.skip_special_tokens
            return pb.DetokenizeResponse(text=text_of(request.token_ids, skip))

    def ApplyChatTemplate(
        self, request: pb.ApplyChatTemplateRequest, context: grpc.ServicerContext
    ) -> pb.ApplyChatTemplateResponse:
        """Make one text of a conversation."""
        with self._calls.call("ApplyChatTemplate", request, context) as call:
            self._work(call)
            field = "add_generation_prompt"
            add = not request.HasField(field) or request.add_generation_prompt
            text = self._script.chat_text("chat", request.chat, add)
            return pb.ApplyChatTemplateResponse(text=text, token_ids=tokens_of(text))

    def ListModels(
        self, request: pb.ListModelsRequest, context: grpc.ServicerContext
    ) -> pb.ListModelsResponse:
        """List the scripted model."""
        with self._calls.call("ListModels", request, context) as call:
            self._work(call)
            info = self._script.model_info
            model = pb.Model(
                name=info.name,
                architecture=info.architecture,
                profile=info.profile,
                digest=info.digest,
                context_length=info.context_length,
            )
            return pb.ListModelsResponse(models=[model])

    def GetModelInfo(
        self, request: pb.GetModelInfoRequest, context: grpc.ServicerContext
    ) -> pb.GetModelInfoResponse:
        """Describe the scripted model."""
        with self._calls.call("GetModelInfo", request, context) as call:
            self._work(call)
            return self._script.model_info

    def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> pb.GetServerInfoResponse:
        """Describe the server."""
        with self._calls.call("GetServerInfo", request, context) as call:
            self._work(call)
            limits = pb.Limits(max_prompt_tokens=CONTEXT_LENGTH, max_tokens=CONTEXT_LENGTH)
            return pb.GetServerInfoResponse(
                version="fake",
                backend="fake",
                ranks=1,
                sharding=pb.SHARDING_NONE,
                limits=limits,
                load=pb.Load(active=self._calls.running() - 1),
            )

    def Abort(self, request: pb.AbortRequest, context: grpc.ServicerContext) -> pb.AbortResponse:
        """Stop a call by its name."""
        with self._calls.call("Abort", request, context):
            if not request.request_id:
                raise InvalidRequestError("request_id", "none", "the name of a request")
            return pb.AbortResponse(was_running=self._calls.abort(request.request_id))

    def _work(self, call: RunningCall) -> None:
        """Take the time that was scripted."""
        call.pause(self._script.delay)
        _check_not_aborted(call)

    def _events(
        self, request: pb.GenerateStreamRequest | pb.GenerateRequest, call: RunningCall
    ) -> Iterator[pb.GenerateStreamResponse]:
        prompt = self._script.prompt_tokens("prompt", request.prompt)
        answer = self._script.answer(question_of(request.prompt))
        planned = plan_answer(answer, request.stopping)
        started = pb.Started(request_id=call.record.request_id, prompt_tokens=len(prompt))
        yield pb.GenerateStreamResponse(started=started)
        if request.logprobs.HasField("prompt"):
            tokens = token_logprobs(prompt[:1], prompt[1:], request.logprobs.prompt)
            for first in range(0, max(1, len(tokens)), _ROWS_IN_A_MESSAGE):
                some = pb.PromptLogprobs(tokens=tokens[first : first + _ROWS_IN_A_MESSAGE])
                yield pb.GenerateStreamResponse(prompt_logprobs=some)
        sent: list[int] = []
        for piece in planned.pieces():
            if call.is_over:
                break
            if call.is_late(request.stopping):
                planned = Planned("", pb.FINISH_REASON_DEADLINE)
                break
            tokens = tokens_of(piece)
            delta = pb.Delta(text=piece, token_ids=tokens)
            if request.logprobs.HasField("output"):
                before = [*prompt, *sent]
                delta.logprobs.extend(token_logprobs(before, tokens, request.logprobs.output))
            sent += tokens
            yield pb.GenerateStreamResponse(delta=delta)
            call.pause(self._script.delta_delay)
        if call.is_aborted:
            planned = Planned(planned.text, pb.FINISH_REASON_CANCELLED)
        yield pb.GenerateStreamResponse(finished=_finished(planned, len(prompt), len(sent)))

    def _logits_events(
        self, request: pb.LogitsRequest, call: RunningCall
    ) -> Iterator[pb.LogitsResponse]:
        tokens = self._script.prompt_tokens("prompt", request.prompt)
        positions = list(request.positions) or list(range(len(tokens)))
        check_positions(positions)
        check_last_position(positions[-1], len(tokens))
        started = pb.Started(request_id=call.record.request_id, prompt_tokens=len(tokens))
        yield pb.LogitsResponse(started=started)
        for first in range(0, len(positions), _ROWS_IN_A_MESSAGE):
            some = positions[first : first + _ROWS_IN_A_MESSAGE]
            values = np.stack([logits_after(tokens[: position + 1]) for position in some])
            rows = pb.LogitsRows(
                positions=some,
                vocabulary_size=VOCABULARY_SIZE,
                values=values.astype("<f4").tobytes(),
            )
            yield pb.LogitsResponse(rows=rows)
            call.pause(self._script.delta_delay)
            _check_not_aborted(call)
        planned = Planned("", pb.FINISH_REASON_COMPLETE)
        yield pb.LogitsResponse(finished=_finished(planned, len(tokens), 0))

    def _score(
        self, context: pb.Prompt, continuation: pb.Continuation, index: int
    ) -> pb.ContinuationScore:
        field = f"continuations[{index}]"
        before = self._script.prompt_tokens("context", context)
        tokens = continuation_tokens(field, continuation)
        if context.WhichOneof("input") == "text" and continuation.WhichOneof("input") == "text":
            # Spaces between them belong to the continuation.
            kept = len(tokens_of(context.text.rstrip()))
            before, tokens = before[:kept], before[kept:] + tokens
        if self._script.scores is not None:
            total = self._script.scores(question_of(context), text_of(tokens, True))
            each = [total / len(tokens)] * len(tokens)
            # What is likelier than all others together is the most likely for certain.
            greedy = all(logprob > math.log(0.5) for logprob in each)
        else:
            text = [*before, *tokens]
            ends = range(len(before), len(text))
            rows = [logprobs_after(text[:end]) for end in ends]
            each = [float(row[token]) for row, token in zip(rows, tokens, strict=True)]
            greedy = all(
                int(row.argmax()) == token for row, token in zip(rows, tokens, strict=True)
            )
        return pb.ContinuationScore(
            logprob=sum(each), token_logprobs=each, token_ids=tokens, is_greedy=greedy
        )


def _finished(planned: Planned, prompt_tokens: int, completion_tokens: int) -> pb.Finished:
    usage = pb.Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
    finished = pb.Finished(finish_reason=planned.reason, usage=usage, timings=pb.Timings())
    match planned.matched:
        case str(text):
            finished.stop_string = text
        case int(token):
            finished.stop_token_id = token
        case None:
            pass
    return finished


def _check_not_aborted(call: RunningCall) -> None:
    if call.is_aborted:
        raise AbortedError(f"{call.record.request_id} was aborted")
