"""Plain torch modules say what transformers' modules say: tokens, confidence, prompts and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import tofc
from tofc.config import bundled_names
from tofc.features import Features
from tofc.packet import TAG_BYTES, Packet
from tofc.tiling import Geometry, tile_layout

QUESTIONS = (
    "How many cars are there?",
    "Describe the picture.",
    "  Wo ist <|im_end|> der Hund – 12,345 + 6?\n\n\tÄ ",
)


@pytest.fixture(scope="module", params=bundled_names())
def sides(request: pytest.FixtureRequest) -> tuple[tofc.Edge, tofc.Edge]:
    """The edge in plain modules, and the stock one."""
    plain = tofc.Edge.from_pretrained(request.param, stock=False)
    stock = tofc.Edge.from_pretrained(request.param)
    assert (plain.is_stock, stock.is_stock) == (False, True)
    return plain, stock


def packet_for(edge: tofc.Edge, seed: int) -> Packet:
    codec: Any = edge.codec
    features = np.random.default_rng(seed).normal(size=(16, codec.width)) + codec.center
    return Packet(codec.encode(features, 5), ((300, 400),), codec.fingerprint[:TAG_BYTES])


def test_every_member_says_the_same(sides: tuple[tofc.Edge, tofc.Edge]) -> None:
    plain, stock = sides
    packet = packet_for(stock, 0)
    assert plain.family.names == stock.family.names
    for exit in stock.family.names:
        for question in QUESTIONS:
            said, expected = (edge.answer(packet, question, exit=exit) for edge in sides)
            assert said == expected
            assert said.confidence == pytest.approx(expected.confidence, rel=1e-6)
            assert "".join(plain.stream(packet, question, exit=exit)) == expected.text


def test_prompts_are_the_same(sides: tuple[tofc.Edge, tofc.Edge]) -> None:
    packet = packet_for(sides[1], 1)
    for question in QUESTIONS:
        mine, theirs = (edge.prompt(packet, question) for edge in sides)
        assert torch.equal(mine.ids, theirs.ids)
        torch.testing.assert_close(mine.pictures[0], theirs.pictures[0])
    assert sides[0].ends == sides[1].ends


def test_uncoded_pictures_are_answered_about(sides: tuple[tofc.Edge, tofc.Edge]) -> None:
    """As many tokens as the tower gives, which take another way to the language model."""
    stock: Any = sides[1]
    shape = Geometry.of(stock.model.config)
    layout = tile_layout((300, 400), "base", shape)
    width = stock.model.model.multi_modal_projector.linear_1.in_features
    values = torch.randn(layout.num_tokens, width, generator=torch.Generator().manual_seed(2))
    features = Features(values, (300, 400), "base", layout)
    said, expected = (edge.answer_features(features, QUESTIONS[0])[0] for edge in sides)
    assert said == expected


def test_what_only_transformers_does_is_refused(sides: tuple[tofc.Edge, tofc.Edge]) -> None:
    with pytest.raises(tofc.UserError, match="stock=True"):
        sides[0].answer(packet_for(sides[1], 3), QUESTIONS[0], num_beams=2)


def test_other_models_are_loaded_as_before(anyres_folder) -> None:
    """Grids of tiles, for one, are packed by transformers alone."""
    assert tofc.Edge.from_pretrained(anyres_folder, stock=False).is_stock
