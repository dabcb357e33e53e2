"""V-JEPA's encoder, predictor and loss against the float64 formulas, with added and with rotary positions."""

from types import SimpleNamespace

import pytest
import torch

import jepa_core
from jepa_core import IndexSet, MaskPlan, Tokens
from jepa_core.errors import UserError
from jepa_core.nn.rotary import rotary
from jepa_kernels import Layout
from jepa_vjepa.encoder import SIZES, TubeletEncoder
from jepa_vjepa.predictor import PairPredictor
from tests.plugins import reference_vjepa as reference
from tests.plugins.test_encoder import double, randomised, relative

TINY = {"name": "vjepa_tiny", "frames": 4, "image_size": (24, 16), "patch_size": 8}
SMALL = {"width": 28, "depth": 2, "heads": 2}
POSITIONS = pytest.mark.parametrize("positions", ["sincos", "rope"])
RAGGED = [[0, 3, 5, 11], [2], [1, 4, 7, 8, 9, 10]]
MODEL = (
    "encoder.frames=6", "encoder.image_size=[48, 40]", "encoder.width=28", "predictor.width=20",
    "predictor.heads=1", "train.precision=fp32",
)  # fmt: skip


def make(**settings):
    return TubeletEncoder(TubeletEncoder.Config(**{**TINY, **SMALL, **settings}))


def make_predictor(**settings):
    encoder = SimpleNamespace(width=28, heads=2, view_shape=tuple, grid=lambda shape: (2, 3, 2))
    config = PairPredictor.Config(name="pair_predictor", width=20, depth=2, heads=2, **settings)
    return PairPredictor(config, encoder, 28)


def plan_of(contexts, targets, pairs=None):
    return MaskPlan(
        tuple(map(IndexSet.from_lists, contexts)), tuple(map(IndexSet.from_lists, targets)), pairs
    )


