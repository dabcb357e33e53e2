"""What the variables of torchrun may say, and what is refused in a line."""

from __future__ import annotations

import pytest

from jepa_core import UserError
from jepa_core.runtime.launch import Launch, read_launch

MEET = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
TWO = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", **MEET}


def test_a_process_alone_and_one_of_several() -> None:
    for alone in (
        {},
        {"RANK": "0"},
        {"WORLD_SIZE": "1"},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"WORLD_SIZE": ""},
    ):
        assert read_launch(alone) is None
    assert read_launch(TWO) == Launch(1, 2, 1)
    assert read_launch({**TWO, "RANK": " 3 ", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}) == Launch(3, 4, 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"WORLD_SIZE": "two"}, "the environment variable WORLD_SIZE is 'two'; expected a"),
        ({"WORLD_SIZE": "0"}, "the environment variable WORLD_SIZE is '0'; expected a whole number from 1"),
        ({"WORLD_SIZE": "2.0"}, "the environment variable WORLD_SIZE is '2.0'; "),
        ({"WORLD_SIZE": "9" * 5000}, "the environment variable WORLD_SIZE is '999"),
        ({"WORLD_SIZE": "²"}, "the environment variable WORLD_SIZE is '²'; "),
        ({"RANK": "-1"}, "the environment variable RANK is '-1'; expected a whole number from 0"),
        ({"RANK": "x"}, "the environment variable RANK is 'x'; "),
        ({"RANK": "2"}, "RANK is 2, but WORLD_SIZE is 2; expected a rank from 0 to 1"),
        ({"WORLD_SIZE": None}, "RANK is 1, but WORLD_SIZE is not set; expected a rank from 0 to 0"),
        ({"WORLD_SIZE": "1"}, "RANK is 1, but WORLD_SIZE is 1; expected a rank from 0 to 0"),
        ({"RANK": None}, "WORLD_SIZE is 2, but RANK is not set; start the processes"),
        ({"LOCAL_RANK": "-3"}, "the environment variable LOCAL_RANK is '-3'; "),
        ({"LOCAL_RANK": "gpu"}, "the environment variable LOCAL_RANK is 'gpu'; "),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK is 2, but WORLD_SIZE is 2"),
        ({"LOCAL_WORLD_SIZE": "1"}, "LOCAL_RANK is 1, but LOCAL_WORLD_SIZE is 1"),
        ({"MASTER_PORT": None}, "RANK and WORLD_SIZE are set, but MASTER_PORT not; start the processes with"),
        ({"MASTER_PORT": "", "MASTER_ADDR": ""}, "RANK and WORLD_SIZE are set, but MASTER_ADDR and MASTER"),
        ({"MASTER_PORT": "http"}, "the environment variable MASTER_PORT is 'http'; "),
        ({"MASTER_PORT": "0"}, "the environment variable MASTER_PORT is '0'; "),
        ({"MASTER_PORT": "65536"}, "the environment variable MASTER_PORT is '65536'; "),
        ({"MASTER_ADDR": "no.host.invalid"}, "MASTER_ADDR is 'no.host.invalid', which is no"),
        ({"MASTER_ADDR": "." * 300}, "MASTER_ADDR is '...."),
    ],
)  # fmt: skip
def test_nonsense_is_one_line(changes: dict[str, str | None], said: str) -> None:
    variables = {name: value for name, value in {**TWO, **changes}.items() if value is not None}
    with pytest.raises(UserError) as error:
        read_launch(variables)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)
