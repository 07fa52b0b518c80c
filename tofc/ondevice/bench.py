"""What encoding costs on this machine: seconds by stage, bytes, memory, and the link's seconds."""

from __future__ import annotations

import io
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tofc.compiled import load_kernels
from tofc.device import Device
from tofc.ondevice.calibration import made_pictures

STAGES = ("preprocess", "vision", "merge", "code")
LINKS = (0.1, 1.0, 10.0)  # Mbit/s
_SIDE = 640  # pixels of the made picture
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class DeviceBench:
    """Medians over `rounds` pictures after a first one; seconds.

    `seconds` is by stage, `first` the whole first packet, `peak_bytes` the most memory that this process ever
    had (None where only Linux could say), `jpeg_bytes` the same picture as a JPEG of quality 90.
    """

    rounds: int
    seconds: dict[str, float]
    first: float
    packet_bytes: int
    jpeg_bytes: int
    peak_bytes: int | None

    @property
    def pictures_a_second(self) -> float:
        """Pictures that are encoded one after another in a second."""
        return 1 / sum(self.seconds.values())

    def link_seconds(self) -> dict[float, tuple[float, float]]:
        """By Mbit/s: seconds until the packet, and the JPEG, is through the link."""
        return {rate: (8e-6 * self.packet_bytes / rate, 8e-6 * self.jpeg_bytes / rate) for rate in LINKS}


def bench_device(device: Device, picture: Any = None, rounds: int = 3, **rate: Any) -> DeviceBench:
    """Encodes a picture (made up where none is given) again and again; `rate` is that of `Device.encode`."""
    if picture is None:
        picture = Image.fromarray(made_pictures(_SIDE, 1)[0])
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=_JPEG_QUALITY)
    load_kernels("entropy.kernels", "encode")  # which code from the hundredth picture on, as a rule
    packets = [device.encode(picture, **rate) for _ in range(1 + rounds)]
    seconds = {stage: statistics.median(p.timing[stage] for p in packets[1:]) for stage in STAGES}
    return DeviceBench(
        rounds=rounds,
        seconds=seconds,
        first=sum(packets[0].timing.values()),
        packet_bytes=len(packets[0]),
        jpeg_bytes=len(jpeg.getvalue()),
        peak_bytes=peak_bytes(),
    )


def peak_bytes() -> int | None:
    """The most memory that this process ever had; None but on Linux: others count what started it as well."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)
