"""lm-evaluation-harness's own MMLU with its own model `hf`, over questions in files.

    PYTHON lm_eval_mmlu.py MODEL QUESTIONS SHOTS

Runs in an environment with `lm_eval[hf]` and torch, and without anything of this repository.
QUESTIONS has `SUBJECT_dev.json` and `SUBJECT_test.json`, JSON lines in the columns of the data set
on the hub. Prints a JSON object: the versions, and for each subject
`[[right, [four log-probabilities]], ...]` in the order of its file.
"""

# A checkout does not install the harness, only what typings say of it.
# pyright: reportMissingModuleSource=false

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lm_eval
import yaml
from lm_eval.tasks import TaskManager

TEMPLATES = Path(lm_eval.__file__).parent / "tasks" / "mmlu" / "default"


def write_task(questions: Path, subject: str, work: Path) -> str:
    """The harness's task of a subject, on files instead of the hub; returns its name."""
    task = yaml.safe_load((TEMPLATES / "_default_template_yaml").read_text())
    task |= yaml.safe_load((TEMPLATES / f"mmlu_{subject}.yaml").read_text())
    for name in ("include", "dataset_name", "tag"):
        del task[name]
    files = {split: str(questions / f"{subject}_{split}.json") for split in ("dev", "test")}
    task |= {"dataset_path": "json", "dataset_kwargs": {"data_files": files}}
    (work / f"{subject}.yaml").write_text(yaml.safe_dump(task))
    return task["task"]


def _place(sample: dict[str, Any]) -> int:
    return sample["doc_id"]


def main() -> None:
    """Run the tasks, and print what came of them."""
    model, questions, shots = sys.argv[1:]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        places = sorted(Path(questions).glob("*_test.json"))
        subjects = [each.name.removesuffix("_test.json") for each in places]
        tasks = {name: write_task(Path(questions), name, Path(work)) for name in subjects}
        results = lm_eval.simple_evaluate(
            model="hf",
            model_args=f"pretrained={model},dtype=float32",
            device="cpu",
            batch_size=1,
            tasks=list(tasks.values()),
            num_fewshot=int(shots),
            task_manager=TaskManager(include_path=work, include_defaults=False),
            log_samples=True,
            bootstrap_iters=0,
        )
        for subject, task in tasks.items():
            samples: list[dict[str, Any]] = results["samples"][task]
            samples.sort(key=_place)
            found[subject] = [
                [sample["acc"], [float(response[0][0]) for response in sample["resps"]]]
                for sample in samples
            ]
    versions = {name: version(name) for name in ("lm_eval", "transformers", "torch")}
    print(json.dumps({"versions": versions, "subjects": found}))


main()
