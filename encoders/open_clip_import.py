"""CLIP and SigLIP towers that come in open_clip's format, converted strictly to transformers' towers."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig
from transformers.activations import ACT2FN

from encoders.files import open_tensors, raise_if_pointer
from encoders.vision import Tower, TowerConfig, VisionEncoder, build_tower

__all__ = ["convert_visual", "load_open_clip"]

Weights = Mapping[str, torch.Tensor]

# (name in open_clip, name in transformers); {} is the number of the block. A fused projection gives three.
_CLIP_NAMES = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1": "embeddings.patch_embedding",
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
    "transformer.resblocks.{}.ln_1": "encoder.layers.{}.layer_norm1",
    "transformer.resblocks.{}.ln_2": "encoder.layers.{}.layer_norm2",
    "transformer.resblocks.{}.attn.in_proj": "encoder.layers.{}.self_attn.{qkv}",
    "transformer.resblocks.{}.attn.out_proj": "encoder.layers.{}.self_attn.out_proj",
    "transformer.resblocks.{}.mlp.c_fc": "encoder.layers.{}.mlp.fc1",
    "transformer.resblocks.{}.mlp.c_proj": "encoder.layers.{}.mlp.fc2",
}
_SIGLIP_NAMES = {
    "trunk.pos_embed": "embeddings.position_embedding.weight",
    "trunk.patch_embed.proj": "embeddings.patch_embedding",
    "trunk.norm": "post_layernorm",
    "trunk.blocks.{}.norm1": "encoder.layers.{}.layer_norm1",
    "trunk.blocks.{}.norm2": "encoder.layers.{}.layer_norm2",
    "trunk.blocks.{}.attn.qkv": "encoder.layers.{}.self_attn.{qkv}",
    "trunk.blocks.{}.attn.proj": "encoder.layers.{}.self_attn.out_proj",
    "trunk.blocks.{}.mlp.fc1": "encoder.layers.{}.mlp.fc1",
    "trunk.blocks.{}.mlp.fc2": "encoder.layers.{}.mlp.fc2",
}
# Pooling and projection come after the features.
_UNUSED = re.compile(r"proj$|trunk\.attn_pool\.|head\.")
# What DistributedDataParallel and torch.compile put before the names of what they wrap.
_WRAPPED = re.compile(r"^(?:module\.|_orig_mod\.)+")
_ACTIVATIONS = ("gelu", "gelu_pytorch_tanh", "quick_gelu")


def load_open_clip(
    architecture: str,
    checkpoint: str | os.PathLike[str],
    *,
    quick_gelu: bool = False,
    layer: int = -1,
    drop_cls: bool | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> VisionEncoder:
    """The vision encoder of an open_clip checkpoint file.

    architecture: a name that open_clip knows, as "ViT-L-14-336" or "ViT-SO400M-14-SigLIP-384". checkpoint:
    its .safetensors file, or a .pt or .bin file of plain tensors (nothing else is unpickled); of the whole
    model or of its visual part. quick_gelu: the weights were trained with QuickGELU, as OpenAI's were, and
    the architecture's name does not say so. layer and drop_cls as for `VisionEncoder`; the CLS token is
    dropped unless asked for.

    Raises ModuleNotFoundError without open_clip, FileNotFoundError without the file, and ValueError where the
    architecture is unknown or has parts that transformers' towers lack, or the weights are not exactly its
    own.
    """
    open_clip = _open_clip()
    path = Path(checkpoint)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint file {path}")
    if architecture not in open_clip.list_models():
        raise ValueError(
            f"open_clip has no architecture {architecture!r}: list_models() in open_clip names all of them, "
            "add_model_config() adds one"
        )
    with torch.device("meta"):
        model = open_clip.create_model(
            architecture, load_weights=False, device="meta", force_quick_gelu=quick_gelu
        )
    tower = convert_visual(model.visual, _read(path))
    if drop_cls is None:
        drop_cls = isinstance(tower, CLIPVisionModel)
    return VisionEncoder(tower, layer, drop_cls).to(device=device, dtype=dtype).eval()


def convert_visual(visual: nn.Module, weights: Weights | None = None) -> Tower:
    """Convert the visual tower of an open_clip model to transformers' CLIPVisionModel or SiglipVisionModel.

    visual: `model.visual`, a plain ViT or a timm ViT. weights: its state dict, or that of the whole model,
    where they are not in the module itself (which may then be on the meta device). Weights are copied, in
    their dtype; the activation is the module's own: QuickGELU, or GELU exact or by tanh.

    Raises ValueError where the tower has parts that transformers' towers lack, or the weights do not fit it.
    """
    config, names = _tower_config(visual)
    converted: dict[str, torch.Tensor] = {}
    foreign = []
    for key, value in _own_weights(visual.state_dict() if weights is None else weights).items():
        pieces = _convert(key, value, names)
        if pieces is None and not _UNUSED.match(key):
            foreign.append(key)
        converted.update(pieces or {})
    if foreign:
        raise ValueError(
            f"{len(foreign)} weights have no place in a tower of transformers: {', '.join(foreign[:4])}"
        )
    return build_tower(config, converted)


def _open_clip() -> ModuleType:
    try:
        import open_clip
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "reading towers in open_clip's format needs open_clip: pip install 'tofc[train]'"
        ) from error
    return open_clip


def _read(path: Path) -> Weights:
    raise_if_pointer(path)
    if path.suffix == ".safetensors":
        with open_tensors(path) as tensors:
            return {name: tensors.get_tensor(name) for name in list(tensors.keys())}
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, LookupError, OSError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged or no file of plain tensors (OpenAI's own TorchScript archives are programs, "
            "and not run): save the state dict of the loaded model as .safetensors"
        ) from error
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        raise ValueError(f"{path} holds {type(content).__name__} where a state dict of tensors is due")
    return content


def _own_weights(weights: Weights) -> dict[str, torch.Tensor]:
    """The visual tower's part of a state dict, without what training and compiling put before its names."""
    plain = {_WRAPPED.sub("", key): value for key, value in weights.items()}
    visual = {key.removeprefix("visual."): value for key, value in plain.items() if key.startswith("visual.")}
    return {_WRAPPED.sub("", key): value for key, value in visual.items()} or plain


