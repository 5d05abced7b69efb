"""Sizes as people write them: 38GB, 1.5GiB."""

import re
from typing import Final

from jang_quant._errors import PlanError

_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY_UNITS: Final = {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def parse_size(text: str, field: str = "size") -> int:
    """Bytes that a text such as "38GB" or "1.5 GiB" means; `field` names it in the error.

    Raises:
        PlanError: If it means none.
    """
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([KMGT]I?)?B?", text.strip().upper())
    if found is None:
        raise PlanError(f"{field}: found {text!r}, expected one such as 38GB or 1.5GiB")
    return int(float(found[1]) * (_UNITS | _BINARY_UNITS)[found[2] or ""])
