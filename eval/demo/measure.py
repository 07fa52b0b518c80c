"""One picture through device, packet and edge, and the smallest image files that lead to the same answers."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

from PIL import Image

import tofc
from eval.baselines import ImageCodec, Jpeg, Point, WebP, lowest_qualities_keeping
from eval.demo.inputs import DemoPicture
from eval.demo.results import PLAIN, PictureResult, QuestionResult
from tofc.cli_packet import whole_bytes
from tofc.clusters import tile_box

CODECS: tuple[ImageCodec, ...] = (WebP(), Jpeg())


def measure(
    device: tofc.Device,
    edge: tofc.Edge,
    picture: DemoPicture,
    quality: int,
    step: Callable[[], None] = lambda: None,
) -> PictureResult:
    """Encode a picture once, answer all its questions from that packet, and find the baselines' sizes.

    Args:
        device: the encoder.
        edge: the answerer.
        picture: what to look at and what to ask.
        quality: quality of the packet.
        step: called `steps(picture)` times on the way, for a progress bar.
    """
    packet = device.encode(picture.image, quality=quality)
    # What travels is bytes: the edge gets nothing else.
    received = tofc.Packet.from_bytes(bytes(packet))
    answers: list[tofc.Answer] = []
    for question in picture.questions:
        answers.append(edge.answer(received, question.prompt))
        step()
    prompts = [question.prompt for question in picture.questions]
    found: dict[str, list[Point | None]] = {}
    for codec in CODECS:
        found[codec.name] = lowest_qualities_keeping(
            picture.image,
            codec,
            lambda decoded: _same_answers(device, edge, decoded, prompts, answers),
            len(answers) + 1,
        )
        step()
    features = device.features(picture.image)
    return PictureResult(
        name=picture.name,
        kind=picture.kind,
        rendered=picture.rendered,
        image=picture.image,
        assignment=features.cluster_map,
        tile=tile_box(picture.image.size, features.tiling),
        quality=quality,
        num_tokens=features.tokens.shape[0],
        sections=whole_bytes(edge.sections(received)),
        questions=tuple(
            QuestionResult(
                prompt=question.prompt,
                answer=answer.text,
                truth=question.truth,
                baselines={codec: points[index] for codec, points in found.items()},
                seconds=dict(answer.timing),
            )
            for index, (question, answer) in enumerate(zip(picture.questions, answers, strict=True))
        ),
        baselines={codec: points[-1] for codec, points in found.items()},
        reference_sizes=_reference_sizes(picture.image, features),
        seconds=dict(packet.timing),
    )


def steps(picture: DemoPicture) -> int:
    """Tell how often `measure` reports a step for this picture."""
    return len(picture.questions) + len(CODECS)


def _same_answers(
    device: tofc.Device,
    edge: tofc.Edge,
    decoded: Image.Image,
    prompts: Sequence[str],
    wanted: Sequence[tofc.Answer],
) -> list[bool]:
    """Say for each question whether its answer is kept, and last whether all of them are at once.

    An image file is seen as the device would see it, with the same tower and the same merging: what travelled
    is all that differs.
    """
    # One token more than the longest answer decides whether it is the same.
    longest = max(len(answer.tokens) for answer in wanted) + 1
    answers = edge.answer_features(device.features(decoded), prompts, max_new_tokens=longest)
    kept = [answer.text == other.text for answer, other in zip(answers, wanted, strict=True)]
    return [*kept, all(kept)]


def _reference_sizes(image: Image.Image, features: tofc.Features) -> dict[str, int]:
    """Give the bytes of the picture as people send it, and of its features if they were sent uncoded."""
    lossless = io.BytesIO()
    image.save(lossless, "PNG", optimize=True)
    num_values = features.layout.num_tokens * features.tokens.shape[1]
    return {
        PLAIN: len(Jpeg().encode(image, 90)),
        "features, float16": 2 * num_values,
        "PNG": len(lossless.getvalue()),
    }
