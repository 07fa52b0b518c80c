"""A family's forward pass in training: one run of the main model, its members on the states it passes.

Source: AI Flow (arXiv 2506.12479), section III-B2: cross-entropies of the main model and of all branches,
partial ones included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from entropy import FeatureCodec
from tofc.familial.branches import Branch
from tofc.familial.members import Member
from tofc.training.forward import (
    Merge,
    PackedStates,
    VisionLanguageModel,
    run_block,
    run_blocks,
    whole_answers,
)
from tofc.training.packing import IGNORED, PackedBatch


class MemberLoss(NamedTuple):
    """Sums of one member over a part of a batch: cross-entropy and divergence with their weights, and exact,
    bool [B, Q], whole answers that greedy decoding would give."""

    answers: Tensor
    divergence: Tensor
    exact: Tensor


@dataclass(frozen=True)
class Teacher:
    """A language model that members learn from; frozen."""

    text: Any
    head: nn.Module


class FamilyTask(nn.Module):
    """The main model with its branches; `teacher` is the main model as it was, None where nobody asks it.

    Vision tower, projector and codec do not learn.
    """

    def __init__(
        self,
        grounded: VisionLanguageModel,
        branches: Sequence[Branch],
        codec: FeatureCodec | None,
        merge: Merge,
        teacher: Teacher | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.grounded = grounded
        self.branches = nn.ModuleDict({branch.name: branch for branch in branches})
        self.codec, self.merge, self.temperature = codec, merge, temperature
        self.teacher = teacher  # no module: neither stored nor trained

    @torch.no_grad()
    def visual(self, pixels: Tensor, tokens: int | None, qualities: Sequence[int | None]) -> Tensor:
        """What the language model sees of pictures [B, 3, S, S]: embeddings [B, V, D], merged and coded.

        qualities: of each picture, None for uncoded.
        """
        with self.grounded.precision():
            features = self.grounded.features(pixels).float()
        if tokens is not None and tokens < features.shape[1]:
            features = self.merge(features, tokens)
        if self.codec is not None:
            pairs = zip(features, qualities, strict=True)
            features = torch.stack([row if q is None else self._coded(row, q) for row, q in pairs])
        with self.grounded.precision():
            return self.grounded.visual(features)

    def _coded(self, features: Tensor, quality: int) -> Tensor:
        """Features [K, C] as an edge decodes them."""
        assert self.codec is not None
        return torch.from_numpy(self.codec.reconstruct(features.cpu(), quality)).to(features)

    def forward(
        self, visual: Tensor, packed: PackedBatch, members: Sequence[Member], teaching: Tensor | None = None
    ) -> dict[str, MemberLoss]:
        """Losses of some members on one batch; `teaching` are the teacher's logits [n, V] of `target_rows`.

        The main model runs as deep as these members need.
        """
        with self.grounded.precision():
            sequences = self.grounded.packed(visual, packed)
            states = run_blocks(self.grounded.text, sequences, {member.exit_layer for member in members})
            rows = target_rows(packed)
            found = {}
            for member in members:
                hidden = self._member_state(member, states[member.exit_layer], sequences)
                found[member.name] = self._loss(member, hidden, sequences, packed, rows, teaching)
        return found

    def _member_state(self, member: Member, hidden: Tensor, sequences: PackedStates) -> Tensor:
        """The state before norm and head, of the text alone [B, T, D]."""
        if member.branch is not None:
            branch: Any = self.branches[member.branch]
            for block in branch.at(member.ratio):
                hidden = run_block(block, hidden, sequences)
        return hidden[:, sequences.num_shared :]

    def _loss(
        self,
        member: Member,
        hidden: Tensor,
        sequences: PackedStates,
        packed: PackedBatch,
        rows: Tensor,
        teaching: Tensor | None,
    ) -> MemberLoss:
        branch: Any = self.branches[member.branch] if member.branch is not None else None
        norm = branch.norm if branch is not None and branch.norm is not None else self.grounded.text.norm
        head = branch.head if branch is not None and branch.head is not None else self.grounded.model.lm_head
        logits = head(norm(hidden.flatten(0, 1)[rows])).float()  # [n, V]
        targets, weights = packed.targets.flatten()[rows], packed.weights.flatten()[rows]
        losses = functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
        divergence = losses.new_zeros(())
        if teaching is not None:
            divergence = (divergence_of(logits, teaching, self.temperature) * weights).sum()
        wrong = torch.zeros_like(packed.targets, dtype=torch.bool).flatten()
        wrong[rows] = (logits.argmax(-1) != targets) & (targets != IGNORED)
        exact = whole_answers(wrong.view_as(packed.targets), packed.segments)
        return MemberLoss((losses * weights).sum(), divergence, exact)

    @torch.no_grad()
    def teach(self, visual: Tensor, packed: PackedBatch) -> Tensor | None:
        """The teacher's logits [n, V] of `target_rows`; None without one."""
        if self.teacher is None:
            return None
        text, head = self.teacher.text, self.teacher.head
        with self.grounded.precision():
            sequences = self.grounded.packed(visual, packed, text)
            depth = len(text.layers)
            hidden = run_blocks(text, sequences, {depth})[depth][:, sequences.num_shared :]
            logits: Tensor = head(text.norm(hidden.flatten(0, 1)[target_rows(packed)]))
        return logits.float()


def target_rows(packed: PackedBatch) -> Tensor:
    """Where something is learned, int64 [n], in the flattened batch; at least one row."""
    rows = torch.nonzero((packed.targets != IGNORED).flatten())[:, 0]
    return rows if len(rows) else rows.new_zeros(1)


def divergence_of(logits: Tensor, teaching: Tensor, temperature: float) -> Tensor:
    """KL(teacher || member) [n] in nats at a temperature, times its square: the gradient's size stays."""
    given, wanted = (values.div(temperature).log_softmax(-1) for values in (logits, teaching))
    loss = functional.kl_div(given, wanted, reduction="none", log_target=True).sum(-1)
    return temperature**2 * loss
