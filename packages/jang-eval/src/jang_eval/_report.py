"""Results for people: a table for the terminal, and Markdown for everything else."""

import re

from rich.table import Table
from rich.text import Text

from jang_eval._compare.qa import ComparedAnswer, ComparedModel, Comparison
from jang_eval._evaluation import EvaluationResult
from jang_eval._judge import Verdict
from jang_eval._results import JudgedAnswer, ModelInfo, QaResult, Totals

_ANSWER_CHARACTERS = 160
_STYLES = {Verdict.CORRECT: "green", Verdict.PARTIAL: "yellow", Verdict.BROKEN: "red"}


def answers_table(result: QaResult) -> Table:
    """One run as a table for the terminal."""
    table = Table(
        title=Text(describe_model(result.model)),
        caption=Text(_totals_with_interval(result)),
        show_lines=True,
    )
    for heading in ("question", "answer", "verdict", "failure mode"):
        table.add_column(heading)
    for answer in result.answers:
        table.add_row(
            Text(answer.question),
            # As Text, or a "[bold]" of the model's would be taken for ours.
            Text(shorten(answer.answer)),
            Text(answer.verdict, style=_STYLES[answer.verdict]),
            Text(answer.failure_mode or ""),
        )
    return table


def metrics_table(result: EvaluationResult) -> Table:
    """The metrics of one run as a table for the terminal; shares in percent."""
    settings = ", ".join(f"{name} {value}" for name, value in result.settings.items())
    table = Table(
        title=Text(f"{result.task}, {describe_model(result.model)}"),
        caption=Text(f"{settings}; {result.seconds:.1f} s" if settings else ""),
    )
    table.add_column("metric")
    for heading in ("value", "95 %", "of"):
        table.add_column(heading, justify="right")
    for metric in result.metrics:
        interval = metric.interval
        sides = (interval.low, interval.high) if interval is not None else ()
        table.add_row(
            Text(metric.name),
            _quantity(metric.value, metric.unit),
            " to ".join(_quantity(side, metric.unit) for side in sides),
            f"{metric.count:,}",
        )
    return table


def _quantity(value: float, unit: str) -> str:
    return f"{value:.4g} {unit}" if unit else f"{100 * value:.1f} %"


def progress_line(answer: JudgedAnswer) -> str:
    """One answer as a line of the log."""
    mode = f" ({answer.failure_mode})" if answer.failure_mode else ""
    return f"{answer.id}: {answer.verdict}{mode}, {answer.seconds:.1f} s"


def comparison_markdown(comparison: Comparison) -> str:
    """A comparison as Markdown: verdicts as one table, then the models, then every answer."""
    parts = [
        "\n".join(_verdict_lines(comparison)),
        "## Models\n\n" + "\n".join(_model_line(model) for model in comparison.models),
        "## Answers",
    ]
    labels = [model.label for model in comparison.models]
    for question in comparison.questions:
        answers = zip(labels, question.answers, strict=True)
        lines = [f"- {escaped(label)}: {fenced(shorten(each.answer))}" for label, each in answers]
        parts.append(f"### {escaped(question.question)}\n\n" + "\n".join(lines))
    parts.append(
        f"Task {comparison.task}, version {comparison.task_version}, "
        f"data sha256 `{comparison.data_sha256}`."
    )
    return "\n\n".join(parts) + "\n"


def describe_model(model: ModelInfo) -> str:
    """The model in one line, without what the server does not know."""
    bpw = f"{model.bits_per_weight:.2f} bpw" if model.bits_per_weight > 0 else ""
    source = f"from {model.source_name}" if model.source_name else ""
    size = f"{model.weight_bytes / 1e6:,.1f} MB" if model.weight_bytes else ""
    facts = (model.name, model.profile, bpw, size, source, model.source_quantization)
    return ", ".join(fact for fact in facts if fact)


def describe_totals(totals: Totals) -> str:
    """The verdicts counted, in one line."""
    return f"{totals.correct} correct, {totals.partial} partial, {totals.broken} broken"


def _totals_with_interval(result: QaResult) -> str:
    totals = describe_totals(result.totals)
    if (interval := result.correct_interval) is None:
        return totals
    share = f"{result.totals.correct / result.totals.questions:.0%}"
    return f"{totals}; {share} correct, 95 %: {interval.low:.0%} to {interval.high:.0%}"


def shorten(text: str) -> str:
    """One line of printable characters, cut where it gets long."""
    # A model can say anything, an escape sequence that clears the screen too.
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in _line(text))
    if len(printable) <= _ANSWER_CHARACTERS:
        return printable
    return printable[: _ANSWER_CHARACTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _verdict_lines(comparison: Comparison) -> list[str]:
    rows = [
        ["question", *(model.label for model in comparison.models)],
        *(
            [question.question, *(_cell(answer) for answer in question.answers)]
            for question in comparison.questions
        ),
        ["total", *(describe_totals(model.totals) for model in comparison.models)],
    ]
    lines = ["| " + " | ".join(escaped(cell) for cell in row) + " |" for row in rows]
    return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]


def _cell(answer: ComparedAnswer) -> str:
    mode = f": {answer.failure_mode}" if answer.failure_mode else ""
    return f"{answer.verdict}{mode}"


def _model_line(model: ComparedModel) -> str:
    facts = f"{describe_model(model.model)}; up to {model.settings.max_tokens} tokens"
    return f"- {escaped(model.label)}: {escaped(facts)}; {fenced(shorten(model.file))}"


def _line(text: str) -> str:
    return " ".join(text.split())


def escaped(text: str) -> str:
    """Keeps names and questions from being read as Markdown."""
    return re.sub(r"([\\`*|<>\[\]#])", r"\\\1", shorten(text))


def fenced(text: str) -> str:
    """Shows a text as it is, fenced by more backticks than it holds in a row."""
    if not text:
        return "(empty)"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    # Markdown takes one space off each side, which keeps outer backticks apart from the fence.
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"
