"""Which member answers, decided question by question: early where it is sure, deeper where it is not.

A question begins at the policy's first exit. While every token that its branch says is at least as probable
as the threshold, the branch goes on; at the first that is not, its answer is dropped, and the next member
starts from the hidden states and keys and values of the prompt that the shared blocks have already computed.
Source: AI Flow (arXiv 2506.12479), sections III-A2 and III-C.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from tofc.errors import UserError
from tofc.familial.branches import Branch, count_parameters, text_model
from tofc.familial.family import Family
from tofc.familial.members import FULL, Member
from tofc.prompt import Prompt


@dataclass(frozen=True)
class Stage:
    """A member, and the least probability of each of its tokens with which its answer stands (0 to 1)."""

    member: str
    threshold: float

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UserError(f"a policy's threshold is {self.threshold}; give a probability from 0 to 1")


@dataclass(frozen=True)
class Policy:
    """Members to try in turn, each exiting deeper than the last; behind them stands the full model."""

    stages: tuple[Stage, ...] = ()

    def members(self, family: Family) -> list[Member]:
        """The members of the stages and the full one; UserError where they do not go deeper and deeper."""
        members = [family.named(stage.member) for stage in self.stages] + [family.named(FULL)]
        depths = [member.exit_layer for member in members]
        if depths != sorted(set(depths)):
            raise UserError(
                f"a policy's members exit after blocks {depths}; name one a depth, the shallowest first"
            )
        return members


@dataclass
class Decided:
    """One prompt's answer: ids without the one that ends it, who gave it, and what it cost.

    `confidence` is the least probability among its tokens; `macs` counts multiply-accumulates of blocks and
    heads, of dropped answers too; `shared_macs` of them took the prompt through the main model's blocks, from
    where a deeper member goes on.
    """

    ids: list[int] = field(default_factory=list)
    exit: str = FULL
    confidence: float = 1.0
    macs: int = 0
    shared_macs: int = 0


@torch.inference_mode()
def decide(
    family: Family, policy: Policy, prompts: Sequence[Prompt], ends: Collection[int], max_new_tokens: int
) -> list[Decided]:
    """Greedy answers to a batch of prompts, each by the first member of the policy that is sure of it."""
    runner = _Runner(family, prompts, ends, max_new_tokens)
    members = policy.members(family)
    thresholds = [stage.threshold for stage in policy.stages] + [0.0]
    for member, threshold in zip(members, thresholds, strict=True):
        if not runner.rows:
            break
        runner.deepen(member)
        runner.keep(runner.answer(member, threshold))
    return runner.decided


class _Runner:
    """The prompts that are still without answer, and how far they have come: `depth` blocks.

    `states` [B, L, D] are those of the prompt after so many blocks, `cache` holds their keys and values.
    """

    def __init__(
        self, family: Family, prompts: Sequence[Prompt], ends: Collection[int], max_new_tokens: int
    ) -> None:
        self.family, self.text = family, text_model(family.main)
        self.ends, self.max_new_tokens = ends, max_new_tokens
        self.decided = [Decided() for _ in prompts]
        self.rows = list(range(len(prompts)))
        self.states, self.mask = Prompt.batch(prompts, family.main)
        self.cache = DynamicCache()
        self.depth = 0

    def deepen(self, member: Member) -> None:
        """Takes the prompts through the blocks up to the member's exit."""
        blocks = self.text.layers[self.depth : member.exit_layer]
        before = [self.decided[row].macs for row in self.rows]
        self.states = self._run(blocks, self.states, self.mask, self.cache)
        self.depth = member.exit_layer
        for row, macs in zip(self.rows, before, strict=True):
            self.decided[row].shared_macs += self.decided[row].macs - macs

    def answer(self, member: Member, threshold: float) -> list[int]:
        """Decodes with a member; returns the places in `rows` of those that it is not sure of."""
        branch = self.family.branch(member.branch, member.ratio) if member.branch else Branch(FULL, 0, ())
        tail, own = branch.at(member.ratio), DynamicCache()
        hidden = self._run(tail, self.states, self.mask, own)[:, -1:]
        length, mask = self.mask.shape[1], self.mask
        going = torch.ones(len(self.rows), dtype=torch.bool)
        unsure: list[int] = []
        given: list[tuple[list[int], float]] = [([], 1.0) for _ in self.rows]
        for step in range(self.max_new_tokens):
            best, token = self._speak(branch, hidden).max(-1)
            for place in torch.nonzero(going)[:, 0].tolist():
                ids, sure = given[place]
                probability, word = float(best[place]), int(token[place])
                self.decided[self.rows[place]].macs += self._head_macs(branch)
                given[place] = ids, min(sure, probability)
                if probability < threshold:
                    unsure.append(place)
                    going[place] = False
                elif word in self.ends:
                    going[place] = False
                else:
                    ids.append(word)
            if not bool(going.any()) or step + 1 == self.max_new_tokens:
                break
            # Rows that are done go on for nothing: what they say is not looked at, nor counted.
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            embeds = self.text.get_input_embeddings()(token[:, None])
            state = self._run(self.text.layers[: self.depth], embeds, mask, self.cache, going)
            hidden = self._run(tail, state, mask, own, going)
        if mask.shape[1] > length:
            self.cache.crop(length - mask.shape[1])  # so many fewer
        for place, (ids, sure) in enumerate(given):
            if place not in unsure:
                decided = self.decided[self.rows[place]]
                decided.ids, decided.exit, decided.confidence = ids, member.name, sure
        return sorted(unsure)

    def keep(self, places: list[int]) -> None:
        """Goes on with some of the rows alone."""
        if len(places) < len(self.rows) and places:
            chosen = torch.tensor(places, device=self.states.device)
            self.states, self.mask = self.states[chosen], self.mask[chosen]
            self.cache.batch_select_indices(chosen)
        self.rows = [self.rows[place] for place in places]

    def _speak(self, branch: Branch, hidden: Tensor) -> Tensor:
        """Probabilities [B, V] of the next token."""
        norm = self.text.norm if branch.norm is None else branch.norm
        head = self.family.main.lm_head if branch.head is None else branch.head
        spoken: Tensor = head(norm(hidden[:, -1])).float().softmax(-1)
        return spoken

    def _run(
        self,
        blocks: Sequence[nn.Module],
        hidden: Tensor,
        mask: Tensor,
        cache: DynamicCache,
        counted: Tensor | None = None,
    ) -> Tensor:
        """States [B, Q, D] after some blocks, whose keys and values join those in `cache`.

        mask: [B, K], 0 where a row is padded; the Q last positions are new.
        """
        if not len(blocks):
            return hidden
        num_new, total = hidden.shape[1], mask.shape[1]
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -num_new:]  # as `generate` numbers them
        causal = torch.ones(num_new, total, dtype=torch.bool, device=mask.device).tril(total - num_new)
        seen = causal & mask[:, None].bool()  # [B, Q, K]
        blocked = torch.zeros(seen.shape, dtype=hidden.dtype, device=mask.device)
        blocked = blocked.masked_fill(~seen, torch.finfo(hidden.dtype).min)[:, None]
        rotary = self.text.rotary_emb(hidden, positions)
        for block in blocks:
            hidden = block(
                hidden,
                attention_mask=blocked,
                position_ids=positions,
                position_embeddings=rotary,
                cache=cache,
                use_cache=True,
            )
        self._count(blocks, seen, mask[:, -num_new:], counted)
        return hidden

    def _count(self, blocks: Sequence[nn.Module], seen: Tensor, new: Tensor, counted: Tensor | None) -> None:
        """Adds what a pass costs to each row: weights times tokens, and attention over what each sees."""
        weights = sum(count_parameters(block) for block in blocks)
        width = self.text.config.hidden_size
        tokens, pairs = new.sum(1), (seen & new[..., None].bool()).sum((1, 2))
        for place, row in enumerate(self.rows):
            if counted is None or bool(counted[place]):
                attention = 2 * int(pairs[place]) * width * len(blocks)
                self.decided[row].macs += weights * int(tokens[place]) + attention

    def _head_macs(self, branch: Branch) -> int:
        head = self.family.main.lm_head if branch.head is None else branch.head
        return count_parameters(head)
