"""Dense supervision of the vision tower: every patch says what it shows, where, and what a teacher sees.

Questions alone ground a small tower very slowly; labels at every patch, or a teacher's maps, do it fast.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerBase

from tofc.training.data import GroundedPicture


class DenseKnowledge(Protocol):
    """What a corpus knows of its pictures: names and sizes of the targets that `GroundedPicture` holds."""

    label_classes: dict[str, int]
    sparse_labels: frozenset[str]  # whose class 0 says "nothing here"
    region_size: int


class DenseHeads(nn.Module):
    """Linear read-outs on the tower's features, one per kind of target; thrown away after pretraining.

    `label_classes` maps a label's name to its number of classes; `region_size` numbers (in 0..1) describe the
    region of a patch's object. In the labels that `sparse` names, class 0 means "nothing here" and most
    patches have it. `map_sizes` maps the name of a teacher's map to its channels. From the mean over a
    picture's patches are read `num_present` classes that are in it or not, and a teacher's `num_categories`
    probabilities.
    """

    def __init__(
        self,
        width: int,
        label_classes: dict[str, int],
        region_size: int,
        sparse: frozenset[str] = frozenset(),
        map_sizes: dict[str, int] | None = None,
        num_present: int = 0,
        num_categories: int = 0,
    ) -> None:
        super().__init__()
        self.sparse = sparse
        self.norm = nn.LayerNorm(width)
        self.labels = nn.ModuleDict({name: nn.Linear(width, count) for name, count in label_classes.items()})
        self.region = nn.Linear(width, region_size)
        self.maps = nn.ModuleDict({name: nn.Linear(width, size) for name, size in (map_sizes or {}).items()})
        self.present = nn.Linear(width, num_present) if num_present else None
        self.categories = nn.Linear(width, num_categories) if num_categories else None

    @classmethod
    def of(cls, corpus: DenseKnowledge, width: int) -> DenseHeads:
        """Heads for everything that `corpus` knows, on features of `width` channels."""
        return cls(
            width,
            corpus.label_classes,
            corpus.region_size,
            corpus.sparse_labels,
            getattr(corpus, "map_sizes", None),
            getattr(corpus, "num_present", 0),
            getattr(corpus, "num_categories", 0),
        )


@dataclass(frozen=True)
class DenseTargets:
    """Targets of a batch; shapes as in `GroundedPicture` with B in front."""

    labels: dict[str, Tensor]
    regions: Tensor
    maps: dict[str, Tensor]
    present: Tensor | None
    distribution: Tensor | None

    @classmethod
    def of(cls, pictures: list[GroundedPicture], device: torch.device) -> DenseTargets:
        """Stacks the targets of `pictures`."""
        first = pictures[0]

        def stacked(values: list[object]) -> Tensor:
            return torch.stack([torch.as_tensor(value) for value in values]).to(device)

        return cls(
            {name: stacked([picture.labels[name] for picture in pictures]) for name in first.labels},
            stacked([picture.regions for picture in pictures]),
            {name: stacked([picture.maps[name] for picture in pictures]) for name in first.maps},
            None if first.present is None else stacked([picture.present for picture in pictures]),
            None if first.distribution is None else stacked([picture.distribution for picture in pictures]),
        )

    def at(self, patches: Tensor) -> DenseTargets:
        """Those of the patches [B, K] of each picture; what is true of a whole picture stays."""
        rows = torch.arange(len(patches), device=patches.device)[:, None]
        return replace(
            self,
            labels={name: values[rows, patches] for name, values in self.labels.items()},
            regions=self.regions[rows, patches],
            maps={name: values[rows, patches] for name, values in self.maps.items()},
        )


def dense_losses(
    heads: DenseHeads, features: Tensor, targets: DenseTargets
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Losses of features [B, N, C] by target: "region", "present", "distribution", names of labels and maps.

    Also what the heads get right: the accuracy of each label, mean errors of regions and maps. Labels of
    -100, regions and presences of NaN do not count. In sparse labels the patches with something and those
    with nothing weigh the same together, and accuracy is that of the patches with something.
    """
    hidden = heads.norm(features)
    losses: dict[str, Tensor] = {}
    seen: dict[str, float] = {}
    for name, target in targets.labels.items():
        losses[name], seen[f"dense/{name}"] = _label_loss(
            heads.labels[name](hidden).float(), target, name in heads.sparse
        )
    inside = ~targets.regions[..., 0].isnan()
    truth = torch.where(inside[..., None], targets.regions, 0.0)
    estimated = heads.region(hidden).float()
    errors = functional.smooth_l1_loss(estimated, truth, beta=0.05, reduction="none").sum(-1)
    # A region error of one patch width should weigh about as much as one wrong label.
    losses["region"] = 8.0 * _mean(errors, inside)
    seen["dense/region_error"] = _mean((estimated - truth).abs().mean(-1), inside).item()
    for name, values in targets.maps.items():
        losses[name] = functional.mse_loss(heads.maps[name](hidden).float(), values)
        seen[f"dense/{name}_error"] = losses[name].item()
    pooled = hidden.mean(1)
    if targets.present is not None and heads.present is not None:
        known = ~targets.present.isnan()
        there = torch.where(known, targets.present, 0.0)
        scores = heads.present(pooled).float()
        entropy = functional.binary_cross_entropy_with_logits(scores, there, reduction="none")
        # Summed over a picture's classes: most are absent and soon cost next to nothing.
        losses["present"] = (entropy * known).sum() / known.any(1).sum().clamp(min=1)
        seen["dense/present_loss"] = losses["present"].item()
    if targets.distribution is not None and heads.categories is not None:
        logs = functional.log_softmax(heads.categories(pooled).float(), -1)
        losses["distribution"] = functional.kl_div(logs, targets.distribution, reduction="batchmean")
        seen["dense/distribution_loss"] = losses["distribution"].item()
    return losses, seen


