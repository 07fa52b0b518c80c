"""What `tofc ask --tiers` does, and `tofc eval decoding`, which measures it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tofc.cli_report import note, print_evaluation, reports_user_errors
from tofc.errors import UserError

if TYPE_CHECKING:
    from rich.text import Text

    from tofc.decoding.drafting import Watch
    from tofc.decoding.growing import Growing
    from tofc.decoding.together import Decoded
    from tofc.edge import Edge
    from tofc.packet import Packet
    from tofc.serving.client import RemoteEdge

DECODING_EXAMPLES = (
    "Examples:\n\ntofc eval decoding decoding-scenes    (a bundled configuration, by its name)\n\n"
    "tofc eval decoding mine.yaml --out runs/decoding"
)
_FAR = (["device", "edge"], ["device", "edge", "cloud"])

TiersOption = Annotated[
    str | None,
    typer.Option(
        "--tiers",
        metavar="A,B[,C]",
        help="The first drafts, the next verify: device,edge[,cloud] with --edge, or exits here (e2,full).",
    ),
]
DraftOption = Annotated[
    str | None,
    typer.Option(
        "--draft", metavar="NAME", help="With --tiers device,...: the member that drafts, else the smallest."
    ),
]


class Role(str, Enum):
    """Where a server stands among the tiers."""

    EDGE = "edge"
    CLOUD = "cloud"


RoleOption = Annotated[
    Role,
    typer.Option(
        "--role",
        help="Among tiers: an edge may have an --upstream, the cloud is the last.",
    ),
]
UpstreamOption = Annotated[
    str | None,
    typer.Option(
        "--upstream",
        metavar="URL",
        help="The cloud, which verifies what is verified here; its key from TOFC_API_KEY.",
    ),
]
MiddleOption = Annotated[
    str | None,
    typer.Option(
        "--exit",
        metavar="NAME",
        help="With --upstream: the member that verifies here, else the second largest.",
    ),
]


def check_role(role: Role, upstream: str | None, exit: str | None) -> None:
    """UserError for options of `tofc serve` that do not go together."""
    if role is Role.CLOUD and upstream is not None:
        raise UserError("the cloud is the last tier: leave out --upstream, or give --role edge")
    if exit is not None and upstream is None:
        raise UserError(
            "--exit names the member of an edge in the middle; give the cloud behind it: --upstream URL"
        )


def drafting_exit(tiers: str | None, draft: str | None, is_far: bool, model: str, exit: str) -> str:
    """The member to load for `tiers`, else `exit`; UserError for options that do not go together."""
    if tiers is None:
        if draft is not None:
            raise UserError("--draft drafts for other tiers; name them: --tiers device,edge --edge URL")
        return exit
    from tofc.familial import family

    names = tiers.split(",")
    if not is_far:
        if "device" in names or draft is not None:
            raise UserError(
                "--tiers device,edge needs the other end: --edge URL. For members that draft and verify in "
                "this process name exits, the smallest first: --tiers e2,full"
            )
        members = family(model)
        return max((members.named(name) for name in names), key=lambda member: member.exit_layer).name
    if names not in _FAR:
        raise UserError(f"--tiers is {tiers}; with --edge give device,edge or device,edge,cloud")
    if draft is not None:
        return draft
    return str(family(model)[0].name)


def ask_tiers(
    tiers: str, remote: RemoteEdge | None, edge: Edge, packet: Packet, question: str, model: str
) -> Decoded:
    """The answer of the last tier, with its growth in the terminal."""
    from tofc.decoding import speculate

    names = tiers.split(",")
    with _shown(edge) as watch:
        if remote is None:
            return speculate(edge, packet, question, names, watch=watch)
        from tofc.decoding.remote import draft_for

        remote.model = Path(model).name
        with remote:
            return draft_for(remote, edge, packet, question, tiers=len(names), watch=watch)


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
    said = len(decoded.answer.tokens)
    note(
        f"{said} tokens in {counts.rounds} rounds: {counts.stood} of {counts.sent} drafts stood, "
        f"{said / max(counts.seconds, 1e-9):.0f} tokens/s"
    )


@reports_user_errors
def decoding(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a bundled configuration.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where results go, else runs/NAME.")
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else.")
    ] = False,
) -> None:
    """Tokens a second of device, edge and cloud together and alone, over links of several round trips."""
    from tofc.config import load_yaml

    try:
        from eval.decoding.config import DecodingConfig
        from eval.decoding.run import run
        from eval.decoding.table import tables
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed; this needs two extras: pip install 'tofc[eval,serve]'"
        ) from None
    settings = load_yaml(config, DecodingConfig)
    folder = out if out is not None else Path("runs") / settings.name
    print_evaluation(run(settings, folder), tables, folder, json_)


@contextmanager
def _shown(edge: Edge) -> Iterator[Watch | None]:
    """Shows an answer while it grows, where standard error is a terminal; what is left is printed later."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Live(console=console, transient=True, auto_refresh=False) as live:
        yield lambda answer: live.update(growing_text(edge.tokenizer, answer), refresh=True)


def growing_text(tokenizer: Any, answer: Growing) -> Text:
    """Final tokens plain, those that a tier has checked in italics, the device's own drafts dim besides."""
    from rich.text import Text

    whole, text, begin = "", Text(), 0
    for end, style in ((answer.final, ""), (answer.checked, "italic"), (len(answer.tokens), "dim italic")):
        if end > begin:  # decoded from the start: tokens may hold parts of a character
            now = str(tokenizer.decode(answer.tokens[:end], skip_special_tokens=True))
            text.append(now[len(whole) :], style=style)
            whole, begin = now, end
    return text
