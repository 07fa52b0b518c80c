"""The trainable codec around its training: made, stored, read back, and measured on held-out features."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.table import Table
from safetensors.torch import load_file, save
from torch import Tensor

from entropy import CodecConfig, FeatureCodec, TrainableCodec
from entropy.prior import LogisticMixture
from tofc.training.codec_prior import make_density

WEIGHTS_NAME = "codec.safetensors"
SHAPE_KEY = "shape.json"
IDLE_USAGE = 0.02


@dataclass(frozen=True)
class LevelReport:
    """One quality level on the held-out pictures, a picture at a time.

    bytes_per_image: of payloads; estimated_bytes: ideal size under the float model; integer_bytes: ideal size
    under the exported integers; distortion: squared error relative to the features' variance; usage: share of
    each expert.
    """

    quality: int
    bytes_per_image: float
    estimated_bytes: float
    integer_bytes: float
    distortion: float
    usage: tuple[float, ...]


def make_codec(config: CodecConfig, prior: str, seed: int) -> TrainableCodec:
    """A new codec without a fitted transform; prior: see `codec_prior.make_density`."""
    return TrainableCodec(config, make_density(prior, seed), seed)


@torch.no_grad()
def evaluate(codec: TrainableCodec, exported: FeatureCodec, images: Sequence[Tensor]) -> list[LevelReport]:
    """Rate and distortion of float model and exported codec on pictures' merged features, [K_i, C] each."""
    codec.eval()
    reports = []
    for quality in exported.qualities:
        size = ideal = estimated = error = 0.0
        usage = torch.zeros(codec.config.experts)
        for image in images:
            output = codec(image[None], quality - 1)
            payload = exported.encode(image, quality)
            decoded = torch.from_numpy(exported.decode(payload))
            size += len(payload) / len(images)
            ideal += exported.estimate(image, quality) / 8 / len(images)
            estimated += float(output.rate.sum()) / 8 / len(images)
            deviation = codec.transform(decoded) - codec.transform(image)
            error += float(deviation.square().mean()) / len(images)
            usage += output.router.mean((0, 1)).cpu() / len(images)
        shares = tuple(round(share, 4) for share in usage.tolist())
        reports.append(LevelReport(quality, size, estimated, ideal, error, shares))
    return reports


def save_trainable(codec: TrainableCodec, folder: str | Path) -> Path:
    """Write the float codec into a folder as codec.safetensors, to train on; returns the file."""
    path = Path(folder) / WEIGHTS_NAME
    prior = "logistic" if isinstance(codec.prior[0], LogisticMixture) else "entropy_bottleneck"
    tensors = {name: value.detach().cpu().contiguous() for name, value in codec.state_dict().items()}
    # The shape travels as an array beside the weights, so that it is not lost where arrays alone are copied.
    shape = json.dumps({"codec": asdict(codec.config), "prior": prior}).encode()
    tensors[SHAPE_KEY] = torch.tensor(list(shape), dtype=torch.uint8)
    # Through bytes: safetensors' own writer makes files that only their owner can read.
    path.write_bytes(save(tensors))
    return path


def load_trainable(path: str | Path) -> TrainableCodec:
    """Read the file that `save_trainable` wrote; ValueError where it is of another kind."""
    tensors = load_file(path)
    if SHAPE_KEY not in tensors:
        raise ValueError(f"{path} is not a trainable codec: it has no {SHAPE_KEY}; `tofc train` makes one")
    shape = json.loads(bytes(tensors.pop(SHAPE_KEY).tolist()))
    config = CodecConfig(**{**shape["codec"], "steps": tuple(shape["codec"]["steps"])})
    codec = TrainableCodec(config, make_density(shape["prior"], 0))
    codec.load_state_dict(tensors)
    return codec


def idle_experts(usage: Sequence[float]) -> list[int]:
    """Experts that code less than `IDLE_USAGE` of the tokens; usage: share of each."""
    return [expert for expert, share in enumerate(usage) if share < IDLE_USAGE]


def report_table(reports: Sequence[LevelReport]) -> Table:
    """The reports as a table for the terminal."""
    table = Table(title="codec on held-out pictures")
    for heading in ("quality", "bytes", "float ideal", "integer ideal", "distortion", "entropy models' use"):
        table.add_column(heading, justify="right")
    for r in reports:
        sizes = (f"{value:.1f}" for value in (r.bytes_per_image, r.estimated_bytes, r.integer_bytes))
        usage = " ".join(f"{share:.0%}" for share in r.usage)
        table.add_row(str(r.quality), *sizes, f"{r.distortion:.5f}", usage)
    return table
