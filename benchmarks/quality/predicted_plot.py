"""The picture of predicted against measured divergence."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

_SIZE: Final = (7.2, 6.0)
_DOTS_PER_INCH: Final = 150
# Without the version of the program, so that equal data gives equal files.
_METADATA: Final = {"Software": None}
# Colours that people who see fewer can tell apart (Okabe and Ito), and a marker each.
_STYLES: Final = (
    ("#0072B2", "o"),
    ("#D55E00", "o"),
    ("#56B4E9", "s"),
    ("#E69F00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "v"),
)


@dataclass(frozen=True)
class Series:
    """Points of one kind."""

    label: str
    predicted: Sequence[float]
    measured: Sequence[float]


def draw(series: Sequence[Series], file: Path) -> None:
    """Draw all series on logarithmic axes, with the line where both are equal."""
    plots: Any = import_module("matplotlib.pyplot")
    figure, axes = plots.subplots(figsize=_SIZE, layout="constrained")
    for one, (color, marker) in zip(series, _STYLES, strict=False):
        axes.scatter(
            one.predicted,
            one.measured,
            s=34,
            color=color,
            marker=marker,
            edgecolors="white",
            linewidths=0.6,
            label=one.label,
            zorder=3,
        )
    everything = [value for one in series for value in (*one.predicted, *one.measured)]
    ends = (min(everything) / 1.5, max(everything) * 1.5)
    axes.plot(ends, ends, color="#555555", linewidth=1, linestyle="--", label="equal", zorder=2)
    axes.set(
        xscale="log",
        yscale="log",
        xlim=ends,
        ylim=ends,
        xlabel="predicted divergence, nats a token",
        ylabel="measured divergence, nats a token",
        title="SmolLM2-135M-Instruct: predicted and measured KL",
    )
    axes.grid(True, which="major", color="#dddddd", linewidth=0.7, zorder=0)
    axes.legend(loc="upper left", frameon=True, framealpha=1, fontsize=9)
    figure.savefig(file, dpi=_DOTS_PER_INCH, facecolor="white", metadata=_METADATA)
    plots.close(figure)
