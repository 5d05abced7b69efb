"""Results as tasks write them, made up from a seed: for tests and to look at pages."""

import random
import sys
from pathlib import Path

import numpy as np

from jang_eval._documents import write_document
from jang_eval._evaluation import EvaluationResult, Metric, Outcome
from jang_eval._model_info import ModelInfo, PlanRow
from jang_eval._records import to_json
from jang_eval._statistics import Interval, bootstrap_of_means, wilson

# Label, bits per weight, how likely an answer is wrong.
MODELS = (
    ("reference", 16.0, 0.30),
    ("JANG_4M", 4.86, 0.32),
    ("JANG_3M", 4.31, 0.38),
    ("JANG_2S", 3.20, 0.62),
    ("--bits 4.5", 4.50, 0.31),
    ("--bits 3.5", 3.50, 0.34),
    ("--bits 2.5", 2.50, 0.66),
    ("MLX 4-bit uniform", 4.52, 0.36),
    ("MLX 3-bit uniform", 3.52, 0.55),
    ("SmolLM2-135M-Instruct-MLX-2-bit-uniform-group-64", 2.52, 0.74),
    ("mixed_2_6", 3.35, 0.63),
)
SUBJECTS = ("abstract_algebra", "anatomy", "astronomy", "high_school_european_history", "virology")


def a_model(label: str, bpw: float) -> ModelInfo:
    parameters = 134_515_008
    shares = (("attention", 0.25), ("mlp", 0.5), ("embedding", 0.25))
    plan = [
        PlanRow(
            role,
            int(bpw + rank) if bpw < 16 else None,
            64 if bpw < 16 else None,
            30 * (rank + 1),
            int(parameters * share),
            int(parameters * share * (bpw + rank - 1) / 8),
        )
        for rank, (role, share) in enumerate(shares)
    ]
    plan.append(PlanRow("unquantized", None, None, 61, 35_136, 70_272))
    return ModelInfo(
        f"smollm2-{label}",
        "llama",
        label,
        bpw,
        int(parameters * bpw / 8),
        2048,
        49152,
        (2,),
        True,
        "smollm2",
        "",
        digest=f"{hash_of(label):064x}",
        plan=tuple(plan),
    )


def hash_of(label: str) -> int:
    return random.Random(label).getrandbits(256)


def an_mmlu(label: str, bpw: float, wrong: float, questions: int = 24) -> EvaluationResult:
    outcomes: list[Outcome] = []
    for subject in SUBJECTS:
        for index in range(questions):
            # The same questions are hard for all, and a little luck is each model's own.
            hard = random.Random(f"{subject}{index}").random()
            right = hard * 0.8 + random.Random(f"{label}{subject}{index}").random() * 0.2 > wrong
            other = random.Random(f"{label}{index}").randrange(1, 4)
            outcomes.append(
                Outcome(
                    f"{subject}/{index}",
                    subject,
                    {
                        "correct": float(right),
                        "chosen": 0.0 if right else float(other),
                    },
                    {
                        "question": f"What is question {index} of {subject}?",
                        "written": "A. right" if right else f"{'ABCD'[other]}. wrong",
                    },
                )
            )
    groups = {"accuracy": outcomes} | {
        f"accuracy/{subject}": [each for each in outcomes if each.group == subject]
        for subject in SUBJECTS
    }
    metrics: list[Metric] = []
    for name, group in groups.items():
        rights, count = sum(int(each.numbers["correct"]) for each in group), len(group)
        metrics.append(Metric(name, rights / count, wilson(rights, count), "", "higher", count))
    return a_result("mmlu", label, bpw, metrics, outcomes, {"shots": "5", "seed": "0"})


def a_kl(label: str, bpw: float, tokens: int = 200) -> EvaluationResult:
    draw = np.random.default_rng(hash_of(label) % 2**32)
    mean = 0.0 if label == "reference" else 1.0 * 2.0 ** (-1.6 * (bpw - 2.0))
    outcomes = [
        Outcome(
            f"window {index}",
            f"document {index // 2}",
            {"tokens": float(tokens)},
            arrays={"divergence": tuple((mean * draw.lognormal(-1.0, 1.4, tokens)).tolist())},
        )
        for index in range(8)
    ]
    values = np.array([each.arrays["divergence"] for each in outcomes])
    interval = bootstrap_of_means(values.sum(axis=1), np.full(8, tokens * 1.0), 0)
    rms = float(np.sqrt((values**2).mean()))
    metrics = [
        Metric("KL", float(values.mean()), interval, "nats", "lower", values.size),
        Metric(
            "KL/median",
            float(np.median(values)),
            Interval(*np.percentile(values, [49, 51]).tolist()),
            "nats",
            "lower",
            values.size,
        ),
        Metric("KL/max", float(values.max()), None, "nats", "lower", values.size),
        Metric("RMS", rms, None, "nats", "lower", values.size),
    ]
    reference = a_model("reference", 16.0).digest
    settings = {"window": "512", "seed": "0", "reference digest": reference}
    return a_result("kl", label, bpw, metrics, outcomes, settings)


def a_speed(label: str, bpw: float) -> EvaluationResult:
    draw = random.Random(label)
    decode, first = 1500 / bpw * draw.uniform(0.9, 1.1), bpw / 20
    metrics = [
        Metric("decode", decode, Interval(0.97 * decode, 1.02 * decode), "tokens/s", "higher", 5),
        Metric("time to first token", first, Interval(0.9 * first, first), "s", "lower", 5),
        Metric("peak memory", 500 + bpw, None, "MB", "lower", 1),
    ]
    outcomes = [Outcome(str(n), "rounds", {"decode": decode}) for n in range(5)]
    return a_result("speed", label, bpw, metrics, outcomes, {"streams": "1", "backend": "cpu"})


def a_result(
    task: str,
    label: str,
    bpw: float,
    metrics: list[Metric],
    outcomes: list[Outcome],
    settings: dict[str, str],
) -> EvaluationResult:
    return EvaluationResult(
        task,
        1,
        "ab" * 32,
        "0.1.0",
        "127.0.0.1:50051",
        settings,
        a_model(label, bpw),
        tuple(metrics),
        tuple(outcomes),
        12.5,
    )


def write_all(directory: Path, count: int = len(MODELS)) -> list[Path]:
    """Writes results of mmlu, kl and speed of some models."""
    files: list[Path] = []
    for label, bpw, wrong in MODELS[:count]:
        made = (an_mmlu(label, bpw, wrong), a_kl(label, bpw), a_speed(label, bpw))
        for result in made:
            name = label.strip("-").replace(" ", "_")
            files.append(directory / f"{result.task}-{name}.json")
            write_document(to_json(result), files[-1])
    return files


if __name__ == "__main__":
    print(*write_all(Path(sys.argv[1])))
