"""Writing a directory in either layout: streamed, and published whole or not at all.

All tensors are announced first, so that shards, headers and the size on disk are known before the
first byte; then each is written to its place. Everything goes to a hidden directory beside the
target, or to a folder whose work can be taken up again, and is renamed into place at the end.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from jang_format._digests import DIGESTS_FILE, Digests, digest_of, digest_of_array
from jang_format._dtypes import STORAGE
from jang_format._errors import InvalidTensorError, OutputError
from jang_format._journal import begin_journal, note_tensor, plan_digest, read_journal
from jang_format._layouts import MLX_LAYOUT, Layout
from jang_format._safetensors import FileLayout, TensorSpec, lay_out
from jang_format._whole_file import PARTIAL_SUFFIX

DEFAULT_SHARD_BYTES: Final = 5_000_000_000
_CHUNK_BYTES: Final = 1 << 20


def split_into_shards(
    specs: Sequence[TensorSpec], shard_bytes: int = DEFAULT_SHARD_BYTES
) -> list[list[TensorSpec]]:
    """Group tensors into shards of at most `shard_bytes` of data, in the order given.

    The tensors of one module (weight, scales, biases, bias) stay together, so a shard exceeds the
    limit where one module does.
    """
    modules: dict[str, list[TensorSpec]] = {}
    for spec in specs:
        modules.setdefault(spec.name.rpartition(".")[0], []).append(spec)
    shards: list[list[TensorSpec]] = [[]]
    filled = 0
    for module in modules.values():
        nbytes = sum(spec.nbytes for spec in module)
        if shards[-1] and filled + nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].extend(module)
        filled += nbytes
    return [shard for shard in shards if shard]


def weight_bytes_of(
    specs: Sequence[TensorSpec],
    layout: Layout = MLX_LAYOUT,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> int:
    """Size of the weight files that these tensors make, headers included."""
    shards = split_into_shards(specs, shard_bytes)
    return sum(lay_out(shard, layout.metadata).nbytes for shard in shards)


class DirectoryWriter:
    """Receives the tensors and files of a directory; made by `open_writer`.

    Attributes:
        weight_bytes: Size of all weight files together, headers included.
        written: Names of the tensors that are there already, from work that was broken off.
    """

    def __init__(
        self,
        work: Path,
        specs: Sequence[TensorSpec],
        layout: Layout,
        shard_bytes: int,
        journal: Path | None,
    ) -> None:
        shards = split_into_shards(specs, shard_bytes)
        self._work = work
        self._layout = layout
        self._specs = {spec.name: spec for spec in specs}
        if len(self._specs) != len(specs):
            raise InvalidTensorError("tensors: found a name twice, expected each once")
        self._shard_of: dict[str, str] = {}
        self._layouts: dict[str, FileLayout] = {}
        for number, shard in enumerate(shards, 1):
            name = layout.shard.format(number=number, count=len(shards))
            self._layouts[name] = lay_out(shard, layout.metadata)
            self._shard_of.update((spec.name, name) for spec in shard)
        self._waiting = {name: len(layout.offsets) for name, layout in self._layouts.items()}
        self._journal = journal
        self._tensor_digests = self._take_up(journal) if journal else {}
        self.written = frozenset(self._tensor_digests)
        for name in self.written:
            self._waiting[self._shard_of[name]] -= 1
        self._file_digests: dict[str, str] = {}
        self._open: dict[str, BinaryIO] = {}
        self.weight_bytes = sum(layout.nbytes for layout in self._layouts.values())

    def write_tensor(self, name: str, data: NDArray[Any]) -> None:
        """Write one announced tensor; bfloat16 as raw uint16.

        Raises:
            InvalidTensorError: If it was not announced so, or came before.
        """
        spec = self._specs.get(name)
        if spec is None or name in self._tensor_digests:
            raise InvalidTensorError(f"{name}: expected each announced tensor once")
        if data.shape != spec.shape or data.dtype != STORAGE[spec.dtype]:
            raise InvalidTensorError(
                f"{name}: found {data.dtype} {data.shape}, announced {spec.dtype} {spec.shape}"
            )
        shard = self._shard_of[name]
        layout = self._layouts[shard]
        stream = self._open.get(shard)
        if stream is None:
            stream = self._open[shard] = self._open_shard(shard)
        stream.seek(layout.offsets[name])
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        stream.write(flat.data)
        self._tensor_digests[name] = digest_of_array(flat)
        if self._journal is not None:
            stream.flush()
            note_tensor(self._journal, name, self._tensor_digests[name])
        self._waiting[shard] -= 1
        if not self._waiting[shard]:
            _sync_and_close(self._open.pop(shard))

    def _open_shard(self, shard: str) -> BinaryIO:
        file = self._work / shard
        if any(self._shard_of[name] == shard for name in self.written):
            return file.open("r+b")
        stream = file.open("wb")
        stream.write(self._layouts[shard].header)
        return stream

    def _take_up(self, journal: Path) -> dict[str, str]:
        """Digests of the tensors that a process before this one has written whole."""
        plan = plan_digest({name: layout.header for name, layout in self._layouts.items()})
        noted = read_journal(journal, plan)
        if noted is None:
            for left in self._work.iterdir():
                left.unlink()
            begin_journal(journal, plan)
            return {}
        found: dict[str, str] = {}
        for name, digest in noted.items():
            if name not in self._specs:
                continue
            shard = self._shard_of[name]
            data = _stored_bytes(
                self._work / shard, self._layouts[shard], name, self._specs[name].nbytes
            )
            if data is not None and digest_of_array(data) == digest:
                found[name] = digest
        return found

    def write_file(self, name: str, content: bytes) -> None:
        """Write a file beside the weights."""
        with (self._work / _plain_name(name)).open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        self._file_digests[name] = digest_of(content)

    def copy_file(self, name: str, source: Path) -> None:
        """Copy a file beside the weights, however large."""
        sha256 = hashlib.sha256()
        with source.open("rb") as reader, (self._work / _plain_name(name)).open("wb") as stream:
            while chunk := reader.read(_CHUNK_BYTES):
                stream.write(chunk)
                sha256.update(chunk)
            stream.flush()
            os.fsync(stream.fileno())
        self._file_digests[name] = sha256.hexdigest()

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file beside the weights."""
        text = json.dumps(content, indent=2, ensure_ascii=False)
        self.write_file(name, text.encode() + b"\n")

    def finish(self) -> None:
        """Write the index and the digests, after the last tensor.

        Raises:
            InvalidTensorError: If an announced tensor did not come.
        """
        missing = sorted(self._specs.keys() - self._tensor_digests.keys())
        if missing:
            raise InvalidTensorError(f"{missing[0]}: announced but not written")
        self.write_json(
            self._layout.index,
            {
                "metadata": {"total_size": sum(spec.nbytes for spec in self._specs.values())},
                "weight_map": dict(sorted(self._shard_of.items())),
            },
        )
        # A process that was killed may have left shards whole, but not on the disk.
        for shard in {self._shard_of[name] for name in self.written}:
            with (self._work / shard).open("rb") as stream:
                os.fsync(stream.fileno())
        headers = {name: digest_of(layout.header) for name, layout in self._layouts.items()}
        digests = Digests(self._tensor_digests, headers, dict(self._file_digests))
        self.write_json(DIGESTS_FILE, digests.as_json())

    def close(self) -> None:
        """Close what is still open."""
        for stream in self._open.values():
            stream.close()
        self._open.clear()


