"""A vision tower in float32 and in 8-bit integers: time, size, memory, bytes of packets and answers."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

import entropy.kernels  # noqa: F401  once they are loaded, they alone code
from encoders import dpc_knn, merge_tokens
from eval.asking.answering import PipelineAnswerer
from eval.lab.intervals import Estimate, resamples
from eval.latency.assemble import random_encoder, untrained_codec
from eval.latency.stages import processor_seconds
from eval.photos.benchmark import Benchmark
from eval.photos.data import open_photo, score
from eval.photos.records import benchmark_photos, photographs_folder
from eval.scenes.scoring import answer_scenes
from tofc.config import load_yaml
from tofc.device import Device
from tofc.edge import Edge
from tofc.errors import UserError
from tofc.ondevice.checkpoint import TowerWeights
from tofc.ondevice.export import export_device
from tofc.ondevice.vision import start
from tofc.training.estimate import base_shape
from tofc.training.settings import TrainConfig

_RECIPE = "llava-onevision-7b"  # so400m's shape, and the codec that goes with it
_TOKENS, _QUALITY = 64, 4
_ROUNDS = 3
_TILES = (1, 5, 10)
_SCENES, _PHOTOGRAPHS = 300, 300
_PRECISIONS = ("float32", "int8")

# A process of its own for each peak, without torch.
_PEAK = """
import json, sys, time
import numpy as np
from pathlib import Path
from tofc.ondevice.bench import peak_bytes
from tofc.ondevice.checkpoint import DeviceConfig, PixelConfig
from tofc.ondevice.export import write_tower
from tofc.ondevice.vision import OnnxVision, start
from tofc.ondevice.checkpoint import TowerWeights
from tofc.tiling import Geometry
what, tower, file, precision, tiles = sys.argv[1:]
weights = TowerWeights.open(tower, None)
began, side = time.process_time(), weights.shape.image_size
geometry = Geometry(side, weights.shape.patch_size, ((side, side),))
pixels = PixelConfig((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
config = DeviceConfig("random", "", weights.shape.width, geometry, pixels, precision=precision)
result = {}
if what == "export":
    done = write_tower(weights, Path(file), config)
    result = {"snr": done.snr, "float": sum(loss.stays_float for loss in done.losses)}
else:
    OnnxVision(start(Path(file), file), config).see([np.zeros((int(tiles), 3, side, side), np.float32)])
print(json.dumps({"seconds": time.process_time() - began, "peak": peak_bytes(), **result}))
"""


def precision() -> None:
    """Print what both precisions mean for the bundled models, then the so400m shape; last, JSON.

    Times are seconds of processor time on one core, medians of rounds in which both take turns.
    """
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, value in chain(_answers(Path(scratch)), _published_shape(Path(scratch))):
            print(f"{name:>44} {value}", flush=True)
            result[name] = value
    print(json.dumps({"benchmark": "precision", **result}))


def _published_shape(scratch: Path) -> Iterator[tuple[str, Any]]:
    recipe = load_yaml(_RECIPE, TrainConfig)
    random_encoder(base_shape(recipe.base), None, seed=0).half().tower.save_pretrained(scratch / "tower")
    weights = TowerWeights.open(scratch / "tower", None)
    yield "MB of weights in float32", 4e-6 * weights.shape.block_parameters
    files = {precision: scratch / precision / "vision.onnx" for precision in _PRECISIONS}
    for precision, file in files.items():
        file.parent.mkdir()
        made = _process("export", scratch / "tower", file, precision)
        yield f"{precision}: MB of the export", 1e-6 * sum(f.stat().st_size for f in file.parent.iterdir())
        yield f"{precision}: seconds of exporting", made["seconds"]
        yield f"{precision}: MiB at most while exporting", made["peak"] / 2**20
        yield f"{precision}: dB of the features", made["snr"]
        for tiles in _TILES:
            peak = _process("run", scratch / "tower", file, precision, tiles)["peak"]
            yield f"{precision}: MiB at most with {tiles} tiles", peak / 2**20
    yield from _times(files, untrained_codec(recipe, seed=0)).items()


def _times(files: dict[str, Path], codec: Any) -> dict[str, Any]:
    sessions = {name: start(file, str(file), one_thread=True) for name, file in files.items()}
    side = sessions["int8"].get_inputs()[0].shape[2]
    pixels = np.random.default_rng(0).uniform(-1, 1, (1, 3, side, side)).astype(np.float32)
    features = sessions["int8"].run(["features"], {"pixels": pixels})[0]
    merged = merge_tokens(features, dpc_knn(features, _TOKENS))[0][0]

    def after() -> None:
        merge_tokens(features, dpc_knn(features, _TOKENS))
        codec.encode(merged, _QUALITY)

    calls: dict[str, Callable[[], object]] = {
        name: lambda session=session: session.run(["features"], {"pixels": pixels})  # type: ignore[misc]  # the default binds it
        for name, session in sessions.items()
    }
    calls["merging and coding"] = after
    rounds = [{name: processor_seconds(call) for name, call in calls.items()} for _ in range(1 + _ROUNDS)][1:]
    seconds = {name: statistics.median(one[name] for one in rounds) for name in calls}
    return {
        **{f"{name}: seconds a tile": value for name, value in seconds.items()},
        "float32 over int8": statistics.median(one["float32"] / one["int8"] for one in rounds),
        "merging and coding over the int8 tower": seconds["merging and coding"] / seconds["int8"],
    }


def _answers(scratch: Path) -> Iterator[tuple[str, Any]]:
    """Bytes and accuracy of both on the same pictures, and the paired difference with its interval."""
    asked = {"scenes-tiny": _scenes}
    try:
        photographs_folder()
    except UserError as error:
        print(f"no answers about photographs: {error}", file=sys.stderr)
    else:
        asked["photos-tiny"] = _photographs
    for model, ask in asked.items():
        edge, right, sizes = Edge.from_pretrained(model), {}, {}
        for precision in _PRECISIONS:
            folder = scratch / f"{model}-{precision}"
            export_device(model, folder, precision=precision)
            device = Device.from_pretrained(folder)
            answerer = PipelineAnswerer(device, edge, quality=device.config.default_quality)
            right[precision] = np.array(list(ask(answerer)), np.float64)  # [pictures, 2]
            sizes[precision] = np.array(answerer.sizes)
        drawn = resamples(len(sizes["int8"]))  # [1 + draws, pictures]
        counts = {name: drawn @ both for name, both in right.items()}  # [1 + draws, 2]
        share = {name: 100 * both[:, 0] / both[:, 1] for name, both in counts.items()}
        ratio = (drawn @ sizes["int8"]) / (drawn @ sizes["float32"])
        yield from ((f"{model}, {name}: % right", float(one[0])) for name, one in share.items())
        yield f"{model}: pictures", len(sizes["int8"])
        yield f"{model}: points of int8 over float32", Estimate.of(share["int8"] - share["float32"]).as_json()
        yield f"{model}: bytes of int8 over float32", Estimate.of(ratio).as_json()


def _scenes(answerer: PipelineAnswerer) -> Iterator[tuple[int, int]]:
    """What is right, of how much, scene by scene."""
    for some in answer_scenes(answerer, "test", _SCENES):
        yield sum(one.correct for one in some), sum(one.total for one in some)


def _photographs(answerer: PipelineAnswerer) -> Iterator[tuple[int, int]]:
    """The same of photographs, where there are any: TOFC_PHOTOS names their folder."""
    benchmark = Benchmark(benchmark_photos("test")[0])
    for number in range(_PHOTOGRAPHS):
        questions = list(benchmark.questions(number))
        (answers,) = answerer.answer([open_photo(benchmark.photos[number])], [questions])
        pairs = zip(questions, answers, strict=True)
        scores = [score(benchmark.views[number], question, text) for question, text in pairs]
        yield sum(one.right for one in scores), sum(one.of for one in scores)


def _process(what: str, tower: Path, file: Path, precision: str, tiles: int = 1) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, what, str(tower), str(file), precision, str(tiles)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))
