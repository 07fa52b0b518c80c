"""What a training run will take: parameters, memory, arithmetic and GPU hours, without a weight or a GPU.

The training's own forward and backward pass runs on tensors that have shapes and no values; what it would
allocate and multiply is counted. Blocks are alike, so models of one and two blocks a side give the cost of a
block, and from there on it is a straight line. Left out: DPC-KNN (two thousandths of the tower's arithmetic)
and the working space of GPU libraries (one to two GB).
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from rich.table import Table
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from tofc.model import load_base_config
from tofc.training.adapters import attach
from tofc.training.codec_task import TaskModel
from tofc.training.forward import VisionLanguageModel
from tofc.training.operations import count_operations
from tofc.training.packing import PackedBatch
from tofc.training.settings import TrainConfig
from tofc.training.trainable import make_codec

LLAVA_ROWS = 665_298  # of llava_v1_5_mix665k.json
TEXT_TOKENS = 512  # of a row with its padding, on average: an assumption
UTILISATION = 0.4  # of the peak rate below: an assumption, customary for such models
GPUS = {"H100": 989e12, "A100": 312e12}  # dense bfloat16 operations a second, as published
STATE_BYTES = 16  # of a trained parameter: float32 value, gradient and AdamW's two moments
_CODEC_TOKENS = 64  # of the pass that the codec's cost a token is taken from

_TOWER = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "image_size": 384,
    "patch_size": 14, "num_attention_heads": 16, "num_hidden_layers": 26, "vision_use_head": False,
}  # fmt: skip
# Shapes of published models, so that an estimate needs no network:
# layers, hidden_size, intermediate_size, attention heads, key-value heads, vocabulary, tied embeddings.
PUBLISHED = {
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": (24, 896, 4864, 14, 2, 152_000, True),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": (28, 3584, 18944, 28, 4, 152_128, False),
}


@dataclass(frozen=True)
class Cost:
    """Of one pass forward and backward: floating-point operations, bytes beside the parameters at the peak,
    and the numbers of frozen and trained parameters."""

    flops: float = 0.0
    peak: float = 0.0
    frozen: float = 0.0
    trained: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, factor: float) -> Cost:
        return Cost(*(factor * getattr(self, f.name) for f in fields(self)))


@dataclass(frozen=True)
class MemoryEstimate:
    """What a run of `pictures` examples takes.

    frozen, trained: parameters. weights, state: bytes on each GPU. activations: bytes at the peak of a pass
    of `micro_batch` examples of `max_text` tokens at the largest number of visual tokens, by gradient
    checkpointing on or off. flops: operations an example, by number of visual tokens; mean_flops: over the
    shares in which these are drawn. hours: of one GPU of each kind at `UTILISATION` of its peak rate.
    """

    base: str
    pictures: int
    micro_batch: int
    max_text: int
    checkpointing: bool
    frozen: int
    trained: int
    activations: dict[bool, float]
    flops: dict[int, float]
    mean_flops: float

    @property
    def weights(self) -> int:
        """Bytes of the frozen parameters in bfloat16."""
        return 2 * self.frozen

    @property
    def state(self) -> int:
        """Bytes of the trained parameters with gradients and optimiser."""
        return STATE_BYTES * self.trained

    @property
    def memory(self) -> float:
        """Bytes on each GPU at the peak, as configured."""
        return self.weights + self.state + self.activations[self.checkpointing]

    @property
    def hours(self) -> dict[str, float]:
        """GPU hours of the run."""
        return {
            name: self.pictures * self.mean_flops / (rate * UTILISATION * 3600) for name, rate in GPUS.items()
        }


def base_shape(base: str) -> LlavaOnevisionConfig:
    """Configuration of a base model: of a published one from its name alone, else read from folder or hub."""
    if base not in PUBLISHED:
        return load_base_config(base)
    layers, width, mlp, heads, groups, vocabulary, tied = PUBLISHED[base]
    text = {
        "model_type": "qwen2", "num_hidden_layers": layers, "hidden_size": width, "intermediate_size": mlp,
        "num_attention_heads": heads, "num_key_value_heads": groups, "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
    }  # fmt: skip
    return LlavaOnevisionConfig(
        vision_config=dict(_TOWER), text_config=text, tie_word_embeddings=tied,
        vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip


def estimate(
    config: TrainConfig,
    shape: LlavaOnevisionConfig,
    pictures: int | None = None,
    text_tokens: int = TEXT_TOKENS,
) -> MemoryEstimate:
    """Estimates the run that `config` describes on a base model of `shape`, over `pictures` examples.

    Without these, the examples of its steps, and those of LLaVA-1.5's data where it asks for one epoch.
    Arithmetic is for rows of `text_tokens` tokens on average, memory for the longest that the configuration
    lets through (`max_text_tokens`; without that, `text_tokens`).
    """
    if pictures is None:
        pictures = config.total_steps * config.batch_size if config.total_steps else LLAVA_ROWS
    vision: Any = shape.vision_config
    every = (vision.image_size // vision.patch_size) ** 2
    shares = layout_shares(config, every)
    micro = config.micro_batch or config.batch_size
    longest = config.max_text_tokens or text_tokens
    codec = codec_cost(config)
    flops = {}
    for tokens in shares:
        cost = pass_cost(config, shape, 1, tokens, text_tokens) + codec * tokens
        flops[tokens] = cost.flops
    activations = {}
    for checkpointing in (True, False):
        variant = replace(config, gradient_checkpointing=checkpointing)
        cost = pass_cost(variant, shape, micro, max(shares), longest)
        activations[checkpointing] = cost.peak + codec.peak * micro * max(shares)
    trained_codec = sum(p.numel() for p in make_codec(config.codec, config.prior, config.seed).parameters())
    return MemoryEstimate(
        base=config.base,
        pictures=pictures,
        micro_batch=micro,
        max_text=longest,
        checkpointing=config.gradient_checkpointing,
        frozen=round(cost.frozen),
        trained=round(cost.trained) + trained_codec,
        activations=activations,
        flops=flops,
        mean_flops=sum(share * flops[tokens] for tokens, share in shares.items()),
    )


def layout_shares(config: TrainConfig, every: int) -> dict[int, float]:
    """How often each number of visual tokens is drawn, `every` being all; the shares sum to 1."""
    total = sum(config.tokens.values())
    shares = {every: config.uncoded_share}
    for name, share in config.tokens.items():
        tokens = every if name == "all" else min(every, int(name))
        shares[tokens] = shares.get(tokens, 0.0) + (1.0 - config.uncoded_share) * share / total
    return {tokens: share for tokens, share in sorted(shares.items()) if share > 0}


def pass_cost(
    config: TrainConfig, shape: LlavaOnevisionConfig, batch: int, tokens: int, text_tokens: int
) -> Cost:
    """Of a pass over `batch` examples of `tokens` visual and `text_tokens` text tokens, without the codec."""
    one = shallow_cost(config, shape, (1, 1), batch, tokens, text_tokens)
    tower = shallow_cost(config, shape, (2, 1), batch, tokens, text_tokens) + one * -1.0
    text = shallow_cost(config, shape, (1, 2), batch, tokens, text_tokens) + one * -1.0
    depths: tuple[Any, Any] = (shape.vision_config, shape.text_config)
    extra_tower, extra_text = (part.num_hidden_layers - 1 for part in depths)
    return one + tower * extra_tower + text * extra_text


def shallow_cost(
    config: TrainConfig,
    shape: LlavaOnevisionConfig,
    depth: tuple[int, int],
    batch: int,
    tokens: int,
    text_tokens: int,
) -> Cost:
    """The same with `depth` blocks in tower and language model, counted and not extrapolated."""
    shape = copy.deepcopy(shape)
    vision, text = shape.vision_config, shape.text_config
    vision.num_hidden_layers, text.num_hidden_layers = depth  # type: ignore[union-attr]  # typed as possibly absent
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[: depth[1]]  # type: ignore[union-attr]
    with torch.device("meta"):
        model: Any = LlavaOnevisionForConditionalGeneration(shape)
        model.to(torch.bfloat16).requires_grad_(False)
        if config.adapters:
            attach(model, config.adapters, config.seed)
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable()
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu").tie_weights()
        # The codec has steps that depend on values: it is measured for itself, in `codec_cost`.
        codec = make_codec(replace(config.codec, width=1), "logistic", config.seed)
        task = TaskModel(VisionLanguageModel(model, bf16=True), codec, _first_tokens).train()
        model.model.multi_modal_projector.register_forward_pre_hook(_learns_from_here)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)  # part of the state, not of a pass
        side = task.grounded.encoder.image_size
        pixels = torch.empty(batch, 3, side, side, dtype=torch.uint8)
        packed, uncoded = _packed(batch, text_tokens), torch.empty(batch, dtype=torch.long)

        def run() -> None:
            with _Valueless():
                task(pixels, packed, uncoded, tokens).answer_loss.backward()

        flops, peak = count_operations(run).total, count_live_bytes(run, model)
    # Tied weights count once; what modules_to_save keeps of the frozen projector counts too: it stays there.
    sizes = {id(p): (p.requires_grad, p.numel()) for p in model.parameters()}.values()
    trained = sum(size for learns, size in sizes if learns)
    return Cost(flops, peak, sum(size for _, size in sizes) - trained, trained)


def codec_cost(config: TrainConfig) -> Cost:
    """Of the codec, forward and backward, for one token: measured on a pass of a few, with values."""
    codec = make_codec(config.codec, config.prior, config.seed).train()
    generator = torch.Generator().manual_seed(config.seed)
    width = config.codec.width
    features = torch.randn(1, _CODEC_TOKENS, width, generator=generator).requires_grad_()
    noise = torch.rand(1, _CODEC_TOKENS, width + config.codec.hyper, generator=generator) - 0.5
    for parameter in codec.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def run() -> None:
        output = codec(features, 0, noise=noise)
        (output.rate.sum() + output.decoded.sum()).backward()

    return Cost(count_operations(run).total, count_live_bytes(run, codec)) * (1 / _CODEC_TOKENS)


def _first_tokens(features: torch.Tensor, tokens: int) -> torch.Tensor:
    """Stands in for merging, which depends on values."""
    return features[:, :tokens]


def _learns_from_here(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """Under a frozen tower, gradients end at what the codec decodes."""
    (features,) = inputs
    return (features if features.requires_grad else features.detach().requires_grad_(),)


def _packed(batch: int, length: int) -> PackedBatch:
    """Rows of one conversation each, without values."""
    names = ("input_ids", "targets", "segments", "offsets")
    rows: dict[str, Any] = {name: torch.empty(batch, length, dtype=torch.long) for name in names}
    return PackedBatch(
        prefix_ids=torch.empty(8, dtype=torch.long),
        weights=torch.empty(batch, length),
        has_picture=torch.empty(batch, dtype=torch.bool),
        **rows,
    )


def count_live_bytes(run: Callable[[], None], module: torch.nn.Module) -> float:
    """The most bytes that `run` has alive at one time, beside what `module` holds.

    Not together with `count_operations`: the counter there keeps tensors alive that a run would have freed.
    """
    live = _LiveBytes()
    for tensor in [*module.parameters(), *module.buffers()]:
        live.ignore(tensor)
        if tensor.grad is not None:
            live.ignore(tensor.grad)
    with live:
        run()
    return float(live.peak)


class _Valueless(TorchDispatchMode):
    """Answers for values that are not there: no row is coded, and rows have one conversation."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return False if args[0].dtype == torch.bool else 0
        return func(*args, **(kwargs or {}))


