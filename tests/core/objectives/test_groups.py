"""Terms that judge a batch, on a group of another width and with ragged tokens: a text side beside images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from jepa_core import IndexSet, MaskPlan, Tokens
from jepa_core.objectives import LossTerm, SIGReg, VarianceCovariance, VICReg
from jepa_core.types.step import Group, Step

TERMS = {"sigreg": SIGReg, "vicreg": VICReg, "variance_covariance": VarianceCovariance}


def tokens(lengths: list[int], width: int, seed: int, longest: int = 4) -> Tokens:
    at = IndexSet.from_lists([list(range(length)) for length in lengths])
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(at.total, width, generator=generator).requires_grad_()
    return Tokens(values, at, (longest,))


def step() -> Step:
    """Images of width 8 beside ragged texts of width 6, as tokens and as pooled vectors."""
    image, text = tokens([4] * 5, 8, 0), tokens([3, 1, 4, 2, 2], 6, 1)
    pooled = Tokens(text.mean(), IndexSet.full(5, 1), (1,))
    groups = {
        "text": Group((), (), (text,)),
        "text_vectors": Group((pooled,), (pooled,), (pooled,)),
    }
    return Step((image,), (image,), (image,), image, MaskPlan(), groups=groups)


def judge(name: str, whole: Step, **settings: object) -> Tensor:
    term: LossTerm = TERMS[name](TERMS[name].Config(name=name, **settings))
    value: Tensor = term(whole.of_group(term.config.group))
    return value


SETTINGS = [
    ("sigreg", {"on": "context", "group": "text"}),
    ("sigreg", {"group": "text_vectors"}),
    ("vicreg", {"on": "context", "group": "text"}),
    ("vicreg", {"group": "text_vectors"}),
    ("variance_covariance", {"group": "text"}),
    ("variance_covariance", {"group": "text", "on": "tokens"}),
    ("variance_covariance", {"group": "text_vectors"}),
]


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_the_value_is_that_of_the_group_alone(name: str, settings: dict[str, str]) -> None:
    whole = step()
    text = whole.groups[settings["group"]]
    alone = Step(text.predictions, text.targets, text.contexts, None, MaskPlan())
    value = judge(name, whole, **settings)
    assert value.isfinite()
    assert torch.equal(value, judge(name, alone, **{**settings, "group": ""}))
    assert value != judge(name, whole, **{**settings, "group": ""}), "the images have another value"


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_the_gradient_reaches_the_text_and_no_image(name: str, settings: dict[str, str]) -> None:
    whole = step()
    text, image = whole.groups["text"].contexts[0].values, whole.contexts[0].values
    gradients = torch.autograd.grad(judge(name, whole, **settings), [text, image], allow_unused=True)
    assert gradients[0] is not None
    assert gradients[0].abs().max() > 0
    assert gradients[1] is None


def test_pooled_and_ragged_texts_have_one_value() -> None:
    whole = step()
    for name in ("sigreg", "vicreg"):
        ragged = judge(name, whole, on="context", group="text")
        torch.testing.assert_close(ragged, judge(name, whole, group="text_vectors"))


@pytest.mark.parametrize("name", ["sigreg", "vicreg"])
def test_views_of_two_widths_in_one_group_are_refused_in_a_line(name: str) -> None:
    whole = step()
    image, text = whole.contexts[0], whole.groups["text"].contexts[0]
    both = replace(whole, contexts=(image, text))
    with pytest.raises(ValueError, match=r"views of one width; got widths 6, 8\. Give each side a group"):
        judge(name, both, on="context")
    vectors = whole.groups["text_vectors"].predictions[0]
    mixed = replace(whole, predictions=(vectors, Tokens(image.mean(), IndexSet.full(5, 1), (1,))))
    with pytest.raises(ValueError, match="views of one width; got widths 6, 8"):
        judge(name, mixed)
