"""What is asked of a conversion, and what follows from it: calibration, plan, method."""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from jang_format import GROUP_SIZES, LayoutName
from jang_quant._budgets import (
    Budget,
    bits_budget,
    memory_budget,
    refuse_too_little,
    size_budget,
    uniform_budget,
)
from jang_quant._calibration.collect import Progress
from jang_quant._calibration.run import SELF, calibrate
from jang_quant._calibration.statistics import Calibration
from jang_quant._calibration.store import SUFFIX, load
from jang_quant._calibration.texts import DEFAULT_LENGTH, DEFAULT_SEQUENCES
from jang_quant._convert import plan_source
from jang_quant._errors import PlanError, SourceError
from jang_quant._measured_plan import measured_plan
from jang_quant._memory import MemoryNeeds, memory_needs
from jang_quant._option_tables import kept_table, prior_table
from jang_quant._plan import DEFAULT_GROUP_SIZE, Plan
from jang_quant._profiles import DEFAULT_PROFILE, ProfileTable, find_profile
from jang_quant._quantize import METHODS, MethodName
from jang_quant._sizes import parse_size
from jang_quant._sources.source import Source
from jang_quant._version import __version__

NO_CALIBRATION: Final = "none"
CALIBRATION_FILE: Final = "jang_imatrix.safetensors"

# JANG_4K: the bytes of 4 bits in groups of 64.
_K_PROFILE: Final = re.compile(r"(?:JANG_)?([2-6])K")


@dataclass(frozen=True)
class Request:
    """What is asked of a conversion.

    Attributes:
        profile: Name of a profile, or of a budget such as JANG_4K.
        bits: Bits a weight over all matrices, scales and biases included, instead of a profile.
        size: Bytes of the weight files, such as "38GB", instead of a profile.
        method: "rtn", "mse" or "gptq".
        calibration: "self", "none", the path of a text, or that of a file which `calibrate` wrote;
            None for what the method needs.
        group_size: Weights that share scale and bias.
        sequences: How many sequences of text are run through the model.
        length: Tokens of each.
        layout: "mlx" or "blocks".
        profile_table: Whose table a profile is looked up in: "jang" or "published".
        fit_memory: Bytes that the running model may take, such as "64GB", instead of a profile.
        context: Tokens that it has to have room for then; None for what the config allows, at most
            4096.
    """

    profile: str | None = None
    bits: float | None = None
    size: str | None = None
    method: MethodName = "rtn"
    calibration: str | None = None
    group_size: int = DEFAULT_GROUP_SIZE
    sequences: int = DEFAULT_SEQUENCES
    length: int = DEFAULT_LENGTH
    profile_table: ProfileTable = "jang"
    layout: LayoutName = "mlx"
    fit_memory: str | None = None
    context: int | None = None


@dataclass(frozen=True)
class Prepared:
    """What a conversion needs to know before it writes.

    Attributes:
        plan: Bits and group size of every module.
        calibration: What was measured; None without calibration.
        damage: Estimated divergence from the source, in nats a token; None where not estimated.
        memory: What the model takes while it runs; None where that was not asked.
    """

    plan: Plan
    calibration: Calibration | None
    damage: float | None
    memory: MemoryNeeds | None = None


def check(request: Request) -> None:
    """Refuse what contradicts itself, before anything is opened.

    Raises:
        PlanError: If so.
    """
    _budget_of(request)
    _memory_limit(request)
    find_profile(_base_profile(request), request.profile_table)
    if request.group_size not in GROUP_SIZES:
        raise PlanError(f"group size: found {request.group_size}, expected one of {GROUP_SIZES}")


def needs_calibration(request: Request) -> bool:
    """Whether text has to be run through the model."""
    return _text(request) != NO_CALIBRATION


def _text(request: Request) -> str:
    return request.calibration or (NO_CALIBRATION if request.method == "rtn" else SELF)


