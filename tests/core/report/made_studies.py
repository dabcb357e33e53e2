"""Runs of a study without training: folders with a recipe, a log, events and a made-up probe table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jepa_core import load_recipe
from jepa_core.runs.folder import RECIPE

ENVIRONMENT = {
    "versions": {"python": "3.12.1", "jepa-core": "0.1.0", "torch": "2.14.1"},
    "platform": "Linux-6.1-x86_64",
    "cpu": {"model": "made-up processor", "cores": 4, "threads": 2},
    "memory_gib": 16.0,
    "gpus": [],
    "git": None,
}
VARIANTS: Mapping[str, Sequence[str]] = {
    "union": (),
    "random": ("masker.name=random",),
    "multiblock": ("masker.name=multiblock",),
    "deep-predictor": ("predictor.depth=4",),
    "narrow": ("encoder.width=96", "encoder.heads=2"),
}


def make_study_run(
    folder: Path,
    *overrides: str,
    recipe: str | Path = "ijepa/demo",
    knn: float | None = 0.4,
    twin: float = 0.3,
    steps: int = 60,
    table: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Path:
    """A run of `steps` logged steps with kNN and linear scores; `table` replaces entries of eval.json."""
    folder.mkdir(parents=True, exist_ok=True)
    resolved = load_recipe(recipe, f"train.steps={steps}", f"seed={seed}", *overrides)
    (folder / RECIPE).write_text(resolved.to_toml(), encoding="utf-8")
    random = np.random.default_rng(seed)
    lines = [_line(step, steps, random, resolved.optimizer.lr, knn or 0.4) for step in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    started = {"kind": "started", "step": 0, "time": "2026-11-20T10:00:00+00:00", "total_steps": steps}
    started |= {"images": 5000, "parameters": 700_000, "device": "cpu", "precision": "fp32", "processes": 1}
    started |= {"environment": ENVIRONMENT, "command": "jepa train", "data": "made-up images"}
    stopped = {"kind": "stopped", "step": steps, "time": "2026-11-20T10:03:00+00:00", "why": "finished"}
    events = [started, {**stopped, "seconds": 180 + seed}]
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    if knn is not None:
        content = {**probe_table(knn, twin, steps), **(table or {})}
        (folder / "eval.json").write_text(json.dumps(content))
    return folder


def _line(step: int, steps: int, random: np.random.Generator, lr: float, knn: float) -> dict[str, float]:
    share = step / steps
    return {
        "step": step,
        "loss": 0.3 + math.exp(-10 * knn * share) + 0.02 * random.normal(),
        "retrieval": min(1.0, 0.05 + 1.5 * knn * share + 0.03 * random.normal()),
        "retrieval_chance": 1 / 128,
        "rankme": 8 + 50 * knn * share + random.normal(),
        "feature_std": 0.8 + 0.05 * random.normal(),
        "grad_norm": 1 + abs(random.normal()),
        "lr": lr * (1 - share),
        "images_per_s": 900 + 50 * random.normal(),
        "skipped_steps": 0,
    }


def probe_table(knn: float, twin: float = 0.3, step: int | None = 60) -> dict[str, Any]:
    """An eval.json with kNN and linear scores."""
    rows = [
        _row("trained", "target encoder, mean over tokens", knn),
        _row("random twin", "target encoder, mean over tokens, untrained", twin),
        _row("raw pixels", "32×32 pixels", twin - 0.02),
    ]
    return {
        "rows": rows,
        "baseline": "random twin",
        "split": "test",
        "train_images": 50_000,
        "held_out_images": 10_000,
        "classes": 10,
        "majority": 0.1,
        "step": step,
        "task": None,
        "others": [],
    }


def _row(name: str, description: str, score: float) -> dict[str, Any]:
    scores = {
        "knn": {"top1": score, "top1_se": 0.005},
        "linear": {"top1": score + 0.03, "top1_se": 0.005},
    }
    return {
        "name": name,
        "description": description,
        "width": 192,
        "scores": scores,
        "rankme": 20.5,
        "feature_std": 0.9,
    }


def make_study(folder: Path, seeds: int = 3, count: int = 14, **options: Any) -> list[Path]:
    """`count` runs of up to five recipes with `seeds` seeds each, called `VARIANT-sSEED`."""
    names = [(variant, seed) for variant in VARIANTS for seed in range(seeds)][:count]
    runs = []
    for variant, seed in names:
        knn = 0.40 + 0.02 * list(VARIANTS).index(variant) + 0.004 * seed
        overrides = VARIANTS[variant]
        path = folder / f"{variant}-s{seed}"
        runs.append(make_study_run(path, *overrides, knn=knn, twin=0.3 + 0.001 * seed, seed=seed, **options))
    return runs