class _LiveBytes(TorchDispatchMode):
    """Follows the storages that operations make, and the most bytes that they had at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def ignore(self, tensor: torch.Tensor) -> None:
        self._known.add(tensor.untyped_storage()._cdata)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def estimate_table(found: MemoryEstimate) -> Table:
    """The estimate for a terminal."""
    gb = 1e9
    table = Table("What", "How much", title=f"{found.base}: {found.pictures:,} examples")
    table.add_row("parameters, frozen", f"{found.frozen / 1e6:,.1f} M")
    table.add_row("parameters, trained", f"{found.trained / 1e6:,.1f} M")
    table.add_row("frozen weights, bfloat16", f"{found.weights / gb:.1f} GB")
    table.add_row("trained: float32, gradient, AdamW", f"{found.state / gb:.1f} GB")
    for on, size in found.activations.items():
        used = "  (as configured)" if on == found.checkpointing else ""
        words = f"activations, {found.micro_batch} examples, {'with' if on else 'without'} checkpointing"
        table.add_row(words, f"{size / gb:.1f} GB{used}")
    table.add_row("memory of a GPU at the peak", f"{found.memory / gb:.1f} GB")
    for tokens, flops in found.flops.items():
        table.add_row(f"an example of {tokens} visual tokens", f"{flops / 1e12:.1f} TFLOP")
    for name, hours in found.hours.items():
        table.add_row(
            f"{name} hours at {UTILISATION:.0%} of {GPUS[name] / 1e12:.0f} TFLOP/s", f"{hours:,.0f}"
        )
    return table
