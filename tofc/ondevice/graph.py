"""A vision tower as an ONNX graph, written from its weights one after another, without torch.

Matrix products are of float32, or of 8-bit integers where `smoothing` has an entry for them: each token is
scaled to its largest channel, rounded by ONNX Runtime, multiplied with integer weights of one scale a column
and scaled back. Before, channels are divided by `smoothing` and the weights' rows multiplied with it, so that
outlier channels leave the others their precision (Xiao et al., "SmoothQuant", ICML 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, StringStringEntryProto, TensorProto, helper

from tofc.ondevice.checkpoint import TowerWeights

_OPSET, _IR = 20, 10  # both known to the oldest ONNX Runtime of the extra `device`
_MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
_PAGE = 4096  # where a tensor begins in the second file, so that it can be mapped
Value = tuple[str, Sequence[Any]]  # name and shape
_TWO_BYTES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


class GraphWriter:
    """Collects nodes and weights of a graph.

    data: a second file, open for writing, which takes the weights as they come; None keeps them in the model.
    half: rounds float32 weights to half precision; they are computed with in float32.
    """

    def __init__(self, data: BinaryIO | None = None, *, half: bool = False) -> None:
        self._data = data
        self._half = half
        self._nodes: list[Any] = []
        self._weights: list[TensorProto] = []

    def node(
        self, operator: str, *inputs: str, outputs: int = 1, own: bool = False, **attributes: Any
    ) -> Any:
        """Adds a node, of ONNX Runtime's `own` operators or the standard's; the name, or names, it gives."""
        names = [f"{operator}_{len(self._nodes)}_{i}" for i in range(outputs)]
        domain = _MICROSOFT if own else ""
        self._nodes.append(helper.make_node(operator, inputs, names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def name_output(self, value: str, name: str) -> None:
        """Gives a value the name by which the graph's caller knows it."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))

    def constant(self, values: NDArray[Any]) -> str:
        """A constant, as it is; its name."""
        name = f"constant_{len(self._weights)}"
        kind = _TWO_BYTES.get(str(values.dtype)) or helper.np_dtype_to_tensor_dtype(values.dtype)
        tensor = TensorProto(name=name, data_type=kind, dims=values.shape)
        raw = np.ascontiguousarray(values).tobytes()
        if self._data is None or len(raw) < _PAGE:
            tensor.raw_data = raw
        else:
            self._data.write(bytes(-self._data.tell() % _PAGE))
            place = {"location": self._data.name.rsplit("/", 1)[-1], "offset": str(self._data.tell())}
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in {**place, "length": str(len(raw))}.items():
                tensor.external_data.append(StringStringEntryProto(key=key, value=value))
            self._data.write(raw)
        self._weights.append(tensor)
        return name

    def weight(self, values: NDArray[Any]) -> str:
        """Floats, in two bytes each where they are so already, or shall be; the name of float32 values.

        The cast behind them is done once, when ONNX Runtime loads the graph.
        """
        if self._half and str(values.dtype) not in _TWO_BYTES:
            values = values.astype(np.float16)
        if str(values.dtype) not in _TWO_BYTES:
            return self.constant(values.astype(np.float32, copy=False))
        return self.node("Cast", self.constant(values), to=TensorProto.FLOAT)

    def model(self, given: Value, outputs: Sequence[Value], between: Sequence[Value] = ()) -> ModelProto:
        """The whole, with one float32 input and float32 outputs: their names and shapes.

        `between` are values, with their shapes, at which it may be cut into parts.
        """
        graph = helper.make_graph(
            self._nodes,
            "tower",
            [_described(*given)],
            [_described(*output) for output in outputs],
            self._weights,
            value_info=[_described(*value) for value in between],
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR, producer_name="tofc")


def _described(name: str, shape: Sequence[Any]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


PRODUCTS = ("qkv", "out", "fc1", "fc2")  # the products with weights of a block
_PARTS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.out_proj",),
    "fc1": ("mlp.fc1",),
    "fc2": ("mlp.fc2",),
}
_AFTER_NORM = {"qkv": "layer_norm1", "fc1": "layer_norm2"}
_LEAST = np.float32(1e-12)  # of a token's largest channel: a token of zeros is divided by this
_LARGEST = 127  # of an 8-bit weight


