"""Every recipe of training: the same numbers as ever, whatever kills it, and an end where it diverges."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.version import Version
from safetensors import safe_open
from safetensors.torch import load_file, save
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

import tofc
from tests.tofc.recipes import BASES, KINDS, make_run, result
from tofc.config import CONFIG_NAME, find_config, load_yaml
from tofc.errors import UserError
from tofc.features import as_array
from tofc.training.forward import VisionLanguageModel, read_base
from tofc.training.state import read_log

RECIPES = list(KINDS)
ROOT = Path(__file__).resolve().parents[2]
RECORDED = json.loads((Path(__file__).parent / "golden_training.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of unbroken runs of all recipes, each on the result of the one before."""
    folder = tmp_path_factory.mktemp("whole")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums are made in the order of the threads
    for name in RECIPES:
        make_run(name, folder, folder).train(result(name, folder))
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module")
def broken(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs that were killed twice."""
    folder = tmp_path_factory.mktemp("broken")
    command = [sys.executable, "tests/tofc/recipes.py", str(whole), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def entries(name: str, folder: Path) -> list[dict[str, float]]:
    log = read_log(folder / (name if name == "pretrain" else f"{name}-run") / "log.jsonl")
    return [{k: v for k, v in entry.items() if k != "pictures_per_second"} for entry in log]


def content(file: Path) -> Any:
    """What a file says; the order of safetensors' header is drawn anew at every writing."""
    if file.suffix != ".safetensors":
        return file.read_bytes()
    with safe_open(file, "pt") as opened:
        names = sorted(opened.keys())
        return opened.metadata(), [(name, save({name: opened.get_tensor(name)})) for name in names]


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.14"), reason="recorded with PyTorch 2.14: older ones draw others"
)
@pytest.mark.parametrize("name", RECIPES)
def test_a_run_has_the_recorded_numbers(name: str, whole: Path) -> None:
    found = entries(name, whole)
    assert [entry.keys() for entry in found] == [entry.keys() for entry in RECORDED[name]]
    for entry, recorded in zip(found, RECORDED[name], strict=True):
        assert entry == pytest.approx(recorded, rel=0.02, abs=0.003)


@pytest.mark.parametrize("name", RECIPES)
def test_a_killed_run_ends_as_an_unbroken_one(name: str, whole: Path, broken: Path, one_thread: None) -> None:
    assert name == "pretrain" or not result(name, broken).exists()
    log = make_run(name, whole, broken).folder / "log.jsonl"
    with log.open("a") as file:
        file.write('{"step": 41, "loss/den')  # a kill in the middle of a line
    run = make_run(name, whole, broken)
    assert run.step == run.total_steps
    run.train(result(name, broken))
    assert entries(name, broken) == entries(name, whole)
    files = [path.relative_to(result(name, whole)) for path in result(name, whole).rglob("*")]
    assert len(files) > 4
    for file in files:
        one, other = result(name, whole) / file, result(name, broken) / file
        assert one.is_dir() or content(one) == content(other), file


def test_a_damaged_base_beside_a_good_state_is_made_anew(whole: Path, broken: Path) -> None:
    folder = result("pretrain", broken)
    make_run("pretrain", whole, broken).train(folder)
    (folder / "chat_template.jinja").write_bytes(b"")
    make_run("pretrain", whole, broken).train(folder)
    for name in ("chat_template.jinja", "model.safetensors"):
        assert content(folder / name) == content(result("pretrain", whole) / name)


DIVERGING = {
    "pretrain": {"optimizer": {"muon_lr": 1e20, "adamw_lr": 1e20, "warmup_steps": 1}},
    "codec": {"codec_lr": 1e20, "warmup_steps": 1},
    "family": {"muon_lr": 1e20, "adamw_lr": 1e20, "warmup_steps": 1},
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_that_diverges_stops_and_says_what_to_lower(name: str, whole: Path, tmp_path: Path) -> None:
    run = make_run(name, whole, tmp_path, **DIVERGING[name], log_every=1, save_every=1)
    with pytest.raises(UserError, match=r"step \d+: .* not finite.* Lower .*_lr") as stopped:
        run.train(result(name, tmp_path))
    assert run.step < 8
    assert not result(name, tmp_path).exists() or name == "pretrain"
    if run.state_path.exists():
        state = load_file(run.state_path)
        trained = [value for key, value in state.items() if "/running/" not in key]
        assert all(bool(value.isfinite().all()) for value in trained), stopped.value


@pytest.mark.parametrize("name", RECIPES)
def test_no_numbers_change_no_weight(
    name: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(name, whole, tmp_path)
    before = [p.clone() for p in run._trained()]
    examples = [run.corpus.picture("train", number, 0) for number in run.pictures_of(0)]
    gradients = run.backward

    def spoiled(given: list[Any]) -> dict[str, float]:
        scalars = gradients(given)
        next(p for p in run._trained() if p.grad is not None).grad.fill_(torch.nan)
        return scalars

    monkeypatch.setattr(run, "backward", spoiled)
    with pytest.raises(UserError, match="step 1: the gradient"):
        run.train_step(examples)
    assert all(torch.equal(p, q) for p, q in zip(before, run._trained(), strict=True))


def test_bundled_configurations_can_be_read() -> None:
    known = {"model": "pretrain", "dense_steps": "pretrain", "branches": "family", "codec": "codec"}
    read = 0
    for file in sorted((ROOT / "configs").glob("*.yaml")):
        keys = [line.partition(":")[0] for line in file.read_text().splitlines()]
        kind = next((known[key] for key in known if key in keys and "data" in keys), None)
        if kind is not None:
            load_yaml(find_config(str(file)), KINDS[kind][0])
            read += 1
    assert read >= 10


def test_results_are_checkpoints_that_answer(whole: Path) -> None:
    for name, base in BASES.items():
        assert (whole / base).is_dir()
        assert (whole / name / CONFIG_NAME).is_file()
        tofc.Edge.from_pretrained(whole / name)


@pytest.mark.parametrize("normalisation", ["siglip", "clip"])
def test_training_sees_what_devices_see(
    normalisation: str, base_folder: Path, tmp_path: Path, make_picture: Any
) -> None:
    """Pictures of the tower's own size, so that nothing is resized, normalised as the processor says."""
    folder = tmp_path / "base"
    shutil.copytree(base_folder, folder)
    if normalisation == "clip":
        file = folder / "processor_config.json"
        settings = json.loads(file.read_text())
        settings["image_processor"] |= {"image_mean": OPENAI_CLIP_MEAN, "image_std": OPENAI_CLIP_STD}
        file.write_text(json.dumps(settings))
    device = tofc.Device.from_pretrained(folder)
    side = device.vision.encoder.image_size
    picture = make_picture(side, side)
    model, processor = read_base(str(folder), torch.device("cpu"), "fp32")
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    with torch.no_grad():
        features = VisionLanguageModel.of(model, processor).features(pixels)[0]
    expected = torch.from_numpy(as_array(device.features(picture, tokens="all").tokens))
    torch.testing.assert_close(features, expected[: len(features)], rtol=1e-5, atol=1e-5)
