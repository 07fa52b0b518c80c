"""The command `tofc serve`, and what `tofc ask --edge` does."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from tofc import cli_decoding
from tofc.cli_report import reports_user_errors, working
from tofc.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from tofc.answer import Answer
    from tofc.cli_decoding import Drafted
    from tofc.device import Device
    from tofc.edge import Edge
    from tofc.packet import Packet
    from tofc.serving.client import RemoteEdge
    from tofc.serving.settings import Limits, Listen

SERVE_EXAMPLES = (
    "Examples:\n\ntofc serve    (this machine only, port 8080)\n\n"
    "tofc serve --host 0.0.0.0 --api-keys keys.txt --tls-cert edge.pem --tls-key edge.key\n\n"
    "Ask it:\n\ntofc ask street.jpg 'How many cars are there?' --edge http://127.0.0.1:8080"
)

EdgeOption = Annotated[
    str | None,
    typer.Option(
        "--edge", metavar="URL", help="Answer on a server that `tofc serve` runs; its key from TOFC_API_KEY."
    ),
]
DeadlineOption = Annotated[
    float | None,
    typer.Option(
        "--deadline-ms", metavar="MS", help="With --edge: the link is measured, quality and tokens follow."
    ),
]
FallbackOption = Annotated[
    bool,
    typer.Option(
        "--fallback/--no-fallback",
        help="With --edge: answer here, with the smallest member, where the edge cannot be reached.",
    ),
]
AuthoritiesOption = Annotated[
    Path | None,
    typer.Option("--ca", metavar="FILE", help="With --edge: authorities to trust, not the system's."),
]
CertificateOption = Annotated[
    Path | None,
    typer.Option(
        "--certificate",
        metavar="FILE",
        help="With --edge: this device's own certificate and key, where the edge asks for one.",
    ),
]


class Tls(NamedTuple):
    """Files of a client: whom it trusts, and its own certificate with its key."""

    ca: Path | None
    certificate: Path | None


def far_edge(
    url: str | None,
    model: str,
    deadline_ms: float | None,
    fallback: bool,
    tls: Tls,
    rate: dict[str, Any],
    drafted: Drafted | None,
) -> RemoteEdge | None:
    """The edge at `url`, None where none was asked for; UserError for options that do not go together."""
    if url is None:
        if deadline_ms is not None or any(tls):
            raise UserError(
                "--deadline-ms, --ca and --certificate are about a link; name the other end with --edge URL"
            )
        return None
    if deadline_ms is not None and (rate or not deadline_ms > 0):
        raise UserError(
            "--deadline-ms is a number of milliseconds above 0, and chooses quality and tokens: leave out "
            "--quality, --tokens and --max-bytes"
        )
    try:
        from tofc.serving.client import RemoteEdge
    except ModuleNotFoundError as error:
        raise need_extra(error) from None
    here = (lambda: _smallest_member(model)) if fallback else None
    if drafted is None:
        return RemoteEdge(url, ca=tls.ca, certificate=tls.certificate, fallback=here)
    return RemoteEdge(
        url,
        model,
        ca=tls.ca,
        certificate=tls.certificate,
        fallback=here,
        draft=drafted.draft,
        tiers=drafted.tiers,
    )


def ask_far(
    remote: RemoteEdge,
    device: Device,
    picture: Image,
    question: str,
    deadline_ms: float | None,
    exit: str,
    rate: dict[str, Any],
) -> tuple[Packet, Answer]:
    """Encodes here and asks there."""
    with working(f"asking {remote.url}"), remote:
        most = picture.width * picture.height
        return remote.ask(
            device, picture, question, deadline_ms=deadline_ms, exit=exit, max_pixels=most, **rate
        )


def _smallest_member(model: str) -> Edge:
    from tofc.config import resolve
    from tofc.edge import Edge
    from tofc.familial import family

    exit = "full" if resolve(model).family is None else family(model)[0].name
    return Edge.from_pretrained(model, exit)


def need_extra(error: ModuleNotFoundError) -> UserError:
    """What to install where a library of the extra is missing."""
    return UserError(
        f"{error.name} is not installed; a server and its clients need an extra: pip install 'tofc[serve]'"
    )


@reports_user_errors
def serve(
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", metavar="SRC", help="A bundled name, a checkpoint folder, or a hub id."
        ),
    ] = "scenes-tiny",
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Where to listen; 0.0.0.0 for every network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", help="0 for any that is free.")] = 8080,
    api_keys: Annotated[
        Path | None,
        typer.Option(
            "--api-keys",
            metavar="FILE",
            help="Keys that may ask, one a line; else TOFC_API_KEYS, separated by commas; else anybody.",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate chain, PEM.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", help="Its private key, PEM.")
    ] = None,
    tls_clients: Annotated[
        Path | None,
        typer.Option(
            "--tls-clients", metavar="FILE", help="Let in only clients signed by these authorities."
        ),
    ] = None,
    images: Annotated[
        bool,
        typer.Option("--images/--packets-only", help="Answer ordinary pictures too (reads the tower)."),
    ] = True,
    batch: Annotated[
        int | None, typer.Option("--batch", metavar="N", help="Answers that grow at the same time; 16.")
    ] = None,
    queue: Annotated[
        int | None,
        typer.Option("--queue", metavar="N", help="Requests that may wait; 256."),
    ] = None,
    deadline: Annotated[
        float | None,
        typer.Option("--deadline", metavar="SECONDS", help="The longest that an answer may take; 30."),
    ] = None,
    limits_file: Annotated[
        str | None,
        typer.Option(
            "--limits", metavar="CONFIG", help="A YAML file with any of the limits in docs/operations.md."
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="N", help="Cores for a pass of the model, else torch's choice."),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="Where the model computes: cpu, cuda, cuda:1, ...")
    ] = "cpu",
    role: cli_decoding.RoleOption = cli_decoding.Role.EDGE,
    upstream: cli_decoding.UpstreamOption = None,
    exit_: cli_decoding.MiddleOption = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Several servers behind one address, under Ray Serve.")
    ] = False,
    replicas: Annotated[
        str | None,
        typer.Option(
            "--replicas", metavar="N[-MOST]", help="With --ray: how many, and how many under load; 1."
        ),
    ] = None,
) -> None:
    """Answer over the network, as an OpenAI-compatible server with packets in place of pictures."""
    from tofc.config import load_yaml
    from tofc.serving.settings import Limits, Listen

    limits = Limits() if limits_file is None else load_yaml(limits_file, Limits)
    given: dict[str, Any] = {"batch": batch, "queue": queue, "deadline": deadline}
    limits = replace(limits, **{name: value for name, value in given.items() if value is not None})
    listen = Listen(host, port, tls_cert, tls_key, tls_clients)
    if threads is not None and threads < 1:
        raise UserError(f"--threads is {threads}; give at least 1")
    cli_decoding.check_role(role, upstream, exit_)
    if ray:
        if upstream is not None:
            raise UserError("--ray does not go with --upstream: let replicas be the uppermost tier")
        _serve_replicas(model, images, device, threads, replicas, api_keys, limits, listen)
        return
    if replicas is not None:
        raise UserError("--replicas is about servers under Ray; add --ray")
    try:
        from tofc.serving.keys import Keys
        from tofc.serving.models import ServedModels
        from tofc.serving.output import json_output
        from tofc.serving.run import serve as run
        from tofc.serving.verification import Upstream
    except ModuleNotFoundError as error:
        raise need_extra(error) from None
    keys = Keys.read(api_keys)
    with json_output():
        above = None if upstream is None else Upstream.reach(upstream, model, exit_)
        models = ServedModels.load(model, images=images, device=device)
        run(models, listen, limits, keys, threads, above)


def _serve_replicas(
    model: str,
    images: bool,
    device: str,
    threads: int | None,
    replicas: str | None,
    api_keys: Path | None,
    limits: Limits,
    listen: Listen,
) -> None:
    least, _, most = (replicas or "1").partition("-")
    if not least.isdecimal() or (most and not most.isdecimal()):
        raise UserError(f"--replicas is {replicas!r}; give a number such as 2, or two such as 1-8")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # lines are requests; read at Ray's import
    try:
        from tofc.serving.ray_app import Replicated
        from tofc.serving.ray_run import serve_replicated
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed; replicas need an extra: pip install 'tofc[ray]'"
        ) from None
    numbers = int(least), int(most) if most else None
    serve_replicated(Replicated(model, images, device, threads or 1, *numbers, api_keys, limits), listen)
