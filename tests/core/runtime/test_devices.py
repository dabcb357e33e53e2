"""Which device a setting means; what it cannot mean stands in `bad_input`."""

from __future__ import annotations

import pytest
import torch

from jepa_core.runtime.devices import pick_device, usable_device, use_bf16


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.mark.parametrize(
    ("name", "expected"), [("auto", "cuda:2"), ("cuda", "cuda:2"), ("cuda:1", "cuda:1"), ("cpu", "cpu")]
)
@pytest.mark.usefixtures("four_gpus")
def test_a_process_takes_the_gpu_of_its_local_rank(name: str, expected: str) -> None:
    assert pick_device(name, local=2) == torch.device(expected)


def test_a_device_that_is_gone_is_replaced_aloud(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    assert usable_device("cuda:3") == torch.device("cpu")
    assert caplog.messages[0].endswith("sees no GPU here; taking cpu")


def test_precision_is_a_word_or_left_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for fast in (False, True):
        monkeypatch.setattr("jepa_core.runtime.devices.fast_bf16", lambda _, fast=fast: fast)
        assert [use_bf16(word, cpu) for word in ("auto", "fp32", "bf16")] == [fast, False, True]
