"""The bodies of requests and answers, in OpenAI's shape; what is not listed here is not understood."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

Text = Annotated[str, StringConstraints(max_length=200_000)]


class Asked(BaseModel):
    """A part of a request: what is null is absent, and within messages, unknown fields pass."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            return {name: value for name, value in given.items() if value is not None}
        return given


class ImageUrl(Asked):
    """A data URL: a packet (`data:application/vnd.tofc;base64,...`) or an ordinary picture."""

    url: str = Field(description="A data URL; addresses on the network are not fetched.")
    detail: Literal["auto", "low", "high"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _is_an_object(cls, given: Any) -> Any:
        if isinstance(given, str):
            raise PydanticCustomError("image_url", 'give an object, {"url": "data:..."}')
        return given


class TextPart(Asked):
    """Text within a message."""

    type: Literal["text"]
    text: Text


class ImagePart(Asked):
    """A picture within a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


def _kind(part: Any) -> str | None:
    kind = part.get("type") if isinstance(part, Mapping) else getattr(part, "type", None)
    return f"[{kind}]" if isinstance(kind, str) else None


# Tags in brackets are left out where an error names a field.
Part = Annotated[
    Annotated[TextPart, Tag("[text]")] | Annotated[ImagePart, Tag("[image_url]")],
    Discriminator(
        _kind,
        custom_error_type="part",
        custom_error_message="a part is an object of type text or image_url; others are not understood",
    ),
]
Content = Annotated[
    Annotated[Text, Tag("[string]")]
    | Annotated[list[Part], Field(max_length=512, fail_fast=True), Tag("[parts]")],
    Discriminator(lambda content: "[string]" if isinstance(content, str) else "[parts]"),
]


class Message(Asked):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = None


class StreamOptions(Asked):
    """What a stream carries beside text."""

    include_usage: bool = False


class ResponseFormat(Asked):
    """Plain text is all there is."""

    type: Literal["text"] = "text"


class ChatRequest(Asked):
    """A question, with the pictures and turns before it.

    Without `temperature` decoding is greedy. `deadline_ms` is this server's own: the time that the answer
    may take. Fields that are not listed are refused, because they might change the answer; the last ones are
    known to change nothing here.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = Field(max_length=200)
    messages: list[Message] = Field(min_length=1, max_length=256, fail_fast=True)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: Annotated[str, StringConstraints(max_length=200)] | list[str] | None = None
    n: Literal[1] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    logprobs: Literal[False] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    response_format: ResponseFormat | None = None
    deadline_ms: float | None = Field(None, gt=0, allow_inf_nan=False)
    tool_choice: Literal["none", "auto"] | None = None
    modalities: list[Literal["text"]] | None = None
    user: str | None = Field(None, max_length=200)
    metadata: Any = None
    parallel_tool_calls: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None


class Usage(BaseModel):
    """Tokens of the prompt (visual ones included) and of the answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Extras(BaseModel):
    """What this server tells beyond OpenAI's fields.

    `exit` is the branch that answered, `tokens` its ids, `confidence` the least probability that it gave any
    of them, `visual_tokens` those of the pictures, `timing` seconds by stage, and "server" from the whole
    request to the whole answer.
    """

    exit: str
    tokens: list[int]
    confidence: float
    visual_tokens: int
    timing: dict[str, float]


class Reply(BaseModel):
    """The message of an answer."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """The one answer."""

    index: int = 0
    message: Reply
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """An answer in one piece."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    tofc: Extras


class Model(BaseModel):
    """A model, or a member of its family, that answers here."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "tofc"


class ModelList(BaseModel):
    """All of them; `tiers` work on an answer that a device drafts, that device included."""

    object: Literal["list"] = "list"
    data: list[Model]
    tiers: int


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """Every error looks like this; the header `x-request-id` names the request in the server's log."""

    error: ErrorDetail
