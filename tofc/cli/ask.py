"""The command `tofc ask`: a picture and a question, answered here or on an edge far away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tofc.cli import steps
from tofc.cli.files import check_input
from tofc.cli.options import (
    ImageArgument,
    JsonOption,
    MaxPixelsOption,
    MemberOptions,
    QuestionArgument,
    RateOptions,
)
from tofc.cli.report import (
    answer_fields,
    answer_line,
    note,
    packet_line,
    print_json,
    reports_user_errors,
    timing_line,
    working,
)
from tofc.cli.tiers import Drafting, TierOptions, decoding_fields, draft_answer, note_decoding
from tofc.config import resolve
from tofc.contents import packet_fields
from tofc.errors import UserError, needs_edge, needs_extra
from tofc.familial import family
from tofc.language import FULL

if TYPE_CHECKING:
    from tofc.edge import Edge
    from tofc.packet import Packet
    from tofc.serving.client import RemoteEdge

EXAMPLES = (
    "Examples:\n\ntofc ask cat.png 'How many cats are there?'\n\n"
    "tofc ask cat.png 'Is there a bus?' --max-bytes 300 --json\n\n"
    "tofc ask cat.png 'Is there a bus?' --edge https://edge.example:8080 --deadline-ms 300\n\n"
    "tofc ask cat.png 'Describe the picture.' --tiers device,edge --edge https://edge.example:8080"
)


@dataclass(frozen=True)
class LinkOptions:
    """The edge far away, and the way there."""

    edge: Annotated[
        str | None,
        typer.Option(
            "--edge",
            metavar="URL",
            help="Answer on a server that `tofc serve` runs; its key from TOFC_API_KEY.",
        ),
    ] = None
    deadline_ms: Annotated[
        float | None,
        typer.Option(
            "--deadline-ms",
            metavar="MS",
            help="With --edge: the link is measured, quality and tokens follow.",
        ),
    ] = None
    fallback: Annotated[
        bool,
        typer.Option(
            "--fallback/--no-fallback",
            help="With --edge: answer here, with the smallest member, where the edge cannot be reached.",
        ),
    ] = True
    ca: Annotated[
        Path | None,
        typer.Option("--ca", metavar="FILE", help="With --edge: authorities to trust, not the system's."),
    ] = None
    certificate: Annotated[
        Path | None,
        typer.Option(
            "--certificate",
            metavar="FILE",
            help="With --edge: this device's own certificate and key, where the edge asks for one.",
        ),
    ] = None

    def __post_init__(self) -> None:
        link_only = (self.deadline_ms, self.ca, self.certificate)
        if self.edge is None and any(option is not None for option in link_only):
            raise UserError(
                "--deadline-ms, --ca and --certificate are about a link; name the other end with --edge URL"
            )
        if self.deadline_ms is not None and not self.deadline_ms > 0:
            raise UserError(f"--deadline-ms is {self.deadline_ms:g}; give a number of milliseconds above 0")


@reports_user_errors
def ask(
    image: ImageArgument,
    question: QuestionArgument,
    rate: RateOptions,
    member: MemberOptions,
    link: LinkOptions,
    tiers: TierOptions,
    max_pixels: MaxPixelsOption = None,
    json_: JsonOption = False,
) -> None:
    """Answer a question about a picture through the bitstream: here, or on an edge far away."""
    steps.check_question(question)
    if link.deadline_ms is not None and rate.arguments:
        raise UserError(
            "--deadline-ms chooses quality and tokens: leave out --quality, --tokens and --max-bytes"
        )
    # Of a far edge the exits are not known here.
    steps.check_model(member.model, FULL if link.edge is not None else member.exit)
    check_input(image, "image")
    drafting = tiers.drafting(member, link.edge is not None, link.deadline_ms)
    remote = _remote_edge(link, member.model, drafting)
    if remote is not None:
        with working(f"reaching {remote.url}"):
            remote.check()
    picture = steps.open_picture(image, max_pixels)
    device = steps.load_device(member.model)
    decoded = None
    if drafting is not None:
        packet, decoded = draft_answer(remote, device, member.model, picture, question, rate, drafting)
        answer = decoded.answer
    elif remote is not None:
        far: dict[str, Any] = {"deadline_ms": link.deadline_ms, "exit": member.exit, **rate.arguments}
        with working(f"asking {remote.url}"), remote:
            most = picture.width * picture.height
            packet, answer = remote.ask(device, picture, question, max_pixels=most, **far)
    else:
        edge = steps.load_edge(member.model, member.exit)
        packet = steps.encode_picture(device, picture, rate.arguments)
        answer = steps.answer_packet(edge, packet, question, json_)
    fields = packet_fields(packet, device.codec)
    timing = {**packet.timing, **answer.timing}
    if json_:
        more: dict[str, Any] = {} if remote is None else {"fallback": answer.fallback}
        if link.deadline_ms is not None:
            more["late"] = _late(link.deadline_ms, packet, timing)
        more |= {} if decoded is None else decoding_fields(decoded)
        print_json({**answer_fields(answer), **fields, **more, "timing": timing})
        return
    if remote is not None or drafting is not None:
        typer.echo(answer_line(answer))
    if answer.fallback:
        typer.echo(f"answered on this device, by {answer.exit}: {answer.fallback}", err=True)
    if link.deadline_ms is not None and (late := _late(link.deadline_ms, packet, timing)):
        typer.echo(late, err=True)
    if decoded is not None and decoded.counts.rounds:
        note_decoding(decoded)
    note(f"{packet_line(fields)}; {timing_line(timing)}")


def _remote_edge(link: LinkOptions, model: str, drafting: Drafting | None) -> RemoteEdge | None:
    """The edge far away, None where none was asked for."""
    if link.edge is None:
        return None
    with needs_extra("serve", "a server and its clients need"):
        from tofc.serving.client import RemoteEdge
    here = (lambda: _smallest_member(model)) if link.fallback else None
    # Few tries: who waits at a terminal is told soon.
    more: dict[str, Any] = {"ca": link.ca, "certificate": link.certificate, "fallback": here, "retries": 3}
    if drafting is None:
        return RemoteEdge(link.edge, **more)
    return RemoteEdge(link.edge, model, draft=drafting.draft, tiers=drafting.tiers, **more)


def _late(deadline_ms: float, packet: Packet, timing: Mapping[str, float]) -> str:
    """What there is to say of a deadline that was not kept, or only just; empty where all is well."""
    here, whole = (1e3 * sum(part.values()) for part in (packet.timing, timing))
    if here > deadline_ms:
        return f"the device alone took {here:.0f} ms, of {deadline_ms:g} ms: no link would be fast enough"
    said = f"; it took {whole:.0f} ms" if whole > deadline_ms else ""
    if packet.quality == 1 and packet.num_tokens <= 4:
        return f"only the smallest packet, 4 tokens at quality 1, fits {deadline_ms:g} ms{said}"
    return f"the deadline of {deadline_ms:g} ms was not kept{said}" if said else ""


def _smallest_member(model: str) -> Edge:
    """What answers on the device itself."""
    with needs_edge("an answer of this device itself"):
        from tofc.edge import Edge

    exit = "full" if resolve(model).family is None else family(model)[0].name
    return Edge.from_pretrained(model, exit)
