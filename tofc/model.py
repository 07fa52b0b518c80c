"""The base model: its configuration, what projects features into it, and writing it as a checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from entropy import FeatureCodec
from tofc.adapters import CONFIG_FILE, LANGUAGE_SIDE, TOWER, WEIGHTS_FILE, add_adapters
from tofc.config import CODEC_WEIGHTS, CONFIG_NAME, CheckpointConfig, resolve, write_config
from tofc.errors import CheckpointError, UserError
from tofc.features import Features
from tofc.hub import fetch, load_codec, read_json
from tofc.writing import whole_folder

if TYPE_CHECKING:
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, ProcessorMixin

LARGE_TOWER = 100_000_000  # weights of a vision tower from which on its products are all of its time


def load_base_config(base: str | Path) -> LlavaOnevisionConfig:
    """The transformers config of the base model (folder or hub id); CheckpointError for another kind.

    The published 0.5B is tied by its text_config alone and brings no lm_head; as a whole it says it is not.
    """
    from transformers import LlavaOnevisionConfig

    values = read_json(fetch(base, CONFIG_NAME))
    if values.get("model_type") != "llava_onevision":
        raise CheckpointError(
            f"{base} is a model of type {values.get('model_type')!r}; the base must be a LLaVA-OneVision "
            "model (llava_onevision), such as llava-hf/llava-onevision-qwen2-0.5b-ov-hf"
        )
    config = LlavaOnevisionConfig.from_dict(values)
    text: Any = config.text_config  # typed as possibly absent
    config.tie_word_embeddings = bool(config.tie_word_embeddings or text.tie_word_embeddings)
    return config


def load_base_model(base: str | Path, dtype: torch.dtype | str) -> LlavaOnevisionForConditionalGeneration:
    """The whole base model (folder or hub id) in this type, "auto" for its own."""
    from transformers import LlavaOnevisionForConditionalGeneration

    return LlavaOnevisionForConditionalGeneration.from_pretrained(
        base, dtype=dtype, config=load_base_config(base)
    )


def choose_device(device: str | torch.device) -> torch.device:
    """The device to compute on; UserError for one that torch does not know or that is not there."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {str(device)!r} cannot be used here: {str(error).splitlines()[0]}"
        ) from error
    return torch.device(device)


def choose_dtype(
    dtype: torch.dtype | str | None, device: torch.device, config: LlavaOnevisionConfig
) -> torch.dtype:
    """The floating type to compute in: as asked, else float32 on a CPU and the checkpoint's own elsewhere."""
    if dtype is None:
        stored = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
        return torch.float32 if device.type == "cpu" else stored
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(chosen, torch.dtype) or not chosen.is_floating_point:
        raise UserError(f"dtype is {dtype!r}; choose float32, bfloat16 or float16")
    return chosen


def tower_dtype(
    dtype: torch.dtype | str | None, device: torch.device, config: LlavaOnevisionConfig
) -> torch.dtype:
    """The type to compute the vision tower in: as `choose_dtype`, but for large towers on a CPU.

    Where the CPU multiplies bfloat16 by itself they are computed in that, in about half of the time
    (docs/device.md has figures); small towers gain nothing.
    """
    vision: Any = config.vision_config
    products = (
        vision.num_hidden_layers
        * vision.hidden_size
        * (4 * vision.hidden_size + 2 * vision.intermediate_size)
    )
    if dtype is None and device.type == "cpu" and products >= LARGE_TOWER and _multiplies_bfloat16():
        return torch.bfloat16
    return choose_dtype(dtype, device, config)


