"""Packets for vLLM: what it is given is what an edge's own language model reads, row by row."""

from __future__ import annotations

import base64
import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionProcessor

import tofc
from entropy import CodecConfig, TrainableCodec
from tests.tofc.test_published_shapes import CONFIG_05B, CONFIG_7B
from tofc.config import CheckpointConfig, MergingConfig
from tofc.errors import PacketError, UserError
from tofc.language.load import language_skeleton
from tofc.packet import TAG_BYTES, Packet
from tofc.serving.vllm_adapter import VllmInputs


def test_rows_are_what_the_edge_prompts_with(checkpoint_folder: Path, make_picture) -> None:
    device, edge = (
        tofc.Device.from_pretrained(checkpoint_folder),
        tofc.Edge.from_pretrained(checkpoint_folder),
    )
    inputs = VllmInputs.from_pretrained(checkpoint_folder)
    packet = device.encode([make_picture(100, 70), make_picture(60, 90, seed=1)])
    embeds = inputs.image_embeds(bytes(packet))
    (prompt,) = edge.prompts([(packet, "How many cars are there?")])
    assert [one.shape for one in embeds] == [(13, 32), (13, 32)]  # 12 tokens, and what ends them
    for given, own in zip(embeds, prompt.pictures, strict=True):
        assert torch.equal(given, own)
    # vLLM writes as many image tokens as there are rows, and puts the rows in their places.
    is_visual = prompt.ids == edge.model.config.image_token_index
    assert int(is_visual.sum()) == sum(len(one) for one in embeds)
    mine, _ = prompt.batch([prompt], edge.model)
    theirs = edge.model.get_input_embeddings()(prompt.ids)
    theirs[is_visual] = torch.cat(embeds).to(theirs.dtype)
    assert torch.equal(mine[0], theirs)


def test_parts_of_a_message_hold_plain_arrays(checkpoint_folder: Path, picture) -> None:
    packet = tofc.Device.from_pretrained(checkpoint_folder).encode(picture)
    inputs = VllmInputs.from_pretrained(checkpoint_folder, dtype="bfloat16")
    (embeds,), (part,) = inputs.image_embeds(packet), inputs.content(packet)
    assert embeds.dtype == torch.bfloat16
    assert part["type"] == "image_embeds"
    data = base64.b64decode(part["image_embeds"], validate=True)
    read = np.load(io.BytesIO(data), allow_pickle=False)
    assert read.dtype == np.float32
    assert torch.equal(torch.from_numpy(read), embeds.float())


def test_unmerged_rows_are_the_stock_processors(anyres_folder: Path, base_folder: Path, make_picture) -> None:
    image = make_picture(150, 100)
    processor = LlavaOnevisionProcessor.from_pretrained(base_folder)
    ids = processor(images=[image], text="<image>", return_tensors="pt")["input_ids"]
    expanded = int((ids == processor.tokenizer.convert_tokens_to_ids("<image>")).sum())
    packet = tofc.Device.from_pretrained(anyres_folder).encode(image, tokens="all")
    (embeds,) = VllmInputs.from_pretrained(anyres_folder, rows=expanded).image_embeds(packet)
    assert len(embeds) == expanded > 36


@pytest.mark.parametrize("values", [CONFIG_05B, CONFIG_7B], ids=["0.5B", "7B"])
def test_published_shapes(values: dict[str, Any], picture) -> None:
    """The projector at its published width with random weights; 64 tokens of 1152 become 65 rows."""
    values = copy.deepcopy(values)
    values["text_config"]["num_hidden_layers"] = 1
    config = LlavaOnevisionConfig.from_dict(values)
    hidden = config.text_config.hidden_size
    model = language_skeleton(config)
    model.model.multi_modal_projector.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for weight in model.model.multi_modal_projector.parameters():
        weight.data.normal_(0, 0.02, generator=generator)
    model.model.image_newline = torch.nn.Parameter(torch.randn(hidden, generator=generator))
    features = torch.randn(4, 64, 1152, generator=generator)
    trainable = TrainableCodec(
        CodecConfig(width=1152, hyper=4, analysis_hidden=16, synthesis_hidden=16, router_hidden=8), seed=0
    )
    trainable.fit_transform(features)
    codec = trainable.export(features)
    settings = CheckpointConfig(merging=MergingConfig(tokens=64))
    payload = codec.encode(features[0].numpy(), codec.qualities[0])
    packet = Packet(payload, ((384, 384),), codec.fingerprint[:TAG_BYTES])
    (embeds,) = VllmInputs(model, codec, settings).image_embeds(packet)
    assert embeds.shape == (65, hidden)
    assert embeds.dtype == torch.float32
    assert torch.equal(embeds[-1], model.model.image_newline)


def test_pictures_of_other_sizes_are_refused(checkpoint_folder: Path, anyres_folder: Path, picture) -> None:
    device = tofc.Device.from_pretrained(checkpoint_folder)
    inputs = VllmInputs.from_pretrained(checkpoint_folder)
    with pytest.raises(PacketError, match="has 9 rows, vLLM gets 13 here: encode it with 12 tokens"):
        inputs.image_embeds(device.encode(picture, tokens=8))
    with pytest.raises(PacketError, match="too few for a packet"):
        inputs.content(b"no packet")
    edge = tofc.Edge.from_pretrained(checkpoint_folder)
    assert edge.codec is not None
    with pytest.raises(UserError, match="give rows="):
        VllmInputs(edge.model, edge.codec, CheckpointConfig(merging=MergingConfig(tokens="all")))
