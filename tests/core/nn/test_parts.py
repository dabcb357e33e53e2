"""Parts of a model by path."""

from __future__ import annotations

import pytest
from torch import nn

from jepa_core import UserError
from jepa_core.nn.parts import drop_target, find_part, is_encoder, list_parts, target_of


def model() -> nn.Module:
    whole = nn.Module()
    whole.encoder = nn.Linear(2, 2)
    whole.target_encoder = nn.Linear(2, 2)
    whole.encoders = nn.ModuleDict({"text": nn.Linear(2, 2), "sound": nn.Linear(2, 2)})
    whole.target_encoders = nn.ModuleDict({"text": nn.Linear(2, 2)})
    whole.predictor = nn.Identity()
    return whole


def test_parts_are_those_with_weights_named_encoders_one_by_one() -> None:
    names = ["encoder", "target_encoder", "encoders.text", "encoders.sound", "target_encoders.text"]
    assert list_parts(model()) == names
    whole = model()
    assert find_part(whole, "model") is whole
    assert find_part(whole, "encoders.text") is whole.encoders["text"]
    with pytest.raises(UserError, match=r"unknown part of the model 'encoders.txt'; known: encoder, .*text"):
        find_part(whole, "encoders.txt")


def test_an_encoder_knows_where_its_target_is() -> None:
    assert [target_of(path) for path in ("encoder", "encoders.text", "encoder.blocks", "predictor")] == [
        "target_encoder",
        "target_encoders.text",
        "target_encoder.blocks",
        None,
    ]
    assert [is_encoder(path) for path in ("encoder", "encoders.text", "encoders", "encoder.blocks")] == [
        True,
        True,
        False,
        False,
    ]


def test_a_target_is_dropped_where_there_is_one() -> None:
    whole = model()
    for path in ("encoder", "encoders.text", "encoders.sound", "encoder.blocks", "predictor"):
        drop_target(whole, path)
    assert whole.target_encoder is None
    assert list(whole.target_encoders) == []
    assert list(whole.encoders) == ["text", "sound"]
