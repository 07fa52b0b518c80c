"""A trained variant on test pictures: bytes that its integer codec writes, and how well answers survive."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from entropy import FeatureCodec, TrainableCodec
from tofc.training.codec import CodecRun
from tofc.training.forward import VisionLanguageModel, pixels_of
from tofc.training.packing import PackedBatch

PACKET_BYTES = 11  # header, model tag, picture size and checksum around the payload of one picture
BATCH = 16


@dataclass(frozen=True)
class CodecRow:
    """One picture at one quality: packet bytes, error, weighted cross-entropy of its answers in nats.

    `error` is the mean squared error in the coordinates that the reference's codec quantises, relative to
    the features' variance there: the error that matters to the answers, see `tofc.training.codec`.
    """

    variant: str
    picture: int
    quality: int
    bytes: int
    error: float
    cross_entropy: float
    questions: int
    right: int


@torch.no_grad()
def measure(
    name: str, run: CodecRun, codec: FeatureCodec, pictures: int, reference: TrainableCodec
) -> list[CodecRow]:
    """Rows of every quality level, and of quality 0: features merged but not coded, 2 bytes a value.

    codec: the run's, exported; reference: the codec in whose coordinates errors are taken.
    """
    run.task.eval()
    rows: list[CodecRow] = []
    for start in range(0, pictures, BATCH):
        numbers = range(start, min(start + BATCH, pictures))
        examples = [run.corpus.picture("test", number, run.config.seed) for number in numbers]
        pixels = pixels_of(examples, run.task.grounded.encoder.image_size)
        features = run.task.merged(pixels, run.config.main_tokens())
        packed = run.packer.pack([example.turns for example in examples]).to(run.device)
        for quality in (0, *codec.qualities):
            sizes, decoded = coded(features, codec, quality)
            coordinates = reference.transform(decoded.cpu() - features.cpu() + reference.center)
            errors = coordinates.square().mean((1, 2)).tolist()
            losses, exact = answers_of(run.task.grounded, decoded, packed)
            for place, number in enumerate(numbers):
                asked = len(examples[place].turns)
                right = int(exact[place, :asked].sum())
                found = (sizes[place], errors[place], losses[place], asked, right)
                rows.append(CodecRow(name, number, quality, *found))
    return rows


def coded(features: torch.Tensor, codec: FeatureCodec, quality: int) -> tuple[list[int], torch.Tensor]:
    """Packet bytes of each picture's features [B, K, C], and these decoded; quality 0 codes nothing."""
    if quality == 0:
        return [2 * picture.numel() for picture in features], features
    payloads = [codec.encode(picture, quality) for picture in features]
    decoded = np.stack([codec.decode(payload) for payload in payloads])
    return [len(payload) + PACKET_BYTES for payload in payloads], torch.from_numpy(decoded).to(features)


def answers_of(
    grounded: VisionLanguageModel, decoded: torch.Tensor, packed: PackedBatch
) -> tuple[list[float], torch.Tensor]:
    """Cross-entropy of each picture's answers in nats, and bool [B, Q], which of them are right."""
    visual = grounded.visual(decoded)
    found = grounded.answers(visual, packed)
    return found.by_picture.tolist(), found.exact
