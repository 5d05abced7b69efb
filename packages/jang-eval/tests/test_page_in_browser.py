"""The page of `compare --html` as a browser shows it."""

import os
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
from typer.testing import CliRunner

from jang_eval.cli import app

MADE = run_path(str(Path(__file__).with_name("made_results.py")))
CHROMIUM = run_path(str(Path(__file__).with_name("chromium.py")))

pytestmark = pytest.mark.skipif(
    CHROMIUM["PROGRAM"] is None, reason=f"no browser: none of {', '.join(CHROMIUM['NAMES'])}"
)

BACKGROUND = "getComputedStyle(document.body).backgroundColor"
LIGHT, DARK = "rgb(255, 255, 255)", "rgb(20, 23, 26)"
# By how much texts stand out from what is behind them (WCAG 2.2, 1.4.3), where it is least.
LEAST_CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const luminance = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((c) => c / 255)
      .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if (color !== "rgba(0, 0, 0, 0)") return color;
    }
  };
  const ratio = (element) => {
    const style = getComputedStyle(element);
    const front = element.namespaceURI.endsWith("svg") ? style.fill : style.color;
    const [low, high] = [luminance(front), luminance(behind(element))].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const texts = document.querySelectorAll("p, h1, h2, h3, h4, td, th, li, pre, summary, button, " +
    "small, figcaption, svg text, .right, .wrong");
  return Math.min(...[...texts].map(ratio));
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("page")
    files = MADE["write_all"](directory)
    page = directory / "page.html"
    arguments = ["compare", *map(str, files), "--html", str(page)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    return page


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with CHROMIUM["a_tab"](tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(("scheme", "background"), [("light", LIGHT), ("dark", DARK)])
def test_the_page_needs_nothing_else_fits_and_can_be_read(
    page: Path, tab: Any, width: int, scheme: str, background: str
) -> None:
    tab.open(page, width=width, height=844, scheme=scheme)
    # What is folded has to fit too.
    tab.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")

    assert tab.evaluate(BACKGROUND) == background
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.evaluate("document.querySelectorAll('svg').length") > 20
    assert tab.evaluate(LEAST_CONTRAST) >= 4.5

    methods = [event["method"] for event in tab.events]
    requested = [
        event["params"]["request"]["url"]
        for event in tab.events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert requested == [page.as_uri()]
    assert not {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"} & {
        *methods
    }


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where pictures go: they are to be looked at where someone says where he wants them."""
    directory = Path(os.environ.get("JANG_SCREENSHOTS", tmp_path))
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@pytest.mark.parametrize("width", [1280, 390])
def test_pictures_of_the_page_are_drawn_on_as_wide_as_the_screen_and_dark_where_that_is_liked(
    page: Path, tab: Any, pictures: Path, width: int
) -> None:
    seen: dict[str, dict[str, float]] = {}
    for scheme in ("light", "dark"):
        file = pictures / f"compare-{scheme}-{width}.png"
        tab.open(page, width=width, height=844, scheme=scheme)
        tab.screenshot(file)
        seen[scheme] = tab.look_at(file)
    for look in seen.values():
        # What is wider than the screen would make the picture wider; a bar to scroll takes 15.
        assert width - 16 < look["width"] <= width
        assert 0.05 < look["drawn"] < 0.6
    assert seen["light"]["lightness"] > 0.8
    assert seen["dark"]["lightness"] < 0.25


def test_the_button_turns_light_into_dark_and_back(page: Path, tab: Any) -> None:
    tab.open(page, width=390, height=844, scheme="light")
    seen = [tab.evaluate(BACKGROUND)]
    for _ in range(2):
        tab.evaluate("document.getElementById('theme').click()")
        seen.append(tab.evaluate(BACKGROUND))
    assert seen == [LIGHT, DARK, LIGHT]


def test_one_metric_is_shown_at_a_time_and_another_where_it_is_chosen(page: Path, tab: Any) -> None:
    shown = """(() => {
      const charts = [...document.querySelectorAll("svg")].filter((each) => each.checkVisibility());
      const names = charts.map((each) => each.getAttribute("aria-label"));
      return names.filter((name) => name.startsWith("kl: "));
    })()"""
    choose = """(() => {
      const select = [...document.querySelectorAll("select")].find((each) =>
        each.parentElement.textContent.startsWith("kl"));
      select.value = "KL/median";
      select.dispatchEvent(new Event("change"));
      return select.checkVisibility();
    })()"""
    tab.open(page, width=390, height=844, scheme="light")
    assert tab.evaluate(shown) == ["kl: KL against bytes", "kl: KL against bits per weight"]
    assert tab.evaluate(choose)
    assert tab.evaluate(shown) == [
        "kl: KL/median against bytes",
        "kl: KL/median against bits per weight",
    ]


def test_a_script_that_is_not_the_pages_own_does_not_run(
    page: Path, tab: Any, tmp_path: Path
) -> None:
    changed = tmp_path / "changed.html"
    script = "<main><script>document.title = 'ran'</script><img src='http://127.0.0.1:1/'>"
    changed.write_text(page.read_text(encoding="utf-8").replace("<main>", script), "utf-8")

    tab.open(changed, width=390, height=844, scheme="light")

    assert tab.evaluate("document.title") == "Models compared by jang-eval"
    assert "Log.entryAdded" in [event["method"] for event in tab.events]
