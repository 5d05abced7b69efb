"""A converted model as mlx_lm.server runs it fast on a CPU: all its floats in float32."""

import json
import shutil
from pathlib import Path
from typing import Any, Final, cast

import mlx.core as mx

_FLOATS: Final = (mx.float16, mx.bfloat16)


def float32_model(model: Path, out: Path) -> Path:
    """Write a copy of a model in MLX layout whose scales, biases and norms are float32.

    Args:
        model: Its directory.
        out: The directory to make; it is kept if it is there.

    Returns:
        `out`.
    """
    if out.exists():
        return out
    # So that one that was not finished is not taken for one that was.
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    mlx = cast(Any, mx)
    for file in model.iterdir():
        if file.suffix == ".safetensors":
            arrays = {
                name: array.astype(mx.float32) if array.dtype in _FLOATS else array
                for name, array in mlx.load(str(file)).items()
            }
            mlx.save_safetensors(str(part / file.name), arrays, {"format": "mlx"})
        elif file.name != "config.json":
            shutil.copy(file, part / file.name)
    config = json.loads((model / "config.json").read_text())
    (part / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32"}))
    part.rename(out)
    return out