class TowerGraph:
    """Writes the graph of a tower, or of one of its blocks.

    smoothing: by names such as "3.fc1", float32 [K] for the K inputs of a product; those that are not there
    stay in float32. half, data: see `GraphWriter`.
    """

    def __init__(
        self,
        weights: TowerWeights,
        smoothing: Mapping[str, NDArray[np.float32]] | None = None,
        *,
        half: bool = False,
        data: BinaryIO | None = None,
    ) -> None:
        self.shape = weights.shape
        self.states: list[str] = []
        self._weights = weights
        self._smoothing = smoothing or {}
        self._out = GraphWriter(data, half=half)
        self._inputs: dict[str, str] = {}  # of each product, before any smoothing

    def tower(self) -> ModelProto:
        """From "pixels" [T, 3, S, S] to "features" [T, N, C], for any number of tiles T.

        `states` are then the names of what goes into each block.
        """
        hidden = self._embeddings("pixels")
        for index in range(self.shape.depth):
            self.states.append(hidden)
            hidden = self._block(index, hidden)
        if self.shape.drop_cls:
            numbers = [self._out.constant(np.array([value])) for value in (1, np.iinfo(np.int64).max, 1)]
            hidden = self._out.node("Slice", hidden, *numbers)
        self._out.name_output(hidden, "features")
        side = self.shape.image_size
        features = ("features", ["tiles", self.shape.num_tokens, self.shape.width])
        between = [(state, ["tiles", "tokens", self.shape.width]) for state in self.states]
        return self._out.model(("pixels", ["tiles", 3, side, side]), [features], between)

    def embeddings(self) -> ModelProto:
        """From "pixels" to "hidden" [T, N, C], the state before the first block."""
        self._out.name_output(self._embeddings("pixels"), "hidden")
        side = self.shape.image_size
        hidden = ("hidden", ["tiles", None, self.shape.width])
        return self._out.model(("pixels", ["tiles", 3, side, side]), [hidden])

    def block(self, index: int) -> ModelProto:
        """From "hidden" to "after", both [T, N, C], and the inputs of its products by their names."""
        self._out.name_output(self._block(index, "hidden"), "after")
        shape = ["tiles", "tokens", self.shape.width]
        widths = dict.fromkeys(PRODUCTS, self.shape.width) | {"fc2": self.shape.inner}
        for product in PRODUCTS:
            self._out.name_output(self._inputs[product], product)
        taps = [(product, ["tiles", "tokens", widths[product]]) for product in PRODUCTS]
        return self._out.model(("hidden", shape), [("after", shape), *taps])

    def _embeddings(self, pixels: str) -> str:
        out, patch, shape = self._out, self.shape.patch_size, self.shape
        names = ["embeddings.patch_embedding.weight"]
        if not shape.has_cls:
            names.append("embeddings.patch_embedding.bias")
        weights = [self._stored(name) for name in names]
        grid = out.node("Conv", pixels, *weights, strides=[patch, patch], kernel_shape=[patch, patch])
        flat = out.node("Reshape", grid, out.constant(np.array([0, 0, -1])))
        hidden = out.node("Transpose", flat, perm=[0, 2, 1])
        if shape.has_cls:
            token = out.weight(self._weights.stored("embeddings.class_embedding").reshape(1, 1, -1))
            count = out.node("Shape", pixels, start=0, end=1)
            target = out.node("Concat", count, out.constant(np.array([1, 1])), axis=0)
            hidden = out.node("Concat", out.node("Expand", token, target), hidden, axis=1)
        hidden = out.node("Add", hidden, self._stored("embeddings.position_embedding.weight"))
        return self._norm("pre_layrnorm", hidden) if shape.has_cls else hidden

    def _block(self, index: int, hidden: str) -> str:
        out = self._out
        seen = self._product(index, "qkv", self._norm_of(index, "qkv", hidden))
        query, key, value = out.node("Split", seen, outputs=3, axis=-1, num_outputs=3)
        heads = self.shape.heads
        attended = out.node("MultiHeadAttention", query, key, value, own=True, num_heads=heads)
        hidden = out.node("Add", hidden, self._product(index, "out", attended))
        inner = self._activated(self._product(index, "fc1", self._norm_of(index, "fc1", hidden)))
        return str(out.node("Add", hidden, self._product(index, "fc2", inner)))

    def _norm_of(self, index: int, product: str, hidden: str) -> str:
        """The norm before a product; what smooths its channels is part of the norm's own weights."""
        smoothing = self._smoothing.get(f"{index}.{product}")
        return self._norm(f"encoder.layers.{index}.{_AFTER_NORM[product]}", hidden, smoothing)

    def _norm(self, name: str, hidden: str, smoothing: NDArray[np.float32] | None = None) -> str:
        values = [self._weights.stored(f"{name}.{part}") for part in ("weight", "bias")]
        if smoothing is not None:
            values = [value.astype(np.float32) / smoothing for value in values]
        names = [self._out.weight(value) for value in values]
        return str(self._out.node("LayerNormalization", hidden, *names, epsilon=self.shape.epsilon, axis=-1))

    def _activated(self, hidden: str) -> str:
        if self.shape.activation == "quick_gelu":
            return str(self._out.node("QuickGelu", hidden, own=True, alpha=1.702))
        approximate = "tanh" if self.shape.activation == "gelu_pytorch_tanh" else "none"
        return str(self._out.node("Gelu", hidden, approximate=approximate))

    def _product(self, index: int, product: str, hidden: str) -> str:
        """hidden @ weights + bias."""
        self._inputs[product] = hidden
        parts = [f"encoder.layers.{index}.{part}" for part in _PARTS[product]]
        smoothing = self._smoothing.get(f"{index}.{product}")
        if smoothing is None:
            weights = [self._transposed(f"{part}.weight") for part in parts]
            joined = weights[0] if len(parts) == 1 else self._out.node("Concat", *weights, axis=1)
            made = self._out.node("MatMul", hidden, joined)
        else:
            if product not in _AFTER_NORM:
                hidden = self._out.node("Mul", hidden, self._out.constant(1 / smoothing))
            made = self._integer_product(hidden, (rows_of(self._weights, index, product) * smoothing).T)
        bias = np.concatenate([self._weights.stored(f"{part}.bias") for part in parts])
        return str(self._out.node("Add", made, self._out.weight(bias)))

    def _integer_product(self, hidden: str, weights: NDArray[np.float32]) -> str:
        out = self._out
        axis = out.constant(np.array([-1]))
        largest = out.node("ReduceMax", out.node("Abs", hidden), axis, keepdims=1)  # [T, N, 1]
        largest = out.node("Max", largest, out.constant(np.array(_LEAST)))
        integers, scales = quantised(weights)
        made = out.node(
            "DynamicQuantizeMatMul",
            out.node("Div", hidden, largest), out.constant(integers), out.constant(scales), own=True,
        )  # fmt: skip
        return str(out.node("Mul", made, largest))

    def _transposed(self, name: str) -> str:
        """A weight [out, in] as [in, out]; the product that adapters add stays two small factors."""
        stored = self._out.weight(self._weights.stored(name).T)
        added = self._weights.added(name)
        if added is None:
            return stored
        factors = [self._out.constant(factor.T) for factor in reversed(added)]
        return str(self._out.node("Add", stored, self._out.node("MatMul", *factors)))

    def _stored(self, name: str) -> str:
        return self._out.weight(self._weights.stored(name))


def rows_of(weights: TowerWeights, index: int, product: str) -> NDArray[np.float32]:
    """The weights [out, in] of a block's product, those of queries, keys and values below one another."""
    parts = (f"encoder.layers.{index}.{part}.weight" for part in _PARTS[product])
    return np.concatenate([weights.whole(part) for part in parts])


def quantised(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights [in, out] as 8-bit integers and one scale a column [out]."""
    scales = np.maximum(np.abs(weights).max(axis=0), _LEAST) / _LARGEST
    return np.rint(weights / scales).astype(np.int8), scales.astype(np.float32)
