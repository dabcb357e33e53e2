"""The settings of `jepa decode`: `key=value` on its command line; every default stands here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from jepa_core.errors import UserError
from jepa_core.recipes.load import with_overrides
from jepa_core.settings import Settings
from jepa_core.settings.parse import parse

SECTION = "decoder"

Share = Annotated[float, Field(ge=0, le=1)]


class Config(Settings):
    """The network, its training, and what it is measured on."""

    steps: int = Field(8000, ge=1)
    """Optimizer steps."""
    batch_size: int = Field(64, ge=1, le=65536)
    """Images of a step; all of them, where there are fewer."""
    draws: int = Field(3, ge=1, le=64)
    """Noisy versions of each hidden set in a step, each with a kind, a time and noise of its own; features
    are computed once for all of them."""
    width: int = Field(192, ge=4, le=8192)
    """Width of the network; divides by 4 and by `heads`."""
    depth: int = Field(4, ge=1, le=64)
    """Transformer blocks."""
    heads: int = Field(4, ge=1, le=256)
    """Attention heads."""
    kinds: tuple[Share, Share, Share] = (0.2, 0.4, 0.4)
    """Shares of the training that see nothing, the prediction, and the target; they add up to 1."""
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW, after `warmup` and before a cosine to a hundredth of it."""
    warmup: int = Field(200, ge=0)
    """Steps over which the learning rate rises."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's, of every parameter."""
    clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    average: tuple[Share, Share] = (0.99, 0.999)
    """Momentum of the moving average of the weights, which decodes: at the first step and after the last."""
    time_mean: float = -0.4
    """Of the normal whose sigmoid is the time t of a training example."""
    time_std: float = Field(1.0, ge=0)
    """Its standard deviation."""
    at_zero: Share = 0.1
    """Share of the training at t = 0, pure noise, where the answer is the mean-square one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the training's products; auto: bf16 where the device multiplies it fast. Measures are in fp32."""
    checkpoint_every: int = Field(250, ge=1)
    """Steps between two checkpoints."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Of the weights, of the training, and of all that is drawn for the measures."""
    euler_steps: int = Field(20, ge=1, le=10_000)
    """Steps of a sample."""
    samples: int = Field(4, ge=2, le=64)
    """Samples of each hidden set and condition."""
    images: int = Field(512, ge=2)
    """Held-out images that are measured."""

    @model_validator(mode="after")
    def _check_sums(self) -> Config:
        if self.width % 4 or self.width % self.heads:
            raise ValueError(f"a width that divides by 4 and by heads={self.heads}; it is {self.width}")
        if abs(sum(self.kinds) - 1) > 1e-6:
            raise ValueError(f"kinds that add up to 1; they are {list(self.kinds)}")
        return self


MEASURING = ("euler_steps", "samples", "images", "checkpoint_every")
"""Settings that leave the trained network as it is."""


def read_settings(words: Sequence[str]) -> Config:
    """The settings that `key=value` words make of the defaults.

    Raises UserError for a word of another form, an unknown setting, and a value out of range.
    """
    for word in words:
        if "=" not in word:
            raise UserError(f"override {word!r} is not of the form setting=value")
    table = with_overrides({}, [f"{SECTION}.{word}" for word in words])
    return parse(Config, table.get(SECTION, {}), SECTION)


def training_settings(config: Config) -> dict[str, Any]:
    """The settings on which the trained network depends, as plain values."""
    return config.model_dump(mode="json", exclude=set(MEASURING))
