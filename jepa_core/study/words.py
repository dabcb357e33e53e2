"""The results of a study in sentences and numbers as people read them."""

from __future__ import annotations

from collections.abc import Iterator

from jepa_core.study.results import ArmResult, StudyResult
from jepa_core.study.statistics import LEVEL, Comparison, smallest_p

NONE = "–"


def number(value: float | None, signed: bool = False) -> str:
    """`48.4`, `.93`, `+1.8`, `-.4`: one decimal from 1 on, below three significant digits at most."""
    if value is None:
        return NONE
    size = abs(value)
    digits = 0 if size >= 1000 else 1 if size >= 0.95 or size == 0 else 2 if size >= 0.095 else 3
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text.replace("0.", ".", 1) if size < 0.9995 and digits > 1 else text


def probability(p: float | None) -> str:
    """`.03`, `.0078`, `1`."""
    if p is None:
        return NONE
    if p >= 0.9995:
        return "1"
    text = f"{p:.2g}" if p >= 1e-4 else f"{p:.0e}"
    return text.removeprefix("0")


def difference(comparison: Comparison | None) -> str:
    """`+1.8 [+.9, +2.7]`."""
    if comparison is None or comparison.difference is None:
        return NONE
    if comparison.low is None:
        return number(comparison.difference, True)
    low, high = number(comparison.low, True), number(comparison.high, True)
    return f"{number(comparison.difference, True)} [{low}, {high}]"


def comparison_text(comparison: Comparison, baseline: str, percent: bool, verdict: str = "") -> str:
    """`+1.8 [+.9, +2.7] points against BASELINE, better on 6 of 6 seeds, p .03 (Holm .06)`."""
    points = " points" if percent else ""
    won = f"{comparison.won} of {_seeds(comparison.pairs)}"
    p, corrected = probability(comparison.p_sign_flip), probability(comparison.p_holm)
    holm = f" (Holm {corrected})" if corrected not in (p, NONE) else ""
    judged = "cannot tell: " if (verdict or comparison.verdict) == "cannot tell" else ""
    return f"{judged}{difference(comparison)}{points} against {baseline}, better on {won}, p {p}{holm}"


def sentence(result: StudyResult, arm: ArmResult) -> str:
    """One arm in one sentence: `+1.8 [+.9, +2.7] points, 6 of 6 seeds, p .03 (Holm .06)`."""
    unit = " %" if result.percent else ""
    spread = f" ± {number(arm.sd)} (sd)" if arm.sd is not None else ""
    mean = f"{number(arm.mean)}{unit}{spread} over {_seeds(arm.n)}" if arm.n else "no score yet"
    if arm.comparison is None:
        return ", ".join((mean, *_remarks(arm)))
    if not arm.comparison.pairs:
        return ", ".join((f"{mean}, no pair with {arm.baseline} yet", *_remarks(arm)))
    text = comparison_text(arm.comparison, arm.baseline or "", result.percent, arm.verdict)
    return "; ".join((text, *_remarks(arm)))


def _remarks(arm: ArmResult) -> Iterator[str]:
    """What became of cells without a score, and of those that collapsed."""
    total = sum(arm.states.values())
    for state in ("diverged", "collapsed", "failed", "stopped", "running", "waiting"):
        if arm.states.get(state):
            yield f"{arm.states[state]} of {total} {state}"


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def caveats(result: StudyResult) -> list[str]:
    """What a reader must know before quoting a number of the study."""
    settings, texts = result.study.settings, []
    if result.pairs < 6:
        texts.append(
            f"No test can reach p = {LEVEL:g}".replace("0.", ".")
            + f" with {result.pairs} pair{'' if result.pairs == 1 else 's'}: the smallest p of the sign-flip "
            f"test is {probability(smallest_p(result.pairs))}. Six seeds are the fewest that can."
        )
    if settings.split == "test":
        texts.append(
            "Scores are of the test split: an arm that is chosen by them is chosen on test, and its score is "
            "no estimate of what it does on new data."
        )
    if settings.split == "train":
        texts.append("Scores are of the training split.")
    if settings.search is not None:
        texts.append(
            "Trials are not tested: the best of many is partly luck. The winner ran again on fresh seeds, "
            "and only these runs are compared with the baseline."
        )
    return texts + _missing_cells(result) + _budget(result)


def _missing_cells(result: StudyResult) -> list[str]:
    left = [s for s in result.cells if s.state in ("waiting", "running")]
    failed = {s.cell.arm: s.error for s in result.cells if s.state in ("failed", "stopped")}
    texts = [f"{len(left)} of {len(result.cells)} cells are not done yet."] if left else []
    return texts + [f"Arm {arm} is incomplete: {error}." for arm, error in failed.items()]


def _budget(result: StudyResult) -> list[str]:
    budget = result.study.settings.budget
    if budget.equal is None and budget.per_cell is None:
        return []
    measure = {"time": "training time", "flops": "FLOPs", "images": "images"}.get(budget.equal or "", "steps")
    counts = {arm.arm.name: arm.steps for arm in result.arms if arm.steps}
    listed = ", ".join(f"{name} {steps:,}" for name, steps in counts.items())
    return [f"The arms have equal {measure}; steps of a cell: {listed or 'not known yet'}."]
