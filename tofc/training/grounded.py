"""Losses of a batch: dense targets of the tower, and packed questions through the language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaOnevisionForConditionalGeneration

from tofc.training.data import GroundedPicture
from tofc.training.dense import DenseHeads, DenseTargets, dense_losses
from tofc.training.packing import PackedBatch, attention_mask, position_ids
from tofc.training.token_loss import token_losses


@dataclass(frozen=True)
class AnswerLoss:
    """Losses of a batch of questions, and which of them greedy decoding would answer in whole as asked.

    `loss` is the weighted mean over tokens, `by_picture` [B] the weighted sums of each picture. `exact`, bool
    [B, Q], is True also where a picture has fewer than Q questions.
    """

    loss: Tensor
    by_picture: Tensor
    exact: Tensor


class GroundedModel(nn.Module):
    """LLaVA-OneVision, with dense heads on its tower while pretraining optimises it."""

    def __init__(
        self, model: LlavaOnevisionForConditionalGeneration, heads: DenseHeads | None = None
    ) -> None:
        super().__init__()
        self.model, self.heads = model, heads

    def features(self, pictures: list[GroundedPicture], device: torch.device) -> Tensor:
        """Tower features [B, N, C] before the last norm: what LLaVA-OneVision projects."""
        return self.tower(torch.stack([torch.from_numpy(picture.pixels) for picture in pictures]).to(device))

    def tower(self, pixels: Tensor) -> Tensor:
        """Like `features`, for pixels [B, 3, S, S] in 0..255."""
        normalised = pixels.float() / 127.5 - 1.0  # SigLIP's mean and standard deviation of one half
        # Pictures may be smaller than the model's own size, which is how a tower learns cheaply at first.
        outputs = self.model.model.vision_tower(
            normalised, output_hidden_states=True, interpolate_pos_encoding=True
        )
        states: Tensor = outputs.hidden_states[-1]
        return states

    @property
    def image_size(self) -> int:
        """Side of the tower's square input, in pixels."""
        vision: Any = self.model.config.vision_config  # typed by transformers as possibly absent
        return int(vision.image_size)

    @property
    def num_tokens(self) -> int:
        """Tokens that the tower gives for one picture."""
        vision: Any = self.model.config.vision_config
        return (self.image_size // int(vision.patch_size)) ** 2

    def dense(
        self, pictures: list[GroundedPicture], features: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Losses by target, and accuracies, of the dense heads on `features`."""
        if self.heads is None:
            raise ValueError("this model was built without dense heads; give them to the constructor")
        return dense_losses(self.heads, features, DenseTargets.of(pictures, features.device))

    def visual_embeddings(self, features: Tensor, stock: bool = False) -> Tensor:
        """Features [B, N, C], merged or not, to embeddings [B, V, D] in a layout that inference uses.

        `stock` repeats the picture as base tile and grid, as the unmodified processor does.
        """
        inner = self.model.model
        newline = inner.image_newline
        batch, num_patches, _ = features.shape
        if stock:
            side = int(num_patches**0.5)
            base = inner.multi_modal_projector(features)
            grid = base.unflatten(1, (side, side))
            column = newline.to(base.dtype).expand(batch, side, 1, -1)
            return torch.cat([base, torch.cat([grid, column], dim=2).flatten(1, 2)], dim=1)
        merged = inner.multi_modal_projector(features)
        return torch.cat([merged, newline.to(merged.dtype).expand(batch, 1, -1)], dim=1)

    def words(
        self, pictures: list[GroundedPicture], features: Tensor, word_ids: Tensor
    ) -> tuple[Tensor, float]:
        """Cross-entropy of words [2, K] for patches' objects (label "kind"), and the share it gets right.

        `features` [B, N, C] go through the projector and are read as the last block's output is. A language
        model for which a patch is its object's word has only to compare words, and learns to in a few hundred
        steps instead of thousands.
        """
        kinds = torch.stack([torch.from_numpy(picture.labels["kind"]) for picture in pictures])
        shown = kinds.to(features.device) > 0
        if not bool(shown.any()):
            return features.new_zeros(()), 0.0
        inner = self.model.model
        hidden = inner.language_model.norm(inner.multi_modal_projector(features[shown]))
        table = inner.language_model.get_input_embeddings().weight
        target = kinds[shown.cpu()].to(features.device) - 1
        scores = [(hidden @ table[ids].to(hidden.dtype).T).float() for ids in word_ids]
        loss = sum(torch.nn.functional.cross_entropy(score, target) for score in scores) / len(scores)
        return torch.as_tensor(loss), (scores[0].argmax(-1) == target).float().mean().item()

    def answers(self, visual: Tensor, packed: PackedBatch) -> AnswerLoss:
        """Weighted cross-entropy of the answers given `visual` [B, V, D]."""
        language = self.model.model.language_model
        embed = language.get_input_embeddings()
        batch = visual.shape[0]
        prefix = embed(packed.prefix_ids).expand(batch, -1, -1).to(visual.dtype)
        embeddings = torch.cat([prefix, visual, embed(packed.input_ids).to(visual.dtype)], dim=1)
        num_shared = prefix.shape[1] + visual.shape[1]
        hidden = language(
            inputs_embeds=embeddings,
            attention_mask=attention_mask(packed.segments, num_shared, packed.has_picture),
            position_ids=position_ids(packed.offsets, num_shared, packed.has_picture),
            use_cache=False,
        ).last_hidden_state[:, num_shared:]
        losses, wrong = token_losses(hidden, self.model.lm_head, packed.targets)
        count = int(packed.segments.max()) + 1
        exact = torch.stack([~(wrong & (packed.segments == number)).any(1) for number in range(count)], dim=1)
        # Rows that were cut off before their answer teach nothing, and a batch may have no others.
        total = packed.weights.sum().clamp(min=torch.finfo(torch.float32).tiny)
        by_picture = (losses * packed.weights).sum(1)
        return AnswerLoss(by_picture.sum() / total, by_picture, exact)


def roughen(features: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    """Adds uniform noise of a random strength up to `largest` channel deviations, as quantisation later will.

    One strength a picture; the language model learns to live with coarse features before any codec exists.
    """
    batch = features.shape[0]
    strength = torch.rand(batch, 1, 1, generator=generator) * largest
    noise = torch.rand(features.shape, generator=generator) * 2.0 - 1.0
    deviation = features.detach().float().std(dim=(0, 1))
    return features + (noise * strength).to(features) * deviation.to(features)
