"""From the keys of a GGUF file to the config.json that mlx-lm reads."""

import logging
from collections.abc import Sequence
from typing import Any, Final

from jang_quant._sources.gguf_architectures import Architecture
from jang_quant._sources.gguf_header import GgufHeader, mismatch, optional
from jang_quant._sources.gguf_rope import ROPE_KEYS, rope_scaling

EMBEDDING: Final = "token_embd.weight"

_FLOAT_DTYPES: Final = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_QUOTIENT: Final = " / "

_logger = logging.getLogger("jang_quant")


def build_config(header: GgufHeader, architecture: Architecture) -> dict[str, Any]:
    """The config of the model, but for its special tokens.

    Raises:
        SourceError: If a key is missing, is of the wrong kind, or says something that the MLX
            model does not compute.
    """
    config: dict[str, Any] = {
        "model_type": architecture.model_type,
        "architectures": [architecture.class_name],
        "torch_dtype": _dtype(header, architecture),
        "vocab_size": _embedding_rows(header),
    }
    for key, sources in _integer_sources(header, architecture).items():
        config[key] = _integer(header, sources)
    for key, sources in architecture.numbers.items():
        config[key] = _number(header, sources)
    config |= architecture.constants
    for key, group in architecture.optional.items():
        present = any(_is_there(header, name) for name in group.tensors)
        config[key] = group.present if present else not group.present
    _check_heads(header, config)
    _check_fixed(header, architecture, config)
    scaling = rope_scaling(header, architecture, config)
    if scaling is not None:
        config["rope_scaling"] = scaling
    _note_unused(header, architecture)
    return config


def dimensions(config: dict[str, Any]) -> dict[str, int]:
    """The names that the shapes of the architectures' tables are written in."""
    return config | {
        "q_size": config["num_attention_heads"] * config["head_dim"],
        "kv_size": config["num_key_value_heads"] * config["head_dim"],
    }


def _dtype(header: GgufHeader, architecture: Architecture) -> str:
    kinds = {info.type.name for info in header.tensors.values()}
    if "BF16" in kinds:
        return _FLOAT_DTYPES["BF16"]
    if not kinds <= _FLOAT_DTYPES.keys():
        return architecture.dtype
    # A half-precision file keeps its norms in F32, so the smallest type is the model's.
    return _FLOAT_DTYPES["F16" if "F16" in kinds else "F32"]


def _embedding_rows(header: GgufHeader) -> int:
    embedding = header.tensors.get(EMBEDDING)
    if embedding is None:
        raise mismatch(header.path, EMBEDDING, "no such tensor", "the embedding")
    return embedding.shape[0]


def _integer_sources(
    header: GgufHeader, architecture: Architecture
) -> dict[str, Sequence[str | int]]:
    sources = dict(architecture.integers)
    for override in architecture.overrides:
        if all(
            (optional(header, f"{architecture.name}.{key}", int) or 0) == value
            for key, value in override.when.items()
        ):
            sources |= override.integers
    return sources


def _integer(header: GgufHeader, sources: Sequence[str | int]) -> int:
    for source in sources:
        if isinstance(source, int):
            return source
        if _QUOTIENT in source:
            return _quotient(header, *source.split(_QUOTIENT))
        value = _positive(header, source)
        if value is not None:
            return value
    raise _missing(header, sources)


def _number(header: GgufHeader, sources: Sequence[str | float]) -> float:
    for source in sources:
        if isinstance(source, float):
            return source
        key = f"{header.architecture}.{source}"
        value = optional(header, key, float)
        if value is not None:
            if value <= 0:
                raise mismatch(header.path, key, repr(value), "more than 0")
            return value
    raise _missing(header, sources)


def _quotient(header: GgufHeader, dividend: str, divisor: str) -> int:
    whole, parts = _integer(header, [dividend]), _integer(header, [divisor])
    if whole % parts:
        raise mismatch(
            header.path,
            f"{header.architecture}.{dividend}",
            str(whole),
            f"a multiple of {parts}, the {divisor}",
        )
    return whole // parts


def _positive(header: GgufHeader, name: str) -> int | None:
    key = f"{header.architecture}.{name}"
    value = optional(header, key, int)
    if value is not None and value < 1:
        raise mismatch(header.path, key, str(value), "1 or more")
    return value


def _missing(header: GgufHeader, sources: Sequence[str | float]) -> Exception:
    return mismatch(header.path, f"{header.architecture}.{sources[0]}", "no such key", "one")


def _is_there(header: GgufHeader, name: str) -> bool:
    # The first layer speaks for all; map_tensors finds the one that differs.
    return name.replace("{n}", "0") in header.tensors


def _check_heads(header: GgufHeader, config: dict[str, Any]) -> None:
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    if heads % kv_heads:
        key = f"{header.architecture}.attention.head_count_kv"
        raise mismatch(header.path, key, str(kv_heads), f"a divisor of {heads}, the head_count")
    if config["head_dim"] % 2:
        key = f"{header.architecture}.attention.key_length"
        raise mismatch(header.path, key, str(config["head_dim"]), "an even number, for RoPE")


def _check_fixed(header: GgufHeader, architecture: Architecture, config: dict[str, Any]) -> None:
    """Refuse what the MLX model would silently compute otherwise."""
    for name, expected in architecture.must_equal.items():
        key = f"{architecture.name}.{name}"
        if key not in header.metadata:
            continue
        value = config[expected] if isinstance(expected, str) else expected
        found = optional(header, key, bool if isinstance(value, bool) else float)
        if found != value:
            raise mismatch(
                header.path, key, repr(header.metadata[key]), f"{value!r}, all that mlx-lm computes"
            )


def _note_unused(header: GgufHeader, architecture: Architecture) -> None:
    """Say which of the model's keys are not used, for what they ask for is not done."""
    used = {source for sources in architecture.integers.values() for source in sources}
    used |= {source for sources in architecture.numbers.values() for source in sources}
    used |= architecture.must_equal.keys() | architecture.unused | ROPE_KEYS
    prefix = f"{architecture.name}."
    for key in header.metadata:
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and name not in used:
            _logger.warning(
                "%s: %s: not used, for nothing in mlx-lm is known to take it", header.path, key
            )
