"""`tofc serve --ray`: starts Ray, or joins it, and lets the application run until it is told to stop."""

from __future__ import annotations

import logging
import os
import signal
import threading

import ray
from ray import serve
from ray.serve.config import HTTPOptions

from tofc.errors import UserError
from tofc.serving.logs import log, write_json_lines
from tofc.serving.output import json_output
from tofc.serving.ray_app import QUIET, ROUTING, Replicated, application
from tofc.serving.settings import Listen

NAME = "tofc"
_STORE_BYTES = 100 << 20  # requests and answers do not pass through Ray's object store


def serve_replicated(wanted: Replicated, listen: Listen) -> None:
    """Answers requests until SIGTERM or SIGINT, then what is under way, and returns.

    Without RAY_ADDRESS in the environment, Ray is started on this machine and ends with this process; with it
    (a host and port, or "auto" for what runs here), the application runs in that cluster as long as this
    process does. Raises UserError where there is no such cluster, and for TLS as Ray does not have it.
    """
    if listen.tls_clients is not None:
        raise UserError(
            "Ray's proxies do not ask clients for certificates: leave out --tls-clients, and let a proxy of "
            "your own ask for them in front"
        )
    with json_output():
        write_json_lines()
        _serve(application(wanted), wanted, listen)


def _serve(app: serve.Application, wanted: Replicated, listen: Listen) -> None:
    _reach_ray(wanted)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # not sooner: Ray sets handlers of its own
        signal.signal(number, lambda *_: stop.set())
    try:
        serve.start(http_options=_http(listen, wanted), logging_config=QUIET)
        serve.run(app, name=NAME)
        log("replicas ready", replicas=wanted.replicas, most=wanted.most, host=listen.host, port=listen.port)
        stop.wait()
    finally:
        serve.shutdown()
        ray.shutdown()


def _reach_ray(wanted: Replicated) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    os.environ.setdefault(*ROUTING)
    address = os.environ.get("RAY_ADDRESS", "local")
    try:
        if address == "local":
            # Replicas were asked for, so they get their cores: on fewer, they share them.
            cores = max(os.cpu_count() or 1, wanted.most * wanted.threads)
            ray.init(
                "local",
                num_cpus=cores,
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                logging_level=logging.WARNING,
            )
        else:
            ray.init(address, logging_level=logging.WARNING)
    except ConnectionError as error:
        raise UserError(
            f"RAY_ADDRESS is {address}, and no Ray is there ({error}); start one (`ray start --head`), or "
            "unset it"
        ) from error


def _http(listen: Listen, wanted: Replicated) -> HTTPOptions:
    def absolute(file: object) -> str | None:
        return None if file is None else os.path.abspath(str(file))

    limits = wanted.limits
    return HTTPOptions(
        host=listen.host,
        port=listen.port,
        request_timeout_s=limits.body_seconds + limits.longest + 5,
        keep_alive_timeout_s=75,
        ssl_keyfile=absolute(listen.tls_key),
        ssl_certfile=absolute(listen.tls_certificate),
    )
