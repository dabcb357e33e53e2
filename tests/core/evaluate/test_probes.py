"""The probes against a brute-force vote and against scipy's optimum of the same objective."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.evaluate import KNN, LinearProbe, ProbeScores
from jepa_core.evaluate.logistic import Effort, FitCost, Logistic, plan_fits
from jepa_core.evaluate.probes import binomial_error
from jepa_core.protocols import Probe

PROBES = [KNN(KNN.Config(name="knn", k=5)), LinearProbe(LinearProbe.Config(name="linear"))]


def clusters(
    count: int, classes: int = 3, width: int = 8, apart: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Gaussian clusters around `classes` fixed centres, with correlated, badly scaled dimensions."""
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99)) * apart
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=random)
    noise = torch.randn(count, width, generator=random)
    return (centres[labels] + noise) * torch.logspace(-2, 2, width), labels


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: type(p).__name__)
class TestEveryProbe:
    def test_is_a_probe_and_deterministic(self, probe: Probe) -> None:
        train, held_out = clusters(200), clusters(50, seed=1)
        assert isinstance(probe, Probe)
        assert dict(probe(train, held_out, 3)) == dict(probe(train, held_out, 3))

    def test_separable_classes_are_found(self, probe: Probe) -> None:
        scores = probe(clusters(300, apart=20), clusters(100, apart=20, seed=1), 3)
        assert scores["top1"] == 1.0
        assert scores["top1_se"] == 0.0

    def test_labels_without_relation_give_chance(self, probe: Probe) -> None:
        train, held_out = clusters(600, apart=0), clusters(600, apart=0, seed=1)
        score = probe(train, held_out, 3)["top1"]
        assert abs(score - 1 / 3) < 4 * binomial_error(1 / 3, 600)

    def test_all_features_the_same_are_no_error(self, probe: Probe) -> None:
        labels = torch.arange(60) % 3
        score = probe((torch.ones(60, 4), labels), (torch.ones(60, 4), labels), 3)["top1"]
        assert score == pytest.approx(1 / 3)

    def test_bfloat16_features_are_taken(self, probe: Probe) -> None:
        (x, y), (u, v) = clusters(100, apart=20), clusters(50, apart=20, seed=1)
        assert probe((x.bfloat16(), y), (u.bfloat16(), v), 3)["top1"] > 0.95

    def test_unlabelled_samples_are_an_error(self, probe: Probe) -> None:
        x, y = clusters(30)
        with pytest.raises(UserError, match=r"label 0 … 2 for every sample; the held-out part has -1"):
            probe((x, y), (x, torch.full_like(y, -1)), 3)

    def test_features_that_are_not_finite_are_an_error(self, probe: Probe) -> None:
        x, y = clusters(30)
        with pytest.raises(UserError, match="training features are not finite"):
            probe((x.log(), y), (x, y), 3)

    def test_labels_of_another_length_are_an_error(self, probe: Probe) -> None:
        x, y = clusters(30)
        with pytest.raises(UserError, match=r"got \[30, 8\] and \[29\]"):
            probe((x, y[:-1]), (x, y), 3)


def brute_force_vote(bank: Tensor, labels: Tensor, query: Tensor, k: int) -> set[int]:
    """The classes with the most of the k nearest by cosine: more than one where they tie."""
    q = query.double() / query.double().norm()
    similarity = [float(q @ (row.double() / row.double().norm())) for row in bank]
    nearest = sorted(range(len(bank)), key=lambda i: -similarity[i])[:k]
    votes = Counter(int(labels[i]) for i in nearest)
    return {c for c, n in votes.items() if n == max(votes.values())}


@pytest.mark.parametrize("k", [1, 4, 7])
def test_knn_votes_as_a_brute_force_loop_does(k: int) -> None:
    (bank, labels), (queries, _) = clusters(120, apart=0.5), clusters(40, apart=0.5, seed=1)
    probe = KNN(KNN.Config(name="knn", k=k))
    for query in queries:
        winners = brute_force_vote(bank, labels, query, k)
        top1 = [probe((bank, labels), (query[None], torch.tensor([c])), 3)["top1"] for c in range(3)]
        assert sum(top1) == 1.0
        assert top1.index(1.0) in winners


