"""Opening a directory in MLX layout: headers and JSON at once, tensors when asked for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from jang_format._errors import InvalidFileError, MissingFileError, UnsupportedVersionError
from jang_format._manifest import FORMAT, MANIFEST_FILE
from jang_format._quantized import QuantizedTensor
from jang_format._safetensors import StoredTensor, read_header

# Stock MLX loaders read every file that matches, whatever the index says.
_WEIGHT_FILES: Final = "model*.safetensors"
_LARGEST_JSON: Final = 100_000_000


@dataclass(frozen=True)
class ModelDirectory:
    """A directory in MLX layout.

    Attributes:
        path: The directory.
        config: The content of config.json.
        manifest: The content of jang_config.json; empty where there is none.
        tensors: Every tensor of the weight files, by name.
        weight_bytes: Size of all weight files together.
    """

    path: Path
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    weight_bytes: int

    def quantized_paths(self) -> list[str]:
        """Module paths of the quantized tensors, in the order of the files."""
        return [name.removesuffix(".scales") for name in self.tensors if name.endswith(".scales")]

    def quantized(self, path: str) -> QuantizedTensor:
        """The quantized tensor of a module, memory-mapped.

        Raises:
            InvalidFileError: If its three tensors or its entry in config.json do not fit together.
        """
        weight, scales, biases = (self._companion(path, part) for part in _PARTS)
        bits, group_size = self._entry(path)
        values_in_words = weight.spec.shape[-1] * 32 / bits
        if values_in_words != scales.spec.shape[-1] * group_size:
            raise InvalidFileError(
                self.path / "config.json",
                f"quantization.{path}",
                f"{bits} bits in groups of {group_size}",
                f"what fits weight {weight.spec.shape} and scales {scales.spec.shape}",
            )
        return QuantizedTensor(
            weight=weight.map(),
            scales=scales.map(),
            biases=biases.map(),
            bits=bits,
            group_size=group_size,
            dtype=scales.spec.dtype,
        )

    def _companion(self, path: str, part: str) -> StoredTensor:
        tensor = self.tensors.get(f"{path}.{part}")
        if tensor is None:
            raise InvalidFileError(self.path, f"{path}.{part}", "nothing", "a tensor")
        return tensor

    def _entry(self, path: str) -> tuple[int, int]:
        """Bits and group size of a module, from config.json."""
        quantization = self.config.get("quantization")
        if not isinstance(quantization, dict):
            raise InvalidFileError(
                self.path / "config.json", "quantization", "nothing", "an object with bits"
            )
        top = cast(dict[str, Any], quantization)
        entry = top.get(path, top)
        try:
            return int(entry["bits"]), int(entry["group_size"])
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidFileError(
                self.path / "config.json",
                f"quantization.{path}",
                repr(entry)[:80],
                "an object with bits and group_size",
            ) from error


_PARTS: Final = ("weight", "scales", "biases")


def read_directory(path: Path) -> ModelDirectory:
    """Open a directory in MLX layout, with a manifest or without.

    Raises:
        MissingFileError: If the directory, config.json or the weight files are not there.
        InvalidFileError: If one of them breaks the format.
        UnsupportedVersionError: If the manifest is of another format or version.
    """
    path = Path(path)
    if not path.is_dir():
        raise MissingFileError(f"{path}: no such directory")
    config = read_json(path / "config.json")
    manifest = read_json(path / MANIFEST_FILE) if (path / MANIFEST_FILE).exists() else {}
    _check_version(path / MANIFEST_FILE, manifest)
    files = sorted(path.glob(_WEIGHT_FILES))
    if not files:
        raise MissingFileError(f"{path}: no {_WEIGHT_FILES}")
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in read_header(file).items():
            if name in tensors:
                raise InvalidFileError(file, name, "a tensor", f"none, {tensors[name].file} has it")
            tensors[name] = tensor
    return ModelDirectory(
        path=path,
        config=config,
        manifest=manifest,
        tensors=tensors,
        weight_bytes=sum(file.stat().st_size for file in files),
    )


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        MissingFileError: If the file is not there.
        InvalidFileError: If it is too large, or holds no JSON object.
    """
    try:
        if file.stat().st_size > _LARGEST_JSON:
            raise InvalidFileError(file, "size", file.stat().st_size, f"at most {_LARGEST_JSON}")
        content = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise MissingFileError(f"{file}: no such file") from error
    except (ValueError, RecursionError) as error:
        raise InvalidFileError(file, "content", f"no JSON ({error})", "a JSON object") from error
    if not isinstance(content, dict):
        raise InvalidFileError(file, "content", type(content).__name__, "a JSON object")
    return cast(dict[str, Any], content)


def _check_version(file: Path, manifest: Mapping[str, Any]) -> None:
    if not manifest:
        return
    if manifest.get("format", FORMAT) != FORMAT:
        raise UnsupportedVersionError(
            f"{file}: format: found {manifest['format']!r}, expected {FORMAT!r}"
        )
    version = manifest.get("format_version", "2.0")
    if not str(version).startswith("2"):
        raise UnsupportedVersionError(f"{file}: format_version: found {version!r}, expected '2.0'")
