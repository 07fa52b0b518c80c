"""Ruyi checkpoints: five exits of a 28-layer model equal a plain re-computation from the published names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2Model

from tofc import familial
from tofc.errors import CheckpointError, UserError
from tofc.familial.ruyi import import_ruyi
from tofc.familial.store import load_family

POINTS = (11, 15, 19, 23, 27)
SHAPE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 28, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 97, "max_position_embeddings": 128, "initializer_range": 0.15,
    "tie_word_embeddings": False, "rms_norm_eps": 1e-6,
}  # fmt: skip


def write_ruyi(folder: Path, shared_heads: bool) -> dict[str, Tensor]:
    """A checkpoint in the published layout with random weights, in two shards; returns its tensors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        model = Qwen2ForCausalLM(Qwen2Config(**SHAPE))
        tensors = {n: t.clone() for n, t in model.state_dict().items() if n != "model.norm.weight"}
        own = Qwen2Model(Qwen2Config(**{**SHAPE, "num_hidden_layers": len(POINTS) - 1})).state_dict()
        tensors |= {
            n.replace("layers.", "model.eelayers."): t.clone() for n, t in own.items() if "layers." in n
        }
        for k in range(len(POINTS)):
            tensors[f"model.norms.{k}.weight"] = torch.rand(32) + 0.5
            if not shared_heads:
                tensors[f"lm_head.{k}.weight"] = torch.randn(97, 32)
        if not shared_heads:
            del tensors["lm_head.weight"]
    folder.mkdir()
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[: len(names) // 2], "model-2.safetensors": names[len(names) // 2 :]}
    for file, some in parts.items():
        save_file({name: tensors[name] for name in some}, folder / file)
    weight_map = {name: file for file, some in parts.items() for name in some}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = {**SHAPE, "model_type": "ruyi", "architectures": ["RuyiForCausalLM"], "auto_map": {"x": "y.Z"}}
    config |= {"early_exit_points": POINTS, "default_early_exit_point": 27, "shared_heads": shared_heads}
    (folder / "config.json").write_text(json.dumps(config))
    return tensors


def plain_logits(tensors: dict[str, Tensor], number: int, ids: Tensor, shared_heads: bool) -> Tensor:
    """The exit as its modelling code computes it, written out: attention by hand, no cache."""
    point, heads, kv_heads, width = POINTS[number], 4, 2, 8
    prefixes = [f"model.layers.{i}" for i in range(point)]
    last = "model.layers.27" if number == len(POINTS) - 1 else f"model.eelayers.{number}"
    x = tensors["model.embed_tokens.weight"][ids]  # [B, T, D]
    length = ids.shape[1]
    angles = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)

    def norm(values: Tensor, name: str) -> Tensor:
        return tensors[name] * values * torch.rsqrt(values.square().mean(-1, keepdim=True) + 1e-6)

    def turn(values: Tensor) -> Tensor:
        first, second = values.chunk(2, -1)
        return values * cos + torch.cat([-second, first], -1) * sin

    for prefix in [*prefixes, last]:
        weights = {n[len(prefix) + 1 :]: t for n, t in tensors.items() if n.startswith(f"{prefix}.")}

        def linear(values: Tensor, name: str, w: dict[str, Tensor] = weights) -> Tensor:
            return values @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(()))

        y = norm(x, f"{prefix}.input_layernorm.weight")
        q, k, v = (linear(y, f"self_attn.{n}_proj").unflatten(-1, (-1, width)).transpose(1, 2) for n in "qkv")
        k, v = (each.repeat_interleave(heads // kv_heads, 1) for each in (turn(k), v))
        scores = (turn(q) @ k.transpose(-1, -2)) / width**0.5
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
        x = x + linear((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), "self_attn.o_proj")
        y = norm(x, f"{prefix}.post_attention_layernorm.weight")
        gate = torch.nn.functional.silu(linear(y, "mlp.gate_proj"))
        x = x + linear(gate * linear(y, "mlp.up_proj"), "mlp.down_proj")
    head = tensors["lm_head.weight" if shared_heads else f"lm_head.{number}.weight"]
    return norm(x, f"model.norms.{number}.weight") @ head.T


@pytest.mark.parametrize("shared_heads", [True, False])
def test_every_exit_is_the_plain_computation(tmp_path: Path, shared_heads: bool) -> None:
    tensors = write_ruyi(tmp_path / "ruyi", shared_heads)
    folder = import_ruyi(tmp_path / "ruyi", tmp_path / "family")
    names = [member.name for member in familial.family(folder)]
    assert names == ["e11", "e15", "e19", "e23", "full"]
    ids = torch.randint(97, (2, 12), generator=torch.Generator().manual_seed(0))
    whole = load_family(folder)
    settings: Any = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    for number, name in enumerate(names):
        expected = plain_logits(tensors, number, ids, shared_heads)
        with torch.no_grad():
            torch.testing.assert_close(whole.model(name)(ids).logits, expected, rtol=1e-4, atol=1e-4)
        alone = load_family(folder, name)
        assert len(alone.main.model.layers) == (28 if name == "full" else POINTS[number])
        written = ids
        for _ in range(6):
            best = plain_logits(tensors, number, written, shared_heads)[:, -1:].argmax(-1)
            written = torch.cat([written, best], dim=1)
        assert torch.equal(alone.model().generate(ids, **settings), written)
    stock = Qwen2ForCausalLM.from_pretrained(folder / "base")
    assert torch.equal(stock.generate(ids, **settings), whole.model("full").generate(ids, **settings))


def test_sizes_count_own_norms_and_heads(tmp_path: Path) -> None:
    tensors = write_ruyi(tmp_path / "ruyi", shared_heads=False)
    members = familial.family(import_ruyi(tmp_path / "ruyi", tmp_path / "family"))
    layer = sum(t.numel() for n, t in tensors.items() if n.startswith("model.layers.0."))
    for member in members:
        num_layers = member.exit_layer + (member.name != "full")
        assert member.num_parameters == 97 * 32 * 2 + 32 + layer * num_layers


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    write_ruyi(tmp_path / "ruyi", shared_heads=True)
    config = json.loads((tmp_path / "ruyi" / "config.json").read_text())
    for values, words in (
        ({"early_exit_points": []}, "names no early_exit_points"),
        ({"early_exit_points": [11, 20]}, "the last exit is 20"),
    ):
        (tmp_path / "ruyi" / "config.json").write_text(json.dumps({**config, **values}))
        with pytest.raises(CheckpointError, match=words):
            import_ruyi(tmp_path / "ruyi", tmp_path / "family")
    (tmp_path / "ruyi" / "config.json").write_text(json.dumps(config))
    folder = import_ruyi(tmp_path / "ruyi", tmp_path / "family")
    with pytest.raises(UserError, match="e11, e15, e19, e23, full"):
        load_family(folder, "e12")
