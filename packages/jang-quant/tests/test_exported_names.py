"""The public names of jang_quant: a change here is a change for users."""

import jang_quant


def test_the_public_names_are_these_and_all_exist() -> None:
    assert sorted(jang_quant.__all__) == NAMES
    for name in jang_quant.__all__:
        assert getattr(jang_quant, name) is not None


NAMES = [
    "Conversion",
    "ConversionError",
    "ConvertedModule",
    "DEFAULT_PROFILE",
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
