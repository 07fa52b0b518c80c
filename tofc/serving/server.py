"""The edge as a web service: OpenAI's chat completions about packets and pictures."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from tofc import __version__
from tofc.serving import schema
from tofc.serving.drafted import DraftedAnswers, add_drafted
from tofc.serving.engine import Engine
from tofc.serving.errors import ApiError, not_now, too_late, wrong
from tofc.serving.gate import Gate
from tofc.serving.job import AnswerStore, Completion, Job, events, extras, usage
from tofc.serving.models import ServedModels
from tofc.serving.requests import ChatQuestion, check_type, parsed, understand
from tofc.serving.settings import Keys, Limits
from tofc.serving.telemetry import Metrics
from tofc.serving.verification import Upstream, Verifiers

T = TypeVar("T")
_PATIENCE = 5.0  # seconds that an answer with an idempotency key goes on without anybody who waits for it
_READERS = 2  # requests that are read at a time: pictures take memory while they are decoded
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schema.ErrorBody, "description": what}
    for status, what in {
        400: "something in the request is wrong",
        401: "no valid API key",
        404: "no such model",
        405: "not with this method",
        408: "the deadline passed",
        409: "the idempotency key belongs to another request",
        413: "too large",
        415: "the body is not declared as JSON",
        429: "too many requests wait; see Retry-After",
        500: "a fault of the server's",
        503: "not now; see Retry-After",
    }.items()
}


class Service:
    """What the routes share: models, engine, verifiers, remembered answers."""

    def __init__(self, models: ServedModels, limits: Limits, upstream: Upstream | None) -> None:
        self.models, self.limits, self.metrics = models, limits, Metrics()
        self.engine = Engine(models, limits, self.metrics)
        self.verifiers = Verifiers(models, limits, upstream)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="tofc-request")
        self.remembered = AnswerStore(limits.remembered, limits.remembered_seconds)

    async def understood(self, request: Request) -> ChatQuestion:
        """The question in a request; read on another thread, for the loop serves everybody."""
        check_type(request.headers.get("content-type", ""))
        body = await request.body()

        def read() -> ChatQuestion:
            return understand(parsed(schema.ChatRequest, body, self.limits), self.models, self.limits)

        return await asyncio.get_running_loop().run_in_executor(self._readers, read)

    def begin(self, asked: ChatQuestion, request: Request) -> Job:
        """The job of a request: a new one, or that of the same idempotency key."""
        state = request.state

        def new() -> Job:
            job = Job(asked, state.request_id, state.arrived, patience=0.0 if key is None else _PATIENCE)
            self.engine.submit(job)
            return job

        key = request.headers.get("idempotency-key")
        try:
            if key is None:
                return new()
            state.log["key"] = hashlib.sha256(key.encode()).hexdigest()[:16]
            if not 1 <= len(key) <= 200:
                raise wrong("an idempotency key has 1 to 200 characters", code="invalid_idempotency_key")
            job, repeated = self.remembered.find_or_begin(state.client, key, state.digest, new)
        except ApiError as error:
            if error.status == 429:
                self.metrics.refused.labels("queue full").inc()
            raise
        if repeated:
            self.metrics.repeated.inc()
            state.log["repeats"] = job.request_id
        else:
            state.log["computes"] = True
        return job


class _Waiting:
    """A client that waits for a job: until there is something, it leaves, or the deadline passes."""

    def __init__(self, job: Job, request: Request) -> None:
        self._job = job
        self._seconds = job.asked.deadline
        job.waiting += 1
        self._left = asyncio.ensure_future(_client_leaves(request))

    async def wait(self, what: Awaitable[T]) -> T:
        """What `what` gives; raises ApiError where it does not come."""
        task = asyncio.ensure_future(what)
        # The engine itself ends what is late; this is for when it is held up.
        timeout = max(0.0, self._job.due + 0.25 - time.monotonic())
        either = {task, self._left}
        try:
            done, _ = await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:  # also where this very wait is given up, as Ray does when the client leaves
            task.cancel()
        if task in done:
            return task.result()
        with contextlib.suppress(asyncio.CancelledError, ApiError, StopAsyncIteration):
            await task
        if self._left in done:
            raise ApiError(499, "the client left", "client_left")
        raise too_late(self._seconds)

    def end(self) -> None:
        """It waits no more; a job for which nobody waits is given up."""
        self._left.cancel()
        self._job.waiting -= 1
        if not self._job.waiting and not self._job.is_over:
            self._job.leave()


async def _client_leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def build_app(
    models: ServedModels,
    limits: Limits | None = None,
    keys: Keys | None = None,
    upstream: Upstream | None = None,
    figures: Callable[[], Awaitable[bytes]] | None = None,
) -> FastAPI:
    """The application; its models are loaded, its engine starts and ends with it.

    `figures` gives the page of /metrics where it is not this process' alone.
    """
    limits = Limits() if limits is None else limits
    service = Service(models, limits, upstream)
    drafted = DraftedAnswers(service.verifiers, limits, service.metrics)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        yield
        drafted.close()
        await asyncio.to_thread(service.engine.close)

    app = FastAPI(
        title="TOFC edge",
        version=__version__,
        description="Answers questions about packets and pictures.",
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        responses=_ERRORS,
    )
    app.state.service = service
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    app.add_middleware(Gate, limits=limits, keys=keys or Keys(), metrics=service.metrics)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    _add_chat(app, service)
    _add_the_rest(app, service, figures)
    add_drafted(app, drafted)
    return app


def _described(app: FastAPI) -> dict[str, Any]:
    """The document of the interface, with the bodies that are not read by FastAPI."""
    document = FastAPI.openapi(app)
    schemas = document["components"]["schemas"]
    if schema.ChatRequest.__name__ not in schemas:
        asked = schema.ChatRequest.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(asked.pop("$defs"), **{schema.ChatRequest.__name__: asked})
    return document


def _add_chat(app: FastAPI, service: Service) -> None:
    shape = {"$ref": f"#/components/schemas/{schema.ChatRequest.__name__}"}
    streamed = {
        "description": "An answer, or with `stream` its events.",
        "content": {"text/event-stream": {}},
    }

    @app.post(
        "/v1/chat/completions",
        response_model=schema.ChatCompletion,
        responses={200: streamed},
        tags=["chat"],
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": shape}}}},
    )
    async def chat_completions(request: Request) -> Any:
        """Answers the last message; with `stream` as server-sent events."""
        asked = await service.understood(request)
        request.state.log.update(
            model=asked.model, pictures=len(asked.seen), packet_bytes=asked.packet_bytes, stream=asked.stream
        )
        if asked.packet_bytes:
            service.metrics.packet_bytes.observe(asked.packet_bytes)
        job = service.begin(asked, request)
        waiting = _Waiting(job, request)
        if asked.stream:
            return await _streamed(job, waiting)
        try:
            result = await waiting.wait(job.whole())
        finally:
            waiting.end()
        request.state.log.update(_log_fields(result))
        return JSONResponse(_completion(job, result))


async def _streamed(job: Job, waiting: _Waiting) -> Response:
    """Begins when the first text is there: until then, errors have a status of their own."""
    deltas = job.deltas()
    try:
        first = [await waiting.wait(anext(deltas))]
    except StopAsyncIteration:
        first = []
    except BaseException:
        waiting.end()
        raise

    async def rest() -> AsyncIterator[str]:
        for delta in first:
            yield delta
        while True:
            try:
                yield await waiting.wait(anext(deltas))
            except StopAsyncIteration:
                return

    async def body() -> AsyncIterator[bytes]:
        try:
            async for event in events(job, rest()):
                yield event
        finally:
            waiting.end()

    return StreamingResponse(body(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


def _add_the_rest(app: FastAPI, service: Service, figures: Callable[[], Awaitable[bytes]] | None) -> None:
    models = service.models

    def card(name: str) -> schema.Model:
        return schema.Model(id=name, created=models.created)

    @app.get("/v1/models", response_model=schema.ModelList, tags=["models"])
    async def list_models() -> Any:
        """The model, and each member of its family."""
        return schema.ModelList(data=[card(name) for name in models.members], tiers=service.verifiers.tiers)

    @app.get("/v1/models/{name}", response_model=schema.Model, tags=["models"])
    async def one_model(name: str) -> Any:
        """One of them."""
        if name not in models.members:
            raise ApiError(404, "there is no model of that name here", "model_not_found", "model")
        return card(name)

    @app.post("/v1/probe", status_code=204, tags=["link"])
    async def probe(request: Request) -> Response:
        """Takes bytes and does nothing with them: so a client learns what its uplink carries."""
        await request.body()
        return Response(status_code=204)

    @app.get("/", response_class=PlainTextResponse, include_in_schema=False)
    async def start() -> str:
        """What this is, for whoever opens the address in a browser."""
        return (
            f"A server of tofc {__version__}, for {', '.join(models.members)}.\n"
            "Ask it: tofc ask street.jpg 'How many cars are there?' --edge ADDRESS\n"
            "What it understands: /openapi.json\n"
        )

    @app.get("/health", response_class=PlainTextResponse, tags=["operation"])
    async def health() -> str:
        """Whether the process lives."""
        return "alive"

    @app.get("/ready", response_class=PlainTextResponse, tags=["operation"])
    async def ready() -> str:
        """Whether it takes requests."""
        if not service.engine.is_ready:
            raise not_now("the model is not there")
        return "ready"

    @app.get("/metrics", response_class=PlainTextResponse, tags=["operation"])
    async def metrics() -> str:
        """Counters for Prometheus."""
        page = service.metrics.text() if figures is None else await figures()
        return page.decode()


def _completion(job: Job, result: Completion) -> dict[str, Any]:
    message = {"role": "assistant", "content": result.text}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": result.finish_reason}
    return {
        "id": f"chatcmpl-{job.request_id}",
        "object": "chat.completion",
        "created": job.created,
        "model": job.asked.model,
        "choices": [choice],
        "usage": usage(result),
        "tofc": extras(result),
    }


def _log_fields(result: Completion) -> dict[str, Any]:
    return {
        "visual_tokens": result.visual_tokens,
        "prompt_tokens": result.prompt_tokens,
        "answer_tokens": len(result.tokens),
        "queue_seconds": round(result.timing["queue"], 4),
    }


async def _api_error(request: HTTPConnection, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    if request.scope["type"] == "websocket":
        raise error  # the gate tells it
    request.state.log["error"] = error.code
    return JSONResponse(error.body, error.status, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    fault = ApiError(error.status_code, str(error.detail), "http_error")
    request.state.log["error"] = fault.code
    return JSONResponse(fault.body, fault.status, {**fault.headers, **(error.headers or {})})
