"""`tofc serve`: loads a model and listens until it is told to stop."""

from __future__ import annotations

import logging
import time

import numpy as np
import torch
import uvicorn
from PIL import Image

from tofc.compiled import load_kernels
from tofc.errors import UserError
from tofc.language.batch import Generation
from tofc.serving.connections import BACKLOG, LimitedServer, Listener
from tofc.serving.models import ServedModels
from tofc.serving.server import build_app
from tofc.serving.settings import Keys, Limits, Listen
from tofc.serving.telemetry import log, write_json_lines
from tofc.serving.verification import Upstream


def serve(
    models: ServedModels,
    listen: Listen,
    limits: Limits,
    keys: Keys,
    threads: int | None,
    upstream: Upstream | None,
    listener: Listener,
) -> None:
    """Answers requests until SIGTERM or SIGINT, then what is under way, and returns.

    `threads` is how many cores one pass of the model uses; None for torch's choice. `upstream` verifies what
    is verified here. `listener` is what `bound` gave for `listen`.
    """
    get_ready(models, threads, keys)
    if not len(keys) and not listen.is_loopback:
        log("no API keys: anybody who reaches this address is answered", host=listen.host)
    config = uvicorn.Config(
        build_app(models, limits, keys, upstream),
        http="h11",
        loop="asyncio",  # which accepts through the listener
        log_config=None,
        access_log=False,
        server_header=False,
        ssl_certfile=listen.tls_certificate,
        ssl_keyfile=None if listen.tls_key is None else str(listen.tls_key),
        ssl_ca_certs=None if listen.tls_clients is None else str(listen.tls_clients),
        ssl_cert_reqs=0 if listen.tls_clients is None else 2,  # ssl.CERT_NONE, ssl.CERT_REQUIRED
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(limits.longest) + 5,
        backlog=BACKLOG,
        h11_max_incomplete_event_size=64 << 10,
        ws="websockets-sansio",
        ws_max_size=limits.body_bytes,
        ws_per_message_deflate=False,  # rounds are a few bytes each
    )
    try:
        LimitedServer(config, listener, limits).run()
    except OSError as error:  # a certificate that is none
        raise UserError(f"the server cannot start: {error}") from error


def get_ready(models: ServedModels, threads: int | None, keys: Keys) -> None:
    """Settles threads and logs, warms up and says so: what every process that answers does first."""
    if threads is not None:
        torch.set_num_threads(threads)
    write_json_lines()
    begin = time.monotonic()
    warm_up(models)
    seconds = round(time.monotonic() - begin, 2)
    log("model ready", models=list(models.members), seconds=seconds, keys=len(keys))
    if keys.shared is not None:
        said = "everybody on this machine may read the API keys"
        log(said, logging.WARNING, file=str(keys.shared), mend="chmod 600")


def warm_up(models: ServedModels) -> None:
    """One short answer of each member: what is compiled or allocated on first use is so now."""
    turns = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    codec = models.edge.codec
    if codec is not None:
        load_kernels("entropy.kernels", "decode_tokens")
        codec.decode(codec.encode(np.zeros((4, codec.width), np.float32), codec.qualities[0]))
    if models.device_side is not None:
        models.device_side.features(Image.new("RGB", (32, 32)), "all")
    for name in models.members:
        batch = models.batch(name)
        batch.join([Generation(models.prepare(turns, [], 2).prompt, max_new_tokens=2)])
        batch.run()
