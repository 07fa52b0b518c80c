"""Dense supervision of the vision tower: every patch says what it shows and where its object is.

Questions alone ground a small tower very slowly; the renderer knows the truth at every patch for free.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tofc.training.data import GroundedPicture


class DenseHeads(nn.Module):
    """Linear read-outs on the tower's features, one per kind of label and one for the object's region.

    `label_classes` maps a label's name to its number of classes; `region_size` numbers (in 0..1) describe
    the region. The heads are thrown away after pretraining.
    """

    def __init__(self, width: int, label_classes: dict[str, int], region_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.labels = nn.ModuleDict({name: nn.Linear(width, count) for name, count in label_classes.items()})
        self.region = nn.Linear(width, region_size)

    def forward(self, features: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Features [B, N, C] to logits by name, each [B, N, classes], and regions [B, N, R]."""
        hidden = self.norm(features)
        return {name: head(hidden) for name, head in self.labels.items()}, self.region(hidden)


def dense_targets(pictures: list[GroundedPicture], device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """Stacks the targets of a batch: labels by name [B, N] int64 and regions [B, N, R] float32."""
    names = pictures[0].labels.keys()
    labels = {
        name: torch.stack([torch.from_numpy(picture.labels[name]) for picture in pictures]).to(device)
        for name in names
    }
    regions = torch.stack([torch.from_numpy(picture.regions) for picture in pictures]).to(device)
    return labels, regions


def dense_loss(
    heads: DenseHeads, features: Tensor, labels: dict[str, Tensor], regions: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Sum of the cross-entropies and of the region's smooth L1; also the accuracy of each label by name.

    Labels of -100 and regions of NaN do not count.
    """
    logits, estimated = heads(features)
    total = features.new_zeros((), dtype=torch.float32)
    accuracy: dict[str, float] = {}
    for name, target in labels.items():
        scores = logits[name].float()
        known = target >= 0
        total = total + functional.cross_entropy(
            scores.flatten(0, 1), target.flatten(), ignore_index=-100, reduction="sum"
        ) / known.sum().clamp(min=1)
        right = (scores.argmax(-1) == target) & known
        accuracy[f"dense/{name}"] = (right.sum() / known.sum().clamp(min=1)).item()
    inside = ~regions[..., 0].isnan()
    error = functional.smooth_l1_loss(estimated.float()[inside], regions[inside], beta=0.05, reduction="sum")
    count = inside.sum().clamp(min=1)
    # A region error of one patch width should weigh about as much as one wrong label.
    total = total + 8.0 * error / count
    accuracy["dense/region_error"] = (
        (estimated.float()[inside] - regions[inside]).abs().mean(-1).sum() / count
    ).item()
    return total, accuracy
