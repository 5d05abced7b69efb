"""Convert language models to JANG: mixed-precision quantization for MLX.

`convert(open_source("smollm2"), Path("out"), plan)`, with `plan` from `plan_source`.
`jang_quant.progress` has the same with a progress bar.
"""

import os

# Before anything imports Numba: its threads are not to wait busily while BLAS has the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Float32 means float32, on NVIDIA's GPUs too.
os.environ.setdefault("MLX_ENABLE_TF32", "0")

# Before anything imports MLX, which a fast BLAS has to precede.
import jang_runtime.blas  # noqa: F401 # pyright: ignore[reportUnusedImport]
from jang_format import Progress
from jang_quant._conversion import Conversion, ConvertedModule
from jang_quant._convert import convert, plan_source
from jang_quant._errors import ConversionError, JangQuantError, PlanError, SourceError
from jang_quant._plan import Origin, Plan, PlannedModule, PlannedParameter, make_plan
from jang_quant._profiles import DEFAULT_PROFILE, Profile, find_profile, profiles
from jang_quant._quantize import Recipe
from jang_quant._report import plan_headline
from jang_quant._request import Prepared, Request, check, prepare
from jang_quant._sources.resolve import open_source
from jang_quant._sources.source import Source, SourceTensor
from jang_quant._version import __version__

__all__ = [
    "DEFAULT_PROFILE",
    "Conversion",
    "ConversionError",
    "ConvertedModule",
    "JangQuantError",
    "Origin",
    "Plan",
    "PlanError",
    "PlannedModule",
    "PlannedParameter",
    "Prepared",
    "Profile",
    "Progress",
    "Recipe",
    "Request",
    "Source",
    "SourceError",
    "SourceTensor",
    "__version__",
    "check",
    "convert",
    "find_profile",
    "make_plan",
    "open_source",
    "plan_headline",
    "plan_source",
    "prepare",
    "profiles",
]
