"""Time of one batch of masks, beside the same rule one sample at a time.

pytest tests/bench/test_bench_maskers.py --benchmark-enable
"""

import numpy as np
import pytest
import torch

from jepa_ijepa.maskers import Block, Multiblock, Random, Rasterised
from tests.plugins.reference_masks import OFFICIAL, cut_first, official_batch

CASES = {
    "multiblock": (Multiblock, {}),
    "multiblock, official": (Multiblock, OFFICIAL),
    "multiblock, a size a block": (Multiblock, {"sizes": "sample"}),
    "block": (Block, {}),
    "random": (Random, {}),
    "rasterised": (Rasterised, {}),
}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.benchmark(group="masks of 128 samples on 14x14")
@pytest.mark.parametrize("name", CASES)
def test_masker(benchmark, name):
    masker_class, values = CASES[name]
    masker, generator = (
        masker_class(masker_class.Config(name=name, **values)),
        torch.Generator().manual_seed(0),
    )
    plan = benchmark(masker, (14, 14), 128, generator)
    assert plan.batch_size == 128


@pytest.mark.benchmark(group="masks of 128 samples on 14x14")
def test_per_sample_loop(benchmark):
    rng = np.random.default_rng(0)

    def per_sample_loop():
        targets, contexts = official_batch(rng, (14, 14), 128)
        return [[np.flatnonzero(block) for block in blocks] for blocks in targets], cut_first(contexts)

    targets, contexts = benchmark(per_sample_loop)
    assert len(targets) == len(contexts) == 128
