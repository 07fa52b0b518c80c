"""What a tower may learn from, and the weights that it may begin with."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from tofc.config import MergingConfig
from tofc.training.base_model import (
    PATCH_DEVIATION,
    BaseModelConfig,
    build_model,
    build_tokenizer,
    grid_waves,
    mimetic_tower,
    patch_waves,
)
from tofc.training.data import GroundedPicture
from tofc.training.dense import (
    DenseHeads,
    DenseTargets,
    average_precision,
    dense_losses,
    word_ids,
    word_loss,
)
from tofc.training.forward import merge_as

WIDTH, SIDE = 32, 4


def pictures(count: int, seed: int) -> tuple[torch.Tensor, list[GroundedPicture]]:
    """Features and pictures whose every target is a fixed linear function of the features."""
    rng = np.random.default_rng(seed)
    teach = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)) / math.sqrt(WIDTH)
    features = rng.normal(size=(count, SIDE**2, WIDTH)).astype(np.float32)
    features[:, :, :8] += 2 * rng.normal(size=(count, 1, 8))  # something that a whole picture shares
    found = []
    for row in features:
        read = (row @ teach).astype(np.float32)
        odds = np.exp(read.mean(0)[:5])
        found.append(
            GroundedPicture(
                np.zeros((3, 8, 8), np.uint8),
                {"kind": read[:, :3].argmax(1)},
                1 / (1 + np.exp(-read[:, :4])),
                (),
                {"map": read[:, 8:20]},
                np.where(np.arange(6) == 5, np.nan, read.mean(0)[:6] > 0).astype(np.float32),
                odds / odds.sum(),
            )
        )
    return torch.from_numpy(features), found


def test_targets_of_some_patches():
    _, known = pictures(3, 1)
    patches = torch.tensor([[5, 2], [0, 15], [7, 8]])
    found = DenseTargets.of(known, torch.device("cpu")).at(patches)
    for number, (picture, row) in enumerate(zip(known, patches.numpy(), strict=True)):
        np.testing.assert_array_equal(found.labels["kind"][number], picture.labels["kind"][row])
        np.testing.assert_array_equal(found.regions[number], picture.regions[row])
        np.testing.assert_array_equal(found.maps["map"][number], picture.maps["map"][row])
    np.testing.assert_array_equal(found.present, [picture.present for picture in known])
    np.testing.assert_array_equal(found.distribution, np.stack([picture.distribution for picture in known]))


def test_heads_learn_every_kind_of_target():
    heads = DenseHeads(WIDTH, {"kind": 3}, 4, map_sizes={"map": 12}, num_present=6, num_categories=5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in heads.modules():
            if isinstance(module, torch.nn.Linear):
                module.reset_parameters()
    features, known = pictures(64, 1)
    targets = DenseTargets.of(known, torch.device("cpu"))
    optimizer = torch.optim.AdamW(heads.parameters(), lr=2e-2)
    before = {name: loss.item() for name, loss in dense_losses(heads, features, targets)[0].items()}
    for _ in range(200):
        losses, _ = dense_losses(heads, features, targets)
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert set(losses) == {"kind", "region", "map", "present", "distribution"}
    for name, loss in losses.items():
        assert loss.item() < 0.5 * before[name], name


def test_unknown_presence_teaches_nothing():
    heads = DenseHeads(WIDTH, {"kind": 3}, 4, map_sizes={"map": 12}, num_present=6, num_categories=5)
    features, known = pictures(8, 2)
    losses, _ = dense_losses(heads, features, DenseTargets.of(known, torch.device("cpu")))
    losses["present"].backward()
    gradient = heads.present.weight.grad
    assert gradient[5].abs().max() == 0  # NaN in every picture
    assert gradient[:5].abs().amin(1).max() > 0


def test_average_precision_of_known_orders():
    present = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, float("nan")]])
    right = torch.tensor([[4.0, 3.0], [1.0, 2.0], [3.0, 1.0], [2.0, 9.0]])
    assert average_precision(right, present) == {"mean_average_precision": 1.0, "balanced_accuracy": 1.0}
    # The first column's hits at places 2 and 4, the second's at 2 and 3.
    told = average_precision(-right, present)
    assert told["mean_average_precision"] == pytest.approx(((1 / 3 + 2 / 4) / 2 + (1 / 2 + 2 / 3) / 2) / 2)
    assert told["balanced_accuracy"] == pytest.approx(0.5)
    assert average_precision(right[:1], present[:1]) == {}


def test_patches_begin_as_different_waves_of_equal_strength_in_pictures():
    waves = patch_waves(48, 16)
    flat = waves.flatten(1)
    cosine = torch.nn.functional.normalize(flat, dim=1)
    assert torch.allclose(cosine @ cosine.T, torch.eye(48), atol=1e-5)
    rng = np.random.default_rng(0)
    # Pictures of random light and shade with variance about as one over the squared frequency.
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    spectrum = np.fft.fft2(rng.normal(size=(256, 64, 64))) / np.maximum(frequency, 1 / 64)
    shade = np.fft.ifft2(spectrum).real
    shade *= 0.5 / shade.std()
    pixels = torch.from_numpy(np.repeat(shade[:, None], 3, 1)).float()
    # These pictures are grey: the waves of brightness alone answer to them.
    bright = (waves[:, 0] - waves[:, 1]).abs().amax((1, 2)) < 1e-6
    seen = torch.nn.functional.conv2d(pixels, waves[bright], stride=16).std((0, 2, 3))
    assert seen.max() < 6 * PATCH_DEVIATION
    assert seen.min() > PATCH_DEVIATION / 6


def test_positions_are_told_apart():
    table = grid_waves(14, 192)
    distance = torch.cdist(table, table)
    near = distance[0, 1]
    assert (distance + torch.eye(196) * 9).min() > 0.5 * near
    assert distance[0, 13] > 1.3 * near
    assert distance[0, 13 * 14] > 1.3 * near


def test_attention_begins_by_looking_at_itself_and_draws_nothing_global():
    config = SiglipVisionConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
        vision_use_head=False,
    )
    tower = SiglipVisionModel(config)
    state = torch.get_rng_state()
    mimetic_tower(tower, torch.Generator().manual_seed(3))
    assert torch.equal(state, torch.get_rng_state())
    attention = tower.encoder.layers[0].self_attn
    for head in range(2):
        rows = slice(32 * head, 32 * head + 32)
        product = attention.q_proj.weight[rows].T @ attention.k_proj.weight[rows]
        assert product.diagonal().mean() > 3 * (product - torch.diag(product.diagonal())).mean().abs()
    passed = attention.out_proj.weight @ attention.v_proj.weight
    assert passed.diagonal().mean().item() == pytest.approx(-0.4, abs=0.1)


def test_pictures_of_a_batch_are_merged_in_the_ways_in_turn():
    features = torch.randn(5, 36, 8, generator=torch.Generator().manual_seed(0))
    mixed = merge_as(MergingConfig(), ("dpc_knn", "blocks"))(features, 9)
    for row in range(5):
        alone = merge_as(MergingConfig(way=("dpc_knn", "blocks")[row % 2]))(features[row : row + 1], 9)
        assert torch.equal(mixed[row], alone[0])
    assert not torch.equal(mixed, merge_as(MergingConfig())(features, 9))


def test_projected_patches_become_the_words_for_their_objects():
    names, sides = ("nothing", "dog", "dining table", "bus"), ("left", "right")
    tokenizer = build_tokenizer((f"{name}\n {name}" for name in (*names, *sides) for _ in range(50)), 400)
    geometry = BaseModelConfig(
        image_size=64,
        vision_width=WIDTH,
        vision_layers=1,
        vision_heads=2,
        text_width=64,
        text_layers=1,
        text_heads=2,
    )
    model = build_model(geometry, tokenizer, 0)
    ids = word_ids(tokenizer, {"kind": names, "side": sides})
    assert tokenizer.convert_ids_to_tokens(ids["kind"][0].tolist()) == ["Ġnothing", "Ġdog", "Ġdining", "Ġbus"]
    assert tokenizer.convert_ids_to_tokens(ids["kind"][1].tolist()) == ["nothing", "dog", "dining", "bus"]
    rng = np.random.default_rng(5)
    kinds = rng.integers(-1, 4, (6, SIDE**2))
    kinds[kinds < 0] = -100
    halves = rng.integers(0, 2, kinds.shape)
    told = rng.normal(size=(5, WIDTH))[np.maximum(kinds, 0)] + rng.normal(size=(2, WIDTH))[halves]
    halves[kinds < 1] = -100
    features = torch.from_numpy(told).float()
    known = [
        GroundedPicture(np.zeros((3, 8, 8), np.uint8), {"kind": kind, "side": half}, np.zeros(0), ())
        for kind, half in zip(kinds, halves, strict=True)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        loss, right = word_loss(model, known, features, ids, {"kind"})
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert right == {"kind": 1.0, "side": 1.0}
    # Patches with nothing weigh as much as all others together, however few they are.
    shuffled, kind = features.roll(1, 0), {"kind": ids["kind"]}

    def loss_of(*kept: int) -> torch.Tensor:
        some = [np.where(np.isin(one.labels["kind"], kept), one.labels["kind"], -100) for one in known]
        seen = [replace(one, labels={"kind": labels}) for one, labels in zip(known, some, strict=True)]
        return word_loss(model, seen, shuffled, kind, {"kind"})[0]

    torch.testing.assert_close(loss_of(0, 1, 2, 3), loss_of(0) + loss_of(1, 2, 3))
    unknown = [replace(known[0], labels=dict.fromkeys(ids, np.full(SIDE**2, -100)))]
    assert word_loss(model, unknown, features[:1], ids, {"kind"})[0].item() == 0.0
