"""An overview as JSON."""

from dataclasses import asdict
from typing import Any

from jang_eval._compare.overview import Overview, TaskTable


def overview_document(overview: Overview) -> dict[str, Any]:
    """What `--json` prints: everything but the single outcomes, of which it has those of `qa`."""
    return {
        "models": [
            {"label": model.label, "is_reference": model.is_reference, **asdict(model.info)}
            for model in overview.models
        ],
        "tasks": [_task_document(table) for table in overview.tasks],
    }


def _task_document(table: TaskTable) -> dict[str, Any]:
    return {
        "task": table.task,
        "task_version": table.task_version,
        "data_sha256": table.data_sha256,
        "settings": table.settings,
        "results": [
            {
                "model": run.model.label,
                "file": run.file,
                "target": run.result.target,
                "jang_eval_version": run.result.jang_eval_version,
                "seconds": run.result.seconds,
                "metrics": [asdict(metric) for metric in run.result.metrics],
            }
            for run in table.runs
        ],
        "paired_tests": [asdict(pair) for pair in table.pairs],
        "mean_tests": [asdict(test) for test in table.means],
        "answer_flips": [asdict(each) for each in table.flips],
        "answers": [asdict(each) for each in table.answers],
    }
