"""Saves the logits that a model directory has with one loader, in float32.

    python logits.py LOADER DIRECTORY OUT.npy

Runs where only the loader is installed, so it imports nothing else of this project.
"""

import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

# In the vocabulary of every model that is tested, and few: MLX's CPU backend takes 0.1 s for each
# token of SmolLM2.
IDS = [5, 357, 28, 264, 99]


def by_jang_runtime(directory: Path) -> Any:
    from jang_runtime._model import load

    return load(directory).model


def by_jang_tools(directory: Path) -> Any:
    from jang_tools.loader import load_jang_model

    model, _ = load_jang_model(directory)
    return model


def by_mlx_lm(directory: Path) -> Any:
    from mlx_lm import load

    model, _ = load(str(directory))
    return model


LOADERS = {"jang_runtime": by_jang_runtime, "jang_tools": by_jang_tools, "mlx_lm": by_mlx_lm}


def main(loader: str, directory: Path, out: Path) -> None:
    # Float32 on the CPU, whatever the machine: there versions of MLX can be compared. Its CPU
    # products in half precision are a few per cent off, and GPUs add in orders of their own.
    mx.set_default_device(mx.Device(mx.cpu))
    model = LOADERS[loader](directory)
    model.set_dtype(mx.float32)
    np.save(out, np.array(model(mx.array([IDS]))[0]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
