"""The decoder's training: a step is a function of its number, so a killed one goes on bit for bit.

Images, masks, kinds, times and noise of step s follow from (seed, s) alone. The run's model is frozen and in
evaluation mode; its features are computed for each batch, once for several noisy versions of it.

Axes: Q sets, S packed hidden patches, X pixels of a patch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from jepa_core.data.loader import make_loader
from jepa_core.jepa import JEPA
from jepa_core.protocols import Samples
from jepa_core.runtime.devices import use_bf16
from jepa_core.runtime.seeding import step_generator
from jepa_core.schedules import warmup_cosine
from jepa_core.settings.recipe import Recipe
from jepa_core.target_updates import Ema
from jepa_decoder.flow import add_noise, draw_times, loss_weight
from jepa_decoder.hidden import HiddenSets, draw_masks, hidden_sets
from jepa_decoder.network import KINDS, TARGET, Decoder
from jepa_decoder.settings import Config


class Trained(nn.Module):
    """The network in training and the moving average of its weights, which decodes."""

    def __init__(self, network: Decoder, average: nn.Module) -> None:
        super().__init__()
        self.network, self.average = network, average


class Training:
    """The network, its average and its optimizer after `done` steps."""

    def __init__(
        self, config: Config, pixels: int, feature_width: int, grid: tuple[int, ...], device: torch.device
    ) -> None:
        self.config, self.device, self.done = config, device, 0
        self.bf16 = use_bf16(config.precision, device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = Decoder(config, pixels, feature_width, grid).to(device)
        self.ema = Ema(Ema.Config(name="ema", momentum=config.average))
        self.model = Trained(network, self.ema.make_target(network))
        self.optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=config.lr,
            betas=(0.9, 0.95),
            weight_decay=config.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )

    def step(self, sets: HiddenSets) -> dict[str, float]:
        """One optimizer step; the loss, and the error of x̂ of each kind that occurred."""
        config, network = self.config, self.model.network
        lr = warmup_cosine(self.done, config.steps, config.warmup, 0.0, config.lr, config.lr / 100)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        generator = step_generator(config.seed, 0, self.done, "decoder")
        self.optimizer.zero_grad(set_to_none=True)
        loss, errors = self.loss(sets.repeat(config.draws), generator)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        self.optimizer.step()
        self.ema.update(self.model.average, network, self.done, config.steps)
        self.done += 1
        return {"loss": loss.item(), **errors}

    def loss(self, sets: HiddenSets, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The velocity's mean-square error over all patches, and the plain error of each kind."""
        config, count, device = self.config, sets.at.batch_size, self.device
        kind = draw_kinds(count, config.kinds, generator).to(device)
        t = draw_times(count, config.time_mean, config.time_std, config.at_zero, generator).to(device)
        noise = torch.randn(sets.pixels.shape, generator=generator).to(device)
        kind_of_patch, t_of_patch = kind[sets.at.segments], t[sets.at.segments][:, None]
        features = torch.where((kind_of_patch == TARGET)[:, None], sets.target, sets.predicted)
        x = add_noise(sets.pixels, noise, t_of_patch)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            guess = self.model.network(x, t, kind, features, sets.at)
        error = (guess.float() - sets.pixels).square().mean(1)
        plain = {
            f"error/{name}": error.detach()[kind_of_patch == number].mean().item()
            for number, name in enumerate(KINDS)
        }
        return (error * loss_weight(t_of_patch[:, 0])).mean(), plain

    def state_dict(self) -> dict[str, Any]:
        """What training needs beside the weights to go on."""
        return {"step": self.done, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave for a network of the same settings."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = state["step"]


def draw_kinds(count: int, shares: tuple[float, ...], generator: torch.Generator) -> Tensor:
    """int64 [count]: kinds in these shares."""
    return torch.multinomial(torch.tensor(shares), count, replacement=True, generator=generator)


def training_sets(
    recipe: Recipe, model: JEPA, samples: Samples, config: Config, start: int
) -> Iterator[HiddenSets]:
    """The hidden sets of each step from `start` on: the run's images, its training transforms, its masker."""
    device = next(model.parameters()).device
    transforms = None if model.transforms is None or model.transforms.plain else model.transforms
    loader = make_loader(
        samples,
        recipe.transform,
        model.encoder.view_shape(),
        min(config.batch_size, max(1, len(samples))),
        steps=range(start, config.steps),
        seed=config.seed,
        workers=recipe.data.workers,
        max_corrupt=recipe.data.max_corrupt,
        fields=transforms,
    )
    for loaded in loader:
        batch = loaded.batch.to(device)
        plan = draw_masks(model, batch, config.seed, loaded.step)
        with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16(config.precision, device)):
            sets = hidden_sets(model, batch, plan)
        yield sets
