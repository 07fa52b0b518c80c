"""The trainable codec around its training: made, stored, read back, and measured on held-out features.

CompressAI's factorised prior is its density while it trains; coding never needs that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.table import Table
from safetensors.torch import load_file, save
from torch import Tensor, nn

from entropy import CodecConfig, FeatureCodec, TrainableCodec
from entropy.hyperprior import Density, LogisticMixture
from tofc.config import CODEC_WEIGHTS, resolve
from tofc.errors import UserError
from tofc.training.settings import TrainConfig
from tofc.writing import write_whole

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


def make_density(name: str, seed: int) -> Density:
    """The factorised prior called `name`: "entropy_bottleneck" (CompressAI's) or "logistic" (torch alone).

    seed: of its initial values. Raises ValueError for another name, ImportError naming what to install.
    """
    if name == "logistic":
        return LogisticMixture
    if name == "entropy_bottleneck":
        return lambda channels: EntropyBottleneckDensity(channels, seed)
    raise ValueError(f"prior is {name!r}; choose one of entropy_bottleneck, logistic")


class EntropyBottleneckDensity(nn.Module):
    """The non-parametric univariate density of CompressAI's EntropyBottleneck, one for each channel.

    Source: J. Balle et al., "Variational image compression with a scale hyperprior", ICLR 2018, appendix 6.1.
    """

    def __init__(self, channels: int, seed: int) -> None:
        super().__init__()
        try:
            from compressai.entropy_models import EntropyBottleneck
        except ImportError as error:
            raise ImportError(
                "training with the prior entropy_bottleneck needs CompressAI: pip install 'tofc[train]', "
                "or set prior: logistic"
            ) from error
        with torch.random.fork_rng(devices=[]):  # it draws its first values from the global generator
            torch.manual_seed(seed)
            self.bottleneck = EntropyBottleneck(channels, init_scale=4, filters=(3, 3))
        self.bottleneck.quantiles.requires_grad_(False)  # medians are CompressAI's coder's affair,
        for name in ("_offset", "_quantized_cdf", "_cdf_length"):  # so are these: empty, not to be stored
            self.bottleneck.register_buffer(name, getattr(self.bottleneck, name), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """values: [channels, n]. Returns the mass of [value - 0.5, value + 0.5], same shape."""
        # The call with quantisation would draw noise from the global generator; values come noisy or rounded.
        likelihood, _, _ = self.bottleneck._likelihood(values[:, None])
        return self.bottleneck.likelihood_lower_bound(likelihood[:, 0])


def make_codec(config: CodecConfig, prior: str, seed: int) -> TrainableCodec:
    """A new codec without a fitted transform; prior: see `make_density`."""
    return TrainableCodec(config, make_density(prior, seed), seed)


def first_codec(config: TrainConfig) -> TrainableCodec:
    """The codec that training begins with; UserError where that of `codec_from` cannot go on as it is."""
    if config.codec_from is None:
        return make_codec(config.codec, config.prior, config.seed)
    checkpoint = resolve(config.codec_from)
    weights = checkpoint.folder / CODEC_WEIGHTS
    if not checkpoint.has_codec or not weights.is_file():
        raise UserError(
            f"codec_from: {config.codec_from} has no codec that can learn on ({CODEC_WEIGHTS}); name a "
            "checkpoint that `tofc train` wrote, or leave codec_from out for a new codec"
        )
    codec = load_trainable(weights)
    if codec.config != config.codec:
        raise UserError(
            f"codec_from: the codec of {config.codec_from} has another shape, {codec.config}; set `codec` to "
            "that, or leave codec_from out for a new codec"
        )
    return codec


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
    path = Path(folder) / CODEC_WEIGHTS
    prior = "logistic" if isinstance(codec.prior[0], LogisticMixture) else "entropy_bottleneck"
    tensors = {name: value.detach().cpu().contiguous() for name, value in codec.state_dict().items()}
    # The shape travels as an array beside the weights, so that it is not lost where arrays alone are copied.
    shape = json.dumps({"codec": asdict(codec.config), "prior": prior}).encode()
    tensors[SHAPE_KEY] = torch.tensor(list(shape), dtype=torch.uint8)
    # Through bytes: safetensors' own writer makes files that only their owner can read.
    return write_whole(path, save(tensors))


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
