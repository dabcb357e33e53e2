"""The predictor, the loss and its gradients against the float64 formulas, for ragged and uniform sets."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from jepa_core import IndexSet, MaskPlan, Tokens
from jepa_core.errors import UserError
from jepa_core.nn.packing import Source, pack
from jepa_core.protocols import Predictor
from jepa_ijepa.encoder import VisionTransformer
from jepa_ijepa.predictor import VitPredictor
from tests.plugins import reference_ijepa as reference
from tests.plugins.test_encoder import double, make, randomised, relative

GRID, HEADS = (4, 4), 2
RAGGED = (
    [[[0, 3, 5, 6, 15], [2], [1, 4, 7, 8]], [[9], [0, 1], [5, 6, 10]]],
    [[[1, 2], [7, 10, 11], [0]], [[12, 13, 14], [3], [9, 15]]],
)
UNIFORM = (
    [[[0, 3, 5], [2, 4, 6], [1, 4, 7]]],
    [[[1, 2], [7, 10], [0, 3]], [[12, 13], [3, 9], [9, 15]], [[4, 8], [0, 1], [2, 3]]],
)


def encoder_of(width, heads):
    """All that a predictor asks of an encoder."""
    return SimpleNamespace(width=width, heads=heads, view_shape=lambda: (3, 8, 8), grid=lambda shape: (4, 4))


def make_predictor(width=24, target_width=None, depth=2, **settings):
    config = VitPredictor.Config(name="vit_predictor", width=16, depth=depth, **settings)
    return VitPredictor(config, encoder_of(width, HEADS), target_width or width)


def plan_of(contexts, targets, pairs=None):
    return MaskPlan(
        tuple(map(IndexSet.from_lists, contexts)), tuple(map(IndexSet.from_lists, targets)), pairs
    )


def context_tokens(plan, width=24):
    torch.manual_seed(3)
    return [Tokens(torch.randn(keep.total, width), keep, GRID) for keep in plan.contexts]


def exact(predictor, contexts, plan):
    """The reference's guesses, one float64 tensor a pair."""
    guesses = []
    for i, j in plan.pairs:
        values = contexts[i].values.double().split(plan.contexts[i].lengths.tolist())
        samples = zip(values, plan.contexts[i].split(), plan.targets[j].split(), strict=True)
        rows = [reference.predictor(double(predictor), *sample, GRID, predictor.heads) for sample in samples]
        guesses.append(torch.cat(rows))
    return guesses


@pytest.mark.parametrize("lists", [RAGGED, UNIFORM])
@pytest.mark.parametrize("pairs", [None, ((0, 1), (0, 0), (0, 1))])
@pytest.mark.parametrize("depth", [1, 2])
def test_equals_the_formulas(lists, pairs, depth):
    plan, predictor = plan_of(*lists, pairs), randomised(make_predictor(target_width=20, depth=depth))
    contexts = context_tokens(plan)
    found = predictor(contexts, plan, GRID)
    for (_, j), tokens, guess in zip(plan.pairs, found, exact(predictor, contexts, plan), strict=True):
        assert relative(tokens.values, guess) < 1e-5
        assert tokens.at is plan.targets[j]
        assert tokens.grid == GRID


@pytest.mark.parametrize("lists", [RAGGED, UNIFORM])
@pytest.mark.parametrize("depth", [1, 2])
def test_loss_and_gradients_equal_the_formulas(lists, depth):
    torch.manual_seed(0)
    encoder = randomised(make())
    target = copy.deepcopy(encoder).requires_grad_(False)
    for parameter in target.parameters():
        parameter.mul_(0.9)
    predictor, plan = randomised(make_predictor(depth=depth)), plan_of(*lists)
    images = torch.randn(3, 3, 32, 32)
    contexts = [encoder(images, keep) for keep in plan.contexts]
    whole = target(images)
    wanted = Tokens(F.layer_norm(whole.values, (24,)), whole.at, GRID)
    guesses = torch.cat([tokens.values for tokens in predictor(contexts, plan, GRID)])
    wanted = torch.cat([wanted.gather(plan.targets[j]).values for _, j in plan.pairs])
    loss = F.smooth_l1_loss(guesses, wanted)
    loss.backward()

    modules = {"encoder": encoder, "predictor": predictor, "target_encoder": target}
    state = {f"{name}.{key}": value for name, m in modules.items() for key, value in double(m).items()}
    learned = {
        f"{name}.{key}": p
        for name, m in modules.items()
        for key, p in m.named_parameters()
        if p.requires_grad
    }
    for key in learned:
        state[key].requires_grad_()
    expected = reference.reference_loss(
        state, images.double(), *lists, patch=8, heads=HEADS, predictor_heads=HEADS
    )
    expected.backward()
    assert abs(loss.item() / expected.item() - 1) < 1e-5
    scale = torch.cat([state[key].grad.flatten() for key in learned]).norm() / len(learned) ** 0.5
    for key, parameter in learned.items():
        assert (parameter.grad - state[key].grad).norm() < 1e-5 * (scale + state[key].grad.norm()), key


