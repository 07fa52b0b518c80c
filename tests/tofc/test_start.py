"""Help, looking at a packet, and mistakes import nothing that takes long: seen in real processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from entropy import FeatureCodec
from tofc.config import ASSETS
from tofc.packet import TAG_BYTES, Packet

ROOT = Path(__file__).resolve().parents[2]
# Libraries of which each takes more than all else together.
SLOW = {"torch", "transformers", "torchvision", "numba", "scipy", "sympy", "onnxruntime", "matplotlib"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture and a packet of the bundled model."""
    folder = tmp_path_factory.mktemp("start")
    Image.new("RGB", (64, 48), "green").save(folder / "street.png")
    codec = FeatureCodec.load(ASSETS / "scenes-tiny")
    features = np.random.default_rng(0).normal(size=(16, codec.width)) + codec.center
    packet = Packet(codec.encode(features, 4), ((48, 64),), codec.fingerprint[:TAG_BYTES])
    (folder / "street.tofc").write_bytes(bytes(packet))
    return folder


def start(folder: Path, *words: str) -> tuple[int, set[str], str]:
    """Exit code of a command, the libraries that it imported, and what it said."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tofc", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    imported = re.findall(r"^import time:.*\| +([\w.]+)$", done.stderr, flags=re.MULTILINE)
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    return done.returncode, {name.split(".")[0] for name in imported}, "\n".join(said)


@pytest.mark.parametrize(
    "words, code",
    [
        ("--help", 0),
        ("ask --help", 0),
        ("info street.tofc", 0),
        ("info street.tofc --json", 0),
        ("ask street.png What? --model nosuch", 2),
        ("ask street.png What? --exit foo", 2),
        ("ask street.png What? --max-bytes 5", 2),
        ("ask nosuch.png What?", 2),
        ("encode street.png -o small.tofc --max-bytes 5", 2),
        ("answer street.tofc What? --exit foo", 2),
        ("serve --model nosuch", 2),
        ("train nosuch", 2),
        ("eval rate nosuch", 2),
        ("eval latency nosuch", 2),
    ],
)
def test_nothing_slow_is_imported(words: str, code: int, folder: Path) -> None:
    found, imported, said = start(folder, *words.split())
    assert found == code, said
    assert "typer" in imported  # or imports are not seen at all
    assert not imported & SLOW
    if code:
        assert len(said.splitlines()) == 1


def test_a_picture_is_encoded_without_torch_and_numba(folder: Path) -> None:
    """By the model that commands take by default, whose merging searches for nothing."""
    found, imported, said = start(folder, "encode", "street.png", "-o", "new.tofc")
    assert found == 0, said
    assert imported & SLOW == {"onnxruntime"}


def test_a_command_is_imported_without_the_others() -> None:
    script = (
        "import sys; from tofc.cli.app import app_with; app_with('info')\n"
        "print(*(name in sys.modules for name in ('tofc.cli.packets', 'tofc.cli.serve')))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_an_answer_imports_torch_and_little_more(folder: Path) -> None:
    """Of transformers nothing, nor what it brings, and no numba."""
    found, imported, said = start(folder, "answer", "street.tofc", "What?", "--model", "scenes-tiny")
    assert found == 0, said
    assert "torch" in imported
    assert not imported & (SLOW - {"torch"})
