from collections.abc import Callable
from typing import TypeVar

from lm_eval.api.model import LM

_Model = TypeVar("_Model", bound=type[LM])

def register_model(*names: str) -> Callable[[_Model], _Model]: ...
