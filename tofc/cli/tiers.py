"""`tofc ask --tiers`: several members, or machines, work on one answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tofc.cli.options import MemberOptions, RateOptions
from tofc.cli.report import note, working
from tofc.cli.steps import encode_picture, load_edge, quieten_libraries
from tofc.errors import UserError
from tofc.familial import family

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.text import Text

    from tofc.device import Device
    from tofc.drafting.drafter import Watch
    from tofc.drafting.progress import Progress
    from tofc.drafting.speculate import Decoded
    from tofc.packet import Packet
    from tofc.serving.client import RemoteEdge

_FAR = (("device", "edge"), ("device", "edge", "cloud"))


@dataclass(frozen=True)
class Drafting:
    """Who works on an answer: `names` of members here, the smallest first, or `draft` for a far edge.

    `tiers` have to work on it then, None for as many as there are.
    """

    names: tuple[str, ...] = ()
    draft: str | None = None
    tiers: int | None = None


@dataclass(frozen=True)
class TierOptions:
    """Several members, or several machines, for one answer."""

    tiers: Annotated[
        str | None,
        typer.Option(
            "--tiers",
            metavar="A,B[,C]",
            help="The first drafts, the next verify: device,edge[,cloud] with --edge, or exits here "
            "(e2,full).",
        ),
    ] = None
    draft: Annotated[
        str | None,
        typer.Option("--draft", metavar="NAME", help="With --edge: the member that drafts here, such as e1."),
    ] = None

    def drafting(self, member: MemberOptions, is_far: bool, deadline_ms: float | None) -> Drafting | None:
        """What the options mean, None for one tier; UserError where they do not go together."""
        if self.tiers is None and self.draft is None:
            return None
        if member.exit != "full" or deadline_ms is not None:
            raise UserError(
                "drafts are verified by the last tier, however long that takes: leave out --exit and "
                "--deadline-ms, or --tiers and --draft"
            )
        names = tuple((self.tiers or "").split(","))
        if not is_far:
            if self.draft is not None or "device" in names:
                raise UserError(
                    "--tiers device,edge and --draft need the other end: --edge URL. For members that draft "
                    "and verify in this process name exits, the smallest first: --tiers e2,full"
                )
            return Drafting(names)
        if self.tiers is not None and names not in _FAR:
            raise UserError(f"--tiers is {self.tiers}; with --edge give device,edge or device,edge,cloud")
        draft = self.draft
        if draft is None:
            draft = str(family(member.model)[0].name)
        return Drafting(draft=draft, tiers=None if self.tiers is None else len(names))


def draft_answer(
    remote: RemoteEdge | None,
    device: Device,
    model: str,
    picture: Image,
    question: str,
    rate: RateOptions,
    drafting: Drafting,
) -> tuple[Packet, Decoded]:
    """The packet, and what several tiers made of it: here, or here and far away."""
    if remote is None:
        from tofc.drafting import speculate
        from tofc.drafting.progress import follow_progress

        edge = load_edge(model, family(model).deepest(drafting.names).name)
        packet = encode_picture(device, picture, rate.arguments)

        def run(watch: Watch) -> Decoded:
            return speculate(edge, packet, question, drafting.names, watch=watch)

        return packet, shown(follow_progress(run, edge.tokenizer))
    packet = encode_picture(device, picture, rate.arguments)
    with remote:
        with working(f"loading {drafting.draft} of {model}"):
            quieten_libraries()
            progress = remote.stream(packet, question)
        return packet, shown(progress)


def decoding_fields(decoded: Decoded) -> dict[str, Any]:
    """What collaborative decoding took, ready for JSON."""
    counts = decoded.counts
    return {
        "rounds": counts.rounds,
        "drafts": {"made": counts.drafted, "sent": counts.sent, "stood": counts.stood},
        "cuts": counts.cuts,
        "unverified": decoded.unverified,
    }


def note_decoding(decoded: Decoded) -> None:
    """The same for people."""
    counts = decoded.counts
    said, rounds = len(decoded.answer.tokens), "1 round" if counts.rounds == 1 else f"{counts.rounds} rounds"
    note(
        f"{said} tokens in {rounds}: {counts.stood} of {counts.sent} drafts stood, "
        f"{said / max(counts.seconds, 1e-9):.0f} tokens/s"
    )


def shown(progress: Iterator[Progress]) -> Decoded:
    """The end of an answer, whose progress is shown where standard error is a terminal."""
    from rich.live import Live

    console = Console(stderr=True)
    live = Live(console=console, transient=True, auto_refresh=False)
    with live if console.is_terminal else nullcontext():
        for state in progress:
            if console.is_terminal:
                live.update(progress_text(state), refresh=True)
    assert state.decoded is not None
    return state.decoded


_STYLES = {"final": "", "checked": "italic", "drafted": "dim italic"}
_CORRECTED = "underline"


def progress_text(progress: Progress) -> Text:
    """Final tokens plain, those that one tier has verified in italics, drafts dim besides; and a legend."""
    from rich.text import Text

    text = Text()
    for piece in progress.pieces:
        text.append(
            piece.text, style=f"{_STYLES[piece.state]} {_CORRECTED if piece.corrected else ''}".strip()
        )
    said = {"final": "verified", "checked": "not by the cloud yet", "drafted": "drafted"}
    text.append("\n\n")
    for state in sorted({piece.state for piece in progress.pieces}, key=list(_STYLES).index):
        text.append(said[state], style=_STYLES[state])
        text.append("  ")
    if any(piece.corrected for piece in progress.pieces):
        text.append("corrected", style=_CORRECTED)
    return text
