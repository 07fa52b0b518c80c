"""Devices without torch, from a checkpoint and from an export, beside one with it: until the first packet.

All run as fresh processes in this environment, in turns, on the same picture: imports, loading and the first
packet, as a device goes through them when it wakes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from eval.scenes.world import make_scene
from tofc.config import bundled_names, resolve
from tofc.ondevice.export import export_device

_MODEL = "scenes-tiny"
_ROUNDS = 3
_STARTS = ("torch", "checkpoint", "export")

_SCRIPT = """
import json, sys, time
begin = time.process_time()
import tofc
from PIL import Image
Device = tofc.Device
imported = time.process_time()
device = Device.from_pretrained(sys.argv[1], runtime=sys.argv[3])
loaded = time.process_time()
packet = device.encode(Image.open(sys.argv[2]), quality=4)
first = time.process_time()
for _ in range(5):
    device.encode(Image.open(sys.argv[2]), quality=4)
later = (time.process_time() - first) / 5
result = {
    "interpreter": begin, "import": imported - begin, "load": loaded - imported,
    "first packet": first - loaded,
    "start-up": first, "packet after that": later, "bytes": len(packet), "torch": "torch" in sys.modules,
}
from tofc.ondevice.bench import peak_bytes
if (peak := peak_bytes()) is not None:
    result["memory, MiB"] = peak / 2**20
print(json.dumps(result))
"""


def device() -> None:
    """Export the bundled model, start the devices in turns; print tables, then one line of JSON.

    Times are seconds of processor time, medians of some rounds after one that fills numba's cache, and once
    for each bundled model those of a first packet with nothing in it.
    """
    picture = Image.fromarray(make_scene("test", 0)[1])
    with tempfile.TemporaryDirectory() as scratch:
        folder, image = Path(scratch) / "device", Path(scratch) / "street.png"
        picture.save(image)
        difference = export_device(_MODEL, folder).largest_difference
        sources = {
            "torch": (_MODEL, "torch"),
            "checkpoint": (_MODEL, "onnxruntime"),
            "export": (str(folder), "onnxruntime"),
        }
        rounds = [{s: _start(*sources[s], image) for s in _STARTS} for _ in range(1 + _ROUNDS)]
        compiling = {
            model: _start(model, "onnxruntime", image, cache=Path(scratch) / model)["start-up"]
            for model in bundled_names()
        }
        whole = _bytes_read(resolve(_MODEL).folder)
        read = {"torch": whole, "checkpoint": whole, "export": _size(folder)}
    for start in _STARTS:
        if any(bool(r[start].pop("torch")) != (start == "torch") for r in rounds):
            raise RuntimeError(f"the device of {start} did not do what its name says")
    times = {s: {k: statistics.median(r[s][k] for r in rounds[1:]) for k in rounds[0][s]} for s in _STARTS}
    print(f"{_MODEL}, {picture.width}x{picture.height} pixels at quality 4, {_ROUNDS} fresh processes each")
    print(f"{'':>22}" + "".join(f"{start:>14}" for start in _STARTS))
    for part in times["torch"]:
        unit, scale = ("", 1.0) if part == "bytes" or "MiB" in part else (" ms", 1e3)
        figures = "".join(f"{times[s][part] * scale:>14,.0f}" for s in _STARTS)
        print(f"{part + unit:>22}{figures}")
    print(f"{'model files, MB':>22}" + "".join(f"{read[s] / 1e6:>14,.1f}" for s in _STARTS))
    print("start-up where nothing has been compiled: ", end="")
    print(", ".join(f"{model} {1e3 * seconds:,.0f} ms" for model, seconds in compiling.items()))
    result = {"times": times, "compiling": compiling, "model_bytes": read, "largest_difference": difference}
    print(json.dumps({"benchmark": "device", **result}))


def _start(model: str, runtime: str, image: Path, cache: Path | None = None) -> dict[str, float]:
    """Seconds of a fresh process by part; cache: where numba keeps its code, if not where it always does."""
    command = [sys.executable, "-c", _SCRIPT, model, str(image), runtime]
    environment = os.environ if cache is None else {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _bytes_read(checkpoint: Path) -> int:
    """The files of which a device with torch reads at least a part."""
    wanted = ("config.json", "codec-integer.safetensors", "model.safetensors", "processor_config.json")
    return sum(file.stat().st_size for file in checkpoint.rglob("*") if file.name in wanted)
