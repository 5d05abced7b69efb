"""Loading a model directory onto a backend, weights packed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import mlx.core as mx
import mlx.nn as nn

from jang_format import MLX_LAYOUT, JangFormatError, read_directory, summarize
from jang_runtime._errors import ModelError

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

Backend = Literal["metal", "cuda", "cpu"]


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


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory; belongs to the thread that loaded it."""

    model: nn.Module
    tokenizer: "TokenizerWrapper"
    info: ModelInfo


def detect_backend() -> Backend:
    """The backend that MLX computes on in this process."""
    if mx.default_device() == mx.Device(mx.cpu):
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def load(path: Path, name: str | None = None) -> LoadedModel:
    """Load a model directory; quantized weights stay packed.

    On the CPU backend scales and activations are float32: MLX's reduced-precision CPU products
    are a few per cent off.

    Raises:
        ModelError: If the directory is no model that can be run.
    """
    from mlx_lm import utils  # two seconds, which `--help` should not take

    try:
        directory = read_directory(path)
        if directory.layout is not MLX_LAYOUT:
            raise ModelError(
                f"{path}: found block layout, expected MLX layout; "
                f"jang-format convert {path} OUT --layout mlx makes it"
            )
        summary = summarize(directory)
        model, config = utils.load_model(path, lazy=True)
        tokenizer = utils.load_tokenizer(path, eos_token_ids=config.get("eos_token_id"))
    except JangFormatError as error:
        raise ModelError(str(error)) from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path}: mlx-lm cannot load it ({reason})") from error
    backend = detect_backend()
    if backend == "cpu":
        model.set_dtype(mx.float32)
    mx.eval(model.parameters())  # pyright: ignore[reportUnknownMemberType] - open in mlx's stubs
    source = cast(Mapping[str, Any], directory.manifest.get("source_model") or {})
    info = ModelInfo(
        name=name or path.resolve().name,
        architecture=summary.architecture,
        profile=summary.profile if summary.profile != "-" else "",
        bits_per_weight=summary.bits_per_weight,
        weight_bytes=summary.weight_bytes,
        context_length=_context_length(config),
        vocabulary_size=_vocabulary_size(config, tokenizer),
        eos_token_ids=tuple(sorted(tokenizer.eos_token_ids)),
        has_chat_template=tokenizer.has_chat_template,
        source_name=str(source.get("name") or ""),
        source_quantization=str(source.get("quantization") or ""),
        backend=backend,
    )
    return LoadedModel(model=model, tokenizer=tokenizer, info=info)


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config that describes the language model."""
    inner = config.get("text_config")
    return cast(Mapping[str, Any], inner) if isinstance(inner, dict) else config


def _context_length(config: Mapping[str, Any]) -> int:
    # A config that does not say is one of an old or recurrent model; 2048 was usual.
    return int(_text_config(config).get("max_position_embeddings") or 2048)


def _vocabulary_size(config: Mapping[str, Any], tokenizer: "TokenizerWrapper") -> int:
    return int(_text_config(config).get("vocab_size") or len(tokenizer))
