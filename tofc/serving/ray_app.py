"""The same service in several replicas under Ray Serve, which hands every request to one of them.

A replica is the whole application of `tofc.serving.server`: keys, limits, errors and streams are those of
`tofc serve`. It holds every member of the family, because members share their weights: the `model` of a
request chooses among them inside of the replica, and none has to be loaded or dropped on the way, which is
what Ray's own multiplexing of models is for. `serve_replicated` is what `tofc serve --ray` runs.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions, RequestRouterConfig
from ray.serve.schema import LoggingConfig

from tofc.config import DEFAULT_MODEL, from_mapping
from tofc.errors import ConfigError, UserError
from tofc.serving.output import json_output
from tofc.serving.settings import Keys, Limits, Listen
from tofc.serving.telemetry import Metrics, log, side_by_side, write_json_lines

_EVERY = 2.0  # seconds between two reports of a replica
_FORGOTTEN = 10.0  # ... after which one that is silent is gone
_STORE_BYTES = 100 << 20  # requests and answers do not pass through Ray's object store


class Figures:
    """What each replica counted last; one actor of the application."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, bytes]] = {}

    def tell(self, replica: str, text: bytes) -> None:
        """A replica's page, in Prometheus' format."""
        self._told[replica] = (time.monotonic(), text)

    def pages(self) -> Mapping[str, bytes]:
        """The last page of every replica that is alive."""
        since = time.monotonic() - _FORGOTTEN
        self._told = {name: told for name, told in self._told.items() if told[0] > since}
        return {name: text for name, (_, text) in self._told.items()}


class Teller:
    """A replica's side: tells `Figures` what is counted here, on a thread that ends with the process."""

    def __init__(self, figures: Any, replica: str) -> None:
        self._figures, self._replica = figures, replica

    def start(self, metrics: Metrics) -> None:
        """Tells now and then."""
        self._metrics = metrics
        threading.Thread(target=self._tell, name="tofc-figures", daemon=True).start()

    def _tell(self) -> None:
        while True:
            self._figures.tell.remote(self._replica, self._metrics.text())
            time.sleep(_EVERY)

    async def all_figures(self) -> bytes:
        """The page of all replicas, this one's as it is now."""
        pages = await self._figures.pages.remote()
        return side_by_side({**pages, self._replica: self._metrics.text()}, "replica")


# A request that is sent again goes to the replica that remembers it: the proxies hash this header, which they
# learn from this variable when they start.
ROUTING = ("RAY_SERVE_SESSION_ID_HEADER_KEY", "idempotency-key")
QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)  # the server logs requests itself
_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"


@dataclass(frozen=True)
class Replicated:
    """What is answered with, and by how many.

    `model` and `images` are those of `ServedModels.load`, `device` is "cpu" or "cuda", a card a replica.
    `limits` hold for each replica, which computes on `threads` cores. There are `replicas`, under load up to
    `most_replicas` if that is given. `api_keys` is a file, read where the application is built.
    """

    model: str = DEFAULT_MODEL
    images: bool = True
    device: str = "cpu"
    threads: int = 1
    replicas: int = 1
    most_replicas: int | None = None
    api_keys: Path | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise ConfigError(f"device is {self.device}; give cpu or cuda: Ray chooses the card")
        if self.threads < 1:
            raise ConfigError(f"threads is {self.threads}; give at least 1")
        if not 1 <= self.replicas <= self.most:
            raise ConfigError(
                f"replicas is {self.replicas}, most_replicas {self.most}; give at least 1, the larger last"
            )

    @property
    def most(self) -> int:
        """Replicas under load."""
        return self.replicas if self.most_replicas is None else self.most_replicas


def build(arguments: Mapping[str, Any]) -> serve.Application:
    """The application with the fields of `Replicated`, for Ray's config files and `serve run`.

    Raises ConfigError for an unknown field and for a value that is none, UserError for a file without keys.
    """
    return application(from_mapping(Replicated, arguments, "arguments of the application"))


def application(wanted: Replicated) -> serve.Application:
    """Replicas of the server, and one actor that knows the figures of all."""
    limits = wanted.limits
    several: dict[str, Any] = {"num_replicas": wanted.replicas}
    if wanted.most > wanted.replicas:
        # One more where batches are full. How soon is Ray's to say: half a minute, and ten to let go of one.
        bounds = {"min_replicas": wanted.replicas, "max_replicas": wanted.most}
        several = {"autoscaling_config": {**bounds, "target_ongoing_requests": limits.batch}}
    deployed: Any = serve.deployment  # what it is declared to give back has no `bind`
    router: Any = _ROUTER  # a path or a class, whatever is declared
    edge = deployed(
        EdgeReplica,
        ray_actor_options={"num_cpus": wanted.threads, "num_gpus": int(wanted.device == "cuda")},
        max_ongoing_requests=limits.connections,
        max_queued_requests=limits.queue,
        graceful_shutdown_timeout_s=limits.longest + 5,
        health_check_period_s=5,
        request_router_config=RequestRouterConfig(request_router_class=router),
        logging_config=QUIET,
        **several,
    )
    figures = deployed(Figures, ray_actor_options={"num_cpus": 0}, logging_config=QUIET)
    return edge.bind(wanted, Keys.read(wanted.api_keys), figures.bind())


@serve.ingress()
class EdgeReplica:
    """One replica."""

    def __init__(self, wanted: Replicated, keys: Keys, figures: Any) -> None:
        # Torch and the models come in here: the process that starts the replicas needs neither.
        from tofc.serving.models import ServedModels
        from tofc.serving.run import get_ready
        from tofc.serving.server import build_app

        models = ServedModels.load(wanted.model, images=wanted.images, device=wanted.device)
        get_ready(models, wanted.threads, keys)
        teller = Teller(figures, f"{serve.get_replica_context().replica_tag}-{os.getpid()}")
        self._app = build_app(models, wanted.limits, keys, figures=teller.all_figures)
        teller.start(self._app.state.service.metrics)

    def __serve_build_asgi_app__(self) -> Any:
        return _Unnamed(self._app)

    def check_health(self) -> None:
        """Raises where the model's thread has ended: Ray replaces this replica."""
        if not self._app.state.service.engine.is_ready:
            raise RuntimeError("the model's thread has ended")


class _Unnamed:
    """An ASGI application whose answers leave out the request's id: Ray's proxy adds it to all of them."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def without(message: Any) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message["headers"] if pair[0] != b"x-request-id"]
                message = {**message, "headers": kept}
            await send(message)

        await self._app(scope, receive, without)


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
        serve.run(app, name="tofc")
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