def calibration_of(
    source: Source,
    request: Request,
    file: Path,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Calibration:
    """The calibration that a request asks for: from its own file, or from `file`, made if need be.

    Raises:
        SourceError: If it cannot be had.
    """
    text = _text(request)
    if text.endswith(SUFFIX):
        return load(Path(text), source)
    if file.exists():
        return load(file, source)
    return calibrate(
        source,
        file,
        text,
        sequences=request.sequences,
        length=request.length,
        on_progress=on_progress,
    )


def prepare(
    source: Source,
    request: Request,
    folder: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Prepared:
    """Calibrate and plan, as far as the request needs it.

    Args:
        source: The model.
        request: What is asked.
        folder: Where what is measured now is kept, for this request alone; it has to stay as long
            as the result is used. None if no text has to be run through the model.
        on_progress: Called as calibration goes on.

    Raises:
        PlanError: If the request contradicts itself, or no plan meets it.
        SourceError: If the source cannot be run for calibration.
    """
    budget = _budget_of(request)
    profile = find_profile(_base_profile(request), request.profile_table)
    base = plan_source(source, profile, request.group_size, request.layout)
    memory = None
    limit = _memory_limit(request)
    if limit is not None:
        memory = memory_needs(source, base, limit, request.context)
        budget = memory_budget(memory)
        refuse_too_little(memory, base)
    calibration, made = None, None
    if budget is not None:
        # Before hours of calibration, too: what is too little for one table is for another.
        name, tensor_bytes = budget(base)
        made = measured_plan(base, name, prior_table(base), tensor_bytes)
    if needs_calibration(request):
        if folder is None:
            raise ValueError("folder: found None, expected one for what calibration measures")
        calibration = calibration_of(source, request, folder / CALIBRATION_FILE, on_progress)
        if budget is not None:
            name, tensor_bytes = budget(base)
            table = kept_table(source, base, calibration, request.group_size, folder, on_progress)
            made = measured_plan(base, name, table, tensor_bytes)
    if made is None:
        return Prepared(plan=base, calibration=calibration, damage=None)
    return Prepared(
        plan=made.plan,
        calibration=calibration,
        damage=None if calibration is None else made.damage,
        memory=None if memory is None else replace(memory, weights=made.plan.tensor_bytes),
    )


def _budget_of(request: Request) -> Budget | None:
    """What names the plan and counts its bytes; None for a profile."""
    asked = [request.profile, request.bits, request.size, request.fit_memory]
    if sum(value is not None for value in asked) > 1:
        raise PlanError(
            "--profile, --bits, --size and --fit-memory: found more than one, expected one of them"
        )
    if request.method not in METHODS:
        raise PlanError(f"method: found {request.method!r}, expected one of {', '.join(METHODS)}")
    if request.bits is not None:
        return bits_budget(f"{request.bits:g} bits", request.bits)
    if request.size is not None:
        return size_budget(parse_size(request.size))
    named = _K_PROFILE.fullmatch((request.profile or "").upper())
    if named:
        return uniform_budget(f"JANG_{named[1]}K", int(named[1]))
    return None


def _base_profile(request: Request) -> str:
    """The profile whose roles and prior a budget starts from."""
    named = request.profile or DEFAULT_PROFILE
    return DEFAULT_PROFILE if _K_PROFILE.fullmatch(named.upper()) else named


def _memory_limit(request: Request) -> int | None:
    """Bytes that the running model may take; None where that is not asked."""
    if request.fit_memory is not None:
        if request.context is not None and request.context < 1:
            raise PlanError(f"--context: found {request.context}, expected at least 1")
        return parse_size(request.fit_memory, "--fit-memory")
    if request.context is not None:
        raise PlanError(f"--context: found {request.context} alone, expected --fit-memory with it")
    return None


def asked_of(source: Source, request: Request) -> dict[str, Any]:
    """All that the work on a request depends on, as JSON."""
    text = _text(request)
    given = None if text in (SELF, NO_CALIBRATION) else Path(text)
    return {
        "producer": __version__,
        "source": source.fingerprint,
        "request": asdict(request),
        "calibration": None if given is None else _stamp(given),
    }


def _stamp(file: Path) -> list[int]:
    """What tells a file from another one of its name."""
    try:
        status = file.stat()
    except OSError as error:
        raise SourceError(f"{file}: cannot be read ({error.strerror})") from error
    return [status.st_size, status.st_mtime_ns]
