"""`jang-eval compare`."""

from pathlib import Path
from typing import Annotated

import typer

from jang_eval._commands.options import CommitOption
from jang_eval._compare.document import overview_document
from jang_eval._compare.overview import bring_together
from jang_eval._compare.pages import overview_page
from jang_eval._compare.table import overview_markdown
from jang_eval._documents import check_writable, document_text, write_whole
from jang_eval._result_files import read_result


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
    commit: CommitOption = "",
) -> None:
    """Put results side by side: models as rows, metrics with intervals as columns.

    Of `qa` every answer is shown too.
    """
    if html is not None:
        check_writable(html)
    # First of all, for this refuses what is not to be compared.
    overview = bring_together([(path, read_result(path)) for path in files], reference)
    text = overview_markdown(overview) if markdown else document_text(overview_document(overview))
    if html is not None:
        write_whole(overview_page(overview, commit=commit), html)
        typer.echo(f"wrote {html}", err=True)
    # Answers may be in any script, whatever the terminal is.
    typer.echo(text.encode(), nl=False)
