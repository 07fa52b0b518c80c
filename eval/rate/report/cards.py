"""The gallery as HTML: pictures side by side, and under them every question with everybody's answer."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from eval.rate.points import LABELS
from eval.rate.report.gallery import Card, SentPicture
from eval.rate.report.tables import data_uri, label, picture_uri
from tofc.features import clusters_of_pixels, mean_colours, tile_box

SHOWN_IN_BROWSERS = {"jpeg": "image/jpeg", "webp": "image/webp", "avif": "image/avif"}


def gallery_html(gallery: Sequence[Card]) -> str:
    """The cards, with the choice of which questions they show."""
    if not gallery:
        return "<p>This sweep sent nothing through TOFC.</p>"
    filters = "".join(
        f'<label><input type="radio" name="rows" value="{value}"{checked}> {words}</label>'
        for value, words, checked in (
            ("differ", "where answers differ", " checked"),
            ("wrong", "where TOFC is wrong", ""),
            ("all", "all questions", ""),
        )
    )
    made = [f'<fieldset class="segments" id="rows"><legend>Show</legend>{filters}</fieldset>']
    for hardest, words in ((False, "Evenly spaced"), (True, "Where TOFC is wrong most often")):
        some = [card for card in gallery if card.hardest == hardest]
        if some:
            made += [f"<h3>{words}</h3>", *(_card(card) for card in some)]
    return "".join(made)


def _card(card: Card) -> str:
    ours, asked = card.sent[0], len(card.questions)
    shown = [sent for sent in card.sent if sent.decoded is not None]
    picture = picture_uri(card.image)
    name, size = html.escape(card.name), f"{card.image.width} × {card.image.height}"
    tiles = [
        _tile(f'<img src="{picture}" alt="The picture {name}">', "the picture", size),
        _tile(
            f'<img src="{picture}" alt="">{cluster_svg(card.image, card.assignment, card.tiling)}',
            f"TOFC: {ours.num_bytes:,} bytes",
            f"{ours.point.name}; {ours.num_right} of {asked} right",
            "ours",
        ),
    ]
    for sent in shown:
        more = sent.num_bytes / ours.num_bytes
        size = f"{LABELS[sent.system]}: {sent.num_bytes:,} bytes"
        size += f" ({more:.1f} times TOFC)" if sent.num_bytes > ours.num_bytes else ""
        words = f"{sent.point.name}; {sent.num_right} of {asked} right"
        alt = html.escape(f"{card.name} as {LABELS[sent.system]} of {sent.num_bytes} bytes")
        tiles.append(_tile(f'<img class="shrunk" src="{_file_uri(sent)}" alt="{alt}">', size, words))
    heads = "".join(
        f'<th scope="col">{words}</th>'
        for words in ("question", "truth", *(_short(sent) for sent in card.sent))
    )
    rows = "".join(_question_row(card, number) for number in range(asked))
    table = f'<table class="answers"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    words = f"{asked} questions, {ours.num_right} answered rightly through TOFC"
    return (
        f'<article class="card" data-picture="{name}"><h4>{name}</h4>'
        f'<div class="tiles">{"".join(tiles)}</div><details class="asked"><summary>{words}</summary>'
        f'<div class="scroll">{table}</div><p class="quiet hidden-rows"></p></details></article>'
    )


def _tile(content: str, caption: str, small: str, kind: str = "") -> str:
    return (
        f'<figure class="{kind}"><div class="frame">{content}</div><figcaption><b>{html.escape(caption)}</b>'
        f"<br><small>{html.escape(small)}</small></figcaption></figure>"
    )


def _question_row(card: Card, number: int) -> str:
    question = card.questions[number]
    answers = [sent.answers[number] for sent in card.sent]
    verdicts = [right == of for _, right, of in answers]
    kind = "differ wrong" if not verdicts[0] else "" if all(verdicts) else "differ"
    cells = "".join(
        f'<td class="{_WORDS[fully][0]}" data-head="{_short(sent)}"><span class="mark" role="img" '
        f'aria-label="{_WORDS[fully][0]}">{_WORDS[fully][1]}</span> {_answer(text, right, of)}</td>'
        for sent, (text, right, of), fully in zip(card.sent, answers, verdicts, strict=True)
    )
    return (
        f'<tr class="{kind}"><th scope="row">{html.escape(question.prompt)}</th>'
        f'<td data-head="truth">{html.escape(question.truth)}</td>{cells}</tr>'
    )


_WORDS = {True: ("right", "✓"), False: ("wrong", "✗")}


def _answer(text: str, right: int, of: int) -> str:
    counted = f" ({right} of {of})" if of > 1 else ""
    return (html.escape(text) or "<i>no answer</i>") + counted


def _short(sent: SentPicture) -> str:
    return "uncoded" if sent.system == "raw" else label(sent.system)


def _file_uri(sent: SentPicture) -> str:
    """The very file that travelled; as PNG where browsers do not know its format."""
    assert sent.file is not None
    assert sent.decoded is not None
    if sent.system in SHOWN_IN_BROWSERS:
        kind, data = SHOWN_IN_BROWSERS[sent.system], sent.file
    else:
        buffer = io.BytesIO()
        sent.decoded.save(buffer, "PNG", optimize=True)
        kind, data = "image/png", buffer.getvalue()
    return data_uri(kind, data)


def cluster_svg(image: Image.Image, assignment: np.ndarray, tiling: str) -> str:
    """The clusters int64 [rows, columns] as an overlay for the picture, in its own proportions.

    Each cluster is a path in its mean colour with a title; one more path is where clusters meet.
    """
    rows, columns = assignment.shape
    left, top, width, height = box = tile_box(image.size, tiling)
    means = mean_colours(image, assignment, clusters_of_pixels(image, assignment, box))
    sizes = np.bincount(assignment.ravel())
    cells = "".join(
        f'<path d="{_cells(assignment == cluster)}" fill="#{bytes(means[cluster]).hex()}">'
        f"<title>one token: {sizes[cluster]} of {assignment.size} patches</title></path>"
        for cluster in np.unique(assignment)
    )
    place = f"translate({left:g} {top:g}) scale({width / columns:g} {height / rows:g})"
    return (
        f'<svg class="clusters" viewBox="0 0 {image.width} {image.height}" aria-hidden="true">'
        f'<g transform="{place}">{cells}<path class="seams" d="{_seams(assignment)}"/></g></svg>'
    )


def _cells(mask: np.ndarray) -> str:
    """Runs of patches, row by row, as rectangles of one path in units of patches."""
    parts = []
    for row, line in enumerate(mask):
        edges = np.flatnonzero(np.diff(line.astype(int), prepend=0, append=0))
        parts += [f"M{a} {row}h{b - a}v1h{a - b}z" for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return "".join(parts)


def _seams(assignment: np.ndarray) -> str:
    """Edges of patches at which the cluster changes, as one path in units of patches."""
    upright = np.argwhere(assignment[:, 1:] != assignment[:, :-1])
    level = np.argwhere(assignment[1:] != assignment[:-1])
    return "".join(
        [f"M{c + 1} {r}v1" for r, c in upright.tolist()] + [f"M{c} {r + 1}h1" for r, c in level.tolist()]
    )
