"""The encoders of texts and vectors: against timm's own blocks on each text alone, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.func import functional_call

from jepa_core import JEPA, Batch, Field, IndexSet, Packed, UserError, plugins
from jepa_core.nn.attention import choose_implementation
from jepa_core.nn.bag_of_words import BagOfWords
from jepa_core.nn.sincos import sincos
from jepa_core.nn.text_transformer import TextTransformer
from jepa_core.nn.vector_mlp import VectorMlp
from jepa_core.objectives import SmoothL1
from jepa_core.target_updates import Ema
from jepa_core.testing.small_parts import SmallMasker, SmallPredictor

FIELD = Field("ids", (None,), vocabulary=20)
SMALL = {"width": 24, "depth": 2, "heads": 3, "length": 8}


def text_transformer(field: Field | None = FIELD, **settings: Any) -> TextTransformer:
    torch.manual_seed(0)
    config = TextTransformer.Config(name="text_transformer", **{**SMALL, **settings})
    encoder = TextTransformer(config, field).eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder


def texts(*lengths: int, seed: int = 0) -> Packed:
    generator = torch.Generator().manual_seed(seed)
    return Packed.of([torch.randint(0, 20, (length,), generator=generator) for length in lengths])


def by_timm(encoder: TextTransformer, ids: Tensor, causal: bool) -> Tensor:
    """[L, D] of one text, by timm's blocks with timm's own attention."""
    x = encoder.embed(ids)
    if encoder.config.positions == "learned":
        x = x + encoder.position[: len(ids)]
    else:
        x = x + encoder.config.position_scale * sincos((8,), 24, dtype=x.dtype)[: len(ids)]
    for own in encoder.blocks:
        block, weights = Block(24, 3, qkv_bias=True).eval(), dict(own.named_parameters())
        x = functional_call(block, weights, (x[None],), {"is_causal": causal}, strict=True)[0]
    return encoder.norm(x)


@pytest.mark.parametrize("positions", ["learned", "sincos"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [(3, 1, 8), (4, 4, 4)])
def test_it_is_timms_transformer_on_each_text_alone(
    lengths: tuple[int, ...], causal: bool, positions: str
) -> None:
    encoder = text_transformer(positions=positions, causal=causal, position_scale=0.5).double()
    views = texts(*lengths)
    tokens = encoder(views)
    expected = torch.cat([by_timm(encoder, ids, causal) for ids in views.split()])
    torch.testing.assert_close(tokens.values, expected)
    assert (tokens.at, tokens.grid) == (views.at, (max(lengths),))
    assert tokens.mean().shape == (len(lengths), 24)
    gradients = torch.autograd.grad(tokens.values.square().sum(), list(encoder.parameters()))
    wanted = torch.autograd.grad(expected.square().sum(), list(encoder.parameters()))
    for actual, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(actual, other)


@pytest.mark.parametrize("positions", ["learned", "sincos", "rope"])
@pytest.mark.parametrize("causal", [False, True])
def test_what_comes_later_is_seen_unless_it_is_causal(causal: bool, positions: str) -> None:
    encoder = text_transformer(positions=positions, causal=causal)
    views = texts(5, 3)
    others = views.values.clone()
    others[4] = (others[4] + 1) % 20  # the last token of the first text
    one, other = encoder(views).values, encoder(replace(views, values=others)).values
    assert torch.equal(one[5:], other[5:]), "texts do not see each other"
    assert torch.allclose(one[:4], other[:4], atol=1e-6) is causal
    assert not torch.allclose(one[4], other[4])


@pytest.mark.parametrize("positions", ["learned", "sincos", "rope"])
def test_order_counts_for_a_transformer_and_not_for_a_bag_of_words(positions: str) -> None:
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    bag = BagOfWords(BagOfWords.Config(name="bag_of_words", width=24), FIELD)
    encoder = text_transformer(positions=positions)
    assert torch.allclose(bag(ids).mean(), bag(ids.flip(1)).mean(), atol=1e-6)
    assert not torch.allclose(encoder(ids).mean(), encoder(ids.flip(1)).mean(), atol=1e-3)


def test_packed_ids_and_dense_ones_are_alike() -> None:
    encoder, views = text_transformer(), texts(4, 4)
    assert torch.equal(encoder(views).values, encoder(views.values.view(2, 4)).values)


def test_masked_places_of_ragged_texts_are_left_out() -> None:
    encoder, views = text_transformer(), texts(5, 3)
    keep = IndexSet.from_lists([[0, 2, 4], [1]])
    others = views.values.clone()
    others[[1, 3, 5, 7]] = (others[[1, 3, 5, 7]] + 1) % 20
    tokens = encoder(views, keep)
    assert (tokens.at, tokens.grid) == (keep, (5,))
    assert torch.equal(tokens.values, encoder(replace(views, values=others), keep).values)
    whole = encoder(Packed.of([views.values[:1]])).values
    assert torch.allclose(encoder(views, IndexSet.from_lists([[0], [0]])).values[0], whole[0], atol=1e-6)


def test_an_empty_text_has_no_tokens_and_a_mean_of_zeros() -> None:
    for causal in (False, True):
        tokens = text_transformer(causal=causal)(texts(3, 0, 2))
        assert tokens.values.isfinite().all()
        assert tokens.mean()[1].abs().max() == 0


def test_dropout_acts_in_training_alone() -> None:
    encoder, views = text_transformer(dropout=0.5), texts(5, 3)
    assert torch.equal(encoder(views).values, encoder(views).values)
    encoder.train()
    assert not torch.equal(encoder(views).values, encoder(views).values)


def test_layers_and_recomputing_and_bfloat16() -> None:
    views = texts(5, 3)
    encoder = text_transformer(checkpoint=True)
    tokens = encoder(views, layers=(1, 2))
    assert torch.equal(encoder.norm(tokens.layers[1]), tokens.values)
    tokens.values.sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        low = text_transformer(causal=True)(views).values
    assert torch.allclose(low.float(), text_transformer(causal=True)(views).values, atol=0.1)


def test_masked_texts_train_a_jepa() -> None:
    """The engine's own stages, on ids: what is hidden is predicted, and the embedding learns."""
    encoder = text_transformer()
    model = JEPA(
        JEPA.Config(name="jepa"),
        encoder=encoder,
        predictor=SmallPredictor(SmallPredictor.Config(name="small"), encoder, encoder.width),
        masker=SmallMasker(SmallMasker.Config(name="small")),
        target_update=Ema(Ema.Config(name="ema")),
        objectives={"prediction": SmoothL1(SmoothL1.Config(name="smooth_l1"))},
    )
    plan = model.masker(model.grid(), 4, torch.Generator().manual_seed(0))
    output = model(Batch({"text": texts(8, 8, 8, 8).values.view(4, 8)}), plan)
    output.loss.backward()
    assert output.loss.isfinite()
    assert encoder.embed.weight.grad.abs().max() > 0


