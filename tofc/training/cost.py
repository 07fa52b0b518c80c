"""What one pass of training takes, forward and backward: counted on tensors that have shapes and no values.

Blocks are alike, so models of one and two blocks a side give the cost of a block, and from there on it is a
straight line.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from tofc.training.adapters import attach
from tofc.training.codec_task import TaskModel
from tofc.training.forward import VisionLanguageModel
from tofc.training.packing import PackedBatch
from tofc.training.settings import TrainConfig
from tofc.training.trainable import make_codec

_CODEC_TOKENS = 64  # of the pass that the codec's cost a token is taken from


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


@dataclass(frozen=True)
class Operations:
    """Multiplications and additions, one each: of all matrix products, and of attention's two alone.

    Attention counts whole squares, whether or not a mask leaves half of one out.
    """

    total: float
    attention: float


def count_operations(call: Callable[[], object]) -> Operations:
    """Runs `call` and counts what it multiplies, in backward passes too; its tensors need no values."""
    with FlopCounterMode(display=False, custom_mapping=_ATTENTION) as counter:
        call()
    by_operator = counter.get_flop_counts().get("Global", {})
    # Without values, attention runs as two batched products; nothing else in these models is one.
    attention = [n for op, n in by_operator.items() if "bmm" in str(op) or "scaled_dot_product" in str(op)]
    return Operations(float(sum(by_operator.values())), float(sum(attention)))


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Scores [B, H, Q, K] from width d, and from them values of width v."""
    return 2 * math.prod(query[:3]) * key[2] * (query[3] + value[3])


def _attention_backward(
    gradient: Sequence[int],
    query: Sequence[int],
    key: Sequence[int],
    value: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    """Scores again; gradients of the weights and of the values; gradients of the query and of the key."""
    return 2 * math.prod(query[:3]) * key[2] * (3 * query[3] + 2 * value[3])


# torch's own counter knows the CPU's attention in some releases and counts nothing for it in others.
_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
