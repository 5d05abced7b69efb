"""Runs lm-evaluation-harness's own MMLU over local CSV files, through `jang_eval.harness`.

    python lm_eval_mmlu.py HOST:PORT DATA SUBJECT SHOTS WORK

Prints `[[right, [four log-probabilities]], ...]`, the questions in the order of the file, after
that how likely a whole text is and what is written after one in four ways, of the first question
with the chat template `[[context, continuation, log-probability], ...]`, and of a context that is
too long how likely a continuation is and what is written.
"""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import lm_eval
import yaml
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from jang_eval.harness import ServedModel

TEMPLATES = Path(lm_eval.__file__).parent / "tasks" / "mmlu" / "default"


def documents(data: Path, split: str, subject: str, work: Path) -> str:
    """The questions in the columns that the harness's task has, as it gets them from the hub."""
    out = work / f"{split}.json"
    with (data / split / f"{subject}_{split}.csv").open(newline="") as file:
        lines = [
            json.dumps({"question": row[0], "choices": row[1:5], "answer": "ABCD".index(row[5])})
            for row in csv.reader(file)
        ]
    out.write_text("\n".join(lines) + "\n")
    return str(out)


def main() -> None:
    target, data, subject, shots, work = sys.argv[1:]
    task = yaml.safe_load((TEMPLATES / "_default_template_yaml").read_text())
    task |= yaml.safe_load((TEMPLATES / f"mmlu_{subject}.yaml").read_text())
    for name in ("include", "dataset_name", "tag"):
        del task[name]
    files = {split: documents(Path(data), split, subject, Path(work)) for split in ("dev", "test")}
    task |= {"dataset_path": "json", "dataset_kwargs": {"data_files": files}}
    (Path(work) / "task.yaml").write_text(yaml.safe_dump(task))

    def evaluate(in_chat: bool) -> list[dict[str, Any]]:
        results = lm_eval.simple_evaluate(
            model="jang",
            model_args=f"target={target}",
            tasks=[task["task"]],
            num_fewshot=int(shots),
            task_manager=TaskManager(include_path=work, include_defaults=False),
            log_samples=True,
            bootstrap_iters=0,
            apply_chat_template=in_chat,
        )
        return sorted(results["samples"][task["task"]], key=lambda sample: sample["doc_id"])

    samples = evaluate(False)
    found = [
        [sample["acc"], [float(response[0][0]) for response in sample["resps"]]]
        for sample in samples
    ]
    rolling = Instance("loglikelihood_rolling", {}, ("x" * 700,), 0)
    text = ServedModel(target).loglikelihood_rolling([rolling])
    written = ServedModel(target).generate_until(
        [
            Instance(
                "generate_until", {}, ("It is", {"until": ["\n"], "max_gen_toks": 5, **kept}), 0
            )
            # The first is greedy; of the others each leaves the most likely token alone.
            for kept in (
                {},
                {"do_sample": True, "temperature": 1.5, "top_p": 1e-6},
                {"do_sample": True, "temperature": 1.5, "top_k": 1},
                {"do_sample": True, "temperature": 1.5, "min_p": 1.0},
            )
        ]
    )
    first = evaluate(True)[0]
    chat = [
        [*asked, float(response[0][0])]
        for asked, response in zip(first["arguments"], first["resps"], strict=True)
    ]
    model = ServedModel(target)
    ((likely, _),) = model.loglikelihood([Instance("loglikelihood", {}, ("x" * 700, " yz"), 0)])
    (more,) = model.generate_until(
        [Instance("generate_until", {}, ("y" * 700, {"until": ["\n"], "max_gen_toks": 5}), 0)]
    )
    print(json.dumps([found, text, written, chat, [likely, more]]))


main()