def test_a_sample_does_not_notice_its_neighbours():
    plan, predictor = plan_of(*RAGGED), randomised(make_predictor())
    contexts = context_tokens(plan)
    together = predictor(contexts, plan, GRID)
    for b in range(3):
        alone = plan_of([[c[b]] for c in RAGGED[0]], [[t[b]] for t in RAGGED[1]])
        own = [
            Tokens(tokens.values.split(keep.lengths.tolist())[b], single, GRID)
            for tokens, keep, single in zip(contexts, plan.contexts, alone.contexts, strict=True)
        ]
        for tokens, found in zip(predictor(own, alone, GRID), together, strict=True):
            assert (tokens.values - found.values.split(found.at.lengths.tolist())[b]).abs().max() < 1e-5


def test_rows_and_layout_of_packed_pairs():
    """Sequences pair after pair, sample after sample, context before target."""
    plan = plan_of([[[0, 1], [2]]], [[[3], [4, 5]], [[6], [7]]])
    packing = pack(plan, "repeat")
    sources = [("context", 0), ("target", 0), ("context", 0), ("target", 1)]
    assert packing.sources == tuple(Source(*source) for source in sources)
    assert packing.rows.tolist() == [*(0, 1, 3), *(2, 4, 5), *(6, 7, 9), *(8, 10)]
    assert [rows.tolist() for rows in packing.guesses] == [[2, 4, 5], [8, 10]]
    assert packing.layout.query_offsets.tolist() == [0, 3, 6, 9, 11]
    assert packing.layout.uniform is None
    assert pack(plan_of(*UNIFORM), "repeat").layout.uniform == 5


def test_rows_and_layout_of_a_shared_context():
    """A sample's context once, then its targets, each of which reads the context and itself."""
    plan = plan_of([[[0, 1], [2]]], [[[3], [4, 5]], [[6], [7]]])
    packing = pack(plan, "shared")
    assert packing.sources == (Source("context", 0), Source("target", 0), Source("target", 1))
    assert packing.rows.tolist() == [*(0, 1, 4), *(2, 5, 6), *(3, 7)]
    assert [rows.tolist() for rows in packing.guesses] == [[2, 5, 6], [3, 7]]
    segments = [[0, 2, 0, 2], [2, 1, 0, 2], [3, 1, 0, 2], [4, 1, 4, 1], [5, 2, 4, 1], [7, 1, 4, 1]]
    assert packing.layout.seg[:, :4].tolist() == segments
    assert packing.layout.seg[[1, 2, 4, 5], 4:].tolist() == [[2, 1], [3, 1], [5, 2], [7, 1]]
    assert packing.layout.seg[[0, 3], 5].tolist() == [0, 0], "a context reads itself alone"


def shared_by_formula(predictor, contexts, plan):
    """Guesses where the context reads itself alone: the reference, its context kept from the mask tokens.

    What a target does to itself and takes from the context is the same as with the target alone beside a
    context that cannot see it; so it is evaluated sample by sample with a mask.
    """
    guesses = []
    for i, j in plan.pairs:
        values = contexts[i].values.double().split(plan.contexts[i].lengths.tolist())
        samples = zip(values, plan.contexts[i].split(), plan.targets[j].split(), strict=True)
        rows = [
            reference.predictor(double(predictor), *sample, GRID, predictor.heads, blind_context=True)
            for sample in samples
        ]
        guesses.append(torch.cat(rows))
    return guesses


@pytest.mark.parametrize("lists", [RAGGED, UNIFORM])
@pytest.mark.parametrize("pairs", [None, ((0, 1), (0, 0))])
def test_a_shared_context_equals_the_formulas(lists, pairs):
    plan, predictor = plan_of(*lists, pairs), randomised(make_predictor(target_width=20, context="shared"))
    contexts = context_tokens(plan)
    found = predictor(contexts, plan, GRID)
    expected = shared_by_formula(predictor, contexts, plan)
    for (_, j), tokens, guess in zip(plan.pairs, found, expected, strict=True):
        assert relative(tokens.values, guess) < 1e-5
        assert tokens.at is plan.targets[j]
    repeated = exact(predictor, contexts, plan)
    assert relative(found[0].values, repeated[0]) > 1e-2, "it is another model"


