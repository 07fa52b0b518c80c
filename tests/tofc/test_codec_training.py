from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from entropy import CodecConfig, FeatureCodec, TrainableCodec
from tofc.training import codec as training
from tofc.training.codec import CodecTrainingConfig, LevelReport, load_trainable, train_codec
from tofc.training.codec_prior import make_density

CONFIG = CodecTrainingConfig(
    codec=CodecConfig(
        width=16, experts=2, hyper=3, analysis_hidden=16, synthesis_hidden=16, steps=(2.0, 0.7, 0.2)
    ),
    prior="logistic",
    total_steps=50,
    batch_size=6,
    checkpoint_every=20,
)
QUIET = Console(quiet=True)


def clustered(pictures: int = 60, tokens: int = 16) -> Tensor:
    """Two kinds of token that spread along different directions: two entropy models can tell them apart."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.randint(2, (pictures, tokens, 1), generator=generator)
    spread = torch.cat([torch.full((8,), 3.0), torch.full((8,), 0.1)])
    noise = torch.randn(pictures, tokens, 16, generator=generator)
    return torch.where(kind == 0, noise * spread + 1.0, noise * spread.flip(0) - 1.0)


def weighted_loss(reports: list[LevelReport]) -> float:
    """Rate and distortion of all levels as training weighs them, per token."""
    steps = CONFIG.codec.steps
    return sum(
        r.bytes_per_image / 16 + 8.66 * r.distortion / s**2 for r, s in zip(reports, steps, strict=True)
    )


@pytest.mark.parametrize("prior", ["logistic", "entropy_bottleneck"])
def test_training_writes_a_better_codec(prior: str, tmp_path: Path) -> None:
    features = clustered()
    config = dataclasses.replace(CONFIG, prior=prior)
    begin = train_codec(
        features, dataclasses.replace(config, total_steps=1), tmp_path / "begin", console=QUIET
    )
    end = train_codec(features, config, tmp_path / "end", console=QUIET)
    assert weighted_loss(end) < 0.995 * weighted_loss(begin)
    sizes = [report.bytes_per_image for report in end]
    errors = [report.distortion for report in end]
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    for report in end:
        assert report.integer_bytes == pytest.approx(report.estimated_bytes, rel=0.01)
        assert sum(report.usage) == pytest.approx(1, abs=1e-3)
    codec = FeatureCodec.load(tmp_path / "end")
    assert len(codec.encode(features[0], 3)) > len(codec.encode(features[0], 1))
    again = load_trainable(tmp_path / "end").export(features[:4])
    assert again.gains.tolist() == codec.gains.tolist()
    names = {path.name for path in (tmp_path / "end").iterdir()}
    assert names == {"codec.safetensors", "codec-integer.safetensors", "codec-report.json"}


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, prior="entropy_bottleneck")
    whole = train_codec(clustered(), config, tmp_path / "whole", console=QUIET)
    calls = 0
    real = training.codec_loss

    def dies(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 25:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "codec_loss", dies)
    with pytest.raises(KeyboardInterrupt):
        train_codec(clustered(), config, tmp_path / "cut", console=QUIET)
    resumed = train_codec(clustered(), config, tmp_path / "cut", console=QUIET)
    assert calls == 25 + 30
    assert resumed == whole
    saved = [FeatureCodec.load(tmp_path / name).fingerprint for name in ("whole", "cut")]
    assert saved[0] == saved[1]


def test_pictures_of_different_sizes_and_a_loss_of_the_callers(tmp_path: Path) -> None:
    features = [*clustered(10, 16), *clustered(10, 5)]
    seen = set()

    def only_first(decoded: Tensor, original: Tensor) -> Tensor:
        seen.add(original.shape[1])
        return (decoded - original)[..., 0].square().mean(1)

    config = dataclasses.replace(CONFIG, total_steps=12, gain_rate=1.0)
    train_codec(
        features, config, tmp_path, distortion=only_first, distortion_weight=torch.eye(16), console=QUIET
    )
    assert seen == {5, 16}


def test_idle_entropy_models_are_reported(tmp_path: Path) -> None:
    start = TrainableCodec(CONFIG.codec, seed=0)
    start.fit_transform(clustered())
    with torch.no_grad():
        start.router.output.bias[..., 1] = -1e3
    config = dataclasses.replace(CONFIG, total_steps=1)
    with pytest.warns(UserWarning, match=r"entropy models \[1\]"):
        train_codec(clustered(), config, tmp_path, start=start, console=QUIET)


@pytest.mark.parametrize(
    "features, text",
    [
        ([], "no features"),
        (torch.zeros(3, 4, 15), "16"),
        ([torch.zeros(0, 16)], "16"),
        (torch.full((3, 4, 16), torch.nan), "NaN"),
    ],
)
def test_features_that_do_not_fit(features: Tensor | list[Tensor], text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=text):
        train_codec(features, CONFIG, tmp_path, console=QUIET)


@pytest.mark.parametrize(
    "fault", [{"prior": "other"}, {"total_steps": 0}, {"learning_rate": 0.0}, {"validation": 1.0}]
)
def test_configurations_that_cannot_be(fault: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(fault))):
        CodecTrainingConfig(**fault)


def test_a_missing_compressai_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "compressai.entropy_models", None)
    with pytest.raises(ImportError, match=r"tofc\[train\]"):
        make_density("entropy_bottleneck", 0)(3)
    with pytest.raises(ValueError, match="logistic"):
        make_density("other", 0)
