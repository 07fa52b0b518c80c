"""The command `tofc serve`."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tofc.cli.options import ModelOption
from tofc.cli.report import note, reports_user_errors
from tofc.cli.steps import check_model
from tofc.config import DEFAULT_MODEL, load_yaml
from tofc.errors import UserError, needs_extra

if TYPE_CHECKING:
    from tofc.serving.settings import Keys, Limits, Listen

EXAMPLES = (
    "Examples:\n\ntofc serve    (this machine only, port 8080)\n\n"
    "tofc serve --host 0.0.0.0 --api-keys keys.txt --tls-cert edge.pem --tls-key edge.key\n\n"
    "Ask it:\n\ntofc ask cat.png 'How many cats are there?' --edge http://127.0.0.1:8080"
)


@dataclass(frozen=True)
class ListenOptions:
    """Where the server listens, and whom it lets in."""

    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Where to listen; 0.0.0.0 for every network.")
    ] = "127.0.0.1"
    port: Annotated[int, typer.Option("--port", metavar="N", help="0 for any that is free.")] = 8080
    api_keys: Annotated[
        Path | None,
        typer.Option(
            "--api-keys",
            metavar="FILE",
            help="Keys that may ask, one a line; else TOFC_API_KEYS, separated by commas.",
        ),
    ] = None
    no_keys: Annotated[bool, typer.Option("--no-keys", help="Beyond this machine too, let anybody ask.")] = (
        False
    )
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate chain, PEM.")
    ] = None
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", help="Its private key, PEM.")
    ] = None
    tls_clients: Annotated[
        Path | None,
        typer.Option(
            "--tls-clients", metavar="FILE", help="Let in only clients signed by these authorities."
        ),
    ] = None

    @property
    def listen(self) -> Listen:
        """The same for the server; UserError where it makes no sense."""
        from tofc.serving.settings import Listen

        return Listen(self.host, self.port, self.tls_cert, self.tls_key, self.tls_clients)

    @property
    def keys(self) -> Keys:
        """Who may ask; UserError where anybody may who reaches this machine, and nobody said so."""
        from tofc.serving.settings import KEYS_VARIABLE, Keys

        keys, listen = Keys.read(self.api_keys), self.listen
        if self.no_keys and len(keys):
            raise UserError(
                f"--no-keys lets anybody ask: leave it out, or leave --api-keys and {KEYS_VARIABLE} out"
            )
        if not (len(keys) or self.no_keys or self.tls_clients or listen.is_loopback):
            raise UserError(
                f"everybody who reaches {self.host} could ask: give --api-keys FILE, {KEYS_VARIABLE} or "
                "--tls-clients FILE; or say that this is meant with --no-keys"
            )
        return keys


@dataclass(frozen=True)
class LimitOptions:
    """How much the server takes on at a time."""

    batch: Annotated[
        int | None, typer.Option("--batch", metavar="N", help="Answers that grow at the same time; 16.")
    ] = None
    queue: Annotated[
        int | None,
        typer.Option("--queue", metavar="N", help="Requests that may wait; 256."),
    ] = None
    deadline: Annotated[
        float | None,
        typer.Option("--deadline", metavar="SECONDS", help="The longest that an answer may take; 30."),
    ] = None
    limits_file: Annotated[
        str | None,
        typer.Option(
            "--limits", metavar="CONFIG", help="A YAML file with any of the limits in docs/operations.md."
        ),
    ] = None

    @property
    def limits(self) -> Limits:
        """The limits of the file, if there is one, with those of the options in their place."""
        from tofc.serving.settings import Limits

        limits = Limits() if self.limits_file is None else load_yaml(self.limits_file, Limits)
        given: dict[str, Any] = {"batch": self.batch, "queue": self.queue, "deadline": self.deadline}
        return replace(limits, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class ComputeOptions:
    """Where the model computes, and what of it."""

    images: Annotated[
        bool,
        typer.Option("--images/--packets-only", help="Answer ordinary pictures too (reads the tower)."),
    ] = True
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="N", help="Cores for a pass of the model, else torch's choice."),
    ] = None
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="Where the model computes: cpu, cuda, cuda:1, ...")
    ] = "cpu"

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise UserError(f"--threads is {self.threads}; give at least 1")


class Role(StrEnum):
    """Where a server stands among the tiers."""

    EDGE = "edge"
    CLOUD = "cloud"


@dataclass(frozen=True)
class RoleOptions:
    """The server's place among tiers that answer together."""

    role: Annotated[
        Role,
        typer.Option("--role", help="Among tiers: an edge may have an --upstream, the cloud is the last."),
    ] = Role.EDGE
    upstream: Annotated[
        str | None,
        typer.Option(
            "--upstream",
            metavar="URL",
            help="The cloud, which verifies what is verified here; its key from TOFC_API_KEY.",
        ),
    ] = None
    exit: Annotated[
        str | None,
        typer.Option(
            "--exit",
            metavar="NAME",
            help="With --upstream: the member that verifies here, else the second largest.",
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.role is Role.CLOUD and self.upstream is not None:
            raise UserError("the cloud is the last tier: leave out --upstream, or give --role edge")
        if self.exit is not None and self.upstream is None:
            raise UserError(
                "--exit names the member of an edge in the middle; give the cloud behind it: --upstream URL"
            )


@dataclass(frozen=True)
class ReplicaOptions:
    """Several servers behind one address."""

    ray: Annotated[
        bool, typer.Option("--ray", help="Several servers behind one address, under Ray Serve.")
    ] = False
    replicas: Annotated[
        str | None,
        typer.Option(
            "--replicas", metavar="N[-MOST]", help="With --ray: how many, and how many under load; 1."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.replicas is not None and not self.ray:
            raise UserError("--replicas is about servers under Ray; add --ray")

    @property
    def numbers(self) -> tuple[int, int | None]:
        """The fewest and the most; UserError for what is no number."""
        least, _, most = (self.replicas or "1").partition("-")
        if not least.isdecimal() or (most and not most.isdecimal()):
            raise UserError(f"--replicas is {self.replicas!r}; give a number such as 2, or two such as 1-8")
        return int(least), int(most) if most else None


@reports_user_errors
def serve(
    *,
    model: ModelOption = DEFAULT_MODEL,
    listening: ListenOptions,
    limiting: LimitOptions,
    compute: ComputeOptions,
    tier: RoleOptions,
    replication: ReplicaOptions,
) -> None:
    """Answer over the network, as an OpenAI-compatible server with packets in place of pictures."""
    limits, listen, keys = limiting.limits, listening.listen, listening.keys
    check_model(model)
    if replication.ray:
        if tier.upstream is not None:
            raise UserError("--ray does not go with --upstream: let replicas be the uppermost tier")
        _serve_replicas(model, compute, replication.numbers, listening.api_keys, limits, listen)
        return
    with needs_extra("serve", "a server and its clients need"):
        from tofc.serving.models import ServedModels
        from tofc.serving.output import json_output
        from tofc.serving.run import bound
        from tofc.serving.run import serve as run
        from tofc.serving.verification import Upstream
    with bound(listen, limits) as listener:
        if sys.stderr.isatty():
            note(f"when the model is ready, ask it: {_request(listen, listener.getsockname()[1])}")
        with json_output():
            above = None if tier.upstream is None else Upstream.reach(tier.upstream, model, tier.exit)
            models = ServedModels.load(model, images=compute.images, device=compute.device)
            run(models, listen, limits, keys, compute.threads, above, listener)


def _request(listen: Listen, port: int) -> str:
    """A command that asks the server that listens there."""
    host = "127.0.0.1" if listen.is_loopback or listen.host == "0.0.0.0" else listen.host
    tls = "" if listen.tls_certificate is None else f" --ca {listen.tls_certificate}"
    scheme = "https" if tls else "http"
    return f"tofc ask street.jpg 'How many cars are there?' --edge {scheme}://{host}:{port}{tls}"


def _serve_replicas(
    model: str,
    compute: ComputeOptions,
    numbers: tuple[int, int | None],
    api_keys: Path | None,
    limits: Limits,
    listen: Listen,
) -> None:
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # lines are requests; read at Ray's import
    with needs_extra("ray", "replicas need"):
        from tofc.serving.ray_app import Replicated, serve_replicated
    images, device, threads = compute.images, compute.device, compute.threads or 1
    serve_replicated(Replicated(model, images, device, threads, *numbers, api_keys, limits), listen)
