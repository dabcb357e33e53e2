"""The variant `classifier`: an encoder, the mean of its tokens, a norm and a linear layer to the classes.

    views (mixup, cutmix) -> encode_context -> predict (mean, norm, linear) -> cross_entropy

What is unusual: it is supervised. Targets are the labels of the batch as shares of classes, so mixed images
have mixed targets; masker, predictor and target update are `none`. The encoder may start from a run
(`[init.encoder]`), and layers near the input learn slower (`optimizer.layer_decay`).

Axes: B samples, C classes, D width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_core.errors import UserError
from jepa_core.jepa import JEPA, Views
from jepa_core.maskers.none import NoMasks
from jepa_core.nn.identity import NoPredictor
from jepa_core.types import Batch, IndexSet, MaskPlan, Tokens
from jepa_core.types.step import Step
from jepa_finetune.drop_path import add_drop_path, set_samples
from jepa_finetune.mixing import make_mixing


class Classifier(JEPA):
    """Logits of classes from the mean of the encoder's tokens. Masker and predictor are `none`.

    Raises UserError for a masker or a predictor, and for `drop_path` with an encoder whose blocks are not
    timm's. Head and mean pooling: MAE (arXiv 2111.06377, appendix A.2); the I-JEPA paper fine-tunes so.
    """

    class Config(JEPA.Config):
        """Settings of the variant."""

        target_norm: Literal["none"] = "none"
        """Targets are shares of classes as they are."""
        target_layers: Literal[1] = 1
        """The head sees the final output."""
        classes: int = Field(ge=2)
        """C; the data's labels go from 0 to C - 1."""
        head_norm: Literal["layer", "batch", "none"] = "layer"
        """Norm between the mean of the tokens and the linear layer: over the width, or each feature over the
        batch (without affine; it keeps running means for evaluation)."""
        head_std: float = Field(2e-5, ge=0)
        """Standard deviation of the initial weights of the linear layer (MAE's); its bias starts at 0."""
        mixup: float = Field(0.0, ge=0)
        """α of mixup (arXiv 1710.09412): each image is added to another one, with shares from Beta(α, α)."""
        cutmix: float = Field(0.0, ge=0)
        """α of cutmix (arXiv 1905.04899): a rectangle is taken from another image. With mixup, one of the two
        is drawn for each batch."""
        drop_path: float = Field(0.0, ge=0, lt=1)
        """Probability with which the last block leaves out a residual branch of a sample; it rises linearly
        from 0 at the first block (arXiv 1603.09382)."""

    config: Config

    def __init__(self, config: Config, **parts: Any) -> None:
        super().__init__(config, **parts)
        for kind, none in {"masker": NoMasks, "predictor": NoPredictor}.items():
            if not isinstance(parts[kind], none):
                raise UserError(
                    f"variant {config.name!r} has no {kind}; "
                    f"got {parts[kind].config.name!r}, expected {kind}.name=none"
                )
        self.norm = make_norm(config.head_norm, self.encoder.width)
        self.head = nn.Linear(self.encoder.width, config.classes)
        nn.init.trunc_normal_(self.head.weight, std=config.head_std)
        nn.init.zeros_(self.head.bias)
        self.mixing = make_mixing(config.mixup, config.cutmix, config.classes)
        if config.drop_path:
            add_drop_path(self.encoder, config.drop_path)

    def views(self, batch: Batch) -> Views:
        """The first view, in training mixed where the settings say so, and the shares of classes [B, C]."""
        view = super().views(batch).context
        labels = self.check_labels(batch)
        if self.training and self.mixing is not None:
            return Views(*self.mixing(view, labels))
        return Views(view, F.one_hot(labels, self.config.classes).to(view.dtype))

    def check_labels(self, batch: Batch) -> Tensor:
        """int64 [B]. Raises UserError for a batch without labels, or with others than 0 … C - 1."""
        labels = batch.labels
        if labels is None or bool((labels < 0).any()):
            raise UserError("the classifier trains on labels, and a sample has none; see data.name=labelled")
        if bool((labels >= self.config.classes).any()):
            raise UserError(
                f"a sample has the label {int(labels.max())}; variant.classes is {self.config.classes}"
            )
        return labels

    def run_stages(self, batch: Batch, plan: MaskPlan) -> Step:
        """The stages in order; labels are no features, which collapse scores would be made of."""
        set_samples(self.encoder, batch.batch_size)
        return replace(super().run_stages(batch, plan), target_tokens=None)

    def encode_target(self, view: Tensor, plan: MaskPlan) -> Tokens:
        """Shares of classes [B, C] as one token a sample."""
        return as_tokens(view)

    def predict(self, contexts: tuple[Tokens, ...], plan: MaskPlan, condition: Any) -> tuple[Tokens, ...]:
        """Logits [B, C] as one token a sample."""
        return (as_tokens(self.classify(contexts[0])),)

    def classify(self, tokens: Tokens) -> Tensor:
        """Logits [B, C] of the encoder's tokens."""
        logits: Tensor = self.head(self.norm(tokens.mean()))
        return logits

    def logits(self, view: Tensor) -> Tensor:
        """Logits [B, C] of whole views."""
        return self.classify(self.encoder(view))

    def metrics(self, step: Step) -> dict[str, Tensor | float]:
        """Accuracy on the training batch; of mixed images, by the class with the larger share."""
        predictions, targets = step.predictions[0].values, step.targets[0].values
        return {"train_accuracy": (predictions.argmax(-1) == targets.argmax(-1)).float().mean()}


def make_norm(kind: str, width: int) -> nn.Module:
    """The norm of features [B, D] that `head_norm` names."""
    if kind == "layer":
        return nn.LayerNorm(width, eps=1e-6)
    return nn.BatchNorm1d(width, affine=False, eps=1e-6) if kind == "batch" else nn.Identity()


def as_tokens(values: Tensor) -> Tokens:
    """[B, C] as one token a sample."""
    return Tokens(values, IndexSet.full(len(values), 1, values.device), (1,))
