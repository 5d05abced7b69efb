"""The model of a directory: mlx-lm's classes, quantized modules in place, weights packed.

Tensors are read when they are evaluated, and quantized ones are never expanded. Modules of one
width are MLX's own; blocks of several widths have modules of ours.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

import mlx.core as mx
import mlx.nn as nn

from jang_format import BLOCK_LAYOUT, ModelDirectory
from jang_runtime import architecture
from jang_runtime._backend import Backend
from jang_runtime._blocks.loading import place_blocks
from jang_runtime._cpu_functions import with_cpu_functions
from jang_runtime._cpu_layers import use_cpu_layers, use_float32
from jang_runtime._errors import ModelError
from jang_runtime._mapping import map_weights
from jang_runtime._native import cpu_kernels

Weights = dict[str, mx.array]
# Makes a model of the weights that a function gives.
MakeModel: TypeAlias = Callable[[Callable[[ModelDirectory, Backend], Weights]], nn.Module]
# Has a model made, and leaves of it what this process is to run.
Take: TypeAlias = Callable[[MakeModel], nn.Module]


def whole(make: MakeModel) -> nn.Module:
    """All of a model."""
    return make(weights_in_place)


def weights_in_place(directory: ModelDirectory, backend: Backend) -> Weights:
    """All tensors; on the CPU they are those of the mapped files, where the kernels can do that."""
    native = cpu_kernels() if backend == "cpu" else None
    return weights_to_cut(directory, backend) if native is None else map_weights(directory, native)


def weights_to_cut(directory: ModelDirectory, backend: Backend) -> Weights:
    """All tensors, each read by itself: once it is cut, nothing holds the whole of it."""
    return architecture.read_weights([directory.path / name for name in directory.weight_files])


def load_model(
    directory: ModelDirectory, config: Mapping[str, Any], backend: Backend, take: Take = whole
) -> nn.Module:
    """The model of a directory, ready to run; weights are read when they are evaluated.

    On the CPU activations are float32, for MLX's sums of 16-bit numbers are too coarse there, and
    so is every parameter that no kernels of ours read as it is stored.

    Raises:
        ModelError: If tensors, config and the architecture do not fit each other.
    """
    _refuse_foreign(config)
    model = take(lambda read: _placed(directory, config, backend, read(directory, backend)))
    return _for_the_cpu(model) if backend == "cpu" else model


def _placed(
    directory: ModelDirectory, config: Mapping[str, Any], backend: Backend, weights: Weights
) -> nn.Module:
    """The modules of a model with their weights, as MLX's classes or those of blocks."""
    model = architecture.build_model(config)
    if directory.layout is BLOCK_LAYOUT:
        weights, quantization = place_blocks(model, directory, weights, backend)
    else:
        weights, quantization = architecture.sanitize(model, weights), config.get("quantization")
    if quantization is not None:
        _place_quantized(model, quantization, weights)
    model.eval()
    model.load_weights(list(weights.items()))
    return model


def _refuse_foreign(config: Mapping[str, Any]) -> None:
    """Refuse what mlx-lm would run or expand on loading: programs, and formats of others."""
    if config.get("model_file") is not None:
        raise ModelError("config.json: model_file: found a program, expected none")
    inner = config.get("text_config")
    sections = [config, *([cast(Mapping[str, Any], inner)] if isinstance(inner, dict) else [])]
    if "quantization" not in config and any("quantization_config" in each for each in sections):
        raise ModelError(
            "config.json: quantization_config: found a format of other programs, expected "
            "`quantization`; jang-quant convert makes a directory that has it"
        )


def _place_quantized(model: nn.Module, quantization: object, weights: Weights) -> None:
    """Put MLX's quantized modules where the config or the tensors say, as stock mlx-lm does."""
    from mlx_lm.utils import infer_quant_config  # two seconds, which `--help` should not take

    if not isinstance(quantization, dict):
        raise ModelError(f"config.json: quantization: found {quantization!r}, expected an object")
    entries = cast(dict[str, Any], quantization)

    def choose(path: str, module: nn.Module) -> Any:
        if path in entries:
            return entries[path]
        if not hasattr(module, "to_quantized") or f"{path}.scales" not in weights:
            return False
        return infer_quant_config(path, module, weights)

    cast(Any, nn).quantize(model, class_predicate=choose)  # its type is open in mlx's stubs


def _for_the_cpu(model: nn.Module) -> nn.Module:
    """The model with float32 activations, and with the compiled kernels where they are."""
    if cpu_kernels() is None:
        use_float32(model)
        return model
    use_cpu_layers(model)
    use_float32(model)
    return with_cpu_functions(model)
