"""JANG: mixed-precision quantization for MLX. The command is `jang`; see `jang.cli`."""

__version__ = "0.1.0"

__all__ = ["__version__"]
