"""`jang-eval compare`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from jang_eval._compare.documents import as_evaluation, read_any_result
from jang_eval._compare.overview import Overview, bring_together, overview_document
from jang_eval._compare.pages import overview_page
from jang_eval._compare.qa import compare_results
from jang_eval._compare.table import overview_markdown
from jang_eval._evaluation import EvaluationResult
from jang_eval._records import to_json
from jang_eval._report import comparison_markdown
from jang_eval._results import QaResult, check_writable, document_text, write_whole

_Named: TypeAlias = tuple[Path, EvaluationResult | QaResult]


def compare(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Results of any tasks, written with `-o FILE`."),
    ],
    markdown: Annotated[bool, typer.Option("--markdown/--json", help="What to print.")] = True,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Also write one page with charts."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="One of the results: its model is what others are compared with. Where results "
            "of kl or logit-mse are among them, these say which model that is.",
        ),
    ] = None,
    commit: Annotated[
        str, typer.Option(metavar="ID", help="Of the code that was judged, for the page.")
    ] = "",
) -> None:
    """Put results side by side: models as rows, metrics with intervals as columns.

    Results of `qa` alone, without a reference, are shown with questions as rows and every answer.
    """
    if html is not None:
        check_writable(html)
    results = [(path, read_any_result(path)) for path in files]
    # First of all, for this refuses what is not to be compared.
    text = _text(results, reference, markdown)
    if html is not None:
        overview = _overview(results, reference)
        write_whole(overview_page(overview, commit=commit), html)
        typer.echo(f"wrote {html}", err=True)
    # Answers may be in any script, whatever the terminal is.
    typer.echo(text.encode(), nl=False)


def _text(results: Sequence[_Named], reference: Path | None, markdown: bool) -> str:
    answers = [(path, result) for path, result in results if isinstance(result, QaResult)]
    if len(answers) == len(results) and reference is None:
        comparison = compare_results(answers)
        return comparison_markdown(comparison) if markdown else document_text(to_json(comparison))
    overview = _overview(results, reference)
    return overview_markdown(overview) if markdown else document_text(overview_document(overview))


def _overview(results: Sequence[_Named], reference: Path | None) -> Overview:
    named = [(path, as_evaluation(result)) for path, result in results]
    return bring_together(named, reference)