def _label_loss(scores: Tensor, target: Tensor, sparse: bool) -> tuple[Tensor, float]:
    losses = functional.cross_entropy(scores.transpose(1, 2), target, ignore_index=-100, reduction="none")
    known = target >= 0
    if sparse:
        loss = 0.5 * _mean(losses, target == 0)
        known = target > 0
        loss = loss + 0.5 * _mean(losses, known)
    else:
        loss = _mean(losses, known)
    return loss, _mean((scores.argmax(-1) == target).float(), known).item()


def average_precision(scores: Tensor, present: Tensor) -> dict[str, float]:
    """Average precision and best balanced accuracy of yes/no of `scores` [B, P], means over classes.

    `present` [B, P] is 1, 0, or NaN where nobody knows; classes without a picture on either side do not
    count.
    """
    precisions, accuracies = [], []
    for column, truth in zip(scores.T, present.T, strict=True):
        known = ~truth.isnan()
        order = column[known].argsort(descending=True)
        hits = truth[known][order]
        positive, negative = hits.sum(), (1 - hits).sum()
        if positive == 0 or negative == 0:
            continue
        found = hits.cumsum(0)
        ranks = torch.arange(1, len(hits) + 1)
        precisions.append(((found / ranks) * hits).sum() / positive)
        rates = found / positive - (ranks - found) / negative
        accuracies.append(0.5 + 0.5 * rates.max().clamp(min=0))
    if not precisions:
        return {}
    return {
        "mean_average_precision": torch.stack(precisions).mean().item(),
        "balanced_accuracy": torch.stack(accuracies).mean().item(),
    }


def word_ids(tokenizer: PreTrainedTokenizerBase, words: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """First tokens [2, K] of the words of each label, behind a space and at the beginning of a text."""
    return {
        label: torch.tensor(
            [[tokenizer(f"{before}{name}").input_ids[0] for name in names] for before in (" ", "")]
        )
        for label, names in words.items()
    }


def word_loss(
    model: LlavaOnevisionForConditionalGeneration,
    pictures: list[GroundedPicture],
    features: Tensor,
    words: Mapping[str, Tensor],
    sparse: Collection[str],
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of each label's words [2, K] for the patches it knows; of each label, the share right.

    `features` [B, N, C] go through the projector and are read as the last block's output is. A language
    model for which a patch is its object's word, and the word for where that is, has only to compare words,
    and learns to in a few hundred steps instead of thousands. The first word of a label in `sparse` is that
    for nothing: without it patches beside an object become the object's word too, and who looks for that
    word finds it everywhere. Weighed as in `dense_losses`; labels of -100 do not count.
    """
    inner = model.model
    hidden = inner.language_model.norm(inner.multi_modal_projector(features))
    table = inner.language_model.get_input_embeddings().weight.to(hidden.dtype)
    loss, right = features.new_zeros(()), {}
    for label, ids in words.items():
        target = torch.stack([torch.from_numpy(one.labels[label]) for one in pictures]).to(features.device)
        if not bool((target >= 0).any()):
            continue
        both = [
            _label_loss((hidden @ table[row].T).float(), target, label in sparse)
            for row in ids.to(features.device)
        ]
        loss = loss + torch.stack([one for one, _ in both]).mean()
        right[label] = both[0][1]
    return loss, right


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of `values` at the True places of `where`; 0 where there are none."""
    return (values * where).sum() / where.sum().clamp(min=1)
