"""SIGReg against scipy's integration, VICReg against its formulas: in float64, in one process and in two."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import Tensor

from jepa_core import IndexSet, MaskPlan, Tokens
from jepa_core.objectives.sigreg import SIGReg, unit_slices
from jepa_core.objectives.vicreg import VICReg, invariance
from jepa_core.types.step import Step


def projections(*views: int, samples: int = 12, width: int = 5, seed: int = 0) -> list[Tensor]:
    """For each group float64 [B, V, P], with gradient; neither normal nor centred."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.rand(samples, v, width, generator=generator, dtype=torch.float64) * 3 - 1 for v in views]
    return [group.requires_grad_() for group in made]


def step_of(groups: Sequence[Tensor], number: int = 0) -> Step:
    tokens = tuple(Tokens(g.flatten(0, 1), IndexSet.full(len(g), g.shape[1]), (g.shape[1],)) for g in groups)
    return Step(tokens, (), (), None, MaskPlan(), number)


def sigreg(**settings: object) -> SIGReg:
    return SIGReg(SIGReg.Config(name="sigreg", **settings))


def vicreg(**settings: object) -> VICReg:
    return VICReg(VICReg.Config(name="vicreg", **settings))


def epps_pulley(values: np.ndarray, reach: float) -> float:
    """n ∫ |φ̂(t) - exp(-t²/2)|² exp(-t²/2) dt from -reach to reach, by scipy's adaptive quadrature."""

    def integrand(t: float) -> float:
        seen = np.exp(1j * t * values).mean()
        return abs(seen - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2)

    return len(values) * integrate.quad(integrand, -reach, reach, epsabs=1e-12, limit=200)[0]


def along_slices(groups: Sequence[Tensor], slices: int, number: int) -> list[np.ndarray]:
    """The values of every view along every slice."""
    directions = unit_slices(groups[0].shape[-1], slices, number).numpy()
    views = [group.detach().numpy()[:, v] for group in groups for v in range(group.shape[1])]
    return [view @ direction for view in views for direction in directions.T]


def test_sigreg_is_the_statistic_of_epps_and_pulley_for_every_view_and_slice() -> None:
    """Many knots: the trapezoid rule has then come to the integral. Every view counts, of both groups."""
    groups = projections(2, 3)
    found = sigreg(slices=4, knots=2001)(step_of(groups, number=7))
    expected = np.mean([epps_pulley(values, 3.0) for values in along_slices(groups, 4, 7)])
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_sigreg_with_the_published_knots_is_scipys_trapezoid() -> None:
    groups = projections(2)
    t = np.linspace(-3, 3, 33)
    normal = np.exp(-(t**2) / 2)
    statistics = [
        12 * integrate.trapezoid(np.abs(np.exp(1j * np.outer(t, v)).mean(1) - normal) ** 2 * normal, t)
        for v in along_slices(groups, 256, 0)
    ]
    assert sigreg()(step_of(groups)).item() == pytest.approx(np.mean(statistics), rel=1e-9)


