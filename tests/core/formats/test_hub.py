"""Published weights by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepa_core import UserError
from jepa_core.formats.hub import fetch_repository, find_source


def test_a_format_may_stand_before_the_name() -> None:
    source, form = find_source("timm:vit_small_patch16_224")
    assert (source.name, source.path, form) == ("vit_small_patch16_224", None, "timm")
    assert find_source("vit_small_patch16_224")[1] is None


def test_a_name_with_a_slash_is_a_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    source, form = find_source("huggingface:somebody/encoder")
    assert (source.path, form) == (tmp_path, "huggingface")
    assert find_source("somebody/encoder")[1] is None
    assert asked[0][0] == asked[1][0] == "somebody/encoder"
    assert "model.safetensors" in asked[0][1]


def test_what_cannot_be_fetched_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise OSError("no route to host\nand more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(UserError) as error:
        fetch_repository("somebody/encoder")
    assert str(error.value) == (
        "the weights 'somebody/encoder' are not in the cache and cannot be fetched: no route to host"
    )


def test_a_path_is_no_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a path; a run's folder is given as run=…"):
        find_source(str(tmp_path))