def test_knn_ties_go_to_the_more_similar_class() -> None:
    bank = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    held_out = torch.tensor([[0.3, 1.0]]), torch.tensor([1])
    assert KNN(KNN.Config(name="knn", k=4))((bank, torch.tensor([0, 0, 1, 1])), held_out, 2)["top1"] == 1.0


def test_knn_temperature_lets_the_nearest_outvote_many() -> None:
    bank = torch.tensor([[1.0, 0.05], [0.3, 1.0], [0.3, 1.0]])
    train, held_out = (bank, torch.tensor([0, 1, 1])), (torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    plain, weighted = (KNN(KNN.Config(name="knn", k=3, temperature=t)) for t in (None, 0.07))
    assert plain(train, held_out, 2)["top1"] == 0.0
    assert weighted(train, held_out, 2)["top1"] == 1.0


def test_knn_with_too_few_training_samples_is_an_error() -> None:
    with pytest.raises(UserError, match="the probe knn is 20, but there are 12 training"):
        KNN(KNN.Config(name="knn"))(clusters(12), clusters(5), 3)


def scipy_optimum(x: Tensor, y: Tensor, classes: int, l2: float) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias that minimise the same objective, by scipy's L-BFGS in float64."""
    data, hot = x.double().numpy(), np.eye(classes)[y.numpy()]
    width = data.shape[1]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = flat[:-classes].reshape(width, classes), flat[-classes:]
        logits = data @ weight + bias
        shifted = logits - logits.max(1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        error = (np.exp(log_p) - hot) / len(data)
        loss = -(log_p * hot).sum(1).mean() + l2 / 2 * (weight**2).sum()
        return loss, np.concatenate([(data.T @ error + l2 * weight).ravel(), error.sum(0)])

    options = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-14, "gtol": 1e-9}
    found = minimize(
        objective, np.zeros(width * classes + classes), jac=True, method="L-BFGS-B", options=options
    ).x
    return found[:-classes].reshape(width, classes), found[-classes:]


@pytest.mark.parametrize("l2", [1e-4, 1e-2, 1.0])
def test_logistic_regression_reaches_scipys_optimum(l2: float) -> None:
    x, y = clusters(400, apart=0.7)
    x = (x - x.mean(0)) / x.std(0) @ torch.randn(8, 8, generator=torch.Generator().manual_seed(5))
    weight, bias = Logistic(x, y, 3).fit(l2)
    expected, offset = scipy_optimum(x, y, 3, l2)
    torch.testing.assert_close(weight, torch.tensor(expected).float(), atol=5e-3, rtol=5e-3)
    torch.testing.assert_close(
        bias - bias.mean(), torch.tensor(offset - offset.mean()).float(), atol=5e-3, rtol=5e-3
    )
    guesses = torch.tensor(x.double().numpy() @ expected + offset).argmax(1)
    assert (x @ weight + bias).argmax(1).eq(guesses).float().mean() >= 0.999


def test_a_start_changes_the_way_and_not_the_optimum() -> None:
    x, y = clusters(300)
    x = (x - x.mean(0)) / x.std(0)
    solver = Logistic(x, y, 3)
    cold, warm = solver.fit(1e-2), solver.fit(1e-2, start=solver.fit(1.0))
    torch.testing.assert_close(cold[0], warm[0], atol=5e-3, rtol=5e-3)


def test_linear_chooses_a_strong_penalty_where_the_weak_one_overfits() -> None:
    (x, y), held_out = clusters(150, apart=0.2, width=100), clusters(500, apart=0.2, width=100, seed=1)
    strengths = (1e-6, 1e-1)
    scores = LinearProbe(LinearProbe.Config(name="linear", l2=strengths, chosen_on=0.4))((x, y), held_out, 3)
    fixed = [
        LinearProbe(LinearProbe.Config(name="linear", l2=(s,)))((x, y), held_out, 3)["top1"]
        for s in strengths
    ]
    assert fixed[1] > fixed[0]
    assert scores["l2"] == 1e-1
    assert scores["top1"] == fixed[1]


def test_linear_is_blind_to_the_scale_and_place_of_features() -> None:
    (x, y), (u, v) = clusters(300), clusters(200, seed=1)
    probe = LinearProbe(LinearProbe.Config(name="linear"))
    plain, moved = probe((x, y), (u, v), 3), probe((x * 1e3 - 7, y), (u * 1e3 - 7, v), 3)
    assert plain["top1"] == pytest.approx(moved["top1"], abs=0.006)


def test_linear_ignores_held_out_labels_when_it_fits() -> None:
    (x, y), (u, v) = clusters(200), clusters(100, seed=1)
    probe = LinearProbe(LinearProbe.Config(name="linear"))
    right, wrong = probe((x, y), (u, v), 3), probe((x, y), (u, (v + 1) % 3), 3)
    assert right["l2"] == wrong["l2"]
    assert right["top1"] + wrong["top1"] <= 1.0


def test_the_standard_error_is_the_binomial_one() -> None:
    assert binomial_error(0.25, 300) == pytest.approx(np.std([1] * 75 + [0] * 225) / np.sqrt(300))


def test_many_more_features_than_samples_are_solved_too() -> None:
    """Their covariance in float32 is not positive definite; the loss comes near that of float64."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(40, 10, generator=random) @ torch.randn(10, 1500, generator=random)
    y = torch.arange(40) % 2
    x = (x - x.mean(0)) / x.std(0)
    with pytest.raises(RuntimeError, match="not positive-definite"):
        torch.linalg.cholesky(x.T @ x / 80 + 1e-6 * torch.eye(1500))

    def loss(values: Tensor) -> float:
        weight, bias = Logistic(values, y, 2).fit(1e-6)
        cross_entropy = torch.nn.functional.cross_entropy(values @ weight + bias, y)
        return float(cross_entropy + 1e-6 / 2 * weight.square().sum())

    assert loss(x) == pytest.approx(loss(x.double()), rel=0.01)


def test_knn_leaves_each_sample_out_of_its_own_neighbours() -> None:
    """Labels that mean nothing are guessed by chance from the labels of the others."""
    x, _ = clusters(300)
    labels = torch.randint(3, (300,), generator=torch.Generator().manual_seed(3))
    probe = KNN(KNN.Config(name="knn", k=1))
    assert probe((x, labels), (x, labels), 3)["top1"] == 1.0, "each is its own nearest neighbour"
    assert abs(probe.leave_one_out((x, labels), 3)["top1"] - 1 / 3) < 4 * binomial_error(1 / 3, 300)


@pytest.mark.parametrize("count", [40, 600])
def test_leaving_one_out_is_scoring_each_by_the_others(count: int) -> None:
    x, y = clusters(count, apart=0.5)
    probe = KNN(KNN.Config(name="knn", k=5))
    guesses = probe.leave_one_out((x, y), 3).guesses
    for index in range(0, count, 37):
        rest = torch.arange(count) != index
        alone = probe((x[rest], y[rest]), (x[index : index + 1], y[index : index + 1]), 3)
        assert alone.guesses.item() == guesses[index]
    with pytest.raises(UserError, match="is 5, but there are 4 training samples to choose"):
        probe.leave_one_out((x[:5], y[:5]), 3)


@pytest.mark.parametrize("probe", PROBES, ids=lambda p: type(p).__name__)
def test_the_guesses_of_each_sample_come_with_the_scores(probe: Probe) -> None:
    train, (u, v) = clusters(200), clusters(50, seed=1)
    scores = probe(train, (u, v), 3)
    assert isinstance(scores, ProbeScores)
    assert scores.guesses.eq(v).double().mean().item() == scores["top1"]


def test_a_problem_within_the_budget_is_solved_whole(caplog: pytest.LogCaptureFixture) -> None:
    train, held_out = clusters(300, apart=0.5), clusters(200, apart=0.5, seed=1)
    whole, unbounded = (
        LinearProbe(LinearProbe.Config(name="linear", budget=budget))(train, held_out, 3)
        for budget in (60.0, 1e9)
    )
    assert dict(whole) == dict(unbounded)
    assert (caplog.text, whole.note) == ("", "")


def test_many_classes_are_solved_within_the_budget(caplog: pytest.LogCaptureFixture) -> None:
    """By less effort, which a line states, and still far from guessing."""
    classes = 300
    train, held_out = (clusters(6000, classes, 64, apart=2.0, seed=seed) for seed in (0, 1))
    probe = LinearProbe(LinearProbe.Config(name="linear", budget=0.5))
    start = time.process_time()
    scores = probe(train, held_out, classes)
    assert time.process_time() - start < 10
    assert scores["top1"] > 0.5
    assert "probe linear: 300 classes of 64 features may take" in caplog.text
    assert "over its budget of 0.5 s (probes.linear.budget): " in caplog.text
    assert "fitted with at most" in caplog.text
    assert scores.note.startswith("solved less exactly to keep to its budget of 0.5 s, with at most ")


def test_a_limit_that_no_fit_reaches_is_no_news(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that might be asked would take 6 minutes by this clock; what is needed fits into one."""
    monkeypatch.setattr("jepa_core.evaluate.logistic.measure_fit", lambda _: FitCost(0.0, 0.01, 2e-3))
    train, held_out = clusters(300, apart=0.5), clusters(200, apart=0.5, seed=1)
    scores = LinearProbe(LinearProbe.Config(name="linear", budget=200.0))(train, held_out, 3)
    whole = LinearProbe(LinearProbe.Config(name="linear", budget=1e9))(train, held_out, 3)
    assert dict(scores) == dict(whole)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("budget", "choice", "fit"),
    [
        (1e6, Effort(100, 10_000), Effort(100, 10_000)),
        (4000.0, Effort(39, 10_000), Effort(100, 10_000)),
        (1000.0, Effort(12, 8_150), Effort(49, 10_000)),
        (200.0, None, Effort(19, 10_000)),
        (30.0, None, Effort(12, 2_316)),
        (1.0, None, Effort(12, 2_048)),
    ],
)
def test_less_is_done_in_a_fixed_order(
    budget: float, choice: Effort | None, fit: Effort, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten seconds an iteration on all samples: first iterations, then samples, then strengths are cut."""
    monkeypatch.setattr("jepa_core.evaluate.logistic.measure_fit", lambda _: FitCost(1.0, 0.1, 1e-3))
    solver = Logistic(torch.zeros(10_000, 2), torch.zeros(10_000, dtype=torch.long), 2)
    plan = plan_fits(solver, 5, budget)
    assert (plan.choice, plan.fit, plan.limited) == (choice, fit, budget < 1e6)
    assert plan.full_seconds == pytest.approx(6 * (1 + 100 * 10.1))


def test_classes_that_do_not_occur_change_nothing() -> None:
    x, y = clusters(300)
    x = (x - x.mean(0)) / x.std(0)
    weight, bias = Logistic(x, y, 50).fit(1e-2)
    expected, offset = Logistic(x, y, 3).fit(1e-2)
    difference = weight[:, :3] - weight[:, :3].mean(1, True)
    torch.testing.assert_close(difference, expected - expected.mean(1, True), atol=5e-3, rtol=5e-3)
    torch.testing.assert_close(bias[:3] - bias[:3].mean(), offset - offset.mean(), atol=5e-3, rtol=5e-3)
    assert (x @ weight + bias).argmax(1).max() < 3
