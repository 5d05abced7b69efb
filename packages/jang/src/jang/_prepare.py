"""From what a user calls a model to a directory that runs."""

from pathlib import Path
from typing import Final

from rich.console import Console

from jang._cache import cached_path, remove_stale_partials
from jang_format import BLOCK_LAYOUT, JangFormatError, read_json
from jang_quant import ConversionError, Request, check, open_source, plan_headline, prepare
from jang_quant.progress import convert_with_progress

_CONFIG: Final = "config.json"


def directory_of(model: str, request: Request) -> Path:
    """The directory of a model, converted now if the cache does not have it.

    A directory that is quantized already is taken as it is.

    Args:
        model: A directory, a GGUF file, a hub id, or "smollm2".
        request: Which bits its modules get.

    Raises:
        JangQuantError: If the request contradicts itself, or the model cannot be converted.
    """
    path = Path(model).expanduser()
    if is_quantized(path):
        return path
    check(request)
    source = open_source(model)
    plan = prepare(source, request).plan
    out = cached_path(source, plan)
    if out.is_dir():
        return out
    remove_stale_partials()
    Console(stderr=True).print(plan_headline(source, plan), soft_wrap=True, highlight=False)
    try:
        convert_with_progress(source, out, plan)
    except ConversionError:
        # Another process may have converted the same model meanwhile.
        if not out.is_dir():
            raise
    return out


def is_quantized(path: Path) -> bool:
    """Whether a path is a converted directory, in either layout."""
    try:
        if any(BLOCK_LAYOUT.is_shard(file.name) for file in path.iterdir()):
            return True
        return bool(read_json(path / _CONFIG).get("quantization"))
    except (JangFormatError, OSError):
        return False
