"""An example: the cases of `jepa_kernels.bench` for attention-gym, as document masks and a sweep's settings.

    mask_mod, tokens = document_mask(load("I-JEPA B/16 context"))     # for flex_attention's create_block_mask
    python kernels/benchmarks/attention_gym.py > jepa.yaml            # settings for benchmarks/flex_perf.py

A case is one packed batch, so a document mask over its offsets is what FlexAttention needs to compute the
same. The sweep knows uniform documents alone: `settings` gives the cases with equal masks. attention-gym
(`attn-gym` on PyPI) is no dependency; `tests/kernels/test_bench_examples.py` tries this where it is.
"""

from collections.abc import Callable
from typing import Any

import torch
from attn_gym.masks.document_mask import generate_doc_mask_mod, length_to_offsets
from torch.nn.attention.flex_attention import noop_mask

from jepa_kernels.bench import Case, load, names


def document_mask(case: Case, device: str = "cpu") -> tuple[Callable[..., torch.Tensor], int]:
    """(mask_mod, packed tokens T): every token reads all of its own sequence, and nothing else."""
    offsets = length_to_offsets(list(case.lengths), device)
    return generate_doc_mask_mod(noop_mask, offsets), sum(case.lengths)


def settings() -> list[dict[str, Any]]:
    """For each stage with one length: batch, heads, tokens and head width, as `flex_perf.py` names them."""
    entries = []
    for case in (load(f"{name}, equal") for name in names()):
        if case.uniform:
            size = {"b": [len(case.lengths)], "nh": [f"{case.heads}, {case.heads}"], "s": [case.lengths[0]]}
            entries.append({**size, "d": [case.width], "mods": ["noop"], "dtype": "bfloat16"})
    return entries


def main() -> None:
    """Prints the settings, each as a document of YAML."""
    for entry in settings():
        print("---")
        for key, value in entry.items():
            print(f"{key}: {value!r}".replace("'", '"'))


if __name__ == "__main__":
    main()