def test_the_vocabulary_is_the_fields_or_the_settings() -> None:
    assert text_transformer().vocabulary == 20
    assert text_transformer(None, vocabulary=7).vocabulary == 7
    assert text_transformer(vocabulary=30).vocabulary == 30
    for name in ("text_transformer", "bag_of_words", "vector_mlp"):
        assert plugins.registry().catalogue("encoder").owners[name] == "core"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: text_transformer(None),
            "encoder 'text_transformer' knows no vocabulary; set encoder.vocabul",
        ),
        (lambda: text_transformer(vocabulary=9), "'encoder.vocabulary' is 9; the field has ids from 0 to 19"),
        (
            lambda: text_transformer(Field("image")),
            "reads ids, the numbers of a text's tokens; the view is ima",
        ),
        (
            lambda: text_transformer(heads=5),
            "a width of 24 cannot be split among 5 heads; set encoder.width or",
        ),
        (
            lambda: text_transformer(width=9, heads=9, positions="rope"),
            "heads of at least 2 dimensions; got 1; ",
        ),
        (
            lambda: text_transformer()(texts(9, 2)),
            "takes sequences of up to 8; got one of 9: set encoder.length",
        ),
        (
            lambda: text_transformer()(torch.tensor([[20]])),
            "'text_transformer' knows ids from 0 to 19; got 20",
        ),
        (
            lambda: text_transformer()(torch.zeros(2, 3)),
            r"takes ids: .*; got Tensor of torch.float32 \[2, 3\]",
        ),
        (lambda: text_transformer().grid((3, 8, 8)), r"takes texts \(L,\); got \(3, 8, 8\)"),
        (
            lambda: text_transformer()(texts(2), layers=(3,)),
            r"layers count from 1 to 2, the depth; got \[3\]",
        ),
    ],
)
def test_what_does_not_fit_is_an_error_in_a_line(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_an_explicit_implementation_never_gives_way_to_another() -> None:
    encoder = text_transformer(causal=True)
    choose_implementation(encoder, "matmul", instead_of="auto")
    with pytest.raises(UserError, match="causal attention runs through sdpa alone; got 'matmul'"):
        encoder(texts(3, 2))


def vector_mlp(field: Field | None = None, **settings: Any) -> VectorMlp:
    torch.manual_seed(0)
    return VectorMlp(VectorMlp.Config(name="vector_mlp", width=16, **settings), field)


def test_a_vector_is_a_token_and_a_sequence_has_one_for_each() -> None:
    encoder = vector_mlp(Field("vector", (4,)))
    vectors = torch.randn(3, 4)
    tokens = encoder(vectors)
    assert (encoder.view_shape(), encoder.grid((4,)), tokens.grid) == ((4,), (1,), (1,))
    assert tokens.mean().shape == (3, 16)
    sequence = vector_mlp(Field("sequence", (None, 4)))
    packed = Packed.of([vectors[:1], vectors[1:]])
    assert torch.equal(sequence(packed).values, tokens.values), "the vectors are read alike, one by one"
    assert sequence(packed).grid == (2,)
    assert sequence(vectors[None]).grid == (3,)


def test_sizes_are_the_fields_or_the_settings() -> None:
    assert vector_mlp(inputs=5).view_shape() == (5,)
    assert vector_mlp(inputs=5, length=7).view_shape() == (7, 5)
    assert vector_mlp(Field("sequence", (9, 4))).view_shape() == (9, 4)
    assert vector_mlp(Field("sequence", (None, 4))).view_shape() == (64, 4)
    assert vector_mlp(Field("sequence", (None, 4)), length=3).view_shape() == (3, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vector_mlp(), "does not know how wide its vectors are; set encoder.inputs"),
        (
            lambda: vector_mlp(Field("vector", (4,)), inputs=5),
            "'encoder.inputs' is 5; the field's vectors are 4",
        ),
        (lambda: vector_mlp(Field("ids", (None,))), "reads vectors or sequences of them; the view is ids"),
        (
            lambda: vector_mlp(inputs=4)(torch.zeros(2, 5)),
            r"vectors \(4,\) or sequences \(L, 4\); got \(1, 5\)",
        ),
        (
            lambda: vector_mlp(inputs=4)(torch.zeros(2, 3, 4)),
            "sequences of up to 1; got one of 3: set encoder.le",
        ),
    ],
)
def test_vectors_that_do_not_fit_are_errors_in_a_line(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
