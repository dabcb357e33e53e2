"""Numbers as they are, and to mean 0 and deviation 1."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from PIL import Image

from jepa_core import Field, UserError
from jepa_core.data.field_transforms.base import InvalidValue
from jepa_core.data.field_transforms.numbers import Normalise, NoTransform

SEQUENCE = Field("sequence", (None, 2))


def normalise(field: Field = SEQUENCE, **settings: Any) -> Normalise:
    return Normalise(Normalise.Config(name="normalise", **settings), field)


def test_columns_get_mean_0_and_deviation_1() -> None:
    draw = torch.Generator().manual_seed(0)
    scale, shift = torch.tensor([3.0, 0.1]), torch.tensor([100.0, -2.0])
    values = [torch.randn(5 + k, 2, generator=draw) * scale + shift for k in range(40)]
    transform = normalise()
    transform.fit(values)
    rows = torch.cat([transform(value, True) for value in values])
    torch.testing.assert_close(rows.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(rows.std(0, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    other = normalise()
    other.load_state(json.loads(json.dumps(transform.state())))
    assert torch.equal(other(values[3], False), transform(values[3], True))


def test_nan_does_not_reach_the_mean_and_is_refused_or_made_0() -> None:
    broken = torch.tensor([[1.0, math.nan], [3.0, 4.0], [math.inf, 8.0]])
    transform = normalise(nan="zero")
    transform.fit([broken])
    assert transform.state() == {"mean": [2.0, 6.0], "std": [1.0, 2.0]}
    assert transform(broken, True).tolist() == [[-1.0, 0.0], [1.0, -1.0], [0.0, 1.0]]
    strict = normalise()
    strict.fit([broken])
    with pytest.raises(InvalidValue, match=r"nan at \[0, 1\]; expected finite numbers"):
        strict(broken, True)


def test_a_constant_column_becomes_0() -> None:
    transform = normalise(Field("vector", (2,)))
    transform.fit([torch.tensor([5.0, 1.0]), torch.tensor([5.0, 3.0])])
    assert transform(torch.tensor([5.0, 3.0]), True).tolist() == [0.0, 1.0]


def test_a_sound_has_one_mean() -> None:
    transform = normalise(Field("audio"))
    transform.fit([torch.tensor([1.0, 3.0])])
    assert transform(torch.tensor([1.0, 3.0, 5.0]), True).tolist() == [-1.0, 1.0, 3.0]


@pytest.mark.parametrize(
    "state", [{}, {"mean": [1.0]}, {"mean": [1.0], "std": [1.0, 2.0]}, {"mean": ["a"], "std": [1]}]
)
def test_a_state_that_is_none_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="it has no lists of numbers"):
        normalise().load_state(state)


def test_other_columns_than_the_run_s_are_refused() -> None:
    transform = normalise(Field("sequence"))
    transform.load_state({"mean": [0.0, 0.0], "std": [1.0, 1.0]})
    with pytest.raises(InvalidValue, match="3 columns; the run's mean is of 2"):
        transform(torch.zeros(4, 3), True)


def test_nothing_to_take_a_mean_of() -> None:
    with pytest.raises(UserError, match="no numbers to take a mean of"):
        normalise().fit([])


def test_numbers_and_images_as_they_are() -> None:
    def plain(field: Field) -> NoTransform:
        return NoTransform(NoTransform.Config(name="none"), field)

    assert plain(Field("ids", vocabulary=5))([1, 4], True).dtype == torch.int64
    assert plain(Field("vector"))([1, 4], True).tolist() == [1.0, 4.0]
    image = plain(Field("image"))(Image.new("RGB", (3, 2), (255, 0, 51)), True)
    assert image.shape == (3, 2, 3)
    assert image[:, 0, 0].tolist() == [1.0, 0.0, pytest.approx(0.2)]
    with pytest.raises(InvalidValue, match="takes image, ids, vector"):
        plain(Field("text"))