@POSITIONS
@pytest.mark.parametrize("keep", [RAGGED, None])
@pytest.mark.parametrize("shape", [(4, 24, 16), (6, 8, 40)])
def test_the_encoder_equals_the_formulas(positions, keep, shape):
    """On the grid of the settings (2, 3, 2) and on another, odd one (3, 1, 5), with one set of weights."""
    encoder, clips = randomised(make(positions=positions)), torch.randn(3, 3, *shape)
    tokens = encoder(clips, None if keep is None else IndexSet.from_lists(keep))
    rows = [
        reference.encoder(double(encoder), clip.double(), keep and keep[b], 2, positions == "rope")
        for b, clip in enumerate(clips)
    ]
    assert relative(tokens.values, torch.cat(rows)) < 1e-5
    assert tokens.grid == (shape[0] // 2, shape[1] // 8, shape[2] // 8)


@POSITIONS
def test_loss_and_gradients_equal_the_formulas(positions):
    """The whole step on masks of the recipe: ragged sets, two pairs that count alike, each its mask token."""
    given = (*MODEL, f"encoder.positions={positions}", f"predictor.positions={positions}")
    model = jepa_core.build_model(jepa_core.load_recipe("vjepa/selftest", *given))
    randomised(model)
    clips = torch.randn(3, *model.encoder.view_shape())
    drawn = (jepa_core.sample_masks(model, 3, step=step) for step in range(99))
    plan = next(plan for plan in drawn if not any(context.uniform for context in plan.contexts))
    output = model(clips, plan)
    output.loss.backward()

    state = double(model)
    learned = {key: p for key, p in model.named_parameters() if p.requires_grad}
    for key in learned:
        state[key].requires_grad_()
    sets = [(plan.contexts[k], plan.targets[k]) for k in range(2)]
    pairs = [[[row.tolist() for row in one.split()] for one in pair] for pair in sets]
    expected = reference.reference_loss(
        state, clips.double(), pairs, model.grid(), heads=2, predictor_heads=1, rope=positions == "rope"
    )
    expected.backward()
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    scale = torch.cat([state[key].grad.flatten() for key in learned]).norm() / len(learned) ** 0.5
    for key, parameter in learned.items():
        assert (parameter.grad - state[key].grad).norm() < 2e-5 * (scale + state[key].grad.norm()), key


def test_targets_are_layer_normed_features_of_the_whole_clip():
    model = jepa_core.build_model(jepa_core.load_recipe("vjepa/selftest", *MODEL))
    randomised(model)
    clips, plan = torch.randn(2, *model.encoder.view_shape()), jepa_core.sample_masks(model, 2)
    step = model(clips, plan).step
    whole = [reference.encoder(double(model.target_encoder), clip.double(), None, 2, False) for clip in clips]
    for tokens, target in zip(step.targets, plan.targets, strict=True):
        rows = [reference.layer_norm(w, eps=1e-5)[i] for w, i in zip(whole, target.split(), strict=True)]
        assert relative(tokens.values, torch.cat(rows)) < 1e-5
        assert not tokens.values.requires_grad


def test_rotary_features_depend_on_relative_places_alone():
    """A piece of a clip gives the same features wherever it stands, unlike with added positions."""
    piece = torch.randn(1, 3, 4, 16, 8)
    clip = torch.randn(1, 3, 8, 40, 24)
    clip[:, :, 2:6, 16:32, 8:16] = piece
    at = torch.arange(4 * 5 * 3).view(4, 5, 3)[1:3, 2:4, 1:2].flatten()
    apart = {}
    for positions in ("rope", "sincos"):
        encoder = randomised(make(positions=positions))
        inside, alone = encoder(clip, IndexSet.from_lists([at.tolist()])), encoder(piece)
        apart[positions] = relative(inside.values, alone.values.double())
    assert apart["rope"] < 1e-5
    assert apart["sincos"] > 0.05


@pytest.mark.parametrize(("grid", "width", "left"), [((9,), 10, 0), ((3, 5), 14, 2), ((2, 3, 4), 24, 0)])
def test_rotary_scores_follow_the_difference_of_places(grid, width, left):
    """On grids of any rank; the dimensions that are left over are not turned, and values never."""
    tokens = torch.arange(torch.Size(grid).numel())
    turn = rotary(grid, tokens, width, Layout.dense(1, len(tokens))).turn
    q, k, v = torch.randn(3, width, dtype=torch.float64)
    qkv = turn(torch.stack([q, k, v]).expand(len(tokens), 3, width)[:, :, None])
    assert torch.equal(qkv[:, 2, 0], v.expand(len(tokens), -1))
    assert torch.equal(qkv[:, 0, 0, width - left :], q[width - left :].expand(len(tokens), -1))
    scores = qkv[:, 0, 0] @ qkv[:, 1, 0].T
    places = torch.tensor([*torch.cartesian_prod(*map(torch.arange, grid)).view(len(tokens), -1).tolist()])
    seen = {}
    for i, j in torch.cartesian_prod(tokens, tokens).tolist():
        difference = tuple((places[i] - places[j]).tolist())
        assert seen.setdefault(difference, scores[i, j].item()) == pytest.approx(
            scores[i, j].item(), abs=1e-5
        )
    assert len({round(score, 6) for score in seen.values()}) == len(seen), "other differences, other scores"


def test_heads_too_narrow_to_turn_are_refused():
    with pytest.raises(UserError, match=r"grid of 3 axes need heads of at least 6 dimensions; got 4"):
        make(positions="rope", width=8)
    with pytest.raises(UserError, match=r"predictor 'pair_predictor': rotary .* got 4; set predictor\.width"):
        make_predictor(positions="rope").__class__(
            PairPredictor.Config(name="pair_predictor", width=8, heads=2, positions="rope"), make(), 28
        )


def test_each_target_set_has_a_mask_token_of_its_own():
    predictor = randomised(make_predictor())
    plan = plan_of([[[0, 1], [2]], [[5], [6, 7]]], [[[3], [4, 5]], [[8], [9]]], ((0, 0), (1, 1)))
    contexts = [Tokens(torch.randn(3, 28), keep, (2, 3, 2)) for keep in plan.contexts]
    before = predictor(contexts, plan, (2, 3, 2))
    predictor.mask_tokens[1].data += torch.randn(20)
    after = predictor(contexts, plan, (2, 3, 2))
    assert torch.equal(before[0].values, after[0].values)
    assert relative(after[1].values, before[1].values.double()) > 1e-3
    assert [token.shape for token in predictor.mask_tokens] == [(1, 1, 20)] * 2


def test_mask_tokens_start_at_zero_and_weights_small():
    fresh = make_predictor()
    assert all(not token.any() for token in fresh.mask_tokens)
    assert fresh.proj.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert make(init_std=0.1).patch_embed.weight.std().item() == pytest.approx(0.1, rel=0.05)


def test_change_weighs_more_at_the_start_where_it_is_asked_to():
    """A still clip is embedded as before; what changes within a tubelet counts eight times."""
    torch.manual_seed(0)
    plain = make()
    torch.manual_seed(0)
    keen = make(change_gain=8.0)
    still, change = torch.randn(1, 3, 1, 24, 16).expand(-1, -1, 4, -1, -1), torch.randn(1, 3, 4, 24, 16)
    change = change - change.unflatten(2, (2, 2)).mean(3, keepdim=True).expand(-1, -1, -1, 2, -1, -1).flatten(
        2, 3
    )
    for clip, factor in ((still, 1), (change, 8)):
        assert torch.allclose(keen.patch_embed(clip), factor * plain.patch_embed(clip), atol=1e-5)


def test_a_plan_with_another_number_of_targets_says_what_to_set():
    plan = plan_of([[[0, 1]]], [[[3]]])
    contexts = [Tokens(torch.randn(2, 28), plan.contexts[0], (2, 3, 2))]
    with pytest.raises(
        UserError,
        match=r"predictor 'pair_predictor' has 2 mask tokens and the masker draws 1 target sets; "
        r"set predictor\.mask_tokens=1",
    ):
        make_predictor()(contexts, plan, (2, 3, 2))


def test_several_sets_use_the_tokens_in_turn():
    model = jepa_core.build_model(jepa_core.load_recipe("vjepa/selftest", "masker.sets=2", *MODEL))
    plan = jepa_core.sample_masks(model, 2)
    assert plan.pairs == ((0, 0), (1, 1), (2, 2), (3, 3))
    tokens = [model.predictor.token_of(j, plan) for j in range(4)]
    assert tokens[0].data_ptr() == tokens[2].data_ptr() != tokens[1].data_ptr() == tokens[3].data_ptr()


def test_the_future_does_not_reach_the_predictions_of_causal_masks():
    given = (*MODEL, "masker.name=causal", "predictor.mask_tokens=1")
    model = randomised(jepa_core.build_model(jepa_core.load_recipe("vjepa/selftest", *given)))
    clips, plan = torch.randn(2, *model.encoder.view_shape()), jepa_core.sample_masks(model, 2)
    steps = [model(clips, plan).step]
    clips[:, :, 4:] = torch.randn_like(clips[:, :, 4:])  # the last of three times, of two frames each
    steps.append(model(clips, plan).step)
    assert plan.contexts[0].dense().max() < 2 * 30 == plan.targets[0].dense().min()
    assert torch.equal(steps[0].predictions[0].values, steps[1].predictions[0].values)
    assert relative(steps[1].targets[0].values, steps[0].targets[0].values.double()) > 0.1


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_the_same_image_transformers(name):
    """Besides the tubelet embedding, whose kernel has a time axis, V-JEPA's transformers are I-JEPA's."""
    from tests.plugins.test_encoder import VisionTransformer

    with torch.device("meta"):
        ours = TubeletEncoder(TubeletEncoder.Config(name=name))
        image = VisionTransformer(VisionTransformer.Config(name=name.replace("vjepa", "official")))
    count = [sum(p.numel() for p in module.parameters()) for module in (ours, image)]
    assert count[0] - count[1] == 3 * 16 * 16 * ours.width
    assert ours.grid(ours.view_shape()) == (8, 14, 14)


def test_clips_that_do_not_fit():
    with pytest.raises(
        UserError,
        match=r"a clip of 5x24x20 \(frames x height x width\) cannot be cut into patches of 2x8x8; "
        r"frames must divide by 2, height by 8 and width by 8: set encoder\.frames, image_size, tubelet or "
        r"patch_size",
    ):
        make().grid((3, 5, 24, 20))
    with pytest.raises(UserError, match=r"takes clips \(3, frames, height, width\); got \(3, 24, 16\)"):
        make()(torch.randn(2, 3, 24, 16))
    with pytest.raises(UserError, match="2 index sets for 3 clips; expected one a clip"):
        make()(torch.randn(3, 3, 4, 24, 16), IndexSet.from_lists([[0], [1]]))
    with pytest.raises(UserError, match=r"normalised floats .* got torch\.uint8"):
        make()(torch.zeros(1, 3, 4, 24, 16, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"a width of 28 cannot be split among 3 heads; set encoder\.width"):
        make(heads=3)


def test_layers_are_outputs_of_blocks_without_the_norm():
    encoder = randomised(make())
    clips, keep = torch.randn(3, 3, 4, 24, 16), IndexSet.from_lists(RAGGED)
    tokens = encoder(clips, keep, layers=(2, 1))
    assert torch.equal(encoder.norm(tokens.layers[0]), tokens.values)
    assert tokens.layers[1].shape == (11, 28)
    with pytest.raises(UserError, match=r"layers count from 1 to 2, the depth; got \[3\]"):
        encoder(clips, keep, layers=(3,))
