"""How much memory a converted model takes while it runs: weights, cache and workspace.

The cache is not estimated: mlx-lm's own class makes one, and tokens are put into it as a prompt and
an answer would. No value is ever computed, for MLX knows shapes before it computes; so this works
for models that are larger than memory.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten  # pyright: ignore[reportUnknownVariableType]

from jang_format import first_line, text_size
from jang_quant._errors import PlanError
from jang_quant._plan import Plan
from jang_quant._sources.source import Source
from jang_runtime.architecture import build_model

# Tokens of a prompt that are computed at once on Metal and CUDA.
_CHUNK: Final = 2048
_DEFAULT_CONTEXT: Final = 4096
_ACTIVATION_BYTES: Final = 2
# MLX's kernels, freed buffers that it keeps, Python, the tokenizer.
_FIXED_BYTES: Final = 500_000_000
# Sizes of a head for which Metal computes attention without storing all scores.
_FUSED_HEADS: Final = (64, 80, 128)
# Scores, and what the softmax makes of them.
_SCORE_COPIES: Final = 2
_EXPERTS_PER_TOKEN: Final = ("num_experts_per_tok", "top_k_experts", "moe_topk", "moe_top_k")
_LAYER: Final = re.compile(r".+?[.][0-9]+(?=[.])")
# What mlx-lm's classes raise where they do not fit a config.
_FAULTS: Final = (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError)


@dataclass(frozen=True)
class MemoryNeeds:
    """What a model takes while it answers, in bytes.

    Attributes:
        limit: What it may take.
        context: Tokens of prompt and answer together.
        weights: All tensors.
        cache: What is kept of the tokens, at its largest.
        workspace: What a chunk of a prompt takes while it is computed, estimated from above.
    """

    limit: int
    context: int
    weights: int
    cache: int
    workspace: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.workspace

    def describe(self) -> str:
        """The sum for people, in GB."""
        parts = (("weights", self.weights), ("cache", self.cache), ("workspace", self.workspace))
        return " + ".join(f"{name} {nbytes / 1e9:.2f}" for name, nbytes in parts)


@dataclass(frozen=True)
class _Growing:
    """A cache that tokens are put into, and one token's keys and values for their shapes."""

    cache: Any
    keys: mx.array
    values: mx.array


def memory_needs(source: Source, plan: Plan, limit: int, context: int | None) -> MemoryNeeds:
    """What a plan takes with so many tokens; computes nothing, whatever the model's size.

    Args:
        source: The model.
        plan: Its tensors.
        limit: Bytes that the model may take.
        context: Tokens of prompt and answer; None for what the config allows, at most 4096.

    Raises:
        PlanError: If mlx-lm's class does not tell its cache.
    """
    tokens = default_context(source.config) if context is None else context
    try:
        growing, constant = _caches(_model_in_16_bits(source, plan))
        cache = constant + _largest(growing, tokens, _CHUNK)
    except _FAULTS as error:
        raise PlanError(
            f"--fit-memory: {source.name}: mlx-lm's class does not tell its cache "
            f"({first_line(error)})"
        ) from error
    heads = text_size(source.config, "num_attention_heads") or 0
    values = _widths(plan, source.config) + _SCORE_COPIES * heads * _scored_tokens(growing)
    return MemoryNeeds(
        limit=limit,
        context=tokens,
        weights=plan.tensor_bytes,
        cache=cache,
        workspace=_FIXED_BYTES + min(_CHUNK, tokens) * _ACTIVATION_BYTES * values,
    )


def default_context(config: Mapping[str, Any]) -> int:
    """Tokens that a config allows, at most 4096."""
    stated = text_size(config, "max_position_embeddings")
    return min(stated or _DEFAULT_CONTEXT, _DEFAULT_CONTEXT)


def _model_in_16_bits(source: Source, plan: Plan) -> nn.Module:
    """The model as it will run: floats in 16 bits, but for those that stay float32."""
    model = build_model(source.config)
    dtype = mx.bfloat16 if source.float_dtype == "BF16" else mx.float16
    float32 = {path for path, other in plan.others.items() if other.float32}
    parameters = cast(list[tuple[str, mx.array]], tree_flatten(model.parameters()))
    cast(Any, model).load_weights(
        [
            (path, values.astype(dtype))
            for path, values in parameters
            if path not in float32 and mx.issubdtype(values.dtype, mx.floating)
        ],
        strict=False,
    )
    return model


def _caches(model: nn.Module) -> tuple[list[_Growing], int]:
    """Empty caches that grow with the tokens, and the bytes of those that do not."""
    from mlx_lm.models.cache import make_prompt_cache  # two seconds, which `--help` should not take

    used = make_prompt_cache(model)
    cast(Any, model)(mx.zeros((1, 1), mx.int32), cache=used)
    growing: list[_Growing] = []
    constant = 0
    for one, empty in zip(_leaves(used), _leaves(make_prompt_cache(model)), strict=True):
        if hasattr(one, "update_and_fetch") and one.keys is not None:
            growing.append(_Growing(empty, one.keys, one.values))
        else:
            constant += one.nbytes
    return growing, constant


def _leaves(caches: Sequence[Any]) -> Iterator[Any]:
    """The caches themselves, where lists of them stand for a layer."""
    for cache in caches:
        if hasattr(cache, "caches"):
            yield from _leaves(cache.caches)
        else:
            yield cache


def _largest(growing: Sequence[_Growing], context: int, chunk: int) -> int:
    """Put tokens into all caches as mlx-lm does; the most bytes that they had at one time.

    All but the last are a prompt, in chunks; windows keep a chunk more than they look back.
    """
    done = most = 0
    while done < context:
        step = min(chunk, max(context - 1 - done, 1))
        for one in growing:
            _put(one, step)
        done += step
        most = max(most, sum(one.cache.nbytes for one in growing))
    return most


def _put(one: _Growing, tokens: int) -> None:
    if hasattr(one.cache, "maybe_trim_front"):
        one.cache.maybe_trim_front()
    one.cache.update_and_fetch(*(_of_tokens(each, tokens) for each in (one.keys, one.values)))


def _of_tokens(like: mx.array, tokens: int) -> mx.array:
    batch, heads, _, size = like.shape
    return mx.zeros((batch, heads, tokens, size), like.dtype)


def _scored_tokens(growing: Sequence[_Growing]) -> int:
    """The most tokens that a layer stores scores of, for each token and head; 0 where none does."""
    return max((one.cache.keys.shape[2] for one in growing if not _is_fused(one)), default=0)


def _is_fused(one: _Growing) -> bool:
    size = one.keys.shape[-1]
    return size == one.values.shape[-1] and size in _FUSED_HEADS


def _widths(plan: Plan, config: Mapping[str, Any]) -> int:
    """Values that a token has at once, from above.

    The outputs of all modules of the widest layer, each once, an expert's for each that a token
    takes; the inputs of that layer, which are as wide as an embedding; and the logits.
    """
    layers: dict[str, int] = defaultdict(int)
    embedded = logits = 0
    for module in plan.modules:
        outputs, inputs = module.shape[-2:]
        found = _LAYER.match(module.path)
        if found is None:
            embedded += inputs
            logits = max(logits, outputs)
        else:
            experts = module.shape[0] if len(module.shape) > 2 else 1
            taken = text_size(config, *_EXPERTS_PER_TOKEN) or experts
            layers[found[0]] += outputs * min(experts, taken)
    return embedded + logits + max(layers.values(), default=0)
