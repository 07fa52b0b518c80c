"""A device without torch beside the one with it: what they read, and how long the first packet takes.

Both run as fresh processes in this environment, in turns, on the same picture: imports, loading and the first
packet, as a device goes through them when it wakes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from eval.scenes.world import make_scene
from tofc.config import resolve
from tofc.ondevice.export import export_device

__all__ = ["main"]

_MODEL = "scenes-tiny"
_ROUNDS = 5
_STARTS = ("torch", "torch-free")

_SCRIPT = """
import json, sys, time
begin = time.perf_counter()
import tofc
from PIL import Image
Device = tofc.Device
imported = time.perf_counter()
device = Device.from_pretrained(sys.argv[1])
loaded = time.perf_counter()
packet = device.encode(Image.open(sys.argv[2]), quality=4)
first = time.perf_counter()
for _ in range(5):
    device.encode(Image.open(sys.argv[2]), quality=4)
later = (time.perf_counter() - first) / 5
with open("/proc/self/status") as status:
    peak = next((int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM")), 0.0)
print(json.dumps({
    "import": imported - begin, "load": loaded - imported, "first packet": first - loaded,
    "start-up": first - begin, "packet after that": later, "memory, MiB": peak,
    "bytes": len(packet), "torch": "torch" in sys.modules,
}))
"""


def main() -> None:
    """Export the bundled model, start both devices in turns; print tables, then one line of JSON.

    Times are wall-clock medians of some rounds after one that fills the disk's and numba's caches.
    """
    picture = Image.fromarray(make_scene("test", 0)[1])
    with tempfile.TemporaryDirectory() as scratch:
        folder, image = Path(scratch) / "device", Path(scratch) / "street.png"
        picture.save(image)
        difference = export_device(_MODEL, folder)
        rounds = [
            {start: _start(str(folder) if start == "torch-free" else _MODEL, image) for start in _STARTS}
            for _ in range(1 + _ROUNDS)
        ]
        read = {"torch": _bytes_read(resolve(_MODEL).folder), "torch-free": _size(folder)}
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
    result = {"times": times, "model_bytes": read, "largest_difference": difference}
    print(json.dumps({"benchmark": "device", **result}))


def _start(model: str, image: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, model, str(image)], capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _bytes_read(checkpoint: Path) -> int:
    """The files of which a device with torch reads at least a part."""
    wanted = ("config.json", "codec-integer.safetensors", "model.safetensors", "processor_config.json")
    return sum(file.stat().st_size for file in checkpoint.rglob("*") if file.name in wanted)
