"""Losses in parts: the numbers and gradients of one piece, with a fraction of its logits alive."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tofc.training import forward
from tofc.training.forward import token_losses
from tofc.training.packing import IGNORED

BATCH, LENGTH, WIDTH, VOCABULARY = 3, 7, 5, 11


def made() -> tuple[Tensor, nn.Linear, Tensor]:
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY, bias=False, dtype=torch.float64)
    head.weight.data = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64)
    hidden = torch.randn(BATCH, LENGTH, WIDTH, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=generator)
    targets[:, ::3] = IGNORED
    return hidden, head, targets


@pytest.mark.parametrize("rows_at_once", [1, 4, 21, 100])
def test_parts_give_the_losses_and_gradients_of_the_whole(
    rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, head, targets = made()
    logits = head(hidden)
    expected = functional.cross_entropy(
        logits.float().transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
    )
    weights = torch.arange(BATCH * LENGTH).view_as(targets)
    wanted = torch.autograd.grad((expected * weights).sum(), (hidden, head.weight), retain_graph=True)
    monkeypatch.setattr(forward, "MAX_LOGITS", rows_at_once * VOCABULARY)
    sizes: list[int] = []

    def watched(rows: Tensor) -> Tensor:
        sizes.append(len(rows))
        return head(rows)

    losses, missed = token_losses(hidden, watched, targets)
    found = torch.autograd.grad((losses * weights).sum(), (hidden, head.weight))
    assert max(sizes) <= rows_at_once
    torch.testing.assert_close(losses, expected)
    assert torch.equal(missed, (logits.argmax(-1) != targets) & (targets != IGNORED))
    assert float(losses.detach()[:, ::3].abs().sum()) == 0.0
    for mine, gradient in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, gradient, rtol=1e-5, atol=1e-5)  # logits are float32
