"""Training of the codec on cached merged features: rate, distortion and balance, in minutes on one core.

Losses of AI Flow (arXiv 2506.12479), section II-B1. Every picture of a batch has a quality level of its own,
so one codec learns all levels at once. How a level trades rate for distortion follows from its step: at high
rate, squared error D = step^2 / 12 falls with rate R as dD/dR = -2 ln(2) D, so that minimising
R + D * 6 / (ln(2) step^2) keeps the step; the same weight serves the low levels, where channels drop out.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from safetensors.torch import load_file, save
from torch import Tensor

from entropy import CodecConfig, CodecOutput, FeatureCodec, TrainableCodec
from entropy.prior import LogisticMixture
from entropy.router import balance_loss
from tofc.training.codec_prior import make_density
from tofc.training.state import load_state, save_state

WEIGHTS_NAME = "codec.safetensors"
STATE_NAME = "codec-training.safetensors"
SHAPE_KEY = "shape.json"
IDLE_USAGE = 0.02

# (decoded [B, K, C], original [B, K, C]) -> distortion [B], in units of the features' variance
Distortion = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class CodecTrainingConfig:
    """A whole codec training run.

    codec: shape of the codec; prior: "entropy_bottleneck" (CompressAI's) or "logistic"; seed: of weights,
    batches and noise; total_steps, batch_size (pictures, each at one level), learning_rate (decays to zero
    along a cosine); gain_rate: learning rate of the gains relative to the rest, 0 keeps the steps as
    configured; balance: weight of the balance loss, in bits a coefficient; temperature: of the router's
    softmax, from start to end along an exponential; validation: share of the pictures held out;
    checkpoint_every: steps between states that a killed run resumes from.
    """

    codec: CodecConfig = field(default_factory=lambda: CodecConfig(width=192))
    prior: str = "entropy_bottleneck"
    seed: int = 0
    total_steps: int = 2000
    batch_size: int = 8
    learning_rate: float = 2e-3
    gain_rate: float = 0.0
    balance: float = 0.5
    temperature: tuple[float, float] = (1.0, 0.1)
    validation: float = 0.1
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        if self.prior not in ("entropy_bottleneck", "logistic"):
            raise ValueError(f"prior is {self.prior!r}; choose one of entropy_bottleneck, logistic")
        if min(self.total_steps, self.batch_size, self.checkpoint_every) < 1:
            raise ValueError("total_steps, batch_size and checkpoint_every must be at least 1")
        if self.learning_rate <= 0 or self.gain_rate < 0 or self.balance < 0 or min(self.temperature) <= 0:
            raise ValueError(
                "learning_rate and temperature must be positive, gain_rate and balance not negative"
            )
        if not 0 < self.validation < 1:
            raise ValueError(f"validation is {self.validation}; give a share between 0 and 1")


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


def train_codec(
    features: Tensor | Sequence[Tensor],
    config: CodecTrainingConfig,
    out_folder: str | Path,
    *,
    distortion: Distortion | None = None,
    distortion_weight: Tensor | None = None,
    start: TrainableCodec | None = None,
    console: Console | None = None,
) -> list[LevelReport]:
    """Train a codec and write codec.safetensors (floats) and codec-integer.safetensors into `out_folder`.

    features: merged features [M, K, C], or pictures [K_i, C] of different K. distortion: replaces the squared
    error (a loss of the language model, say). distortion_weight: [C, C], positive semi-definite, shapes the
    transform and the squared error (see `TrainableCodec.fit_transform`). start: a codec to go on from instead
    of a new one. Resumes from the state in `out_folder` where a run of the same configuration was
    interrupted. Returns a report for each quality level, on held-out pictures; it is also written as codec-
    report.json. Raises ValueError for features that do not fit the configuration.
    """
    folder, console = Path(out_folder), console or Console(stderr=True)
    folder.mkdir(parents=True, exist_ok=True)
    groups = _as_groups(features, config.codec.width)
    held_out, training = _split(groups, config)
    codec = start or make_codec(config)
    if start is None:
        codec.fit_transform(torch.cat([group.flatten(0, 1) for group in training]), distortion_weight)
    _optimise(codec, training, config, folder, distortion, console)

    codec.eval()
    exported = codec.export(_calibration(training, config))
    reports = evaluate(codec, exported, held_out)
    save_trainable(codec, folder)
    exported.save(folder)
    (folder / "codec-report.json").write_text(json.dumps([asdict(r) for r in reports], indent=2) + "\n")
    (folder / STATE_NAME).unlink(missing_ok=True)
    console.print(_table(reports))
    usage = np.mean([report.usage for report in reports], axis=0)
    idle = [expert for expert, share in enumerate(usage) if share < IDLE_USAGE]
    if idle:
        warnings.warn(
            f"entropy models {idle} code less than {IDLE_USAGE:.0%} of the tokens over all levels: "
            "raise balance, or train with fewer experts",
            stacklevel=2,
        )
    return reports


def make_codec(config: CodecTrainingConfig) -> TrainableCodec:
    """A new codec of the configuration, without a fitted transform."""
    return TrainableCodec(config.codec, make_density(config.prior, config.seed), config.seed)


def codec_loss(
    output: CodecOutput,
    features: Tensor,
    level: Tensor,
    config: CodecTrainingConfig,
    distortion: Distortion | None,
) -> tuple[Tensor, dict[str, float]]:
    """Rate + weighted distortion + balance, in bits a coefficient, and its parts.

    output: of the codec for features [B, K, C] at level [B]; distortion: see `train_codec`.
    """
    steps = torch.tensor(config.codec.steps, device=features.device)
    if distortion is None:
        error = (output.decoded_coefficients - output.coefficients).square().mean((1, 2))
    else:
        error = distortion(output.decoded, features)
    rate = output.rate.mean(1) / features.shape[-1]  # [B]
    trade = 6.0 / (math.log(2.0) * steps[level].square())
    balance = balance_loss(output.router)
    loss = (rate + trade * error).mean() + config.balance * balance
    parts = {"rate": rate.mean(), "distortion": (trade * error).mean(), "balance": balance}
    return loss, {name: float(value.detach()) for name, value in parts.items()}


def _optimise(
    codec: TrainableCodec,
    groups: list[Tensor],
    config: CodecTrainingConfig,
    folder: Path,
    distortion: Distortion | None,
    console: Console,
) -> None:
    gains = [codec.first_gain, codec.gain_growth]
    others = [p for p in codec.parameters() if p.requires_grad and not any(p is gain for gain in gains)]
    optimizer = torch.optim.Adam([{"params": others}, {"params": gains}], lr=config.learning_rate)
    identity = json.dumps(asdict(config), sort_keys=True)
    state, mark = folder / STATE_NAME, folder / (STATE_NAME + ".json")
    first = 0
    if state.exists() and mark.exists() and mark.read_text() == identity:
        first = load_state(state, {"codec": codec}, [optimizer])
        console.print(f"resuming at step {first} of {config.total_steps}")
    codec.train()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("codec", total=config.total_steps, completed=first)
        shown = time.monotonic()
        for step in range(first, config.total_steps):
            done = step / config.total_steps
            rate = config.learning_rate * 0.5 * (1 + math.cos(math.pi * done)) * min(1.0, (step + 1) / 50)
            optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = rate, rate * config.gain_rate
            # Each step has its own generator, so that a resumed run is the uninterrupted one.
            generator = torch.Generator().manual_seed((config.seed << 32) + step)
            batch, level = _draw(groups, config, generator)
            hot, cold = config.temperature
            temperature = hot * (cold / hot) ** done
            output = codec(batch, level, temperature=temperature, generator=generator)
            loss, parts = codec_loss(output, batch, level, config, distortion)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(codec.parameters(), 5.0)
            optimizer.step()
            if time.monotonic() - shown > 0.5 or step + 1 == config.total_steps:
                shown = time.monotonic()
                text = "  ".join(f"{name} {value:.4f}" for name, value in parts.items())
                progress.update(task, completed=step + 1, description=text)
            if (step + 1) % config.checkpoint_every == 0 and step + 1 < config.total_steps:
                save_state(state, step + 1, {"codec": codec}, [optimizer])
                mark.write_text(identity)
    mark.unlink(missing_ok=True)


@torch.no_grad()
def evaluate(codec: TrainableCodec, exported: FeatureCodec, groups: list[Tensor]) -> list[LevelReport]:
    """Rate and distortion of float model and exported codec on pictures; groups: tensors [M, K, C]."""
    codec.eval()
    images = [image for group in groups for image in group]
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


def load_trainable(folder: str | Path) -> TrainableCodec:
    """Read what `save_trainable` wrote; ValueError where the file is of another kind."""
    path = Path(folder) / WEIGHTS_NAME
    tensors = load_file(path)
    if SHAPE_KEY not in tensors:
        raise ValueError(f"{path} is not a trainable codec: it has no {SHAPE_KEY}; `tofc train` makes one")
    shape = json.loads(bytes(tensors.pop(SHAPE_KEY).tolist()))
    config = CodecConfig(**{**shape["codec"], "steps": tuple(shape["codec"]["steps"])})
    codec = TrainableCodec(config, make_density(shape["prior"], 0))
    codec.load_state_dict(tensors)
    return codec


def _as_groups(features: Tensor | Sequence[Tensor], width: int) -> list[Tensor]:
    """Pictures by their number of tokens: [M_i, K_i, C] each."""
    images = list(features)
    if not images:
        raise ValueError("there are no features to train on")
    by_tokens: dict[int, list[Tensor]] = {}
    for image in images:
        if image.ndim != 2 or image.shape[1] != width or len(image) == 0:
            raise ValueError(f"features of a picture must be [K, {width}], got {list(image.shape)}")
        by_tokens.setdefault(len(image), []).append(image.detach().float())
    groups = [torch.stack(group) for _, group in sorted(by_tokens.items())]
    if not all(bool(torch.isfinite(group).all()) for group in groups):
        raise ValueError("features hold NaN or infinity")
    return groups


def _split(groups: list[Tensor], config: CodecTrainingConfig) -> tuple[list[Tensor], list[Tensor]]:
    """Held-out pictures and those to train on, of every group with at least two pictures."""
    generator = torch.Generator().manual_seed(config.seed)
    held_out, training = [], []
    for group in groups:
        order = torch.randperm(len(group), generator=generator)
        count = min(len(group) - 1, max(1, round(config.validation * len(group)))) if len(group) > 1 else 0
        held_out += [group[order[:count]]] if count else []
        training.append(group[order[count:]])
    return held_out or training, training


def _draw(
    groups: list[Tensor], config: CodecTrainingConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A batch [B, K, C] of one group and a level [B] for each picture, all levels equally often."""
    sizes = torch.tensor([float(group.shape[0] * group.shape[1]) for group in groups])
    group = groups[int(torch.multinomial(sizes, 1, generator=generator))]
    rows = torch.randint(len(group), (config.batch_size,), generator=generator)
    levels = len(config.codec.steps)
    first = int(torch.randint(levels, (1,), generator=generator))
    return group[rows], (torch.arange(config.batch_size) + first) % levels


def _calibration(groups: list[Tensor], config: CodecTrainingConfig, tokens: int = 4096) -> Tensor:
    """Some training tokens as [1, n, C], to calibrate the integer activations with."""
    flat = torch.cat([group.flatten(0, 1) for group in groups])
    order = np.random.default_rng(config.seed).permutation(len(flat))[:tokens]
    return flat[torch.from_numpy(order)][None]


def _table(reports: list[LevelReport]) -> Table:
    table = Table(title="codec on held-out pictures")
    for heading in ("quality", "bytes", "float ideal", "integer ideal", "distortion", "entropy models' use"):
        table.add_column(heading, justify="right")
    for r in reports:
        sizes = (f"{value:.1f}" for value in (r.bytes_per_image, r.estimated_bytes, r.integer_bytes))
        usage = " ".join(f"{share:.0%}" for share in r.usage)
        table.add_row(str(r.quality), *sizes, f"{r.distortion:.5f}", usage)
    return table
