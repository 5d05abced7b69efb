"""What a plan will make, in the numbers that jang-format draws."""

from jang_format import LAYOUTS, Summary, SummaryModule, summary_of, weight_bytes_of
from jang_quant._plan import Plan, PlannedModule, PlannedParameter
from jang_quant._sources.source import Source


def plan_summary(source: Source, plan: Plan) -> Summary:
    """The summary of the directory that a plan makes, before it is made."""
    # By name, as a directory lists them, so that the two pictures have the same places.
    by_path = sorted(plan.modules, key=lambda module: module.path)
    modules = [_of_module(module) for module in by_path]
    others = [_of_parameter(path, other) for path, other in plan.others.items()]
    return summary_of(
        (*modules, *others),
        layout=plan.layout,
        architecture=str(source.config["model_type"]),
        profile=plan.name,
        weight_bytes=weight_bytes_of(plan.tensor_specs(source.float_dtype), LAYOUTS[plan.layout]),
    )


def _of_module(module: PlannedModule) -> SummaryModule:
    return SummaryModule(
        path=module.path if module.bits is not None else f"{module.path}.weight",
        role=module.role,
        bits=None if module.bits is None else float(module.bits),
        widths=() if module.bits is None else (module.bits,),
        group_size=module.group_size,
        shape=module.shape,
        nbytes=module.nbytes,
    )


def _of_parameter(path: str, other: PlannedParameter) -> SummaryModule:
    return SummaryModule(
        path=path,
        role=other.role,
        bits=None,
        widths=(),
        group_size=None,
        shape=other.shape,
        nbytes=other.nbytes,
    )
