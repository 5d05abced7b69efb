"""Fixtures that the tests of several packages share: a tiny random model, SmolLM2, a server."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from jang_proto.runtime.v1 import runtime_pb2_grpc
from jang_quant import convert, find_profile, open_source, plan_source
from jang_runtime import Engine, Server, ServiceOptions, start_server
from jang_runtime._model import load
from jang_runtime.architecture import build_model, parameter_shapes

TINY_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 384,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "torch_dtype": "bfloat16",
}

# The end mark is a token that random weights hardly ever choose; the turns are plain text.
TINY_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def write_tiny_source(directory: Path, *, dtype: mx.Dtype = mx.bfloat16, **changes: object) -> Path:
    """A Hugging Face directory with a random llama and a byte-level tokenizer."""
    directory.mkdir(parents=True)
    config = TINY_CONFIG | changes
    mx.random.seed(7)
    model = build_model(config)
    weights = {
        path: (
            mx.random.normal(shape) * (0.08 if len(shape) > 1 else 0.1) + (len(shape) == 1)
        ).astype(dtype)
        for path, shape in parameter_shapes(model).items()
    }
    mx.save_safetensors(str(directory / "model.safetensors"), weights, metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": 1}))
    write_byte_tokenizer(directory)
    return directory


def write_byte_tokenizer(directory: Path) -> None:
    """A tokenizer whose tokens are two marks, the 256 bytes, and nothing else."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, "</s>": 1} | {char: n + 2 for n, char in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<s>",
                "eos_token": "</s>",
                "chat_template": TINY_CHAT_TEMPLATE,
            }
        )
    )


def convert_to(source: str | Path, out: Path, profile: str) -> Path:
    """Convert without a progress bar."""
    opened = open_source(str(source))
    convert(opened, out, plan_source(opened, find_profile(profile)))
    return out


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer llama in Hugging Face form, bf16."""
    return write_tiny_source(tmp_path_factory.mktemp("tiny") / "source")


@pytest.fixture(scope="session")
def tiny_model(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random llama, converted with JANG_4M."""
    return convert_to(tiny_source, tmp_path_factory.mktemp("tiny") / "JANG_4M", "JANG_4M")


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct, converted with JANG_4M."""
    return convert_to("smollm2", tmp_path_factory.mktemp("smollm2") / "JANG_4M", "JANG_4M")


@pytest.fixture
def free_port() -> int:
    """A port of loopback that nobody has at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@pytest.fixture
def served(tiny_model: Path) -> Iterator[str]:
    """The address of a server in a process of its own."""
    command = [sys.executable, "-m", "jang_runtime.cli", "serve", str(tiny_model)]
    with subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout is not None
        # "listening on HOST:PORT - what is served"
        yield server.stdout.readline().split()[2]
        server.terminate()


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[Server]]:
    """Serves an engine in a thread with an event loop of its own: `with serving(engine) as server`.

    The server has the loop as its attribute `loop`, for tests that call its coroutines.
    """

    @contextmanager
    def serve(engine: Engine, options: ServiceOptions | None = None) -> Iterator[Server]:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()

        def run(coroutine: object) -> object:
            return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)  # type: ignore[arg-type]

        try:
            server = run(start_server(engine, options=options))
            assert isinstance(server, Server)
            server.loop = loop  # type: ignore[attr-defined]
            yield server
            run(server.stop())
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    return serve


@contextmanager
def answering(servicer: runtime_pb2_grpc.RuntimeServiceServicer) -> Iterator[str]:
    """Serves what a test has written; the address."""
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        runtime_pb2_grpc.add_RuntimeServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


class PlainModel:
    """A model without server and engine: what its own forward pass says, in float64."""

    def __init__(self, directory: Path) -> None:
        loaded = load(directory)
        self._model: Any = loaded.model
        self.tokenizer: Any = loaded.tokenizer

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float64]:
        """`[tokens, vocabulary]`."""
        rows = self._model(mx.array([list(tokens)]))[0].astype(mx.float32)
        return np.array(rows, dtype=np.float64)

    def log_probabilities(self, tokens: Sequence[int]) -> NDArray[np.float64]:
        """`[tokens, vocabulary]`."""
        logits = self.logits(tokens)
        shifted = logits - logits.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
