"""Throughput of latent roll-outs: many episodes at once, and one after the other.

pytest tests/bench/test_bench_world.py --benchmark-enable
"""

import time
from itertools import pairwise

import pytest
import torch

from jepa_core import build_model, load_recipe

EPISODES, STEPS = 64, 4


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def world():
    """The demo's model, the states of EPISODES frames and their actions."""
    model = build_model(load_recipe("world/two_rooms")).eval()
    start = model.start(torch.randn(EPISODES, 1, model.encoder.width))
    return model, start, torch.randn(EPISODES, STEPS, 2)


def roll_out(world, batch):
    model, start, actions = world
    ends = [*range(0, EPISODES, batch), EPISODES]
    with torch.no_grad():
        return torch.cat([model.roll_out(start[a:b], actions[a:b]) for a, b in pairwise(ends)])


@pytest.mark.benchmark(group=f"{EPISODES} latent roll-outs of {STEPS} steps")
@pytest.mark.parametrize("batch", [1, EPISODES], ids=["one by one", "at once"])
def test_roll_outs(benchmark, world, batch):
    assert benchmark(roll_out, world, batch).shape[:2] == (EPISODES, STEPS)


def test_a_batch_of_episodes_is_ten_times_as_fast(world):
    seconds = {}
    for batch in (1, EPISODES):
        began = time.process_time()
        roll_out(world, batch)
        seconds[batch] = time.process_time() - began
    torch.testing.assert_close(roll_out(world, 1), roll_out(world, EPISODES), rtol=1e-4, atol=1e-4)
    assert seconds[1] / seconds[EPISODES] > 10, seconds
