"""Which directories there are, and what is odd about each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Choice = tuple[tuple[int, ...], int]

WIDTHS = (2, 3, 4, 5, 6, 8)
# Every token occurs in the input, so that every row of the embedding counts.
VOCABULARY = 32


@dataclass(frozen=True)
class Recipe:
    """A directory to write.

    Attributes:
        name: Its name.
        config: config.json without `quantization`.
        choose: The widths to draw from and the group size of a module, by its number.
        companions: In block layout, what is stored besides `qweight` and `scales`.
        dtype: How scales, biases, zeros and norms are stored.
        manifest: Content of the manifest; no file without it.
        manifest_file: Its name.
        shard: Name of a weight file.
        shards: How many there are.
        index: Name of the index; no file without it.
        top: What `quantization` in config.json says of the whole model.
        has_entries: Whether it has an entry for each module besides.
        separate_experts: Whether each expert is a module of its own, as Mixtral's authors name it.
    """

    name: str
    config: dict[str, Any]
    choose: Callable[[int], Choice]
    companions: tuple[str, ...] = ()
    dtype: str = "F16"
    manifest: dict[str, Any] | None = field(default_factory=lambda: {"format_version": "2.0"})
    manifest_file: str = "jang_config.json"
    shard: str = "model-{number:05d}-of-{count:05d}.safetensors"
    shards: int = 1
    index: str | None = "model.safetensors.index.json"
    top: dict[str, Any] = field(
        default_factory=lambda: {"group_size": 64, "bits": 4, "mode": "affine"}
    )
    has_entries: bool = True
    separate_experts: bool = False


def llama(**changes: Any) -> dict[str, Any]:
    """The config of a llama of two layers, or with changes."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    return config | changes


def mixtral(**changes: Any) -> dict[str, Any]:
    """The config of a Mixtral with three experts, two of them for each token, or with changes."""
    config = llama(architectures=["MixtralForCausalLM"], model_type="mixtral")
    del config["head_dim"]
    return config | {"num_local_experts": 3, "num_experts_per_tok": 2} | changes


def one_of_each(number: int) -> Choice:
    """Every width and every group size, and 16 of their 18 pairs."""
    return (WIDTHS[number % 6],), (32, 64, 128)[(number + number // 6) % 3]


def width_by_module(number: int) -> Choice:
    """One width for a module, groups of 64."""
    return (WIDTHS[number % 6],), 64


def largest_group(number: int) -> Choice:
    """What published converters made of 32 and 64 inputs; `down_proj` alone has 64."""
    widths = (4, *(6, 8, 6, 6, 2, 3, 2), *(6, 8, 5, 6, 2, 4, 2), 6)
    return (widths[number],), 64 if number in (7, 14) else 32


def any_width(number: int) -> Choice:
    """Blocks of all widths in each module."""
    return WIDTHS, 64


def some_mixed(number: int) -> Choice:
    """Narrow blocks, of two widths in each third module and of one in the others."""
    return ((2, 4) if number % 3 == 0 else (WIDTHS[number % 3],)), 64


def small_blocks(number: int) -> Choice:
    """Blocks of 32, of two widths in each module."""
    return (WIDTHS[number % 6], WIDTHS[(number + 1) % 6]), 32


MAPS = ("zeros", "bit_map", "block_offsets")
BLOCKS: dict[str, Any] = {
    "manifest": {"format_version": "1.0"},
    "shard": "model-{number:05d}-of-{count:05d}.jang.safetensors",
    "index": "model.jang.index.json",
}
JJQF: dict[str, Any] = {
    "manifest": {"format": "jjqf", "format_version": "1.0"},
    "manifest_file": "jjqf_config.json",
    "shard": "model-{number:05d}-of-{count:05d}.jjqf.safetensors",
    "index": "model.jjqf.index.json",
}
MXQ: dict[str, Any] = {
    "manifest": {"format": "mxq", "format_version": 1, "quantization": {"block_size": 32}},
    "manifest_file": "mxq_config.json",
    "shard": "model-{number:05d}-of-{count:05d}.mxq.safetensors",
    "index": "model.mxq.index.json",
}
RECIPES = (
    Recipe(
        "mlx-widths-and-groups",
        llama(hidden_size=128, num_attention_heads=4),
        one_of_each,
        shards=2,
    ),
    Recipe(
        "mlx-one-stated-pair",
        llama(hidden_size=32, intermediate_size=64, head_dim=16),
        largest_group,
        has_entries=False,
        top={"group_size": 64, "bits": 2},
        manifest={"format_version": 2},
    ),
    Recipe("mlx-f32-scales", llama(num_hidden_layers=1), width_by_module, dtype="F32"),
    Recipe(
        "mlx-bf16-scales",
        llama(num_hidden_layers=1, tie_word_embeddings=True),
        width_by_module,
        dtype="BF16",
        manifest=None,
        shard="model.safetensors",
        index=None,
    ),
    Recipe("mlx-stacked-experts", mixtral(num_hidden_layers=1), width_by_module),
    Recipe("blocks-of-all-widths", llama(), any_width, (*MAPS, "shape"), **BLOCKS),
    Recipe("blocks-without-shape", llama(head_dim=64), some_mixed, MAPS, **BLOCKS),
    Recipe(
        "blocks-with-biases",
        llama(num_hidden_layers=1),
        width_by_module,
        ("biases", "bits", "shape"),
        **BLOCKS | {"manifest": {"format_version": "1.1"}},
    ),
    Recipe("blocks-named-jjqf", llama(num_hidden_layers=1), some_mixed, (*MAPS, "shape"), **JJQF),
    Recipe(
        "blocks-of-stacked-experts",
        mixtral(num_hidden_layers=1),
        some_mixed,
        MAPS,
        shards=2,
        **BLOCKS,
    ),
    Recipe(
        "blocks-of-separate-experts",
        mixtral(hidden_size=32, intermediate_size=64),
        small_blocks,
        MAPS,
        separate_experts=True,
        **MXQ,
    ),
    Recipe(
        "blocks-with-padding",
        llama(hidden_size=48, num_attention_heads=3, head_dim=16, intermediate_size=80),
        any_width,
        (*MAPS, "shape"),
        **BLOCKS,
    ),
)
