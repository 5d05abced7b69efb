"""`jang-eval mmlu` against a real server gives what the model's own logits say."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from typer.testing import CliRunner

from jang_eval.cli import app
from jang_runtime._model import load

TEST = """Which of these is a fruit?,stone,apple,chair,river,B
"How many legs
has a spider?",six,eight,ten,"none, ever",B
What is 2 + 2?,1,2,3,4,D
Who sings?,a bird,a stone,a fork,a lamp,A
"""


def test_the_scores_of_a_served_model_are_those_of_its_own_logits(
    served: str, tiny_model: Path, tmp_path: Path
) -> None:
    for split, text in (("dev", "Is ice cold?,yes,no,maybe,never,A\n"), ("test", TEST)):
        (tmp_path / split).mkdir()
        (tmp_path / split / f"miscellaneous_{split}.csv").write_text(text)
    options = ["--target", served, "--data", str(tmp_path), "--shots", "1", "--json"]
    result = CliRunner().invoke(app, ["mmlu", *options])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)

    model = load(tiny_model)
    correct = 0
    for outcome, row in zip(document["outcomes"], ROWS, strict=True):
        question, choices, answer = row
        lines = "".join(f"{letter}. {each}\n" for letter, each in zip("ABCD", choices, strict=True))
        prompt = f"{HEAD}\n\n{SHOT}\n\n{question}\n{lines}Answer:"
        found = [logprob(model, prompt, letter) for letter in "ABCD"]
        np.testing.assert_allclose(outcome["arrays"]["logprobs"], found, rtol=0, atol=1e-4)
        assert outcome["numbers"]["chosen"] == np.argmax(found)
        correct += "ABCD"[int(np.argmax(found))] == answer
    assert document["metrics"][0]["value"] == correct / 4


def test_by_generation_a_question_can_be_a_message_of_a_user(
    served: str, tiny_model: Path, tmp_path: Path
) -> None:
    for split, text in (("dev", "Is ice cold?,yes,no,maybe,never,A\n"), ("test", TEST)):
        (tmp_path / split).mkdir()
        (tmp_path / split / f"miscellaneous_{split}.csv").write_text(text)

    def run(*options: str) -> Any:
        fixed = ["--target", served, "--data", str(tmp_path), "--shots", "1", "--json"]
        return CliRunner().invoke(app, ["mmlu", *fixed, *options])

    result = run("--by", "generation", "--chat-template")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["settings"]["chat template"] == "yes"
    model = load(tiny_model)
    for outcome, (question, choices, _) in zip(document["outcomes"], ROWS, strict=True):
        lines = "".join(f"{letter}. {each}\n" for letter, each in zip("ABCD", choices, strict=True))
        message = {
            "role": "user",
            "content": f"{HEAD}\n\n{SHOT}\n\n{question}\n{lines}Answer:",
        }
        tokens = list(model.tokenizer.apply_chat_template([message], add_generation_prompt=True))
        written: list[int] = []
        while len(written) < 32:
            logits = np.array(model.model(mx.array([tokens + written]))[0, -1])
            written.append(int(logits.argmax()))
            if written[-1] in model.tokenizer.eos_token_ids:
                break
        expected = model.tokenizer.decode(written, skip_special_tokens=True)
        # What the last tokens only begin to say may be left out.
        assert outcome["texts"]["written"][:20] == expected[:20]

    plain = json.loads(run("--by", "generation").stdout)
    assert "chat template" not in plain["settings"]
    assert plain["outcomes"][0]["texts"]["written"] != document["outcomes"][0]["texts"]["written"]
    refused = run("--chat-template")
    assert (refused.exit_code, refused.stderr) == (
        2,
        "error: chat-template: found it by likelihood, expected it by generation\n",
    )


HEAD = "The following are multiple choice questions (with answers) about miscellaneous."
SHOT = "Is ice cold?\nA. yes\nB. no\nC. maybe\nD. never\nAnswer: A"
ROWS = [
    ("Which of these is a fruit?", ["stone", "apple", "chair", "river"], "B"),
    ("How many legs\nhas a spider?", ["six", "eight", "ten", "none, ever"], "B"),
    ("What is 2 + 2?", ["1", "2", "3", "4"], "D"),
    ("Who sings?", ["a bird", "a stone", "a fork", "a lamp"], "A"),
]


def logprob(model: Any, prompt: str, letter: str) -> float:
    """Of a space and the letter, each a token of its own to the byte-level tokenizer."""
    context = model.tokenizer.encode(prompt)
    tokens = model.tokenizer.encode(f"{prompt} {letter}")
    logits = np.array(model.model(mx.array([tokens]))[0]).astype(np.float64)
    largest = logits.max(axis=1, keepdims=True)
    logprobs = logits - largest - np.log(np.exp(logits - largest).sum(axis=1, keepdims=True))
    assert len(tokens) == len(context) + 2
    return float(sum(logprobs[at - 1, tokens[at]] for at in range(len(context), len(tokens))))