def _tower_config(visual: nn.Module) -> tuple[TowerConfig, dict[str, str]]:
    """The config of the same tower in transformers, and the table of names that leads there."""
    _open_clip()
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
    from timm.models.vision_transformer import Block
    from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer

    # Subclasses compute something else from weights of the same names (rotary positions, for one).
    body: Any = visual
    if type(visual) is VisionTransformer:
        block = body.transformer.resblocks[0]
        if type(block) is ResidualAttentionBlock and not isinstance(body.ln_pre, nn.Identity):
            return _clip_config(body), _CLIP_NAMES
    elif type(visual) is TimmModel and type(body.trunk) is TimmVisionTransformer:
        block = body.trunk.blocks[0]
        if type(block) is Block and body.trunk.cls_token is None and body.trunk.reg_token is None:
            return _siglip_config(body.trunk), _SIGLIP_NAMES
    raise ValueError(
        f"a {type(visual).__name__} of this make has no counterpart in transformers: CLIP ViTs with a CLS "
        "token and a norm before the blocks, and timm ViTs without extra tokens (SigLIP) can be converted"
    )


def _clip_config(visual: Any) -> CLIPVisionConfig:
    block = visual.transformer.resblocks[0]
    return CLIPVisionConfig(
        hidden_size=visual.conv1.out_channels,
        intermediate_size=block.mlp.c_fc.out_features,
        num_hidden_layers=len(visual.transformer.resblocks),
        num_attention_heads=block.attn.num_heads,
        image_size=_side(visual.image_size),
        patch_size=_side(visual.patch_size),
        hidden_act=_activation_name(block.mlp.gelu),
        layer_norm_eps=block.ln_1.eps,
    )


def _siglip_config(trunk: Any) -> SiglipVisionConfig:
    block = trunk.blocks[0]
    return SiglipVisionConfig(
        hidden_size=trunk.embed_dim,
        intermediate_size=block.mlp.fc1.out_features,
        num_hidden_layers=len(trunk.blocks),
        num_attention_heads=block.attn.num_heads,
        image_size=_side(trunk.patch_embed.img_size),
        patch_size=_side(trunk.patch_embed.patch_size),
        hidden_act=_activation_name(block.mlp.act),
        layer_norm_eps=block.norm1.eps,
        vision_use_head=False,
    )


def _side(size: tuple[int, int]) -> int:
    if size[0] != size[1]:
        raise ValueError(f"images and patches must be square, these are {size[0]} x {size[1]}")
    return size[0]


def _activation_name(activation: Callable[[torch.Tensor], torch.Tensor]) -> str:
    """The activation that computes the same values; its class differs from library to library."""
    probe = torch.linspace(-4.0, 4.0, 65, dtype=torch.float64, device="cpu")
    values = activation(probe)
    for name in _ACTIVATIONS:
        if torch.allclose(values, ACT2FN[name](probe), rtol=0.0, atol=1e-9):
            return name
    raise ValueError(f"activation {activation} is none of {', '.join(_ACTIVATIONS)}")


def _convert(key: str, value: torch.Tensor, names: dict[str, str]) -> dict[str, torch.Tensor] | None:
    """One weight under its name or names in transformers; None if the table does not know it."""
    number = re.search(r"\.(\d+)\.", key)
    general = key if number is None else key.replace(f".{number[1]}.", ".{}.", 1)
    if general in names:  # a bare parameter; timm's positions have a batch dimension
        return {names[general]: value.squeeze(0).clone() if general == "trunk.pos_embed" else value.clone()}
    match = re.fullmatch(r"(.+)[._](weight|bias)", general)
    if match is None or match[1] not in names:
        return None
    target = names[match[1]].replace("{}", number[1] if number else "") + "." + match[2]
    if "{qkv}" not in target:
        return {target: value.clone()}
    parts = zip(("q_proj", "k_proj", "v_proj"), value.chunk(3), strict=True)
    return {target.replace("{qkv}", part): piece.clone() for part, piece in parts}
