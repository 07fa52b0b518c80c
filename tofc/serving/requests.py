"""From a request's body to what the engine needs, with every bound checked before any work is done.

What is large without saying anything is refused before it is unfolded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from PIL import Image
from pydantic import BaseModel, ValidationError

from tofc.edge import MAX_NEW_TOKENS
from tofc.errors import UserError
from tofc.images import WEB_FORMATS, open_image
from tofc.language.sampling import Sampling
from tofc.network.messages import PACKET_TYPE, read_data_url
from tofc.packet import Packet
from tofc.serving.errors import ApiError, invalid, wrong
from tofc.serving.models import ServedModels, Shown
from tofc.serving.schema import ChatRequest, ImagePart, Message
from tofc.serving.settings import Limits

T = TypeVar("T", bound=BaseModel)
_PLAIN = "application/json"
_VALUES = 16_384  # in a request, beyond the brackets and commas that its text may hold


def check_type(content_type: str) -> None:
    """Raises ApiError for a body that does not say that it is JSON, as forms on pages of others cannot."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind != _PLAIN and not (kind.startswith("application/") and kind.endswith("+json")):
        raise ApiError(
            415,
            f"the header content-type is {kind[:80]!r}; send content-type: {_PLAIN}",
            "unsupported_media_type",
        )


def parsed(kind: type[T], body: bytes | str, limits: Limits) -> T:
    """The body as `kind`; raises ApiError that names the field at fault.

    Takes up to some 50 ms for the largest body: not for the event loop.
    """
    data = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    if len(data) - len(data.translate(None, b"{[,")) > limits.text_chars + _VALUES:
        raise wrong("the body: holds more values than any question needs", None, "invalid_request")
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise invalid(
            error.errors(include_url=False, include_input=False, include_context=False)[0]
        ) from None


@dataclass(frozen=True)
class ChatQuestion:
    """One request, checked: `turns` in the messages of chat templates, the packets and pictures in order."""

    model: str
    turns: Sequence[Mapping[str, Any]]
    seen: Sequence[Shown]
    sampling: Sampling
    max_new_tokens: int
    stop: Sequence[str]
    stream: bool
    include_usage: bool
    deadline: float  # seconds
    packet_bytes: int


def understand(body: ChatRequest, models: ServedModels, limits: Limits) -> ChatQuestion:
    """Checks a request and decodes its pictures; ApiError for what is wrong in it. Not for the event loop."""
    model = models.resolve(body.model)
    if model is None:
        there = ", ".join(models.members)
        raise ApiError(
            404, f"there is no model of that name here; there are: {there}", "model_not_found", "model"
        )
    most, stop = _bounds(body, limits)
    if body.messages[-1].role != "user":
        raise wrong("the last message must be the user's", "messages")
    urls = [part.image_url.url for message in body.messages for part in _pictures(message)]
    if len(urls) > limits.pictures:
        raise wrong(f"{len(urls)} pictures in a request; at most {limits.pictures} are answered", "messages")
    files = [_data(url) for url in urls]
    packets = [_packet(data, kind) for kind, data in files]
    _check_packets([packet for packet in packets if packet is not None], limits)
    seen: list[Shown] = [
        _picture(data, limits.pixels) if packet is None else packet
        for packet, (_, data) in zip(packets, files, strict=True)
    ]
    _check_tiles(seen, models, limits)
    return ChatQuestion(
        model=model,
        turns=_turns(body.messages, seen, limits.text_chars),
        seen=seen,
        sampling=Sampling(
            temperature=body.temperature or 0.0,
            top_p=1.0 if body.top_p is None else body.top_p,
            seed=body.seed,
        ),
        max_new_tokens=most,
        stop=stop,
        stream=bool(body.stream),
        include_usage=body.stream_options is not None and body.stream_options.include_usage,
        deadline=seconds_allowed(body, limits, has_pictures=None in packets),
        packet_bytes=sum(len(data) for (_, data), p in zip(files, packets, strict=True) if p is not None),
    )


def seconds_allowed(body: ChatRequest, limits: Limits, has_pictures: bool) -> float:
    """Seconds until the answer is due: a large vision tower takes longer for a picture than a packet does."""
    most = limits.longest if has_pictures else limits.deadline
    return min(most, (body.deadline_ms or 1e3 * most) / 1e3)


