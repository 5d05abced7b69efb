"""Random codes with scales, what they stand for, and their bytes; the slow and obvious way."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Type by its name in the safetensors library, and the bytes; numpy has no bfloat16.
Stored = dict[str, tuple[str, NDArray[Any]]]


@dataclass(frozen=True)
class Module:
    """Codes `[..., out, in]`, and for each of their groups a width, a scale and a bias or zero."""

    codes: NDArray[np.uint8]
    widths: NDArray[np.uint8]
    scales: Floats
    offsets: Floats
    group_size: int
    has_zeros: bool

    def values(self) -> Floats:
        """What the codes stand for.

        Exactly: a code has 8 bits, a scale 24 at most, and the exponents are close to each other,
        so that 53 bits hold product and sum.
        """
        columns = self.codes.shape[-1]
        scales = np.repeat(self.scales, self.group_size, axis=-1)[..., :columns]
        offsets = np.repeat(self.offsets, self.group_size, axis=-1)[..., :columns]
        if self.has_zeros:
            return (self.codes - offsets) * scales
        return self.codes * scales + offsets

    def expert(self, number: int) -> "Module":
        """One of a stack."""
        parts = (self.codes, self.widths, self.scales, self.offsets)
        return Module(*(part[number] for part in parts), self.group_size, self.has_zeros)


def storable(values: Floats, dtype: str) -> Floats:
    """Nearby numbers that `dtype` can hold."""
    if dtype == "F16":
        return values.astype(np.float16).astype(np.float64)
    single = values.astype(np.float32)
    if dtype == "BF16":
        single = (single.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return single.astype(np.float64)


def stored_floats(values: Floats, dtype: str) -> tuple[str, NDArray[Any]]:
    """Numbers that `dtype` can hold, as it holds them."""
    if dtype == "F16":
        return "float16", values.astype(np.float16)
    single = values.astype(np.float32)
    if dtype == "F32":
        return "float32", single
    return "bfloat16", (single.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def random_module(
    random: np.random.Generator,
    shape: tuple[int, ...],
    widths: tuple[int, ...],
    group_size: int,
    dtype: str,
    has_zeros: bool,
) -> Module:
    """Values of about `1 / sqrt(in)`, whose mean differs from group to group."""
    groups = (*shape[:-1], -(-shape[-1] // group_size))
    chosen = random.choice(np.array(widths, dtype=np.uint8), groups)
    levels = 2.0**chosen - 1
    limits = np.repeat(levels, group_size, axis=-1)[..., : shape[-1]]
    codes = np.floor(random.random(shape) * (limits + 1)).astype(np.uint8)
    scales = random.uniform(0.5, 1.5, groups) * np.sqrt(12 / shape[-1]) / levels
    scales = storable(scales * random.choice([-1.0, 1.0], groups), dtype)
    zeros = levels * random.uniform(0.2, 0.8, groups)
    offsets = storable(zeros if has_zeros else -scales * zeros, dtype)
    return Module(codes, chosen, scales, offsets, group_size, has_zeros)


def pack(codes: list[int], bits: int) -> bytes:
    """One big number with the first code in its lowest bits."""
    stream = 0
    for place, code in enumerate(codes):
        assert 0 <= code < 2**bits
        stream |= code << (place * bits)
    return stream.to_bytes(len(codes) * bits // 8, "little")


def mlx_parts(module: Module, dtype: str) -> Stored:
    """Each row is one stream of 32-bit words."""
    *leading, columns = module.codes.shape
    bits = int(module.widths.flat[0])
    rows = [pack(row.tolist(), bits) for row in module.codes.reshape(-1, columns)]
    words = np.frombuffer(b"".join(rows), dtype="<u4").reshape(*leading, columns * bits // 32)
    return {
        "weight": ("uint32", words),
        "scales": stored_floats(module.scales, dtype),
        "biases": stored_floats(module.offsets, dtype),
    }


def block_parts(module: Module, companions: tuple[str, ...], dtype: str) -> Stored:
    """Each block is a stream of its own; the last block of a row is filled up with zeros."""
    size, columns = module.group_size, module.codes.shape[-1]
    packed = b""
    block_offsets: list[int] = []
    bit_map = module.widths.reshape(-1)
    blocks = iter(bit_map.tolist())
    for row in module.codes.reshape(-1, columns).tolist():
        for start in range(0, columns, size):
            codes = row[start : start + size]
            block_offsets.append(len(packed))
            packed += pack(codes + [0] * (size - len(codes)), next(blocks))
    parts: Stored = {
        "qweight": ("uint8", np.frombuffer(packed, dtype=np.uint8)),
        "scales": stored_floats(module.scales.reshape(-1), dtype),
        "zeros": stored_floats(module.offsets.reshape(-1), dtype),
        "biases": stored_floats(module.offsets.reshape(-1), dtype),
        "bit_map": ("uint8", bit_map),
        "block_offsets": ("uint32", np.array(block_offsets, dtype="<u4")),
        "bits": ("uint8", bit_map[:1]),
        "shape": ("int64", np.array(module.codes.shape, dtype="<i8")),
    }
    return {part: parts[part] for part in ("qweight", "scales", *companions)}
