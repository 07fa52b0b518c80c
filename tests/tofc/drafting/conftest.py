"""The bundled model with branches that were decomposed from the block after their exit, and never trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import tofc
from eval.scenes.world import make_scene
from tests.tofc.drafting.fakes import QUESTION
from tofc.config import resolve
from tofc.familial.branches import Branch, decomposed_block
from tofc.familial.decomposition import spectra, watch_inputs
from tofc.familial.store import save_family
from tofc.familial.views import main_spec
from tofc.language.model import text_model
from tofc.language.prompt import Prompt
from tofc.model import save_checkpoint

EXITS = (1, 3)


@pytest.fixture(scope="session")
def packets() -> list[tofc.Packet]:
    device = tofc.Device.from_pretrained("scenes-tiny")
    return [device.encode(Image.fromarray(make_scene("test", index)[1])) for index in range(3)]


@pytest.fixture(scope="session")
def family_folder(packets: list[tofc.Packet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with branches e1 and e3, complete and halved."""
    plain = tofc.Edge.from_pretrained("scenes-tiny")
    assert plain.codec is not None
    text = text_model(plain.model)
    inputs, _ = Prompt.batch([plain.prompt(packet, QUESTION) for packet in packets], plain.model)
    branches = []
    for layer in EXITS:
        with watch_inputs({layer: text.layers[layer]}) as seen, torch.no_grad():
            text(inputs_embeds=inputs)
        block = decomposed_block(text.layers[layer], spectra(text.layers[layer], seen[layer]))
        branches.append(Branch(f"e{layer}", layer, [block], (0.5, 1.0)))
    root = tmp_path_factory.mktemp("decoding")
    base = resolve("scenes-tiny").base
    stored = save_family(root / "family", base, main_spec(plain.model), branches, dtype=torch.float32)
    return save_checkpoint(root / "tiny", base, plain.codec, plain.config, family=stored)


@pytest.fixture(scope="session")
def edge(family_folder: Path) -> tofc.Edge:
    return tofc.Edge.from_pretrained(family_folder)
