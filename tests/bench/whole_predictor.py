"""Predictors that leave nothing out, to compare with: all rows of a last block, a context for each target."""

from __future__ import annotations

import pytest
from torch import Tensor

from jepa_core.nn import packed_predictor
from jepa_core.nn.attention import run_blocks


def compute_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last block is computed at all of its rows."""

    def run_whole(blocks, x: Tensor, places, rows: Tensor, *, recompute: bool = False) -> Tensor:
        return run_blocks(blocks, x, places, recompute=recompute)[0].index_select(0, rows)

    monkeypatch.setattr(packed_predictor, "run_blocks_at", run_whole)


def repeat_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A predictor of one block has copies of its contexts too."""
    monkeypatch.setattr(packed_predictor.PackedPredictor, "packing_mode", lambda self, plan: self.mode)
