"""The engine against the formulas written out in float64, and its stages one by one."""

import dataclasses

import pytest
import torch

import jepa_core
from jepa_core import IndexSet, MaskPlan
from tests.plugins.reference_ijepa import reference_loss

TINY = (
    "encoder.name=official_tiny", "encoder.image_size=32", "encoder.patch_size=8",
    "encoder.width=48", "encoder.depth=2", "encoder.heads=3",
    "predictor.depth=2", "predictor.width=24", "masker.min_keep=0",
    "train.steps=8", "train.batch_size=4", "train.precision=fp32", "optimizer.warmup_steps=0",
)  # fmt: skip
RAGGED = [[0, 1, 5], [2, 3, 4, 9, 12, 15], [7], [0, 6, 10, 11, 13]]
TARGETS = [
    [[2, 3], [0, 1], [4, 5], [8, 9]],
    [[8, 9, 12, 13], [5], [10, 11, 14], [1, 2]],
]


def recipe(*overrides: str) -> jepa_core.Recipe:
    return jepa_core.load_recipe("ijepa/in1k_vitb16", *TINY, *overrides)


@pytest.fixture
def model() -> jepa_core.JEPA:
    """A model whose weights are not near zero, so that the formulas are exercised."""
    built = jepa_core.build_model(recipe())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return built


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def float64_state(model: jepa_core.JEPA) -> dict[str, torch.Tensor]:
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    state = {name: value.detach().double() for name, value in model.state_dict().items()}
    return {name: value.requires_grad_(name in trained) for name, value in state.items()}


@pytest.mark.parametrize("contexts", [[RAGGED], [RAGGED, [[3, 4]] * 4]], ids=["one context", "two contexts"])
def test_loss_and_gradients_equal_the_formulas(model, images, contexts):
    plan = MaskPlan([IndexSet.from_lists(c) for c in contexts], [IndexSet.from_lists(t) for t in TARGETS])
    loss = model(images, plan).loss
    loss.backward()
    state = float64_state(model)
    expected = reference_loss(state, images.double(), contexts, TARGETS, patch=8, heads=3, predictor_heads=3)
    expected.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            error = (parameter.grad.double() - state[name].grad).norm() / state[name].grad.norm()
            assert error < 1e-5, f"{name}: relative gradient error {error:.1e}"


def test_no_gradient_reaches_the_target_encoder(model, images):
    plan = jepa_core.sample_masks(model, 4)
    model(images, plan).loss.backward()
    assert all(p.grad is None for p in model.target_encoder.parameters())
    assert all(p.grad is not None for p in model.encoder.parameters())


