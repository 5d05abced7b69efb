"""`validate` finds every random damage by the digests, lists all that is wrong, and only that."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from jang_format import (
    DIGESTS_FILE,
    LAYOUTS,
    MANIFEST_FILE,
    InvalidFileError,
    assemble,
    mlx_arrays,
    mlx_specs,
    open_writer,
    read_directory,
    validate,
)
from jang_format._digests import digest_of_file
from jang_format.cli import app

MUTATIONS = run_path(str(Path(__file__).with_name("mutations.py")))
edit_json = MUTATIONS["edit_json"]
NORM = "model.norm.weight"
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A sound directory of each layout; not to be changed."""
    home = tmp_path_factory.mktemp("written")
    return {name: MUTATIONS["write_directory"](home / name, name) for name in LAYOUTS}


@pytest.fixture(params=list(LAYOUTS))
def directory(request: pytest.FixtureRequest, written: Mapping[str, Path], tmp_path: Path) -> Path:
    """A copy of one of them."""
    return Path(shutil.copytree(written[request.param], tmp_path / request.param))


def problems(directory: Path, **options: Any) -> list[str]:
    """Severity, file, field and what was found."""
    return [
        f"{p.severity} {Path(p.file).name} {p.field}: {p.found}"
        for p in validate(directory, **options).problems
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_of_many_random_damages_is_found(written: Mapping[str, Path], layout: str) -> None:
    cases = list(MUTATIONS["run_cases"](written[layout], seed=11, count=150))
    assert [f"{case.kind}: {case.what}" for case in cases if case.missed] == []
    assert {case.kind for case in cases} == set(MUTATIONS["MUTATIONS"])
    assert {case.harmless for case in cases} <= {None, *MUTATIONS["HARMLESS"]}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_random_damage_without_digests_never_stops_the_validation(
    written: Mapping[str, Path], tmp_path: Path, layout: str
) -> None:
    bare = MUTATIONS["remove_digests"](Path(shutil.copytree(written[layout], tmp_path / "bare")))
    cases = list(MUTATIONS["run_cases"](bare, seed=12, count=150))
    # Two in three; the rest is flipped bits in the weights, other settings and the like.
    assert sum(not case.validation.valid for case in cases) > 75


def test_a_written_directory_has_no_problem_and_all_its_bytes_are_read(directory: Path) -> None:
    validation = validate(directory)
    assert validation.problems == ()
    assert validation.valid
    assert validation.digests_checked
    assert validation.tensors == len(read_directory(directory).tensors)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda content: content.update(algorithm="md5"), "error {0} algorithm: 'md5'"),
        (lambda content: content.update(x={}), "error {0} x: a key"),
        (lambda content: content.update(headers=[]), "error {0} headers: []"),
        (lambda content: content["tensors"].update({NORM: "A" * 64}), "error {0} tensors." + NORM),
        (lambda content: content["tensors"].update(x="0" * 64), "error {0} tensors.x: a digest"),
        (lambda content: content["tensors"].pop(NORM), "error {0} tensors." + NORM + ": nothing"),
        (
            lambda content: content["headers"].pop(min(content["headers"])),
            "error {0} headers.model-00001-of-0000",
        ),
        (lambda content: content["files"].update(x="0" * 64), "error x file: nothing"),
        (lambda content: content["files"].pop("config.json"), "error {0} files.config.json: no"),
        (lambda content: content["files"].pop(MANIFEST_FILE), "error {0} files.jang_config.json"),
        (lambda content: content["files"].pop("merges.txt"), "warning {0} files.merges.txt: no"),
        (
            lambda content: content["files"].update({"../../etc/passwd": "0" * 64}),
            "error {1} file name: '../../etc/passwd'",
        ),
        (
            lambda content: content["files"].update({"/etc/passwd": "0" * 64}),
            "error {1} file name: '/etc/passwd'",
        ),
    ],
)
def test_digests_are_complete_and_of_this_directory_alone(
    directory: Path, edit: Edit, expected: str
) -> None:
    edit_json(directory / DIGESTS_FILE, edit)
    found = problems(directory)
    assert found[0].startswith(expected.format(DIGESTS_FILE, directory.name)), found


