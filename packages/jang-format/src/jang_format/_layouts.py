"""The two layouts, as names and versions."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, Literal

LayoutName = Literal["mlx", "blocks"]


@dataclass(frozen=True)
class Layout:
    """How a layout names its files, and which versions of the manifest belong to it.

    Attributes:
        name: "mlx" or "blocks".
        version: `format_version` that is written.
        shard: Pattern of a written weight file's name.
        index: Name of the written index.
        metadata: `__metadata__` of a written weight file.
        readable_shards: Patterns of the weight files that are read.
        readable_indexes: Names of the indexes that are read, the first one found counts.
    """

    name: LayoutName
    version: str
    shard: str
    index: str
    metadata: dict[str, str]
    readable_shards: tuple[str, ...]
    readable_indexes: tuple[str, ...]

    @property
    def major(self) -> str:
        """Major version: all of its minor versions are read."""
        return self.version.partition(".")[0]

    def is_shard(self, name: str) -> bool:
        """Whether a reader of this layout takes the file for one with weights."""
        return any(fnmatchcase(name, pattern) for pattern in self.readable_shards)


BLOCK_LAYOUT: Final = Layout(
    name="blocks",
    version="1.0",
    shard="model-{number:05d}-of-{count:05d}.jang.safetensors",
    index="model.jang.index.json",
    metadata={"format": "jang"},
    readable_shards=("*.jang.safetensors", "*.jjqf.safetensors", "*.mxq.safetensors"),
    readable_indexes=("model.jang.index.json", "model.jjqf.index.json", "model.mxq.index.json"),
)
MLX_LAYOUT: Final = Layout(
    name="mlx",
    version="2.0",
    shard="model-{number:05d}-of-{count:05d}.safetensors",
    index="model.safetensors.index.json",
    metadata={"format": "mlx"},
    # Stock MLX loaders read every file that matches, whatever the index says.
    readable_shards=("model*.safetensors",),
    readable_indexes=("model.safetensors.index.json",),
)
LAYOUTS: Final[dict[LayoutName, Layout]] = {"mlx": MLX_LAYOUT, "blocks": BLOCK_LAYOUT}


def layout_of(names: list[str]) -> Layout | None:
    """The layout of a directory with these files; None if it has no weight files of either.

    A block-layout shard also matches the pattern of the MLX layout, so it is asked for first.
    """
    if any(BLOCK_LAYOUT.is_shard(name) for name in names):
        return BLOCK_LAYOUT
    if any(MLX_LAYOUT.is_shard(name) for name in names):
        return MLX_LAYOUT
    for layout in (MLX_LAYOUT, BLOCK_LAYOUT):
        if any(name in layout.readable_indexes for name in names):
            return layout
    return None
