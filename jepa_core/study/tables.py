"""The table of a study's arms as CSV, LaTeX and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from jepa_core.report.text import duration, si
from jepa_core.study.results import ArmResult, StudyResult
from jepa_core.study.words import NONE, difference, number, probability

HEAD = ("arm", "n", "mean", "sd", "difference", "p", "p (Holm)", "rho", "won", "steps", "time", "FLOPs")


def rows(result: StudyResult) -> list[list[str]]:
    """The table as text: the head, then a line an arm."""
    head = list(HEAD)
    head[2] = f"{result.study.settings.metric}{', %' if result.percent else ''}"
    return [head, *([*_row(arm)] for arm in result.arms)]


def _row(arm: ArmResult) -> Sequence[str]:
    comparison = arm.comparison
    won = f"{comparison.won}/{comparison.pairs}" if comparison else NONE
    states = ", ".join(f"{count} {state}" for state, count in arm.states.items() if state not in ("done",))
    return (
        arm.arm.name + (f" ({states})" if states else ""),
        str(arm.n),
        number(arm.mean),
        number(arm.sd),
        difference(comparison) if comparison else "baseline",
        probability(comparison.p_sign_flip) if comparison else NONE,
        probability(comparison.p_holm) if comparison else NONE,
        number(comparison.rho) if comparison else NONE,
        won,
        f"{arm.steps:,}" if arm.steps else NONE,
        duration(arm.train_seconds) if arm.train_seconds else NONE,
        si(arm.flops, "").strip() if arm.flops else NONE,
    )


def to_csv(result: StudyResult) -> str:
    """The table as CSV."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows(result))
    return stream.getvalue()


def to_markdown(result: StudyResult) -> str:
    """The table in Markdown; numbers are set to the right."""
    head, *lines = ([cell.replace("|", "\\|") for cell in row] for row in rows(result))
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *lines)) + "\n"


def to_latex(result: StudyResult) -> str:
    """The table as a LaTeX `tabular` (package booktabs)."""
    head, *lines = ([_escape(cell) for cell in row] for row in rows(result))
    body = "\n".join("  " + " & ".join(row) + r" \\" for row in lines)
    columns = "l" + "r" * (len(head) - 1)
    return (
        f"\\begin{{tabular}}{{{columns}}}\n  \\toprule\n  {' & '.join(head)} \\\\\n  \\midrule\n{body}\n"
        "  \\bottomrule\n\\end{tabular}\n"
    )


def _escape(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "–": "--", "±": r"$\pm$", "~": r"\textasciitilde{}"}
    special |= {"^": r"\textasciicircum{}"} | {char: f"\\{char}" for char in "&%$#_{}"}
    return "".join(special.get(char, char) for char in text)
