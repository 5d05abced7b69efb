"""From what a user calls a model to a directory that runs."""

from pathlib import Path
from typing import Final

from rich.console import Console

from jang._cache import cached_path, remove_stale_partials
from jang_format import BLOCK_LAYOUT, JangFormatError, read_json
from jang_quant import ConversionError, find_profile, open_source, plan_source
from jang_quant.progress import convert_with_progress

_CONFIG: Final = "config.json"


def prepare(model: str, profile: str) -> Path:
    """The directory of a model, converted now if the cache does not have it.

    A directory that is quantized already is taken as it is.

    Args:
        model: A directory, a GGUF file, a hub id, or "smollm2".
        profile: Which bits each role gets.

    Raises:
        JangQuantError: If the model cannot be converted.
    """
    path = Path(model).expanduser()
    if is_quantized(path):
        return path
    wanted = find_profile(profile)
    source = open_source(model)
    plan = plan_source(source, wanted)
    out = cached_path(source, plan)
    if out.is_dir():
        return out
    remove_stale_partials()
    console = Console(stderr=True)
    console.print(
        f"{source.name} as {plan.name}: {plan.parameters / 1e6:,.1f} M parameters, "
        f"{plan.tensor_bytes / 1e6:,.1f} MB, {plan.bits_per_weight:.3f} bits per weight"
    )
    if source.quantization:
        console.print(f"the source is quantized already: {source.quantization}")
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
