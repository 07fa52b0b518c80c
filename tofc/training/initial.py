"""First weights of a small vision tower that has little data and little time.

Attention begins as in trained transformers (mimetic initialisation, arXiv 2305.09828): heads look at tokens
like themselves and at near places. Patches begin as cosine waves of low frequency, positions as waves across
the grid.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

LOOK, SELF_LOOK = 0.7, 0.7  # of the paper: random part and identity of queries times keys,
PASS, SELF_PASS = 0.4, 0.4  # ... and of values times output, whose identity is negative
CHROMA = 0.15  # variance of a colour difference beside brightness
PATCH_DEVIATION = 0.7


@torch.no_grad()
def mimetic_tower(tower: Any, generator: torch.Generator) -> None:
    """Sets the weights of a `SiglipVisionModel` in place; MLPs and norms stay as they are."""
    embeddings = tower.embeddings
    kernel = embeddings.patch_embedding.weight
    width, _, patch, _ = kernel.shape
    rotation = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    kernel.copy_((rotation @ patch_waves(width, patch).flatten(1)).unflatten(1, (3, patch, patch)))
    embeddings.patch_embedding.bias.zero_()
    table = embeddings.position_embedding.weight
    table.copy_(0.5 * grid_waves(math.isqrt(len(table)), width))
    for layer in tower.encoder.layers:
        _mimetic_attention(layer.self_attn, width, generator)


@torch.no_grad()
def mimetic_language(language: Any, generator: torch.Generator) -> None:
    """Sets the attention of a `Qwen2Model` whose heads all have keys of their own, in place."""
    for layer in language.layers:
        _mimetic_attention(layer.self_attn, language.config.hidden_size, generator)


def _mimetic_attention(attention: Any, width: int, generator: torch.Generator) -> None:
    size = attention.head_dim
    heads = width // size
    last = attention.out_proj if hasattr(attention, "out_proj") else attention.o_proj

    def random() -> Tensor:
        return torch.randn(width, width, generator=generator) / math.sqrt(width)

    for head in range(heads):
        rows = slice(head * size, (head + 1) * size)
        left, strengths, right = torch.linalg.svd(LOOK * random() + SELF_LOOK * torch.eye(width))
        root = strengths[:size].sqrt()[:, None]
        # Attention divides by the root of a head's size; the paper's product stands before that.
        attention.q_proj.weight[rows] = left[:, :size].T * root
        attention.k_proj.weight[rows] = right[:size] * root
    left, strengths, right = torch.linalg.svd(PASS * random() - SELF_PASS * torch.eye(width))
    root = strengths.sqrt()
    attention.v_proj.weight.copy_(root[:, None] * right)
    last.weight.copy_(left * root)
    for linear in (attention.q_proj, attention.k_proj, attention.v_proj, last):
        if linear.bias is not None:
            linear.bias.zero_()


def patch_waves(count: int, patch: int) -> Tensor:
    """The `count` cosine waves with most variance in pictures, [count, 3, patch, patch].

    Each is scaled to a deviation of about PATCH_DEVIATION on pixels in -1..1.
    """
    places = (torch.arange(patch) + 0.5) * math.pi / patch
    waves = torch.cos(torch.arange(patch)[:, None] * places) * math.sqrt(2 / patch)
    waves[0] /= math.sqrt(2)
    colours = torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]])
    colours = colours / colours.norm(dim=1, keepdim=True)
    found = []
    for colour, share in enumerate((1.0, CHROMA, CHROMA)):
        for row in range(patch):
            for column in range(patch):
                # Pictures have variance about as one over the squared frequency.
                variance = share * (0.5 * patch) ** 2 * 3 / (1 + 8 * (row**2 + column**2))
                found.append((variance, colour, row, column))
    found.sort(key=lambda wave: (-wave[0], wave[1:]))
    kernels = []
    for variance, colour, row, column in found[:count]:
        wave = colours[colour][:, None, None] * (waves[row][:, None] * waves[column])
        kernels.append(wave * (PATCH_DEVIATION / math.sqrt(variance)))
    return torch.stack(kernels)


def grid_waves(side: int, width: int) -> Tensor:
    """Sines and cosines of row and column, [side * side, width], wavelengths of two patches to four grids."""
    quarter = width // 4
    scales = torch.logspace(math.log10(2.0), math.log10(4.0 * side), quarter)
    phases = 2 * math.pi * torch.arange(side)[:, None] / scales
    waves = torch.cat([phases.sin(), phases.cos()], dim=1)  # [side, width / 2]
    rows = waves[:, None].expand(-1, side, -1)
    columns = waves[None].expand(side, -1, -1)
    table = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return torch.nn.functional.pad(table, (0, width - table.shape[1]))
