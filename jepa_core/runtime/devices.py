"""Which device a run is on, and whether bf16 is worth it there."""

from __future__ import annotations

import logging
import re

import torch

from jepa_core.errors import UserError

log = logging.getLogger("jepa.devices")


def pick_device(name: str, local: int = 0) -> torch.device:
    """The device a setting names; of several GPUs the one of the process's local rank, unless it names one.

    Raises UserError where it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"setting 'train.device' is {name!r}; expected auto, cpu, cuda or cuda:<number>")
    device = torch.device(f"cuda:{local}" if name == "cuda" else name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"setting 'train.device' is {name!r}, but torch {torch.__version__} sees no GPU here")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise UserError(f"setting 'train.device' is {name!r}; the GPUs here are cuda:0 to cuda:{last}")
    return device


def usable_device(name: str) -> torch.device:
    """The device of a run's training or, where this machine lacks it, the one that it has."""
    try:
        return pick_device(name)
    except UserError as error:
        device = pick_device("auto")
        log.warning("%s; taking %s", error, device)
        return device


def fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 faster than fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def use_bf16(precision: str, device: torch.device) -> bool:
    """What the setting `train.precision` (auto, fp32, bf16) means on a device, in training and evaluation."""
    return precision == "bf16" or (precision == "auto" and fast_bf16(device))
