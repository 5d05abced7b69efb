"""Lists of questions of one's own."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from jang_eval.cli import app

COLOUR = """
[[questions]]
id = "colour"
text = "What is 2+2?"
ideas = [{name = "four", pattern = "[4]"}, {name = "equals", pattern = "="}]
enough = 2
"""


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("[[questions]]", "[[questions]", "line 2"),
        ("[[questions]]", "[[question]]", "questions: found nothing, expected a list"),
        ('text = "What is 2+2?"\n', "", "questions[0].text: found nothing, expected Unicode text"),
        ("[4]", "[4", "questions[0].ideas[0].pattern: found '[4', expected a regular expression"),
        ("enough = 2", "enough = 3", "questions[0].enough: found 3, expected 1 to 2"),
        ("\n[[", '\nplain_prompt = "?"\n[[', "plain_prompt: found '?', expected a text with"),
    ],
)
def test_a_list_that_is_none_is_one_line_with_the_field(
    tmp_path: Path, before: str, after: str, said: str
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(COLOUR.replace(before, after))
    result = CliRunner().invoke(app, ["qa", "--target", "localhost:1", "--questions", str(file)])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {file}: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
