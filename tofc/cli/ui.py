"""The command `tofc demo-ui`."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Annotated

import typer

from tofc.cli.options import ModelOption
from tofc.cli.report import note, reports_user_errors, working
from tofc.cli.steps import check_model
from tofc.config import DEFAULT_MODEL
from tofc.errors import UserError, needs_extra

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image

    from tofc.ui.rivals import Search

EXAMPLES = "Examples:\n\ntofc demo-ui --open\n\ntofc demo-ui --port 8600 --model runs/my-checkpoint"


@reports_user_errors
def demo_ui(
    model: ModelOption = DEFAULT_MODEL,
    host: Annotated[
        str,
        typer.Option(
            "--host", metavar="ADDRESS", help="Where to listen; other machines see the page at 0.0.0.0."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", help="0 for any that is free.")] = 8500,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve a page to try it on: drop or shoot a picture, choose what travels, see what it took.

    Pictures stay in this process. There is no login: mind who can reach --host.

    Browsers lend a camera to pages of this machine and to https alone.
    """
    check_model(model)
    with needs_extra("serve", "a server and its clients need"):
        import uvicorn

        from tofc.ui.app import create_app
    from tofc.ui.studio import Studio

    listening = _listen(host, port)
    with working(f"loading {model}"):
        studio = Studio.load(model, image_codecs())
    shown = "localhost" if host in ("127.0.0.1", "0.0.0.0") else host
    address = f"http://{shown}:{listening.getsockname()[1]}/"
    if not studio.examples:
        note("photographs to begin with come with an extra: pip install 'tofc[demo]'")
    note(f"open {address} in a browser; Ctrl-C ends it")
    if open_:
        typer.launch(address)
    config = uvicorn.Config(create_app(studio, host), log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


def image_codecs() -> dict[str, Search]:
    """Searches for the smallest file of a picture, by the codecs that the page compares packets with."""
    from eval.baselines import ImageCodec, Jpeg, WebP, lowest_qualities_keeping

    def search(codec: ImageCodec) -> Search:
        def smallest(image: Image, keeps: Callable[[Image], bool]) -> int | None:
            (file,) = lowest_qualities_keeping(image, codec, lambda decoded: [keeps(decoded)], 1)
            return None if file is None else file.num_bytes

        return smallest

    codecs: tuple[ImageCodec, ...] = (WebP(), Jpeg())
    return {codec.name: search(codec) for codec in codecs}


def _listen(host: str, port: int) -> socket.socket:
    """A socket at the address; UserError where that cannot be, before a model is loaded for it."""
    if not 0 <= port <= 65535:
        raise UserError(f"--port is {port}; give 0 to 65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(
            f"cannot listen at {host}:{port}: {error.strerror}; give another --port, or 0 for a free one"
        ) from None
