"""The command `tofc serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tofc.cli_report import reports_user_errors, working
from tofc.errors import UserError

SERVE_EXAMPLES = (
    "Examples:\n\ntofc serve    (this machine only, port 8080)\n\n"
    "tofc serve --host 0.0.0.0 --api-keys keys.txt --tls-cert edge.pem --tls-key edge.key\n\n"
    "Ask it:\n\ntofc ask street.jpg 'How many cars are there?' --edge http://127.0.0.1:8080"
)


def need_extra(error: ModuleNotFoundError) -> UserError:
    """What to install where a library of the extra is missing."""
    return UserError(f"{error.name} is not installed; serving needs an extra: pip install 'tofc[serve]'")


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
        int, typer.Option("--batch", metavar="N", help="Answers that grow at the same time.")
    ] = 16,
    queue: Annotated[
        int, typer.Option("--queue", metavar="N", help="Requests that may wait; one more gets 429.")
    ] = 256,
    deadline: Annotated[
        float, typer.Option("--deadline", metavar="SECONDS", help="The longest that an answer may take.")
    ] = 30.0,
    max_body: Annotated[int, typer.Option("--max-body", metavar="BYTES", help="The largest request.")] = 8
    << 20,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", help="The longest answer that may be asked for.")
    ] = 512,
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="N", help="Cores for a pass of the model, else torch's choice."),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="Where the model computes: cpu, cuda, cuda:1, ...")
    ] = "cpu",
) -> None:
    """Answer over the network, as an OpenAI-compatible server with packets in place of pictures."""
    try:
        from tofc.serving.keys import Keys
        from tofc.serving.models import ServedModels
        from tofc.serving.run import Listen
        from tofc.serving.run import serve as run
        from tofc.serving.settings import Limits
    except ModuleNotFoundError as error:
        raise need_extra(error) from None
    limits = Limits(
        batch=batch, queue=queue, deadline=deadline, body_bytes=max_body, new_tokens=max_new_tokens
    )
    listen = Listen(host, port, tls_cert, tls_key, tls_clients)
    keys = Keys.read(api_keys)
    if threads is not None and threads < 1:
        raise UserError(f"--threads is {threads}; give at least 1")
    with working(f"loading {model}"):
        models = ServedModels.load(model, images=images, device=device)
    run(models, listen, limits, keys, threads)
