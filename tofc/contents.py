"""What there is to tell of a packet: its fields, and where every byte of it goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tofc.errors import PacketError

if TYPE_CHECKING:
    from entropy import FeatureCodec
    from tofc.packet import Packet


def packet_fields(packet: Packet, codec: FeatureCodec | None) -> dict[str, Any]:
    """The fields of a packet, ready for JSON; `quality` and `tokens` are read only with its codec."""
    from tofc.packet import VERSION

    fields: dict[str, Any] = {
        "bytes": len(packet),
        "version": VERSION,
        "model_tag": packet.model_tag.hex(),
        "tiling": packet.tiling,
        "pictures": [{"width": width, "height": height} for height, width in packet.image_sizes],
    }
    if codec is not None:
        fields["quality"] = codec.quality_of(packet.payload)
        fields["tokens"] = packet.num_tokens
        fields["truncated"] = packet.is_truncated
    return fields


def find_codec(packet: Packet, model: str | None) -> FeatureCodec | None:
    """The codec that wrote `packet`: that of `model`, else the bundled one that fits, if there is one.

    Raises PacketError where `model` did not write the packet, CheckpointError where there is no such model.
    """
    from entropy import FeatureCodec
    from tofc.config import ASSETS, bundled_names

    if model is None:
        # Straight from the assets: this is numpy and numba alone, where loading a model would cost seconds.
        codecs = (FeatureCodec.load(ASSETS / name) for name in bundled_names())
        return next((codec for codec in codecs if codec.fingerprint.startswith(packet.model_tag)), None)
    from tofc.config import resolve
    from tofc.hub import load_codec

    codec = load_codec(resolve(model))
    if codec.fingerprint.startswith(packet.model_tag):
        return codec
    raise PacketError(
        f"the packet has the model tag {packet.model_tag.hex()}, {model} has "
        f"{codec.fingerprint[: len(packet.model_tag)].hex()}: name the model that wrote it"
    )


def byte_sections(packet: Packet, codec: FeatureCodec | None) -> dict[str, int]:
    """Bytes by part, in the order in which they travel; they sum to the packet's size.

    With its codec the payload falls into its own parts. Those share one range-coded stream and meet inside of
    bytes: a byte counts for the part that fills most of it.
    """
    from entropy import StreamError

    if codec is None:
        return packet.sections
    if codec.takes_kernels(packet.num_tokens):
        from tofc.compiled import load_kernels  # here, because numba takes half a second to import

        load_kernels("entropy.kernels", "decode_tokens")
    try:
        return whole_bytes(packet.sections_with(codec))
    except StreamError as error:
        raise PacketError(f"the packet is whole, but not what is in it: {error}; encode it again") from error


def whole_bytes(parts: Mapping[str, float]) -> dict[str, int]:
    """Rounds fractions of bytes to whole bytes with the same sum, by rounding where each part ends."""
    out: dict[str, int] = {}
    end, before = 0.0, 0
    for name, size in parts.items():
        end += size
        out[name] = round(end) - before
        before = round(end)
    return out
