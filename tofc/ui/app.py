"""The page's server: static files, what can be chosen, and one question at a time.

Nothing is loaded from elsewhere, nothing is stored, and pictures are in no log. A page of another origin can
neither ask nor read: questions are JSON, which browsers let no stranger send, and on a loopback address only
its own names are answered.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from tofc.errors import UserError
from tofc.ui.studio import Studio

STATIC = Path(__file__).resolve().parent / "static"
MAX_BODY = 40 << 20  # a picture of 30 MB in base64
_POLICY = "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; frame-ancestors 'none'"


class Asked(BaseModel):
    """A picture (a file in base64), a question, and how to send and answer it."""

    image: str
    question: Annotated[str, Field(min_length=1, max_length=2000)]
    quality: int
    tokens: Annotated[int, Field(ge=1, le=65535)]
    exit: Annotated[str, Field(max_length=100)]


def create_app(studio: Studio, host: str = "127.0.0.1") -> FastAPI:
    """The application around one model, as it is served at `host`."""
    app = FastAPI(title="TOFC", openapi_url=None)
    if _is_loopback(host):  # a name that is made to lead here must not work
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", host])

    @app.middleware("http")
    async def guard(request: Request, call_next: Any) -> Response:
        length = request.headers.get("content-length", "")
        if request.method == "POST" and not (length.isdecimal() and int(length) <= MAX_BODY):
            return _refusal(413, f"a request has at most {MAX_BODY >> 20} MB, and says how many")
        response: Response = await call_next(request)
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cache-Control"] = "no-cache"
        return response

    @app.exception_handler(UserError)
    async def user_error(request: Request, error: UserError) -> JSONResponse:
        return _refusal(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def wrong_shape(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return _refusal(422, f"{first['loc'][-1]}: {first['msg']}")

    @app.get("/api/options")
    def options() -> dict[str, Any]:
        return studio.options()

    @app.post("/api/ask")
    def ask(asked: Asked) -> dict[str, Any]:
        if not asked.question.strip():
            raise UserError("the question is empty; ask one, such as: How many cars are there?")
        try:
            data = base64.b64decode(asked.image, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UserError("the picture is not base64; send the bytes of its file that way") from error
        return studio.ask(data, asked.question, asked.quality, asked.tokens, asked.exit)

    app.mount("/", StaticFiles(directory=STATIC, html=True))
    return app


def _refusal(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message}}, status_code=status)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
