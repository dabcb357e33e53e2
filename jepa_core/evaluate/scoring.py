"""From features to a probe table: every row's features scored by every probe.

What is unusual: a score that cannot be computed (features that are not finite, a probe that returns NaN)
costs that score only. It stands in the table as NaN with its reason, beside the rows that can be scored.

Axes: n samples of a split, N tokens of the grid, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from jepa_core.errors import UserError, unknown
from jepa_core.evaluate.collapse import feature_std, rankme
from jepa_core.evaluate.features import Features, extract
from jepa_core.evaluate.probes import LeaveOneOut, ProbeScores
from jepa_core.evaluate.table import EvalResult, Row
from jepa_core.protocols import FeatureMap, Probe, TokenProbe
from jepa_core.runtime.progress import NoProgress, Progress

Loader = Iterable[tuple[Tensor, Tensor]]
"""Yields (views [B, ...], labels [B]), in order."""

Probes = Mapping[str, Probe | TokenProbe]

NOT_FINITE = "the features are not finite: the encoder has diverged"


@runtime_checkable
class NamesHeadline(Protocol):
    """A probe that says which of its scores stands in the table; by default the first."""

    headline: str


@dataclass(frozen=True)
class ScoredRow:
    """A row of the table and, for each probe that guesses classes, its guesses int64 [n]."""

    row: Row
    guesses: Mapping[str, Tensor]


def evaluate(
    maps: Sequence[FeatureMap],
    train: Loader,
    held_out: Loader,
    probes: Probes,
    *,
    classes: int,
    split: str,
    baseline: str | None = "random twin",
    images: tuple[int, int] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> EvalResult:
    """The probe table of `maps`, in their order: each probe's scores, RankMe and spread.

    `train` and `held_out` yield (images, labels); `images` are their sizes, for the progress bar. Where both
    are one loader, probes that can leave each sample out of its own answer do so. `baseline` names the map
    that the others are compared with, or None. RankMe and spread are of the held-out features. Without probes
    no labels are needed, and no training features are taken.
    Raises UserError for an unknown baseline, unlabelled images, or features no probe can use.
    """
    names = [m.name for m in maps]
    if baseline is not None and baseline not in names:
        raise unknown("baseline", baseline, names)
    progress = progress or NoProgress()
    train_features, held_out_features = split_features(
        maps, train, held_out, probes, split, images or (None, None), device, dtype, progress
    )
    rows = []
    for feature_map, fit, judge in zip(maps, train_features, held_out_features, strict=True):
        progress.begin(f"probes on {feature_map.name}", None)
        rows.append(score_row(feature_map, fit, judge, probes, classes, device))
    fit, judge = train_features[0], held_out_features[0]
    return make_table(rows, fit, judge, probes, classes=classes, split=split, baseline=baseline)


def split_features(
    maps: Sequence[FeatureMap],
    train: Loader,
    held_out: Loader,
    probes: Probes,
    split: str,
    images: tuple[int | None, int | None],
    device: torch.device | str,
    dtype: torch.dtype | None,
    progress: Progress,
) -> tuple[list[Features], list[Features]]:
    """(training features, held-out features) of each map, each loader read once.

    The two are the same list where there are no probes to fit, or `train` and `held_out` are one loader.
    """
    tokens = any(isinstance(probe, TokenProbe) for probe in probes.values())
    progress.begin(f"features of the {split} split", images[1])
    features = extract(maps, held_out, device, dtype, progress, tokens)
    if not probes or train is held_out:
        return features, features
    progress.begin("features of the training split", images[0])
    return extract(maps, train, device, dtype, progress, tokens), features


def make_table(
    rows: Sequence[ScoredRow],
    fit: Features,
    judge: Features,
    probes: Probes,
    *,
    classes: int,
    split: str,
    baseline: str | None,
) -> EvalResult:
    """The table of scored rows; `fit` and `judge` are any row's features, for the labels."""
    same = fit is judge
    return EvalResult(
        rows=with_all_scores([row.row for row in rows]),
        baseline=baseline,
        split=split,
        train_images=len(fit.labels) if probes else 0,
        held_out_images=len(judge.labels),
        classes=classes,
        majority=_majority(judge.labels) if probes else 0.0,
        guessable=len(fit.labels.unique()) if probes else None,
        left_out=tuple(name for name, p in probes.items() if same and isinstance(p, LeaveOneOut)),
    )


