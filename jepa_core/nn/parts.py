"""Parts of a model by their module path (`encoder`, `encoders.text`, `predictor`)."""

from __future__ import annotations

from torch import nn

from jepa_core.errors import unknown
from jepa_core.settings.initial import WHOLE

ENCODERS = ("encoder", "encoders")
"""First words of the paths of encoders; `target_` before them gives those of their target encoders."""


def find_part(model: nn.Module, path: str) -> nn.Module:
    """A module by its path; `model` is the whole. Raises UserError, which lists the parts, for others."""
    if path == WHOLE:
        return model
    if not holds_part(model, path):
        raise unknown("part of the model", path, (WHOLE, *list_parts(model)))
    return model.get_submodule(path)


def holds_part(model: nn.Module, path: str) -> bool:
    """Whether there is a module of this path."""
    return bool(path) and path in dict(model.named_modules(remove_duplicate=False))


def list_parts(model: nn.Module) -> list[str]:
    """The paths of a model's children that have weights; of a dictionary of modules those inside it."""
    paths: list[str] = []
    for name, child in model.named_children():
        inside = [f"{name}.{key}" for key in child] if isinstance(child, nn.ModuleDict) else [name]
        paths += [path for path in inside if model.get_submodule(path).state_dict()]
    return paths


def is_encoder(path: str) -> bool:
    """Whether a path is that of a whole encoder, `encoder` or `encoders.NAME`, and not of a part of one."""
    names = path.split(".")
    return names[0] in ENCODERS and len(names) == 1 + ENCODERS.index(names[0])


def target_of(path: str) -> str | None:
    """The path in the target encoder for one in an encoder: `target_encoders.text`; None outside encoders."""
    return f"target_{path}" if path.split(".")[0] in ENCODERS else None


def drop_target(model: nn.Module, path: str) -> None:
    """Takes away the target encoder of an encoder, where it has one: the encoder is then its own target."""
    target = target_of(path)
    if target is None or not is_encoder(path) or not holds_part(model, target):
        return
    holder, _, name = target.rpartition(".")
    if holder:
        delattr(model.get_submodule(holder), name)
    else:
        setattr(model, name, None)
