"""Task-oriented feature compression: send what a model needs to answer, instead of the picture.

The names below load on first use, so that `import tofc` costs no more than this file.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

    from tofc.agents.collaboration import Agents as Agents
    from tofc.answer import Answer as Answer
    from tofc.device import Device as Device
    from tofc.edge import Edge as Edge
    from tofc.errors import CheckpointError as CheckpointError
    from tofc.errors import ConfigError as ConfigError
    from tofc.errors import EdgeUnreachable as EdgeUnreachable
    from tofc.errors import ImageError as ImageError
    from tofc.errors import PacketError as PacketError
    from tofc.errors import UserError as UserError
    from tofc.features import Features as Features
    from tofc.packet import Packet as Packet
    from tofc.serving.client import RemoteEdge as RemoteEdge
    from tofc.serving.link import LinkEstimator as LinkEstimator

__version__ = "0.1.0"

_HOME = {
    "Agents": "tofc.agents.collaboration",
    "Answer": "tofc.answer",
    "CheckpointError": "tofc.errors",
    "ConfigError": "tofc.errors",
    "Device": "tofc.device",
    "Edge": "tofc.edge",
    "EdgeUnreachable": "tofc.errors",
    "Features": "tofc.features",
    "ImageError": "tofc.errors",
    "LinkEstimator": "tofc.serving.link",
    "Packet": "tofc.packet",
    "PacketError": "tofc.errors",
    "RemoteEdge": "tofc.serving.client",
    "UserError": "tofc.errors",
}

__all__ = [*sorted(_HOME), "__version__", "example"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tofc' has no attribute {name!r}; it offers {', '.join(__all__)}")
    from tofc.errors import needs_edge

    with needs_edge(f"tofc.{name}"):
        value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def example(name: str = "cat.png") -> Image:
    """A picture to try things on, by its name; the command `tofc example` writes it.

    "cat.png" is a photograph that scikit-image ships (`tofc[demo]`), "street.jpg" a bundled drawing for
    scenes-tiny. Raises `UserError` for another name, and where scikit-image is missing.
    """
    from tofc.examples import example_bytes
    from tofc.images import open_image

    return open_image(example_bytes(name))


def __dir__() -> list[str]:
    return sorted(__all__)
