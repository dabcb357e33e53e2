"""Cross-entropy: the predictions are logits of classes, the targets the share of each class.

    loss = − Σ_c t_c log softmax(p)_c,      t = (1 − s) · target + s / C

Axes: S packed tokens, C classes.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from jepa_core.objectives.base import LossTerm, pair_values
from jepa_core.types.step import Step


class CrossEntropy(LossTerm):
    """Mean over tokens of the cross-entropy of logits [S, C] with shares of classes [S, C].

    A target may be one class, or a mixture of several (mixup). Raises ValueError where nothing is predicted.
    Label smoothing: Szegedy et al. 2016 (arXiv 1512.00567).
    """

    class Config(LossTerm.Config):
        label_smoothing: float = Field(0.0, ge=0, lt=1)
        """s, the share of each target that is spread evenly over all classes."""

    config: Config

    def forward(self, step: Step) -> Tensor:
        predictions, targets = pair_values(step)
        return F.cross_entropy(predictions, targets, label_smoothing=self.config.label_smoothing)