def test_a_file_may_be_added_and_is_named_where_loaders_read_it(directory: Path) -> None:
    (directory / "README.md").write_text("a model card")
    (directory / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    assert problems(directory) == []
    (directory / "generation_config.json").write_text("{}")
    assert problems(directory) == [f"warning {DIGESTS_FILE} files.generation_config.json: nothing"]


def test_the_manifest_promises_the_digests_by_their_name(directory: Path) -> None:
    edit_json(directory / MANIFEST_FILE, lambda content: content.update(digests="x.json"))
    assert f"error {MANIFEST_FILE} digests: 'x.json'" in problems(directory)


def test_a_flipped_bit_is_named_by_its_tensor_and_file(directory: Path) -> None:
    tensor = read_directory(directory).tensors[NORM]
    content = bytearray(tensor.file.read_bytes())
    content[tensor.offset] ^= 1
    tensor.file.write_bytes(content)
    (found,) = problems(directory)
    assert found.startswith(f"error {tensor.file.name} tensor {NORM}: sha256 ")
    assert problems(directory, read_data=False) == []
    content[9] ^= 0x20
    tensor.file.write_bytes(content)
    assert any("header" in line for line in problems(directory, read_data=False))


def test_an_unreadable_file_is_a_problem_like_others(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("hashlib.file_digest", refuse)
    assert "error merges.txt file: Permission denied" in problems(directory)
    with pytest.raises(InvalidFileError, match="Permission denied"):
        digest_of_file(directory / "config.json")


def damage_everything(directory: Path) -> list[str]:
    """Several damages that have nothing to do with each other, and what they are called."""
    opened = read_directory(directory)
    last = max(opened.weight_files)
    tensor = opened.tensors["lm_head.scales"]
    content = bytearray(tensor.file.read_bytes())
    # A NaN in F16 as in BF16.
    content[tensor.offset : tensor.offset + 2] = b"\xff\xff"
    tensor.file.write_bytes(content)
    shutil.copy(directory / last, directory / "model-stale.safetensors")
    (directory / "merges.txt").unlink()
    (directory / "merges.txt").symlink_to("/etc/passwd")
    (directory / "tokenizer.json").unlink()
    index = directory / opened.layout.index
    edit_json(index, lambda content: content["weight_map"].update(x=last))
    edit_json(index, lambda content: content["metadata"].update(total_size=1))
    edit_json(directory / MANIFEST_FILE, lambda content: content.update(format_version=1))
    edit_json(directory / MANIFEST_FILE, lambda content: content["roles"].update(x=1, y=2))
    return [
        f"error {last} lm_head.scales: NaN or infinity",
        f"error {last} tensor lm_head.scales: sha256 ",
        "error model-stale.safetensors file: a weight file",
        "error merges.txt link: target /etc/passwd",
        "error tokenizer.json file: nothing",
        f"error {index.name} weight_map.x: {last}, which does not have it",
        f"error {index.name} metadata.total_size: 1",
        f"error {index.name} content: sha256 ",
        f"error {MANIFEST_FILE} format_version: 1",
        f"error {MANIFEST_FILE} roles.x: a role",
        f"error {MANIFEST_FILE} roles.x: 1",
        f"error {MANIFEST_FILE} roles.y: a role",
        f"error {MANIFEST_FILE} roles.y: 2",
        f"error {MANIFEST_FILE} content: sha256 ",
    ]


def test_every_problem_is_listed_once_and_nothing_else(directory: Path) -> None:
    wanted = damage_everything(directory)
    found = problems(directory)
    assert len(found) == len(set(found)) == len(wanted), found
    for line in wanted:
        assert any(problem.startswith(line) for problem in found), (line, found)


def test_the_command_prints_a_line_for_each_problem_and_exits_with_1(directory: Path) -> None:
    runner = CliRunner()
    sound = runner.invoke(app, ["validate", str(directory)])
    assert sound.exit_code == 0
    (last,) = sound.stdout.splitlines()
    assert ": valid: 0 errors, 0 warnings, " in last
    assert "digests checked" in last
    wanted = damage_everything(directory)
    broken = runner.invoke(app, ["validate", str(directory)])
    assert broken.exit_code == 1
    *lines, last = broken.stdout.splitlines()
    assert len(lines) == len(wanted)
    assert all(line.startswith("error: ") and ": found " in line for line in lines)
    assert f": not valid: {len(wanted)} errors, 0 warnings, " in last


def test_json_lists_every_problem_however_many(directory: Path) -> None:
    surplus = {f"module{n}": "mlp" for n in range(70)}
    MUTATIONS["remove_digests"](directory)
    edit_json(directory / MANIFEST_FILE, lambda content: content["roles"].update(surplus))
    result = CliRunner().invoke(app, ["validate", "--json", str(directory)])
    assert result.exit_code == 1
    printed = json.loads(result.stdout)
    assert printed["valid"] is False
    assert printed["digests_checked"] is False
    assert len(printed["problems"]) == 70
    assert printed["problems"][0] == {
        "severity": "error",
        "file": str(directory / MANIFEST_FILE),
        "field": "roles.module0",
        "found": "a role",
        "expected": "a quantized module",
    }
    plain = CliRunner().invoke(app, ["validate", str(directory)])
    assert "20 more; --json lists them all" in plain.stdout


def test_warnings_alone_leave_a_directory_valid(directory: Path) -> None:
    (directory / "generation_config.json").write_text("{}")
    result = CliRunner().invoke(app, ["validate", str(directory)])
    assert result.exit_code == 0
    assert "warning: " in result.stdout
    assert ": valid: 0 errors, 1 warnings, " in result.stdout


def test_headers_only_reads_no_tensor(directory: Path) -> None:
    tensor = read_directory(directory).tensors[NORM]
    content = bytearray(tensor.file.read_bytes())
    content[tensor.offset] ^= 1
    tensor.file.write_bytes(content)
    result = CliRunner().invoke(app, ["validate", "--headers-only", "--json", str(directory)])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["digests_checked"] is False


def test_a_directory_that_is_not_there_is_not_valid(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nothing", tmp_path / "file"):
        result = CliRunner().invoke(app, ["validate", str(path)])
        assert result.exit_code == 1
        assert f"error: {path}: directory: found nothing, expected a directory" in result.stdout


def test_the_files_of_a_hugging_face_snapshot_are_links_to_blobs(directory: Path) -> None:
    home = directory.parent / "models--toy"
    snapshot = home / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    blobs = Path(shutil.move(directory, home / "blobs"))
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(os.path.join("..", "..", "blobs", file.name))
    assert problems(snapshot) == []


def test_a_model_may_have_more_tensors_than_a_process_may_open_files(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    modules = [f"m.{n}" for n in range(60)]
    ones = np.ones((2, 1), dtype=np.float32)
    parts = mlx_arrays(assemble(np.zeros((2, 64), dtype=np.uint8), ones, ones, 2, "F16"))
    specs = [spec for path in modules for spec in mlx_specs(path, (2, 64), 2, 64, "F16")]
    with open_writer(tmp_path / "mlx", specs) as writer:
        for path in modules:
            for part, data in parts.items():
                writer.write_tensor(f"{path}.{part}", data)
        entry = {"bits": 2, "group_size": 64, "mode": "affine"}
        entries = dict.fromkeys(modules, entry)
        writer.write_json("config.json", {"quantization": {**entry, **entries}})
        writer.write_json(MANIFEST_FILE, {"format": "jang", "format_version": "2.0"})
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from jang_format import BLOCK_LAYOUT, convert_layout, read_directory, validate\n"
        "source, out = map(Path, sys.argv[1:])\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "assert validate(source).problems == ()\n"
        "convert_layout(read_directory(source), out, BLOCK_LAYOUT)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "mlx"), str(tmp_path / "blocks")]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
