"""An overview as one HTML page that needs nothing else."""

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from string import Template
from typing import Final

from jang_eval._compare import wording
from jang_eval._compare.charts import clean
from jang_eval._compare.examples import examples
from jang_eval._compare.figures import (
    divergence_figures,
    model_figures,
    part_figures,
    quality_figures,
)
from jang_eval._compare.markup import choice, folded, grid, html_table, scrolling, section
from jang_eval._compare.overview import Model, Overview, TaskTable
from jang_eval._model_info import PlanRow

# The one task that is about servers more than about models.
_SPEED: Final = "speed"
_HEAT_STEPS: Final = 5
_QUALITY_NOTE: Final = (
    "Filled points are on the Pareto front: no model here is as small and better. A diamond is the "
    "reference. Whiskers are 95 % intervals. Point at a mark for its numbers, or open the table "
    "below."
)
_PAIRS_SHOWN: Final = 10
# Of a digest, which tells models apart well before its end.
_DIGITS: Final = 16


def overview_page(overview: Overview, *, commit: str = "", notes: Sequence[str] = ()) -> str:
    """The page: summary, quality against size, spreads, parts, plans, failures, how it was made.

    Args:
        overview: What to show.
        commit: Of the code that was judged; empty where nobody said.
        notes: To be known before the rest is read, a sentence each.
    """
    template = resources.files("jang_eval._compare").joinpath("page.html").read_text("utf-8")
    tasks = overview.tasks
    sections = (
        section("Notes", "", _notes(notes)),
        section("Results", wording.NOTES, "".join(map(_results, tasks))),
        section(
            "Quality against size",
            _QUALITY_NOTE,
            "".join(_quality(table) for table in tasks if table.task != _SPEED),
        ),
        section(
            "Speed",
            "Of the servers, as their clients see it. Whiskers are 95 % intervals.",
            "".join(grid(model_figures(table)) for table in tasks if table.task == _SPEED),
        ),
        section(
            "KL divergence, token by token",
            "How many tokens diverge how far from the reference. The same axes for all models; "
            "what is outside of them counts into the outermost columns.",
            grid([each for table in tasks for each in divergence_figures(table)]),
        ),
        section(
            "Parts",
            "Whiskers are 95 % intervals, upright marks the mean of all models here.",
            grid([each for table in tasks for each in part_figures(table)]),
        ),
        *_comparisons(tasks),
        section(
            "Where the bytes are",
            "Bytes of the weights by what they are for and by bits, and their share of the model.",
            grid([_plan(model) for model in overview.models if model.info.plan]),
        ),
        section(
            "Failures",
            "Questions that a model got wrong, those first on which the models disagree most.",
            "".join(map(_failures, tasks)),
        ),
        section("How this was made", "", _provenance(overview, commit)),
    )
    names = ", ".join(table.task for table in tasks)
    return Template(template).substitute(
        script_digest=_script_digest(template),
        models=_counted(len(overview.models), "model"),
        tasks=f"{_counted(len(tasks), 'task')}: {clean(names)}",
        sections="".join(sections),
    )


def _notes(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{clean(note)}</li>" for note in notes)
    return f"<ul>{items}</ul>" if items else ""


def _script_digest(template: str) -> str:
    """Names the page's one script to the browser, so that it runs no other."""
    (script,) = re.findall("<script>(.*?)</script>", template, re.DOTALL)
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _results(table: TaskTable) -> str:
    shown = html_table(wording.metric_headings(table), wording.metric_rows(table), table.task)
    return f"<h3>{clean(table.task)}</h3>{shown}"


def _quality(table: TaskTable) -> str:
    """One metric at a time, the first of them at first."""
    figures = [
        (column.name, grid(quality_figures(table, column)))
        for column in table.headlines
        if column.better
    ]
    shown = choice(f"{table.task}: metric", [each for each in figures if each[1]])
    return f"<h3>{clean(table.task)}</h3>{shown}" if shown else ""


def _comparisons(tasks: Sequence[TaskTable]) -> list[str]:
    """A section for each kind of comparison, in which each task has its table."""
    parts: dict[tuple[str, str], list[str]] = {}
    for table in tasks:
        for each in wording.comparisons(table):
            shown = html_table(each.headings, each.rows, f"{each.name}, {table.task}")
            if len(each.rows) > _PAIRS_SHOWN:
                shown = folded(f"All {len(each.rows)} pairs", shown)
            parts.setdefault((each.name, each.notes), []).append(
                f"<h3>{clean(table.task)}</h3>{shown}"
            )
    return [section(name, notes, "".join(shown)) for (name, notes), shown in parts.items()]


def _plan(model: Model) -> str:
    """Roles down, bits across: darker where more of the bytes are."""
    plan = model.info.plan
    roles = list(dict.fromkeys(row.role for row in plan))
    widths = sorted({row.bits for row in plan}, key=lambda bits: (bits is None, bits or 0))
    total = sum(row.bytes for row in plan)
    lines: list[str] = []
    for role in roles:
        cells = [
            _plan_cell([row for row in plan if row.role == role and row.bits == bits], total)
            for bits in widths
        ]
        lines.append(f'<tr><th scope="row">{clean(role)}</th>{"".join(cells)}</tr>')
    heads = ["other" if bits is None else _counted(bits, "bit") for bits in widths]
    head = "".join(f'<th scope="col">{clean(text)}</th>' for text in ("MB", *heads))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return (
        f"<figure><figcaption>{clean(model.label)}: {wording.megabytes(total)} MB</figcaption>"
        f"{scrolling(table, f'plan of {model.label}')}</figure>"
    )


def _plan_cell(rows: Sequence[PlanRow], total: int) -> str:
    if not rows:
        return "<td></td>"
    size = sum(row.bytes for row in rows)
    share = size / total if total else 0.0
    step = min(_HEAT_STEPS, int(share * (_HEAT_STEPS + 1)))
    groups = sorted({row.group_size for row in rows if row.group_size is not None})
    details = f"{sum(row.modules for row in rows)} modules"
    if groups:
        details += f", groups of {', '.join(map(str, groups))}"
    return (
        f'<td class="heat{step}" title="{clean(details)}">{wording.megabytes(size)}'
        f"<small>{100 * share:.1f} %</small></td>"
    )


def _failures(table: TaskTable) -> str:
    shown = examples(table)
    return f"<h3>{clean(table.task)}</h3>{shown}" if shown else ""


def _provenance(overview: Overview, commit: str) -> str:
    parts = [f"<p>Commit <code>{clean(commit)}</code>.</p>"] if commit else []
    for table in overview.tasks:
        rules = "".join(f"<li>{clean(rule)}</li>" for rule in wording.rules(table))
        rows = [
            [
                run.model.label,
                run.file,
                run.result.target,
                run.model.info.name,
                run.model.info.architecture,
                " ".join((run.model.info.source_name, run.model.info.source_quantization)).strip(),
                run.model.info.digest[:_DIGITS],
                run.model.info.plan_digest[:_DIGITS],
                f"{run.result.seconds:,.1f}",
                run.result.jang_eval_version,
            ]
            for run in table.runs
        ]
        headings = ["model", "file", "server", "name", "architecture", "source", "digest"]
        headings += ["plan digest", "seconds", "jang-eval"]
        shown = html_table(headings, rows, table.task)
        parts.append(f"<h3>{clean(table.task)}</h3><ul>{rules}</ul>{shown}")
    return "".join(parts)
