"""The stubs are those of the definition, and the definition keeps the rules of buf."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

import jang_proto
from jang_proto.runtime.v1 import runtime_pb2 as pb
from jang_proto.runtime.v1 import runtime_pb2_grpc

PROTO = Path(__file__).parent.parent
TUNABLES = ("Sampling", "Stopping", "Logprobs")
STUBS = PROTO / "src" / "jang_proto" / "runtime" / "v1"


def test_the_stubs_are_what_the_definition_generates(tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(PROTO)!r}); from pathlib import Path; "
        f"from generate import generate; generate(Path({str(tmp_path / 'stubs')!r}))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    for generated in (tmp_path / "stubs").iterdir():
        assert (STUBS / generated.name).read_text() == generated.read_text(), (
            f"{generated.name} drifted: run `uv run python proto/generate.py`"
        )
    assert {path.name for path in (tmp_path / "stubs").iterdir()} == {
        path.name for path in STUBS.glob("runtime_pb2*")
    }


def test_the_definition_passes_buf_lint() -> None:
    linted = subprocess.run(
        ["buf", "lint", str(PROTO)], check=False, capture_output=True, text=True
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_nothing_that_was_there_has_gone_or_changed() -> None:
    compared = subprocess.run(
        ["buf", "breaking", str(PROTO), "--against", str(PROTO / "baseline.binpb")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert compared.returncode == 0, compared.stdout + compared.stderr


def test_all_that_is_there_is_held_to_from_now_on() -> None:
    (known,) = FileDescriptorSet.FromString((PROTO / "baseline.binpb").read_bytes()).file
    defined = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(defined)
    missing = names(defined) - names(known)
    assert not missing, "run `uv run buf build proto -o proto/baseline.binpb`"


def names(file: FileDescriptorProto) -> set[tuple[str, str]]:
    """Fields, enum values and methods, each with what it belongs to."""
    return {
        *((message.name, field.name) for message in file.message_type for field in message.field),
        *((enum.name, value.name) for enum in file.enum_type for value in enum.value),
        *((service.name, method.name) for service in file.service for method in service.method),
    }


def test_every_tunable_tells_not_set_from_zero() -> None:
    for name in TUNABLES:
        message = pb.DESCRIPTOR.message_types_by_name[name]
        for field in message.fields:
            assert field.has_presence or field.is_repeated, f"{message.name}.{field.name}"
    assert pb.FinishReason.DESCRIPTOR.values[0].name == "FINISH_REASON_UNSPECIFIED"


def test_every_tunable_states_default_and_range_in_its_comment() -> None:
    text = (PROTO / "jang/runtime/v1/runtime.proto").read_text()
    for message in TUNABLES:
        body = text.split(f"message {message} {{")[1].split("\n}")[0]
        for chunk in body.split(";\n"):
            assert "Default: " in chunk, chunk
            assert "bool " in chunk or "Range: " in chunk or "At most " in chunk or "seed" in chunk


def test_the_public_names_are_these() -> None:
    assert jang_proto.__all__ == ["__version__"]
    import jang_proto.runtime.v1 as v1

    assert v1.__all__ == ["runtime_pb2", "runtime_pb2_grpc"]
    methods = {method.name for method in pb.DESCRIPTOR.services_by_name["RuntimeService"].methods}
    assert methods == {
        "Abort",
        "ApplyChatTemplate",
        "Detokenize",
        "Generate",
        "GenerateStream",
        "GetModelInfo",
        "GetServerInfo",
        "ListModels",
        "Logits",
        "Score",
        "Tokenize",
    }
    for method in methods:
        assert hasattr(runtime_pb2_grpc.RuntimeServiceServicer, method)


@pytest.mark.parametrize("name", ["jang/runtime/v1/runtime.proto"])
def test_the_descriptor_has_the_name_that_other_languages_see(name: str) -> None:
    assert pb.DESCRIPTOR.name == name
