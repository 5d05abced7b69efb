"""Roles, profiles and plans: which module gets what, and what it will weigh."""

import pytest

from jang_quant import PlanError, find_profile, make_plan, profiles
from jang_quant._roles import role_of

TABLE = {
    # profile: mlp, attention, embedding, head
    "JANG_1L": (2, 8, 8, 8),
    "JANG_2S": (2, 6, 4, 6),
    "JANG_2M": (2, 8, 4, 8),
    "JANG_2L": (2, 8, 6, 8),
    "JANG_3S": (3, 4, 4, 6),
    "JANG_3M": (3, 6, 4, 6),
    "JANG_3L": (3, 8, 4, 8),
    "JANG_4S": (4, 5, 4, 6),
    "JANG_4M": (4, 6, 4, 6),
    "JANG_4L": (4, 8, 4, 8),
    "JANG_6M": (6, 8, 6, 8),
}

MODULES = {
    "model.embed_tokens": (512, 128),
    "model.layers.0.self_attn.q_proj": (128, 128),
    "model.layers.0.mlp.down_proj": (128, 384),
    "lm_head": (512, 128),
}
OTHERS = {"model.norm.weight": (128,)}


def test_the_eleven_profiles_are_these() -> None:
    jang = {profile.name: profile for profile in profiles() if profile.family == "jang"}
    roles = ("mlp", "attention", "embedding", "head")
    assert {name: tuple(p.bits[role] for role in roles) for name, p in jang.items()} == TABLE


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("model.embed_tokens", "embedding"),
        ("lm_head", "head"),
        ("model.layers.11.self_attn.q_proj", "attention"),
        ("model.layers.0.self_attn.o_proj", "attention"),
        ("model.layers.3.mlp.gate_proj", "mlp"),
        ("language_model.model.layers.3.mlp.down_proj", "mlp"),
    ],
)
def test_a_module_has_the_role_that_its_path_says(path: str, role: str) -> None:
    assert role_of(path) == role


@pytest.mark.parametrize(
    "path",
    ["model.layers.0.mlp.gates", "model.layers.0.self_attn.q_projection", "lm_head2", "x.lm_head"],
)
def test_a_module_that_no_rule_knows_is_an_error_with_its_name(path: str) -> None:
    with pytest.raises(PlanError, match=f"^{path}: no role is known"):
        role_of(path)


def test_profile_names_are_found_in_any_case_and_short() -> None:
    for name in ("JANG_4M", "jang_4m", "4m", "jang-4M"):
        assert find_profile(name).name == "JANG_4M"
    assert find_profile("uniform-2").name == "UNIFORM_2"
    with pytest.raises(PlanError, match="found '5Q', expected one of JANG_1L"):
        find_profile("5Q")


def test_bits_follow_roles_and_a_tied_head_takes_the_larger_of_the_two() -> None:
    plan = make_plan(MODULES, OTHERS, find_profile("4M"))
    assert [module.bits for module in plan.modules] == [4, 6, 4, 6]
    tied = {path: shape for path, shape in MODULES.items() if path != "lm_head"}
    assert [module.bits for module in make_plan(tied, OTHERS, find_profile("4M")).modules] == [
        6,
        6,
        4,
    ]


def test_bytes_and_bits_per_weight_count_scales_and_biases() -> None:
    plan = make_plan(MODULES, OTHERS, find_profile("4M"), group_size=64)
    by_hand = {
        # weights * bits / 8, and four bytes for each group of 64
        "model.embed_tokens": 512 * 128 * 4 // 8 + 512 * 2 * 4,
        "model.layers.0.self_attn.q_proj": 128 * 128 * 6 // 8 + 128 * 2 * 4,
        "model.layers.0.mlp.down_proj": 128 * 384 * 4 // 8 + 128 * 6 * 4,
        "lm_head": 512 * 128 * 6 // 8 + 512 * 2 * 4,
    }
    assert {module.path: module.nbytes for module in plan.modules} == by_hand
    assert plan.tensor_bytes == sum(by_hand.values()) + 128 * 2
    weights = 2 * 512 * 128 + 128 * 128 + 128 * 384
    assert plan.bits_per_weight == 8 * sum(by_hand.values()) / weights
    assert plan.parameters == weights + 128
    assert sum(spec.nbytes for spec in plan.tensor_specs("F16")) == plan.tensor_bytes


@pytest.mark.parametrize(
    ("columns", "wanted", "fitting"),
    [(128, 128, 128), (128, 32, 32), (192, 128, 64), (96, 64, 32), (80, 64, None), (224, 128, 32)],
)
def test_a_group_size_that_does_not_divide_the_inputs_gives_way_to_one_that_does(
    columns: int, wanted: int, fitting: int | None
) -> None:
    modules = {"model.layers.0.mlp.up_proj": (8, columns)}
    plan = make_plan(modules, {}, find_profile("3M"), wanted)
    (module,) = plan.modules
    assert module.group_size == fitting
    assert module.bits == (None if fitting is None else 3)
    if fitting is None:
        assert plan.bits_per_weight == 16


def test_other_group_sizes_and_empty_models_are_refused() -> None:
    with pytest.raises(PlanError, match=r"group size: found 48, expected one of \(32, 64, 128\)"):
        make_plan(MODULES, OTHERS, find_profile("4M"), 48)
    with pytest.raises(PlanError, match="found no module that can be quantized"):
        make_plan({}, OTHERS, find_profile("4M"))
