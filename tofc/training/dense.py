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
    the region. In the labels that `sparse` names, class 0 means "nothing here" and most patches have it. The
    heads are thrown away after pretraining.
    """

    def __init__(
        self,
        width: int,
        label_classes: dict[str, int],
        region_size: int,
        sparse: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        self.sparse = sparse
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

    Labels of -100 and regions of NaN do not count. In sparse labels the patches with something and those with
    nothing weigh the same together, and accuracy is that of the patches with something.
    """
    logits, estimated = heads(features)
    total = features.new_zeros((), dtype=torch.float32)
    accuracy: dict[str, float] = {}
    for name, target in labels.items():
        scores = logits[name].float()
        losses = functional.cross_entropy(scores.transpose(1, 2), target, ignore_index=-100, reduction="none")
        known = target >= 0
        if name in heads.sparse:
            total = total + 0.5 * _mean(losses, target == 0)
            known = target > 0
            total = total + 0.5 * _mean(losses, known)
        else:
            total = total + _mean(losses, known)
        accuracy[f"dense/{name}"] = _mean((scores.argmax(-1) == target).float(), known).item()
    inside = ~regions[..., 0].isnan()
    truth = torch.where(inside[..., None], regions, 0.0)
    errors = functional.smooth_l1_loss(estimated.float(), truth, beta=0.05, reduction="none").sum(-1)
    # A region error of one patch width should weigh about as much as one wrong label.
    total = total + 8.0 * _mean(errors, inside)
    accuracy["dense/region_error"] = _mean((estimated.float() - truth).abs().mean(-1), inside).item()
    return total, accuracy


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of `values` at the True places of `where`; 0 where there are none."""
    return (values * where).sum() / where.sum().clamp(min=1)