def _multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16 (x86: AVX512-BF16, AMX; ARM: BF16)."""
    if not hasattr(torch.cpu, "get_capabilities"):  # older releases do not say
        return False
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def visual_embeddings(
    model: LlavaOnevisionForConditionalGeneration, pictures: Sequence[Features]
) -> list[torch.Tensor]:
    """What takes the place of each picture's `<image>`: embeddings [n, D], one tensor a picture.

    Unmerged features get the stock layout (further tiles with a newline embedding after each row); merged
    ones are projected and followed by one newline embedding, like the stock layout of a single tile.
    """
    weight = model.model.multi_modal_projector.linear_1.weight
    newline = model.model.image_newline
    tokens = [p.tokens.to(weight.device, weight.dtype) for p in pictures]
    whole = [i for i, p in enumerate(pictures) if not p.is_merged]
    merged = [i for i, p in enumerate(pictures) if p.is_merged]
    out: dict[int, torch.Tensor] = {}
    if whole:
        # All tiles at once, as the stock model projects them: a product of another shape may round
        # differently.
        tiles = [pictures[i].layout.expand(tokens[i]) for i in whole]  # [T, N, C] each
        projected = model.model.multi_modal_projector(torch.cat(tiles))  # [sum T, N, D]
        packed, _ = model.model.pack_image_features(
            projected.split([t.shape[0] for t in tiles]),
            [pictures[i].image_size for i in whole],
            image_newline=newline,
            vision_aspect_ratio=model.config.vision_aspect_ratio,
        )
        out |= dict(zip(whole, packed, strict=True))
    if merged:
        projected = model.model.multi_modal_projector(torch.cat([tokens[i] for i in merged]))  # [sum K, D]
        parts = projected.split([tokens[i].shape[0] for i in merged])
        out |= {i: torch.cat([part, newline[None].to(part)]) for i, part in zip(merged, parts, strict=True)}
    return [out[i] for i in range(len(pictures))]


def save_checkpoint(
    folder: str | Path,
    base: tuple[LlavaOnevisionForConditionalGeneration, ProcessorMixin] | str | Path,
    codec: FeatureCodec,
    config: CheckpointConfig | None = None,
    *,
    copy_base: bool = True,
    codec_weights: Mapping[str, torch.Tensor] | None = None,
    adapters: str | Path | None = None,
    family: str | Path | None = None,
) -> Path:
    """Writes a whole checkpoint of tofc into `folder`, which appears complete or not at all.

    `base` is a model with its processor (saved as `base/`), a folder (copied to `base/`, or with
    `copy_base` false only named in the config), or a hub id (only named). `codec_weights` is the state of
    the trainable codec, for going on with training; `adapters` a folder of fine-tuning that the checkpoint
    takes along (see `tofc.adapters`), `family` one of branches (see `tofc.familial`). An older checkpoint in
    the same place is replaced as a whole. Returns the folder.
    """
    folder = Path(folder)
    config = CheckpointConfig() if config is None else config
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG_NAME).is_file():
        raise UserError(f"{folder} holds something else than a checkpoint; give another folder, or empty it")
    with whole_folder(folder) as draft:
        if isinstance(base, (str, Path)) and not Path(base).is_dir():
            config = replace(config, base=str(base))
        elif isinstance(base, (str, Path)) and not copy_base:
            config = replace(config, base=str(Path(base).resolve()))
        else:
            config = replace(config, base="base")
            save_base(draft / "base", base)
        codec.save(draft)
        if codec_weights is not None:
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in codec_weights.items()}
            save_file(weights, draft / CODEC_WEIGHTS)
        if adapters is not None:
            config = replace(config, adapters="adapters")
            (draft / "adapters").mkdir()
            for name in (CONFIG_FILE, WEIGHTS_FILE):
                shutil.copyfile(Path(adapters) / name, draft / "adapters" / name)
        config = replace(config, family=None if family is None else "family")
        if family is not None:
            shutil.copytree(family, draft / "family")
        write_config(draft, config)
        for path in (draft, *draft.rglob("*")):  # safetensors' own are their owner's alone
            path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def merge_checkpoint(source: str | Path, folder: Path) -> Path:
    """Writes a checkpoint whose base holds the change that the adapters of `source` describe; returns it.

    The whole base is loaded, in its own precision. UserError where `source` has no adapters, CheckpointError
    where its parts do not fit.
    """
    from transformers import LlavaOnevisionProcessor

    checkpoint = resolve(source)
    if checkpoint.adapters is None:
        raise UserError(f"{source} has no adapters: its base is whole as it is")
    model: Any = load_base_model(checkpoint.base, "auto")
    add_adapters(model.model.vision_tower, Path(checkpoint.adapters), TOWER)
    add_adapters(model, Path(checkpoint.adapters), LANGUAGE_SIDE)
    config = replace(checkpoint.config, adapters=None)
    weights = checkpoint.folder / CODEC_WEIGHTS
    return save_checkpoint(
        folder,
        (model, LlavaOnevisionProcessor.from_pretrained(checkpoint.base)),
        load_codec(checkpoint),
        config,
        codec_weights=load_file(weights) if weights.is_file() else None,
    )


def save_base(
    folder: Path, base: tuple[LlavaOnevisionForConditionalGeneration, ProcessorMixin] | str | Path
) -> None:
    """Writes a base model and its processor, or copies the folder that holds both."""
    if isinstance(base, (str, Path)):
        shutil.copytree(base, folder)
        return
    model, processor = base
    parts: Any = (model.config.vision_config, model.config.text_config)  # typed as possibly absent
    for part in parts:
        part.dtype = model.dtype  # save_pretrained sets the outer one alone
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