def _bounds(body: ChatRequest, limits: Limits) -> tuple[int, Sequence[str]]:
    """The most tokens that may come, and the strings that end an answer."""
    wanted = body.max_completion_tokens or body.max_tokens or min(MAX_NEW_TOKENS, limits.new_tokens)
    if wanted > limits.new_tokens:
        raise wrong(f"{wanted} tokens of answer; at most {limits.new_tokens} are given", "max_tokens")
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if len(stop) > 4 or not all(1 <= len(word) <= 200 for word in stop):
        raise wrong("give at most 4 stop strings of 1 to 200 characters", "stop")
    return wanted, tuple(stop)


def _pictures(message: Message) -> list[ImagePart]:
    parts = message.content if isinstance(message.content, list) else []
    return [part for part in parts if isinstance(part, ImagePart)]


def _data(url: str) -> tuple[str, bytes]:
    """Type and bytes of a data URL; nothing else is ever opened."""
    try:
        found = read_data_url(url)
    except ValueError:
        raise wrong("a picture's data URL is not valid base64", "messages") from None
    if found is None:
        raise wrong(
            "a picture is given as a data URL: data:application/vnd.tofc;base64,... for a packet, "
            "data:image/jpeg;base64,... for an ordinary one; addresses and paths are not opened",
            "messages",
        )
    return found


def _packet(data: bytes, kind: str) -> Packet | None:
    """The packet in `data`; None where its media type says otherwise, or says nothing and it is none."""
    if kind not in (PACKET_TYPE, ""):
        return None
    try:
        packet = Packet.from_bytes(data)
        is_empty = packet.num_tokens < 1
    except UserError as error:
        if not kind:
            return None
        raise wrong(str(error), "messages", "invalid_packet") from error
    if is_empty:
        raise wrong("a packet holds no tokens", "messages", "invalid_packet")
    return packet


def _check_packets(packets: Sequence[Packet], limits: Limits) -> None:
    """Their tokens, as they declare them; whether the model can read them it says itself, before decoding."""
    total = sum(packet.num_tokens for packet in packets)
    if total > limits.visual_tokens:
        raise wrong(f"{total} visual tokens in a request; at most {limits.visual_tokens}", "messages")


def _picture(data: bytes, max_pixels: int) -> Image.Image:
    """An ordinary picture in RGB; its size is looked at before its pixels are."""
    try:
        return open_image(data, max_pixels, WEB_FORMATS)
    except UserError as error:
        raise wrong(
            f"a picture cannot be used: {_for_clients(error)}", "messages", "invalid_image"
        ) from error


def _for_clients(error: UserError) -> str:
    """Without the advice to raise the limit, which is the server's."""
    return str(error).split(", or raise the limit")[0]


def _check_tiles(seen: Sequence[Shown], models: ServedModels, limits: Limits) -> None:
    """Tiles of all pictures, and visual tokens of the ordinary ones, which are not merged."""
    num_ordinary = sum(not isinstance(one, Packet) for one in seen)
    tiles = tokens = 0
    for one in seen:
        try:
            layouts = models.layouts(one, num_ordinary)
        except UserError as error:
            raise wrong(str(error), "messages") from error
        tiles += sum(layout.num_tiles for layout in layouts)
        tokens += one.num_tokens if isinstance(one, Packet) else layouts[0].num_tokens
    if tiles > limits.tiles:
        raise wrong(f"the pictures have {tiles} tiles; at most {limits.tiles} in a request", "messages")
    if tokens > limits.visual_tokens:
        raise wrong(f"{tokens} visual tokens in a request; at most {limits.visual_tokens}", "messages")


def _turns(messages: Sequence[Message], seen: Sequence[Shown], most: int) -> list[Mapping[str, Any]]:
    """The messages with a part of type "image" for each picture, several for a packet of several."""
    rest = iter(seen)
    turns: list[Mapping[str, Any]] = []
    chars = 0
    for message in messages:
        content: list[Mapping[str, str]] = []
        parts = message.content if isinstance(message.content, list) else []
        for part in parts:
            if isinstance(part, ImagePart):
                one = next(rest)
                content += [{"type": "image"}] * (one.num_images if isinstance(one, Packet) else 1)
            else:
                content.append({"type": "text", "text": part.text})
        if isinstance(message.content, str):
            content = [{"type": "text", "text": message.content}]
        texts = [part["text"] for part in content if part["type"] == "text"]
        chars += sum(map(len, texts))
        try:
            "".join(texts).encode()
        except UnicodeEncodeError:
            raise wrong(
                "a message holds half of a surrogate pair; send whole characters", "messages"
            ) from None
        turns.append({"role": "system" if message.role == "developer" else message.role, "content": content})
    if chars > most:
        raise wrong(f"{chars} characters of text in a request; at most {most}", "messages")
    if not "".join(texts).strip():
        raise wrong("the last message asks nothing; put the question into its text", "messages")
    return turns
