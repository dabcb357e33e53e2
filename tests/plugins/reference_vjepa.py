"""V-JEPA written out as plain float64 functions over a state dict: what the plugin's modules must equal.

Nothing of the project is used here but the formulas of `reference_ijepa` (layer norm, MLP, attention), which
are plain functions too. Everything goes sample by sample, on lists of token numbers, time-major.

Axes: N tokens of the grid, K kept, D width, E dimensions of a head, F dimensions of an axis.
"""

import itertools
import math

import numpy as np
import torch

from tests.plugins.reference_ijepa import gelu, layer_norm, linear, part


def coordinates(grid):
    """[(time, row, column)] of every token, time-major."""
    return list(itertools.product(*(range(side) for side in grid)))


def table(grid, width):
    """[N, D] positions: 2·⌈D/6⌉ dimensions each for time, row and column, sines then cosines, cut at D."""
    half = math.ceil(width / 6)
    out = np.zeros((math.prod(grid), 6 * half))
    for token, places in enumerate(coordinates(grid)):
        for axis, place in enumerate(places):
            for k in range(half):
                angle = place * 10000.0 ** (-k / half)
                out[token, 2 * half * axis + k] = math.sin(angle)
                out[token, 2 * half * axis + half + k] = math.cos(angle)
    return torch.from_numpy(out[:, :width])


def turned(x, at, grid):
    """[K, E]: each pair of dimensions (2k, 2k+1) of an axis turned by place · 10000^(−k/(F/2)), F even."""
    share, out = x.shape[1] // 3 // 2 * 2, x.clone()
    places = torch.tensor(coordinates(grid), dtype=torch.float64)[at]
    for axis in range(3):
        for k in range(share // 2):
            angle = places[:, axis] * 10000.0 ** (-k / (share / 2))
            first = axis * share + 2 * k
            a, b = x[:, first], x[:, first + 1]
            out[:, first] = a * angle.cos() - b * angle.sin()
            out[:, first + 1] = b * angle.cos() + a * angle.sin()
    return out


def attention(x, state, heads, at, grid, rope):
    """[K, D] to [K, D], head by head; queries and keys turned where positions are rotary."""
    head = x.shape[1] // heads
    qkv, mixed = linear(x, state, "qkv"), []
    for h in range(heads):
        query, key, value = (
            qkv[:, start + h * head :][:, :head] for start in (0, x.shape[1], 2 * x.shape[1])
        )
        if rope:
            query, key = turned(query, at, grid), turned(key, at, grid)
        weights = (query @ key.T / math.sqrt(head)).softmax(1)
        mixed.append(weights @ value)
    return linear(torch.cat(mixed, 1), state, "proj")


def blocks(x, state, heads, at, grid, rope):
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    for number in range(depth):
        own = part(state, f"blocks.{number}.")
        normed = layer_norm(x, own["norm1.weight"], own["norm1.bias"])
        x = x + attention(normed, part(own, "attn."), heads, at, grid, rope)
        hidden = linear(layer_norm(x, own["norm2.weight"], own["norm2.bias"]), own, "mlp.fc1")
        x = x + linear(gelu(hidden), own, "mlp.fc2")
    return x


def encoder(state, clip, keep, heads, rope):
    """[K, D] features of one clip [C, T, H, W] at the tubelets in `keep` (all for None)."""
    kernel, bias = state["patch_embed.weight"], state["patch_embed.bias"]
    maps = torch.conv3d(clip[None], kernel, bias, stride=kernel.shape[2:])[0]
    grid, x = tuple(maps.shape[1:]), maps.flatten(1).T
    if not rope:
        x = x + table(grid, x.shape[1])
    at = list(range(len(x))) if keep is None else list(keep)
    x = blocks(x[torch.tensor(at)], state, heads, at, grid, rope)
    return layer_norm(x, state["norm.weight"], state["norm.bias"])


def predictor(state, context, context_at, target_at, token, grid, heads, rope):
    """[K of the target, D]: guesses at `target_at`, where mask token number `token` stands."""
    at = [*context_at, *target_at]
    asked = state[f"mask_tokens.{token}"][0].expand(len(target_at), -1)
    x = torch.cat([linear(context, state, "embed"), asked])
    if not rope:
        x = x + table(grid, x.shape[1])[torch.tensor(at)]
    x = blocks(x, state, heads, at, grid, rope)[len(context_at) :]
    return linear(layer_norm(x, state["norm.weight"], state["norm.bias"]), state, "proj")


def reference_loss(state, clips, pairs, grid, *, heads, predictor_heads, rope):
    """The mean over pairs of the mean |guess − layer-normed target| over samples, tokens and dimensions.

    state: float64 tensors `encoder.…`, `predictor.…`, `target_encoder.…`; clips [B, C, T, H, W] float64;
    pairs[k] = (contexts, targets), each a list of token numbers a sample.
    """
    means = []
    for token, (contexts, targets) in enumerate(pairs):
        terms = []
        for clip, seen, asked in zip(clips, contexts, targets, strict=True):
            features = encoder(part(state, "encoder."), clip, seen, heads, rope)
            guess = predictor(
                part(state, "predictor."), features, seen, asked, token, grid, predictor_heads, rope
            )
            with torch.no_grad():
                whole = encoder(part(state, "target_encoder."), clip, None, heads, rope)
            wanted = layer_norm(whole, eps=1e-5)[torch.tensor(asked)]
            terms.append((guess - wanted).abs().flatten())
        means.append(torch.cat(terms).mean())
    return torch.stack(means).mean()
