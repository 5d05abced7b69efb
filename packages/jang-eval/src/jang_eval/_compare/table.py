"""An overview as Markdown."""

from collections.abc import Sequence

from jang_eval._compare import wording
from jang_eval._compare.answers import Answer, AnsweredQuestion
from jang_eval._compare.overview import Column, Overview, TaskTable
from jang_eval._model_info import describe_model
from jang_eval._text import escaped, fenced, shorten


def overview_markdown(overview: Overview) -> str:
    """Each task's metrics with models as rows, then parts, paired tests, and how it was made."""
    parts: list[str] = []
    if len(overview.tasks) > 1:
        parts.append(_summary(overview))
    for table in overview.tasks:
        parts += _task(table)
    parts.append("## Results\n\n" + "\n".join(_files(overview)))
    parts.append(wording.NOTES)
    return "\n\n".join(parts) + "\n"


def _summary(overview: Overview) -> str:
    tasks = [table for table in overview.tasks if table.columns]
    rows: list[list[str]] = []
    for model in overview.models:
        row = wording.model_cells(model)
        for table in tasks:
            cells = zip(table.runs, table.columns[0].cells, strict=True)
            metric = next((metric for run, metric in cells if run.model is model), None)
            row.append(wording.cell(table.columns[0], metric))
        rows.append(row)
    headings = [f"{table.task}: {wording.heading(table.columns[0])}" for table in tasks]
    return _markdown_table([*wording.MODEL_HEADINGS, *headings], rows)


def _task(table: TaskTable) -> list[str]:
    metrics = _markdown_table(wording.metric_headings(table), wording.metric_rows(table))
    parts = [f"## {escaped(table.task)}", metrics]
    wholes = dict.fromkeys(column.whole for column in table.columns if column.whole)
    for whole in wholes:
        columns = [column for column in table.columns if column.whole == whole]
        common = {wording.unit_and_arrow(column) for column in columns}
        unit = common.pop() if len(common) == 1 else ""
        name = "### " + escaped(f"{whole} by part{unit}")
        parts += [name, _by_part(table, columns, unit)]
    for each in wording.comparisons(table):
        shown = _markdown_table(each.headings, each.rows)
        parts += [f"### {each.name}", shown, each.notes]
    if table.answers:
        parts += _answers(table.answers)
    return [*parts, "; ".join(escaped(rule) for rule in wording.rules(table)) + "."]


def _answers(questions: Sequence[AnsweredQuestion]) -> list[str]:
    """Verdicts with questions as rows, then what was said."""
    labels = [each.model for each in questions[0].answers]
    rows = [[each.question, *map(_verdict, each.answers)] for each in questions]
    parts = ["### Verdicts", _markdown_table(["question", *labels], rows)]
    for each in questions:
        said = "\n".join(
            f"- {escaped(answer.model)}: {fenced(shorten(answer.answer))}"
            for answer in each.answers
        )
        parts += [f"### {escaped(each.question)}", said]
    return parts


def _verdict(answer: Answer) -> str:
    return f"{answer.verdict}: {answer.failure_mode}" if answer.failure_mode else answer.verdict


def _by_part(table: TaskTable, columns: Sequence[Column], unit: str) -> str:
    rows = [
        [
            wording.heading(column).removeprefix(f"{column.whole}/").removesuffix(unit),
            *(wording.cell(column, metric) for metric in column.cells),
        ]
        for column in columns
    ]
    return _markdown_table(["part", *(run.model.label for run in table.runs)], rows)


def _files(overview: Overview) -> list[str]:
    return [
        f"- {escaped(table.task)}, {escaped(run.model.label)}: "
        f"{escaped(describe_model(run.model.info))}; {fenced(shorten(run.file))}"
        for table in overview.tasks
        for run in table.runs
    ]


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(escaped(text) for text in row) + " |" for row in (headings, *rows)]
    return "\n".join([lines[0], "|" + " --- |" * len(headings), *lines[1:]])
