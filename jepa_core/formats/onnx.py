"""The format `onnx`: an encoder as a graph for onnxruntime and its kin; written only.

    images [B, 3, H, W], prepared  ->  tokens [B, N, D], features [B, D], their mean;  any B, one H and W

What is unusual: the graph is that of the timm model with the same features, whose attention every runtime
knows. The folder holds model.onnx (beside it model.onnx.data where it is larger than 2 GB); the preprocessing
stands in the model's metadata.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jepa_core.errors import UserError
from jepa_core.formats.base import Export, Weights
from jepa_core.formats.weight_file import Source
from jepa_core.settings.base import ComponentSettings


class Onnx:
    """An encoder as an ONNX graph; written only."""

    class Config(ComponentSettings):
        """It has no settings."""

    suffix = ""

    def __init__(self, config: Config) -> None:
        self.config = config

    def recognises(self, source: Source) -> bool:
        """By the file's name, to say that such files are not read."""
        return source.path is not None and (
            source.path.suffix == ".onnx" or (source.path / "model.onnx").is_file()
        )

    def read(self, source: Source, settings: Mapping[str, Any]) -> Weights:
        """Raises UserError: a graph does not say which tensor is which."""
        raise UserError(f"{source.name}: onnx is written only; import the weights it was made of")

    def write(self, export: Export, path: Path) -> Sequence[str]:
        """A folder with model.onnx. Raises UserError where the exporter is not installed."""
        vit = export.timm(self.config.name).build()
        images = torch.zeros(2, 3, *export.preprocessing.image_size)
        with _silence():
            program = _program(_Features(vit), images)
        about = export.preprocessing
        program.model.metadata_props.update(
            {
                "jepa_core": json.dumps(
                    {"recipe": export.recipe.name, "role": export.role, "step": export.step}
                ),
                "image_size": json.dumps(about.image_size),
                **{key: json.dumps(value) for key, value in about.section().items()},
            }
        )
        path.mkdir(parents=True)
        program.save(path / "model.onnx")
        return [export.encoder_name]


class _Features(nn.Module):
    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.vit.forward_features(images)[:, self.vit.num_prefix_tokens :]
        return tokens, tokens.mean(1)


def _program(module: nn.Module, images: Tensor) -> Any:
    try:
        return torch.onnx.export(
            module.eval(),
            (images,),
            input_names=["images"],
            output_names=["tokens", "features"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
    except ModuleNotFoundError as error:
        raise UserError(
            f"export to onnx needs {error.name}, which is not installed: pip install 'jepa-core[onnx]'"
        ) from None


@contextmanager
def _silence() -> Iterator[None]:
    """Inside, the exporter's warnings, which concern its own implementation, are not shown."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