@contextmanager
def open_writer(
    out: Path,
    specs: Sequence[TensorSpec],
    *,
    layout: Layout = MLX_LAYOUT,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    resume: Path | None = None,
) -> Generator[DirectoryWriter]:
    """Write a directory that appears under its name when the block ends, or not at all.

    Args:
        out: The directory to make; it may exist only if it is empty.
        specs: All tensors of the model.
        layout: Names of the files.
        shard_bytes: The most bytes of tensor data in one weight file.
        resume: A folder on the same disk in which the work stays if it is broken off, and is taken
            up; None for one that is removed then.

    Raises:
        OutputError: If `out` exists already, or cannot be made.
    """
    out = Path(os.path.abspath(out))
    refuse_existing(out)
    if resume is None:
        work = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}"
        journal = None
    else:
        work, journal = resume / "directory", resume / "journal.jsonl"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Not tempfile.mkdtemp: it makes a directory that only its owner can read.
        work.mkdir(exist_ok=resume is not None)
    except OSError as error:
        raise OutputError(f"{out}: cannot be made ({error.strerror})") from error
    try:
        writer = DirectoryWriter(work, specs, layout, shard_bytes, journal)
        try:
            yield writer
            writer.finish()
        finally:
            writer.close()
        _publish(work, out)
    except BaseException:
        if resume is None:
            shutil.rmtree(work, ignore_errors=True)
        raise


def _stored_bytes(
    file: Path, layout: FileLayout, name: str, nbytes: int
) -> NDArray[np.uint8] | None:
    """The bytes of a tensor in a file that is being written; None where they cannot be."""
    try:
        with file.open("rb") as stream:
            if stream.read(len(layout.header)) != layout.header:
                return None
            stream.seek(layout.offsets[name])
            return np.fromfile(stream, dtype=np.uint8, count=nbytes)
    except OSError:
        return None


def refuse_existing(out: Path) -> None:
    """Raise OutputError if `out` is there and is not an empty directory."""
    # A link and a mount point cannot be replaced by a directory.
    replaceable = out.is_dir() and not out.is_symlink() and not out.is_mount()
    if replaceable and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        raise OutputError(
            f"{out}: exists already, expected a new directory; remove it or name another"
        )


def _plain_name(name: str) -> str:
    """The name, if it is one without directories.

    Raises:
        OutputError: If it is not.
    """
    if Path(name).name != name:
        raise OutputError(f"{name!r}: expected a file name without a directory")
    return name


def _publish(work: Path, out: Path) -> None:
    _sync_directory(work)
    refuse_existing(out)
    try:
        work.rename(out)
    except OSError as error:
        raise OutputError(f"{out}: cannot be published ({error.strerror})") from error
    _sync_directory(out.parent)


def _sync_and_close(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())
    stream.close()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
