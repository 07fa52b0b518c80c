"""Weights of an ONNX graph in two bytes where that loses nothing: what was half precision stays so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_INSIDE = 1 << 30  # a larger graph keeps its weights in a second file: protobuf ends at 2 GiB


def compact(model: Any, file: Path) -> None:
    """Writes an `onnx.ModelProto`, its float32 weights in two bytes each where all of them fit exactly.

    A cast behind each such weight gives float32 back, and ONNX Runtime does it once, when it loads the graph.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    casts = []
    for weight in graph.initializer:
        if weight.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(weight)
        found = _in_two_bytes(values)
        if found is None:
            continue
        kind, data = found
        name = weight.name
        weight.CopyFrom(helper.make_tensor(f"{name}_stored", kind, values.shape, data.tobytes(), raw=True))
        casts.append(
            helper.make_node("Cast", [f"{name}_stored"], [name], name=f"{name}_cast", to=TensorProto.FLOAT)
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    large = model.ByteSize() > _INSIDE
    onnx.save_model(
        model, file, save_as_external_data=large, all_tensors_to_one_file=True, location=f"{file.name}.data"
    )


def _in_two_bytes(values: NDArray[np.float32]) -> tuple[int, NDArray[Any]] | None:
    """ONNX's type and the stored values, where half precision or bfloat16 holds all of them exactly."""
    from onnx import TensorProto

    if values.size < 2:
        return None
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if np.array_equal(half.astype(np.float32), values):
        return TensorProto.FLOAT16, half
    bits = np.ascontiguousarray(values).view(np.uint32)
    if not (bits & 0xFFFF).any():  # bfloat16 is the upper half of a float32
        return TensorProto.BFLOAT16, (bits >> 16).astype(np.uint16)
    return None
