"""A LLaVA-OneVision model as training runs it: the tower and projector that serve, and packed questions.

Nothing here is computed otherwise than devices and edges do it, but with gradients, and with a batch's
questions packed into one sequence a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor

from encoders import VisionEncoder
from encoders.merging import cluster_tokens, merge_tokens
from tofc.config import MergingConfig
from tofc.errors import CheckpointError, UserError
from tofc.features import Features
from tofc.model import load_base_model, visual_embeddings
from tofc.tiling import tile_layout
from tofc.training.data import Example
from tofc.training.packing import IGNORED, PackedBatch, attention_mask, position_ids

Merge = Callable[[Tensor, int], Tensor]
MAX_LOGITS = 2**26  # values held at once: 256 MiB in float32; a vocabulary of 152,000 leaves 441 rows


@dataclass(frozen=True)
class AnswerLoss:
    """Losses of a batch of questions, and which of them greedy decoding would answer in whole as asked.

    `loss` is the weighted mean over tokens, `by_picture` [B] the weighted sums of each picture. `exact`, bool
    [B, Q], is True also where a picture has fewer than Q questions.
    """

    loss: Tensor
    by_picture: Tensor
    exact: Tensor


@dataclass(frozen=True)
class PackedStates:
    """Packed sequences as decoder blocks take them; text begins behind `num_shared` tokens."""

    embeddings: Tensor
    mask: Tensor
    rotary: tuple[Tensor, Tensor]
    num_shared: int


class VisionLanguageModel(nn.Module):
    """`model` with the tower's own view of pixels, whose values 0..255 have this mean and deviation.

    With `bf16` it computes in bfloat16 where it may; weights may be held in that, but for trained ones.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        model: LlavaOnevisionForConditionalGeneration,
        mean: Sequence[float] = (127.5,) * 3,
        deviation: Sequence[float] = (127.5,) * 3,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        config: Any = model.config
        self.model, self.bf16 = model, bf16
        drop_cls = config.vision_feature_select_strategy == "default"
        tower: Any = model.model.vision_tower
        self.encoder = VisionEncoder(tower, config.vision_feature_layer, drop_cls)
        for name, values in (("mean", mean), ("deviation", deviation)):
            shaped = torch.tensor(values, dtype=torch.float32)[:, None, None].to(model.device)
            self.register_buffer(name, shaped, persistent=False)

    @classmethod
    def of(
        cls,
        model: LlavaOnevisionForConditionalGeneration,
        processor: LlavaOnevisionProcessor,
        bf16: bool = False,
    ) -> VisionLanguageModel:
        """The model that sees pictures as its processor normalises them."""
        images: Any = processor.image_processor
        mean, deviation = (
            np.array(values) / images.rescale_factor for values in (images.image_mean, images.image_std)
        )
        return cls(model, mean.tolist(), deviation.tolist(), bf16)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.device

    @property
    def text(self) -> Any:
        """The stack of decoder blocks."""
        return self.model.model.language_model

    def precision(self) -> torch.autocast:
        """In which it computes."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def features(self, pixels: Tensor, patches: Tensor | None = None) -> Tensor:
        """Tower features [B, N, C] of pixels [B, 3, S, S] in 0..255: what LLaVA-OneVision projects.

        Pictures may be smaller than the model's own size, or seen at `patches` [B, K] alone, which is how a
        tower learns cheaply at first.
        """
        normalised = (pixels.to(self.device).float() - self.mean) / self.deviation
        smaller = pixels.shape[-1] != self.encoder.image_size
        found: Tensor = self.encoder(normalised, interpolate=smaller, patches=patches)
        return found

    def visual(self, features: Tensor, stock: bool = False) -> Tensor:
        """Features [B, K, C], merged or not, to embeddings [B, V, D] as an edge lays them out.

        `stock` repeats the picture as base tile and grid, as the unmodified processor does.
        """
        size = (self.encoder.image_size,) * 2
        tiling = "anyres" if stock else "base"
        layout = tile_layout(size, tiling, self.model.config)
        rows = torch.cat([features, features], dim=1) if stock else features
        pictures = [Features(row, size, tiling, layout) for row in rows]
        return torch.stack(visual_embeddings(self.model, pictures))

    def packed(
        self, visual: Tensor, packed: PackedBatch, text: Any = None, dtype: torch.dtype | None = None
    ) -> PackedStates:
        """Prefix, picture and questions of each row as embeddings [B, L, D] of a text model (own: None)."""
        text = self.text if text is None else text
        embed = text.get_input_embeddings()
        prefix = embed(packed.prefix_ids).expand(len(visual), -1, -1)
        embeddings = torch.cat([prefix, visual.to(prefix.device), embed(packed.input_ids)], dim=1)
        embeddings = embeddings.to(dtype or prefix.dtype)
        num_shared = prefix.shape[1] + visual.shape[1]
        mask = attention_mask(packed.segments, num_shared, packed.has_picture)
        positions = position_ids(packed.offsets, num_shared, packed.has_picture)
        return PackedStates(embeddings, mask, text.rotary_emb(embeddings, positions), num_shared)

    def answers(self, visual: Tensor, packed: PackedBatch) -> AnswerLoss:
        """Weighted cross-entropy of the answers given `visual` [B, V, D]."""
        states = self.packed(visual, packed, dtype=visual.dtype)
        depth = len(self.text.layers)
        hidden = self.text.norm(run_blocks(self.text, states, {depth})[depth][:, states.num_shared :])
        losses, wrong = token_losses(hidden, self.model.lm_head, packed.targets)
        # Rows that were cut off before their answer teach nothing, and a batch may have no others.
        total = packed.weights.sum().clamp(min=torch.finfo(torch.float32).tiny)
        by_picture = (losses * packed.weights).sum(1)
        return AnswerLoss(by_picture.sum() / total, by_picture, whole_answers(wrong, packed.segments))


def run_block(block: nn.Module, hidden: Tensor, states: PackedStates) -> Tensor:
    """One decoder block on packed sequences, without a cache."""
    found: Tensor = block(hidden, attention_mask=states.mask, position_embeddings=states.rotary)
    return found


def run_blocks(text: Any, states: PackedStates, exits: set[int]) -> Mapping[int, Tensor]:
    """The states [B, L, D] after as many blocks as each of `exits` says."""
    hidden, found = states.embeddings, {0: states.embeddings}
    for number, block in enumerate(text.layers[: max(exits)], start=1):
        hidden = run_block(block, hidden, states)
        if number in exits:
            found[number] = hidden
    return found


def token_losses(hidden: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
    """Losses float32 [B, T] of `targets` int64 [B, T] given the last states [B, T, D], and which are missed.

    `head` maps states to logits [..., V]. Where `targets` is IGNORED, a loss is zero and nothing is missed.
    More than MAX_LOGITS logits are computed in parts, once forward and once more for the gradient, in which
    they are not kept. All positions are computed, learned or not: a matrix of a new shape every step costs
    more than the spare rows.
    """
    rows, wanted = hidden.flatten(0, 1), targets.flatten()
    vocabulary = head(rows[:1].detach()).shape[-1]
    part = max(1, MAX_LOGITS // vocabulary)
    if len(rows) <= part:
        losses, missed = _losses(rows, wanted, head)
    else:
        parts = [
            checkpoint(_losses, some, wants, head, use_reentrant=False)
            for some, wants in zip(rows.split(part), wanted.split(part), strict=True)
        ]
        losses, missed = (torch.cat(each) for each in zip(*parts, strict=True))
    return losses.view_as(targets), missed.view_as(targets)


def _losses(rows: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    logits = head(rows).float()
    losses = functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
    return losses, (logits.argmax(-1) != targets) & (targets != IGNORED)


def whole_answers(wrong: Tensor, segments: Tensor) -> Tensor:
    """bool [B, Q]: conversations without a wrong token; True also where a row has fewer than Q."""
    numbers = torch.arange(int(segments.max()) + 1, device=segments.device)
    return ~(wrong[:, None] & (segments[:, None] == numbers[:, None])).any(2)


def merge_as(merging: MergingConfig, ways: Sequence[str] = ()) -> Merge:
    """The merging of base tiles that devices do; with `ways`, the rows of a batch take these in turn.

    A model that learns from several ways is not made for one of them.
    """
    turns = tuple(ways) or (merging.way,)

    def merge(features: Tensor, tokens: int) -> Tensor:
        side = math.isqrt(features.shape[1])
        parts = []
        for turn, way in enumerate(turns[: len(features)]):
            rows = features[turn :: len(turns)]
            clusters = cluster_tokens(rows.detach().float(), tokens, way, ((side, side),), merging.neighbours)
            parts.append(merge_tokens(rows, clusters)[0])
        order = torch.cat([torch.arange(len(features))[turn :: len(turns)] for turn in range(len(parts))])
        return torch.cat(parts)[order.argsort().to(features.device)]

    return merge


def pixels_of(examples: Sequence[Example], size: int) -> Tensor:
    """Pixels uint8 [B, 3, S, S]; blank where an example has no picture."""
    blank = np.zeros((3, size, size), np.uint8)
    return torch.from_numpy(
        np.stack([blank if example.pixels is None else example.pixels for example in examples])
    )


def read_base(
    base: str, device: torch.device, precision: str
) -> tuple[LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor]:
    """A base model, frozen, in the precision that training holds it in, and its processor; else UserError."""
    dtype = torch.bfloat16 if device.type == "cuda" and precision != "fp32" else torch.float32
    try:
        model = load_base_model(base, dtype)
        processor = LlavaOnevisionProcessor.from_pretrained(base)
    except (OSError, CheckpointError) as error:
        raise UserError(
            f"base {base!r} cannot be read ({error}); train it first, e.g. tofc pretrain scenes-tiny"
        ) from error
    moved: LlavaOnevisionForConditionalGeneration = model.to(device)  # type: ignore[arg-type]  # its stub takes modules
    return moved.requires_grad_(False), processor


def choose_bf16(precision: str, device: torch.device) -> bool:
    """Whether a run of this `precision` computes in bfloat16: "auto" does where the hardware has it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if not hasattr(torch.cpu, "get_capabilities"):  # older torch cannot tell; float32 is right everywhere
        return False
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
