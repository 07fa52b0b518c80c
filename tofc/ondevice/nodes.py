"""An ONNX graph, written node by node: names of values in and out, weights beside it where they are large."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, StringStringEntryProto, TensorProto, helper

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