def test_the_target_starts_as_a_copy_and_moves_only_when_told(model, images):
    fresh = jepa_core.build_model(recipe())
    for mine, theirs in zip(fresh.encoder.parameters(), fresh.target_encoder.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.data_ptr() != theirs.data_ptr()
    before = [p.clone() for p in model.target_encoder.parameters()]
    model(images, jepa_core.sample_masks(model, 4)).loss.backward()
    assert all(torch.equal(a, b) for a, b in zip(before, model.target_encoder.parameters(), strict=True))
    with torch.no_grad():
        next(model.encoder.parameters()).add_(1.0)
    m = model.update_target(0)["momentum"]
    expected = before[0] * m + next(model.encoder.parameters()) * (1 - m)
    torch.testing.assert_close(next(model.target_encoder.parameters()), expected)


def test_masks_are_a_function_of_seed_and_step(model):
    def flat(plan):
        return torch.cat([s.index for s in (*plan.contexts, *plan.targets)])

    first, same, later, other = (
        flat(jepa_core.sample_masks(model, 32, seed, step)) for seed, step in ((0, 3), (0, 3), (0, 4), (1, 3))
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, later)
    assert not torch.equal(first, other)


def test_features_say_which_encoder(model, images):
    with torch.no_grad():
        next(model.encoder.parameters()).add_(0.5)
    target, context = model.features(images), model.features(images, role="context")
    assert target.shape == (4, 48)
    assert not torch.allclose(target, context)
    tokens = model.features(images, pool=None)
    assert tokens.shape == (4, 16, 48)
    torch.testing.assert_close(tokens.mean(1), target)
    with pytest.raises(
        jepa_core.UserError, match=r"unknown role 'taget'; known: context, target. Did you mean 'target'"
    ):
        model.features(images, role="taget")


def test_a_loss_term_cannot_have_the_name_of_a_modules_attribute():
    with pytest.raises(
        jepa_core.UserError, match=r"\[terms.keys\]: torch's modules have something of this name"
    ):
        recipe("terms.keys.name=mse")


def test_a_missing_or_foreign_plan_is_named(model, images):
    with pytest.raises(ValueError, match=r"sample_masks\(model, batch_size, seed, step\)"):
        model(images)
    with pytest.raises(ValueError, match="the plan masks 3 samples; the batch has 4"):
        model(images, jepa_core.sample_masks(model, 3))


@pytest.mark.parametrize("norm", ["layer", "batch", "position", "none"])
def test_target_normalisation(images, norm):
    model = jepa_core.build_model(recipe(f"variant.target_norm={norm}"))
    tokens = model.encode_target(images, MaskPlan())
    got, x = model.normalise(tokens).dense(), tokens.dense()
    if norm == "position":
        x = x - x.mean(0, keepdim=True)
    if norm == "batch":
        flat = x.flatten(0, 1)
        x = (x - flat.mean(0)) / (flat.std(0) + 1e-3)
    elif norm != "none":
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(got, x, rtol=1e-4, atol=1e-5)


def test_targets_average_the_last_layers(images):
    model = jepa_core.build_model(recipe("variant.target_layers=2", "encoder.depth=3"))
    tokens = model.encode_target(images, MaskPlan())
    assert len(tokens.layers) == 2
    asked = model.target_encoder(images, layers=(2, 3))
    norm = torch.nn.functional.layer_norm
    expected = norm(sum(norm(layer, (48,)) for layer in asked.layers) / 2, (48,))
    torch.testing.assert_close(model.normalise(tokens).values, expected)


def test_an_empty_plan_sees_and_targets_everything(model, images):
    whole = model.encode_context(images, MaskPlan())
    targets = model.make_targets(model.encode_target(images, MaskPlan()), MaskPlan())
    assert whole[0].dense().shape == targets[0].dense().shape == (4, 16, 48)
    with pytest.raises(ValueError, match="the plan has 0 pairs and the model made no predictions"):
        model(images, MaskPlan())


def test_terms_add_up_with_their_weights(images):
    chosen = recipe(
        "terms.spread.name=variance_covariance", "terms.spread.weight=0.25", "objective.weight=2.0"
    )
    model = jepa_core.build_model(chosen)
    output = model(images, jepa_core.sample_masks(model, 4))
    assert set(output.terms) == {"prediction", "spread"}
    torch.testing.assert_close(output.loss, 2 * output.terms["prediction"] + 0.25 * output.terms["spread"])


def test_a_variant_overrides_one_stage(images):
    """What a plugin's variant does: here the targets of the first place of each block only."""

    class FirstOnly(jepa_core.JEPA):
        def predict(self, contexts, plan, condition):
            predictions = super().predict(contexts, plan, condition)
            return tuple(dataclasses.replace(p, values=p.values * 0) for p in predictions)

    parts = jepa_core.build_model(recipe())
    variant = FirstOnly(
        parts.config, encoder=parts.encoder, predictor=parts.predictor, masker=parts.masker,
        target_update=parts.target_update, objectives=dict(parts.objectives.items()),
    )  # fmt: skip
    plan = jepa_core.sample_masks(variant, 4)
    targets = torch.cat([t.values for t in variant(images, plan).step.targets])
    expected = torch.nn.functional.smooth_l1_loss(torch.zeros_like(targets), targets)
    torch.testing.assert_close(variant(images, plan).loss, expected)
