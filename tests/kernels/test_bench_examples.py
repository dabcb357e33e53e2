"""The examples for other people's benchmarks: they import, and compute on our cases what they say."""

import importlib
import sys
import types
from importlib.util import find_spec

import pytest
import torch

from jepa_kernels import block_attention
from jepa_kernels.bench import load


def test_attention_gym_masks_each_sequence_for_itself():
    pytest.importorskip("attn_gym")
    from kernels.benchmarks import attention_gym

    case = load("CIFAR T/4 context")
    mask, total = attention_gym.document_mask(case)
    ends = torch.tensor(case.lengths).cumsum(0)
    query_token = torch.randint(total, (200,))
    key_token = torch.randint(total, (200,))
    own = torch.bucketize(query_token, ends, right=True) == torch.bucketize(key_token, ends, right=True)
    none = torch.zeros((), dtype=torch.long)  # batch and head, which the mask does not look at
    assert torch.equal(mask(none, none, query_token, key_token), own)
    assert {"b", "nh", "s", "d", "mods", "dtype"} == set(attention_gym.settings()[0])


def stand_in():
    """A fake `tritonbench.utils.triton_op`: decorators without effect, and the base class's attributes."""
    module = types.ModuleType("tritonbench.utils.triton_op")
    module.BenchmarkOperator = type(
        "BenchmarkOperator", (), {"device": "cpu", "dtype": torch.float32, "requires_grad": True}
    )
    module.BenchmarkOperatorMetrics = object
    module.register_benchmark = lambda **settings: lambda method: method
    module.register_metric = lambda **settings: lambda method: method
    return module


def test_the_operator_of_tritonbench_computes_attention_on_our_cases(monkeypatch):
    """With tritonbench where it is installed, else with a fake: it is not on PyPI."""
    absent = find_spec("tritonbench") is None
    if absent:
        for name in ("tritonbench", "tritonbench.utils"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setitem(sys.modules, "tritonbench.utils.triton_op", stand_in())
    monkeypatch.delitem(sys.modules, "kernels.benchmarks.tritonbench_operator", raising=False)
    operator = importlib.import_module("kernels.benchmarks.tritonbench_operator")
    assert operator.Operator.DEFAULT_PRECISION == "bf16"
    if absent:
        monkeypatch.setattr(operator, "names", lambda: ["CIFAR T/4 context"])
        instance = operator.Operator()
        qkv, layout, case = next(iter(instance.get_input_iter()))
        assert instance.get_x_val((qkv, layout, case)) == "CIFAR T/4 context"
        out = instance.sdpa(qkv, layout, case)()
        torch.testing.assert_close(out, block_attention(qkv, layout, impl="matmul"), rtol=1e-5, atol=1e-5)
        metrics = types.SimpleNamespace(latency=2.0)
        assert instance.gbps(None, (qkv, layout, case), metrics) == 16 * case.numbers() / 2.0 * 1e-6
