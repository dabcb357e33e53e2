"""What maskers say about settings that cannot work, word for word."""

import pytest

from jepa_core.errors import UserError
from tests.plugins.reference_masks import OFFICIAL
from tests.plugins.test_maskers import MASKERS, draw, make

MESSAGES = [
    (
        ("multiblock", OFFICIAL, (8, 8)),
        "masker multiblock: on a grid of 8x8 (64 tokens) target_scale [0.15, 0.2] gives blocks of 3x3 = 9 "
        "tokens; min_keep 10 needs more than 10. Raise target_scale or lower min_keep",
    ),
    (
        ("multiblock", {"target_scale": 1}, (4, 4)),
        "masker multiblock: on a grid of 4x4 (16 tokens) a context block of 3x4 beside a target block of 4x4 "
        "keeps at most 0 tokens; min_keep 0 needs more than 0. Lower target_scale or raise context_scale",
    ),
    (
        ("multiblock", {"min_keep": 2, "target_scale": 0.8, "targets": 1, "context_scale": 1}, (4,)),
        "masker multiblock: on a grid of 4 (4 tokens) a context block of 4 beside a target block of 3 keeps "
        "at most 1 tokens; min_keep 2 needs more than 2. Lower target_scale, raise context_scale or lower "
        "min_keep",
    ),
    (
        ("multiblock", {}, (2, 2, 2, 2)),
        "masker multiblock: got a token grid (2, 2, 2, 2); expected (L,), (H, W) or (T, H, W), "
        "each side at least 1",
    ),
    (
        ("block", {"scale": 0.97}, (2, 3)),
        "masker block: on a grid of 2x3 (6 tokens) scale [0.97, 0.97] gives a block of 2x3, the whole grid; "
        "the context needs at least 1 token. Lower scale",
    ),
    (
        ("random", {}, (1, 1)),
        "masker random: on a grid of 1x1 (1 tokens) nothing can be both seen and predicted; "
        "expected at least 2 tokens",
    ),
    (
        ("rasterised", {}, (4, 1, 8)),
        "masker rasterised: a grid of 4x1x8 (32 tokens) cannot be cut into quadrants; "
        "expected at least 2 tokens along each axis of space",
    ),
]


@pytest.mark.parametrize(("case", "message"), MESSAGES, ids=[f"{case[0]}-{case[2]}" for case, _ in MESSAGES])
def test_a_setting_that_cannot_work_is_an_error_that_names_the_sizes(case, message):
    name, values, grid = case
    masker = make(name, **values)
    for use in (masker.check, lambda grid: draw(masker, grid)):
        with pytest.raises(UserError) as error:
            use(grid)
        assert str(error.value) == message


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "multiblock",
            {"target_scale": [0.2, 0.15]},
            "setting 'masker.target_scale' is [0.2, 0.15]; "
            "expected a range [low, high] with 0 < low <= high <= 1",
        ),
        (
            "block",
            {"aspect": [0, 1]},
            "setting 'masker.aspect' is [0, 1]; expected a range [low, high] with 0 < low <= high",
        ),
        (
            "random",
            {"ratio": 1.5},
            "setting 'masker.ratio' is 1.5; expected a range [low, high] with 0 < low <= high <= 1",
        ),
        (
            "multiblock",
            {"truncate": "last"},
            "setting 'masker.truncate' is 'last'; expected none, first or random",
        ),
        (
            "union",
            {"context": 0.7, "target": 0.4},
            "section [masker]: expected context + target of at most 1; they are 0.7 + 0.4",
        ),
    ],
)
def test_a_setting_out_of_range_is_one_line(name, values, message):
    with pytest.raises(UserError) as error:
        make(name, **values)
    assert str(error.value) == message


@pytest.mark.parametrize("name", MASKERS)
def test_every_setting_is_explained(name):
    fields = MASKERS[name].Config.model_fields
    assert all(field.description for field in fields.values())
