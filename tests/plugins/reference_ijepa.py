"""I-JEPA written out as plain float64 functions over a state dict: what the plugin's modules must equal.

Nothing of the project is used here. Everything goes sample by sample, with explicit softmax attention,
on lists of indices; names of tensors are those of `model.state_dict()`. Gradients come from autograd on
the same formulas: give the state tensors that require them.

Axes: N tokens of the grid, K kept, D width, E dimensions of a head.
"""

import math

import numpy as np
import torch


def table(rows: int, columns: int, width: int) -> torch.Tensor:
    """[N, D] positions, entry by entry: first half of D for the column, second half for the row."""
    quarter = width // 4
    out = np.zeros((rows * columns, width))
    for row in range(rows):
        for column in range(columns):
            for k in range(quarter):
                omega = 10000.0 ** (-k / quarter)
                out[row * columns + column, [k, quarter + k]] = (
                    math.sin(column * omega),
                    math.cos(column * omega),
                )
                out[row * columns + column, [2 * quarter + k, 3 * quarter + k]] = (
                    math.sin(row * omega),
                    math.cos(row * omega),
                )
    return torch.from_numpy(out)


def layer_norm(x, weight=None, bias=None, eps=1e-6):
    """Over the last axis, biased variance."""
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return normed if weight is None else normed * weight + bias


def part(state, prefix):
    """The entries under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def attention(x, state, heads, blind=0):
    """[K, D] to [K, D], head by head; the first `blind` tokens see only each other."""
    width = x.shape[1]
    head = width // heads
    qkv = linear(x, state, "qkv")
    mixed = []
    for h in range(heads):
        query, key, value = (qkv[:, at + h * head : at + (h + 1) * head] for at in (0, width, 2 * width))
        scores = query @ key.T / math.sqrt(head)
        if blind:
            hidden = torch.zeros_like(scores)
            hidden[:blind, blind:] = -math.inf
            scores = scores + hidden
        weights = (scores - scores.max(1, keepdim=True).values).exp()
        mixed.append(weights / weights.sum(1, keepdim=True) @ value)
    return linear(torch.cat(mixed, 1), state, "proj")


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def block(x, state, heads, blind=0):
    """Pre-norm: x + attention(norm x), then x + mlp(norm x)."""
    normed = layer_norm(x, state["norm1.weight"], state["norm1.bias"])
    x = x + attention(normed, part(state, "attn."), heads, blind)
    hidden = linear(layer_norm(x, state["norm2.weight"], state["norm2.bias"]), state, "mlp.fc1")
    return x + linear(gelu(hidden), state, "mlp.fc2")


def blocks(x, state, heads, blind=0):
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    for number in range(depth):
        x = block(x, part(state, f"blocks.{number}."), heads, blind)
    return x


def encoder(state, image, keep, patch, heads):
    """[K, D] features of one image [C, H, W] at the patches in `keep` (all for None)."""
    rows, columns = image.shape[1] // patch, image.shape[2] // patch
    kernel, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    x = torch.conv2d(image[None], kernel, bias, stride=patch)[0].flatten(1).T
    x = x + table(rows, columns, x.shape[1])
    x = blocks(x if keep is None else x[torch.as_tensor(keep)], state, heads)
    return layer_norm(x, state["norm.weight"], state["norm.bias"])


def predictor(state, context, context_at, target_at, grid, heads, blind_context=False):
    """[K of the target, D]: guesses at `target_at` from context features at `context_at`.

    With `blind_context` the context does not see the mask tokens.
    """
    x = linear(context, state, "embed")
    positions = table(*grid, x.shape[1])
    seen = x + positions[torch.as_tensor(context_at)]
    asked = state["mask_token"][0] + positions[torch.as_tensor(target_at)]
    blind = len(context_at) if blind_context else 0
    x = blocks(torch.cat([seen, asked]), state, heads, blind)[len(context_at) :]
    return linear(layer_norm(x, state["norm.weight"], state["norm.bias"]), state, "proj")


def smooth_l1(difference, beta=1.0):
    size = difference.abs()
    return torch.where(size < beta, 0.5 * size**2 / beta, size - 0.5 * beta)


def reference_loss(state, images, context_lists, target_lists, *, patch, heads, predictor_heads):
    """The mean smooth L1 over all pairs (target-major), samples, tokens and dimensions; float64.

    state: float64 tensors `encoder.…`, `predictor.…`, `target_encoder.…`; images [B, C, H, W] float64;
    context_lists[i][b] and target_lists[j][b]: indices of context i and target j in sample b.
    """
    encode, predict = part(state, "encoder."), part(state, "predictor.")
    grid = (images.shape[2] // patch, images.shape[3] // patch)
    terms = []
    for targets in target_lists:
        for contexts in context_lists:
            for image, seen, asked in zip(images, contexts, targets, strict=True):
                guess = predictor(
                    predict, encoder(encode, image, seen, patch, heads), seen, asked, grid, predictor_heads
                )
                with torch.no_grad():
                    whole = encoder(part(state, "target_encoder."), image, None, patch, heads)
                    wanted = layer_norm(whole, eps=1e-5)[torch.as_tensor(asked)]
                terms.append(smooth_l1(guess - wanted).flatten())
    return torch.cat(terms).mean()