def test_a_single_block_holds_no_copies_of_a_context():
    plan, predictor = plan_of(*UNIFORM), randomised(make_predictor(depth=1))
    rows = []
    predictor.blocks[0].norm1.register_forward_hook(lambda norm, given, out: rows.append(len(out)))
    predictor(context_tokens(plan), plan, GRID)
    parts = (*plan.contexts, *plan.targets)
    assert rows == [sum(part.total for part in parts)]
    one = plan_of([UNIFORM[0][0]], [UNIFORM[1][0]])
    assert predictor.packing_mode(plan) == "shared"
    assert predictor.packing_mode(one) == "repeat", "without copies the layout is plain"


def test_grids_of_other_ranks():
    predictor = make_predictor()
    for grid in ((12,), (2, 2, 3)):
        plan = plan_of([[[0, 11], [5]]], [[[1], [2, 3]]])
        tokens = predictor([Tokens(torch.randn(3, 24), plan.contexts[0], grid)], plan, grid)[0]
        assert tokens.values.shape == (3, 24)
        assert tokens.grid == grid


def test_nothing_to_predict_gives_nothing():
    assert make_predictor()([], MaskPlan(), GRID) == ()


def test_recomputing_activations_changes_no_gradient():
    plan, gradients = plan_of(*RAGGED), []
    for checkpoint in (False, True):
        predictor = randomised(make_predictor(checkpoint=checkpoint))
        loss = sum(tokens.values.square().sum() for tokens in predictor(context_tokens(plan), plan, GRID))
        gradients.append(torch.autograd.grad(loss, [*predictor.parameters()]))
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("name", "depth", "millions"),
    [
        ("official_base", 12, 21.9),
        ("official_large", 12, 22.1),
        ("official_huge", 12, 22.3),
        ("official_giant", 16, 29.5),
    ],
)
def test_official_sizes(name, depth, millions):
    with torch.device("meta"):
        encoder = VisionTransformer(VisionTransformer.Config(name=name))
        predictor = VitPredictor(
            VitPredictor.Config(name="vit_predictor", depth=depth), encoder, encoder.width
        )
    assert isinstance(predictor, Predictor)
    assert predictor.heads == encoder.heads
    assert sum(p.numel() for p in predictor.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_initial_weights_and_depth_rescale():
    states = []
    for rescale in (False, True):
        torch.manual_seed(0)
        config = VitPredictor.Config(name="vit_predictor", width=96, depth=3, heads=4, depth_rescale=rescale)
        states.append(VitPredictor(config, encoder_of(96, 4), 96).state_dict())
    for key, plain in states[0].items():
        number = int(key.split(".")[1]) + 1 if key.endswith(("attn.proj.weight", "mlp.fc2.weight")) else 0.5
        torch.testing.assert_close(states[1][key], plain / (2 * number) ** 0.5)
        if plain.ndim == 2:
            assert plain.std().item() == pytest.approx(0.02, rel=0.05), key
    assert states[0]["mask_token"].std().item() == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize(("width", "most", "heads"), [(96, 12, 12), (64, 12, 8), (24, 5, 4), (20, 3, 2)])
def test_heads_that_are_not_given_are_the_encoders_or_the_next_that_fit(width, most, heads):
    config = VitPredictor.Config(name="vit_predictor", width=width, depth=1)
    assert VitPredictor(config, encoder_of(32, most), 32).heads == heads


def test_settings_and_inputs_that_do_not_fit():
    with pytest.raises(
        UserError,
        match=r"predictor 'vit_predictor': a width of 16 cannot be split among 3 heads; "
        r"set predictor\.width or predictor\.heads",
    ):
        make_predictor(heads=3)
    odd = VitPredictor.Config(name="vit_predictor", width=18, heads=2)
    with pytest.raises(UserError, match=r"'vit_predictor': .* divides by 4; got 18; set predictor\.width"):
        VitPredictor(odd, encoder_of(24, HEADS), 24)
    plan = plan_of(*UNIFORM)
    with pytest.raises(UserError, match="predictor 'vit_predictor' uses no condition; got Tensor"):
        make_predictor()(context_tokens(plan), plan, GRID, torch.zeros(3))
