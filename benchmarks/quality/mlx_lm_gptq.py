"""A model by mlx-lm's GPTQ, on calibration sequences of ours: SOURCE CALIBRATION BITS OUT.

mlx-lm's own command downloads a calibration text, so its parts are called as the command does. It
computes in the source's float32; scales and biases are stored as float16 like everyone's.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Final

# Before anything imports MLX, which a fast BLAS has to precede.
import jang_runtime.blas  # noqa: F401 # pyright: ignore[reportUnusedImport]

# isort: split
import mlx.core as mx
from calibrations import tokens_of
from commands import SOURCE

from jang_quant import open_source

_GROUP_SIZE: Final = 64
# What the command gives by default to what it does not treat, here the embedding.
_FALLBACK_BITS: Final = 6


def main(source: str, calibration: str, bits: str, out: str) -> None:
    """Quantize and save."""
    # Without stubs.
    gptq, utils = import_module("mlx_lm.quant.gptq"), import_module("mlx_lm.utils")
    model, tokenizer, config = utils.load(source, lazy=True, return_config=True)
    tokens = mx.array(tokens_of(Path(calibration), open_source(SOURCE)))
    model, config["quantization"] = gptq.gptq_quantize(
        model, tokens, int(bits), _GROUP_SIZE, _FALLBACK_BITS, _GROUP_SIZE
    )
    model.set_dtype(mx.float16)
    utils.save(out, source, model, tokenizer, config)


if __name__ == "__main__":
    main(*sys.argv[1:])
