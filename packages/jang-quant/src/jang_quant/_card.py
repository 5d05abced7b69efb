"""The model card: what a converted directory says of itself in README.md."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from jang_format import LayoutName, Provenance
from jang_quant._plan import Plan, PlannedModule
from jang_quant._sources.source import Source

CARD_FILE: Final = "README.md"
_LAYOUTS: Final[Mapping[LayoutName, str]] = {"mlx": "MLX", "blocks": "block"}

# Of 64 characters; enough to tell two sources apart.
_SHORT_DIGEST: Final = 16
# Where huggingface_hub keeps a model: .../snapshots/REVISION.
_SNAPSHOTS: Final = "snapshots"


def card(source: Source, plan: Plan, provenance: Provenance, weight_bytes: int) -> str:
    """The model card, as Markdown with the front matter that the Hugging Face hub reads.

    It names neither directories of this machine nor any text of a prompt. Equal arguments give
    equal cards.

    Args:
        source: What was converted.
        plan: What each module got, and where the plan comes from.
        provenance: What the manifest says.
        weight_bytes: Size of the weight files, headers included.
    """
    title = f"# {_plain(source.name)}, {_plain(plan.name)}"
    parts = [
        _front_matter(source),
        title,
        f"A quantized language model for MLX, written by {provenance.producer} in "
        f"{_LAYOUTS[plan.layout]} layout.",
        _facts(source, plan, provenance, weight_bytes),
        "## Bits by role",
        _roles(plan),
        "Bits are those of a weight's code; sizes include scales and biases.",
        "## Use",
        _USE[plan.layout],
    ]
    if plan.origin.command is not None:
        parts += [
            "## Make it again",
            "`OUT` is the directory to make; files of the source are named without theirs.",
            _fenced(plan.origin.command),
        ]
    return "\n\n".join(parts) + "\n"


def _front_matter(source: Source) -> str:
    lines = [
        "---",
        "library_name: mlx",
        "pipeline_tag: text-generation",
        "tags:",
        "- mlx",
        "- jang",
        "- quantized",
    ]
    if _is_hub_id(source.name):
        # A JSON string is a YAML string, whatever is in it.
        lines += [f"base_model: {json.dumps(source.name)}", "base_model_relation: quantized"]
    return "\n".join([*lines, "---"])


def _is_hub_id(name: str) -> bool:
    """Whether a source's name is that of a hub; names of files and directories have no slash."""
    return "/" in name


def _revision(source: Source) -> str | None:
    """The revision of a hub's model, which names its directory; None where there is none."""
    location = source.location
    if not _is_hub_id(source.name) or location is None or location.parent.name != _SNAPSHOTS:
        return None
    return location.name


def _facts(source: Source, plan: Plan, provenance: Provenance, weight_bytes: int) -> str:
    revision = _revision(source)
    rows = [
        ("source", _code(source.name) + (f", revision {_code(revision)}" if revision else "")),
        ("source fingerprint", _code(source.fingerprint[:_SHORT_DIGEST])),
        ("source weights", _source_weights(source)),
        ("architecture", _code(provenance.architecture)),
        ("parameters", f"{plan.parameters:,}"),
        ("plan", _plain(plan.name)),
        (
            "bits per weight",
            f"{plan.bits_per_weight:.3f} over all matrices; embeddings, scales and biases included",
        ),
        ("weight files", f"{weight_bytes / 1e6:,.1f} MB"),
        ("method", provenance.method),
        ("calibration", _calibration(provenance.calibration)),
    ]
    if plan.origin.damage is not None:
        rows.append(
            (
                "estimated divergence",
                f"{plan.origin.damage:.4g} nats a token from the source; an estimate made before "
                "the conversion, for searched grids, not a measurement",
            )
        )
    return _table(("", ""), rows)


def _source_weights(source: Source) -> str:
    if source.quantization is None:
        return f"{_plain(source.dtype)}, not quantized"
    return f"quantized already ({_plain(source.quantization)}): what that lost stays lost"


def _calibration(facts: Mapping[str, Any] | None) -> str:
    if facts is None:
        return "none"
    text = "the model's own text" if facts["text"] == "self" else f"text {_code(facts['text'])}"
    digest = _code(str(facts["digest"])[:_SHORT_DIGEST])
    return (
        f"{text}, {facts['sequences']:,} sequences of {facts['length']:,} tokens, "
        f"seed {facts['seed']}, digest of the tokens {digest}"
    )


def _roles(plan: Plan) -> str:
    """A row for each role of modules, then for each role of what MLX cannot quantize."""
    modules: dict[str, list[PlannedModule]] = defaultdict(list)
    for module in plan.modules:
        modules[module.role].append(module)
    # Role, how many, bits, group sizes, bytes.
    found = [
        (role, len(alike), _bits(alike), _group_sizes(alike), sum(m.nbytes for m in alike))
        for role, alike in modules.items()
    ]
    others: dict[str, list[int]] = defaultdict(list)
    for other in plan.others.values():
        others[other.role].append(other.nbytes)
    found += [
        (role, len(sizes), "not quantized", "-", sum(sizes)) for role, sizes in others.items()
    ]
    rows = [
        (
            _plain(role),
            f"{count:,}",
            bits,
            groups,
            f"{nbytes / 1e6:,.2f}",
            f"{nbytes / plan.tensor_bytes:.1%}",
        )
        for role, count, bits, groups, nbytes in found
    ]
    return _table(("role", "count", "bits", "group size", "MB", "share"), rows)


def _bits(modules: Sequence[PlannedModule]) -> str:
    """The widths of a role, such as "4" or "3 to 6, mean 4.25" over its quantized weights."""
    quantized = [(m.bits, m.parameters) for m in modules if m.bits is not None]
    if not quantized:
        return "not quantized"
    widths = [bits for bits, _ in quantized]
    text = str(widths[0])
    if min(widths) < max(widths):
        mean = sum(bits * count for bits, count in quantized) / sum(c for _, c in quantized)
        text = f"{min(widths)} to {max(widths)}, mean {mean:.2f}"
    left = len(modules) - len(quantized)
    return f"{text}; {left} not quantized" if left else text


def _group_sizes(modules: Sequence[PlannedModule]) -> str:
    sizes = sorted({m.group_size for m in modules if m.group_size is not None})
    return ", ".join(map(str, sizes)) or "-"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _fenced(text: str) -> str:
    return f"```sh\n{text}\n```"


def _plain(text: str) -> str:
    """A name in one line, with nothing that Markdown or a table would take for its own."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", _one_line(text))


def _code(text: object) -> str:
    """A name as code; a table ends cells at bars even there."""
    return f"`{re.sub('[`|]', '-', _one_line(str(text)))}`"


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


_USE: Final[Mapping[LayoutName, str]] = {
    "mlx": (
        "With mlx-lm, where `DIR` is this directory:\n\n"
        + _fenced('pip install mlx-lm\nmlx_lm.generate --model DIR --prompt "What is 2+2?"')
        + "\n\nWith JANG, which also serves it over gRPC:\n\n"
        + _fenced('jang run DIR "What is 2+2?"\njang-runtime serve DIR')
    ),
    "blocks": (
        "In MLX layout, which every MLX program loads, where `DIR` is this directory:\n\n"
        + _fenced("jang-format convert DIR MLX --layout mlx")
    ),
}
