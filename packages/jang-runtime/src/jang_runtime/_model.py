"""Loading a model directory onto a backend, weights packed."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import mlx.core as mx
import mlx.nn as nn

from jang_format import (
    JangFormatError,
    SummaryRow,
    first_line,
    read_directory,
    section,
    summarize,
    text_size,
)
from jang_runtime._backend import Backend, detect_backend
from jang_runtime._errors import ModelError
from jang_runtime._loading import Take, load_model, whole

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper


@dataclass(frozen=True)
class ModelInfo:
    """A loaded model, described; fields as in jang/runtime/v1/runtime.proto."""

    name: str
    architecture: str
    profile: str
    bits_per_weight: float
    weight_bytes: int
    context_length: int
    vocabulary_size: int
    eos_token_ids: tuple[int, ...]
    has_chat_template: bool
    source_name: str
    source_quantization: str
    backend: Backend
    digest: str
    layout: str
    parameters: int
    bits_per_weight_without_embeddings: float
    special_tokens: "SpecialTokens"
    plan: tuple[SummaryRow, ...]
    plan_digest: str
    ranks: int = 1
    sharding: Literal["none", "tensor", "pipeline"] = "none"


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of tokens with a meaning of their own; None where the model has none."""

    bos: int | None
    eos: int | None
    pad: int | None
    unknown: int | None


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory; belongs to the thread that loaded it."""

    model: nn.Module
    tokenizer: "TokenizerWrapper"
    info: ModelInfo


def load(path: Path, name: str | None = None, take: Take = whole) -> LoadedModel:
    """Load a model directory of either layout; quantized weights stay packed.

    Args:
        path: The directory.
        name: The model's name; the directory's if None.
        take: What of the model to run.

    Raises:
        ModelError: If the directory is no model that can be run.
    """
    from mlx_lm.utils import load_config  # two seconds, which `--help` should not take

    backend = detect_backend()
    try:
        directory = read_directory(path)
        summary = summarize(directory)
        config = load_config(path)
        # A config that does not say is one of an old or recurrent model; 2048 was usual.
        context_length = text_size(config, "max_position_embeddings") or 2048
        vocabulary_size = text_size(config, "vocab_size")
        model = load_model(directory, config, backend, take)
        # Before the weights are read, for it takes memory for a moment.
        tokenizer = load_tokenizer(path)
        mx.eval(model.parameters())  # pyright: ignore[reportUnknownMemberType] - open in the stubs
    except JangFormatError as error:
        raise ModelError(str(error)) from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ModelError(f"{path}: mlx-lm cannot load it ({first_line(error)})") from error
    source = section(directory.manifest, "source_model")
    info = ModelInfo(
        name=name or path.resolve().name,
        architecture=summary.architecture,
        profile=summary.profile if summary.profile != "-" else "",
        bits_per_weight=summary.bits_per_weight,
        weight_bytes=summary.weight_bytes,
        context_length=context_length,
        vocabulary_size=vocabulary_size or len(tokenizer),
        eos_token_ids=tuple(sorted(tokenizer.eos_token_ids)),
        has_chat_template=tokenizer.has_chat_template,
        source_name=str(source.get("name") or ""),
        source_quantization=str(source.get("quantization") or ""),
        backend=backend,
        digest=summary.digest or "",
        layout=summary.layout,
        parameters=summary.parameters,
        bits_per_weight_without_embeddings=summary.bits_per_weight_without_embeddings,
        special_tokens=_special_tokens(tokenizer),
        plan=summary.rows,
        plan_digest=summary.plan_digest,
    )
    return LoadedModel(model=model, tokenizer=tokenizer, info=info)


def load_tokenizer(path: Path) -> "TokenizerWrapper":
    """The tokenizer of a model directory.

    Raises:
        ModelError: If none can be made of it.
    """
    from mlx_lm.utils import load_config
    from mlx_lm.utils import load_tokenizer as load_with_mlx_lm

    try:
        return load_with_mlx_lm(path, eos_token_ids=load_config(path).get("eos_token_id"))
    except Exception as error:  # transformers has errors of many families
        raise ModelError(f"{path}: no tokenizer can be made of it ({first_line(error)})") from error


def _special_tokens(tokenizer: "TokenizerWrapper") -> SpecialTokens:
    ids = [getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad", "unk")]
    return SpecialTokens(*ids)