def test_sigreg_is_least_for_a_standard_normal() -> None:
    """Its mean over normal samples is known: ∫ (1 - exp(-t²)) exp(-t²/2) dt, whatever their number."""
    expected = integrate.quad(lambda t: (1 - np.exp(-(t**2))) * np.exp(-(t**2) / 2), -3, 3)[0]
    normal = torch.randn(200, 100, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = sigreg(slices=64)(step_of([normal])).item()
    assert found == pytest.approx(expected, rel=0.1)
    for other in (normal * 0, normal * 0.7, normal + 0.5, normal[..., :1].expand_as(normal)):
        assert sigreg(slices=64)(step_of([other])).item() > 3 * expected


def test_slices_are_unit_directions_that_change_with_the_step_and_with_nothing_else() -> None:
    slices = unit_slices(16, 500, 3)
    torch.testing.assert_close(slices.norm(dim=0), torch.ones(500, dtype=torch.float64))
    assert slices.mean(1).abs().max() < 0.05
    torch.manual_seed(99)
    assert torch.equal(unit_slices(16, 500, 3), slices)
    assert not torch.equal(unit_slices(16, 500, 4), slices)
    groups = projections(2)
    terms = [sigreg(slices=8)(step_of(groups, number)).item() for number in (0, 0, 1)]
    assert terms[0] == terms[1] != terms[2]


@pytest.mark.parametrize("term", [sigreg(slices=3, knots=5), vicreg()], ids=["sigreg", "vicreg"])
def test_gradients_are_those_of_finite_differences(term: SIGReg | VICReg) -> None:
    groups = projections(2, 1, samples=4, width=3)
    assert torch.autograd.gradcheck(lambda *g: term(step_of(g)), groups)


def test_vicreg_equals_its_formulas() -> None:
    groups = projections(1, 1)
    views = [group.detach().numpy()[:, 0] for group in groups]
    n, width = views[0].shape
    similar = np.mean([(views[0] - views[1]) ** 2])
    covariances = [np.cov(view, rowvar=False) for view in views]
    spread = np.mean([np.maximum(0, 1.5 - np.sqrt(np.diag(c) + 1e-4)).mean() for c in covariances])
    correlated = np.mean([(c**2).sum() - (np.diag(c) ** 2).sum() for c in covariances]) / width
    assert (n, spread > 0, correlated > 0) == (12, True, True)
    for factors in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (25, 25, 1)):
        settings = dict(zip(("invariance", "variance", "covariance"), factors, strict=True))
        found = vicreg(std=1.5, **settings)(step_of(groups)).item()
        assert found == pytest.approx(np.dot(factors, (similar, spread, correlated)), rel=1e-9), factors


def test_invariance_is_the_mean_over_all_pairs_of_views() -> None:
    views = torch.cat([group.transpose(0, 1) for group in projections(2, 3)]).detach()
    pairs = [((views[i] - views[j]) ** 2).mean() for i in range(5) for j in range(i)]
    torch.testing.assert_close(invariance(views), torch.stack(pairs).mean())
    assert invariance(views[:1]) == 0


def test_a_method_that_masks_may_judge_its_contexts() -> None:
    """The average of each context's tokens counts, however many there are."""
    lists = [[0, 1, 2], [3], [0, 3]]
    values = projections(1, samples=6)[0][:, 0]
    context = Tokens(values, IndexSet.from_lists(lists), (2, 2))
    means = torch.stack([values[:3].mean(0), values[3], values[4:].mean(0)])
    asked = Step((), (), (context,), None, MaskPlan())
    for term in (sigreg, vicreg):
        assert term(on="context")(asked).item() == pytest.approx(term()(step_of([means[:, None]])).item())


HALF = """
# Each of two processes has half of the samples; prints the terms, and saves the gradients, of its half.
import sys, torch
from torch import distributed as dist
from tests.plugins.test_lejepa_terms import projections, sigreg, step_of, vicreg

dist.init_process_group("gloo")
rank = dist.get_rank()
for name, term in (("sigreg", sigreg()), ("vicreg", vicreg(invariance=0))):
    halves = [group.detach()[rank * 6 : (rank + 1) * 6].requires_grad_() for group in projections(2, 3)]
    value = term(step_of(halves, number=5))
    value.backward()
    torch.save((value.detach(), [half.grad for half in halves]), f"{sys.argv[1]}/{name}{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_have_the_term_and_the_gradient_of_one(tmp_path: Path) -> None:
    """Gradients are averaged over the processes later on, so each carries those of both processes' terms."""
    script = tmp_path / "half.py"
    script.write_text(HALF, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = [str(Path(__file__).parents[2]), *sys.path]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [*launch, str(script), str(tmp_path)], capture_output=True, text=True, timeout=240, env=environment
    )
    assert done.returncode == 0, done.stderr
    for name, term in (("sigreg", sigreg()), ("vicreg", vicreg(invariance=0))):
        groups = projections(2, 3)
        whole = term(step_of(groups, number=5))
        whole.backward()
        halves = [torch.load(tmp_path / f"{name}{rank}.pt") for rank in range(2)]
        for value, _ in halves:
            torch.testing.assert_close(value, whole.detach())
        for group, *parts in zip(groups, *(gradients for _, gradients in halves), strict=True):
            torch.testing.assert_close(torch.cat(parts) / 2, group.grad)