def score_row(
    feature_map: FeatureMap,
    fit: Features,
    judge: Features,
    probes: Probes,
    classes: int,
    device: torch.device | str,
) -> ScoredRow:
    """One row: RankMe and spread of the held-out features, and what each probe says.

    Where `fit` and `judge` are one object the training samples are scored themselves.
    """
    scores: dict[str, dict[str, float]] = {}
    failures: dict[str, str] = {}
    guesses: dict[str, Tensor] = {}
    notes: dict[str, str] = {}
    finite = bool(fit.values.isfinite().all() and judge.values.isfinite().all())
    if not finite:
        failures["features"] = NOT_FINITE
    for name, probe in probes.items():
        result = dict[str, float]() if not finite else _probe_scores(probe, fit, judge, classes, device)
        scores[name] = _headline_first(name, probe, result)
        missing = [score for score, value in scores[name].items() if not math.isfinite(value)]
        if missing:
            failures[name] = NOT_FINITE if not finite else f"the probe {name} gave no number"
        if isinstance(result, ProbeScores):
            guesses[name] = _check_guesses(name, result.guesses, len(judge.labels))
            if result.note:
                notes[name] = result.note
    row = Row(
        name=feature_map.name,
        description=feature_map.description,
        width=judge.values.shape[1],
        scores=scores,
        rankme=rankme(judge.values),
        feature_std=feature_std(judge.values) if judge.values.isfinite().all() else math.nan,
        failures=failures,
        notes=notes,
    )
    return ScoredRow(row, guesses)


def _probe_scores(
    probe: Probe | TokenProbe, fit: Features, judge: Features, classes: int, device: torch.device | str
) -> Mapping[str, float]:
    if fit is judge and isinstance(probe, LeaveOneOut):
        return probe.leave_one_out((fit.values.to(device), fit.labels.to(device)), classes)
    on_tokens = isinstance(probe, TokenProbe)
    train, held_out = (
        ((part.tokens if on_tokens else part.values).to(device), part.labels.to(device))  # type: ignore[union-attr]
        for part in (fit, judge)
    )
    return (probe.on_tokens if isinstance(probe, TokenProbe) else probe)(train, held_out, classes)


def _check_guesses(name: str, guesses: Tensor, samples: int) -> Tensor:
    if guesses.shape != (samples,) or guesses.is_floating_point():
        raise UserError(
            f"the probe {name} guesses a class for each sample, int64 [{samples}]; "
            f"got {guesses.dtype} {list(guesses.shape)}"
        )
    return guesses.cpu()


def _headline_first(name: str, probe: Any, scores: Mapping[str, float]) -> dict[str, float]:
    """The scores with the probe's headline before the others; NaN for a headline without scores.

    Raises UserError where there are scores and the headline that the probe names is not among them.
    """
    if not isinstance(scores, Mapping):
        raise UserError(f"the probe {name} returns scores by name; got {type(scores).__name__}")
    first = probe.headline if isinstance(probe, NamesHeadline) else next(iter(scores), "top1")
    if scores and first not in scores:
        raise UserError(
            f"the probe {name} names {first!r} as its headline, but its scores are {', '.join(scores)}"
        )
    try:
        values = {str(key): float(scores[key]) for key in scores}
    except (TypeError, ValueError) as error:
        raise UserError(f"the probe {name} gives a score that is no number: {error}") from None
    ordered = {first: values.get(first, math.nan), **values}
    return {key: value if math.isfinite(value) else math.nan for key, value in ordered.items()}


def with_all_scores(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows, where those without a probe's scores have NaN under the names that another row has."""
    names = {
        probe: max((row.scores[probe] for row in rows), key=len) for probe in (rows[0].scores if rows else ())
    }

    def fill(row: Row) -> Row:
        scores = {
            probe: {name: row.scores[probe].get(name, math.nan) for name in names[probe]}
            if NOT_FINITE in row.failures.values()
            else row.scores[probe]
            for probe in names
        }
        return row.model_copy(update={"scores": scores})

    return tuple(fill(row) for row in rows)


def _majority(labels: Tensor) -> float:
    return labels.unique(return_counts=True)[1].max().item() / len(labels)
