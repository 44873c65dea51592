"""The subjects themselves, in the form of OpenAI's chat completions: whole answers, not streamed."""

import time
import uuid
from typing import Literal

from fastapi import APIRouter

from saelab.errors import Invalid, unknown
from saelab.values import to_dict, value
from saelab_server.deps import StateDep

router = APIRouter(prefix="/v1", tags=["chat"])


@value
class ChatMessage:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    """Who says it."""
    content: str
    """What is said."""


@value
class ChatRequest:
    """A conversation that the model shall answer."""

    model: str
    """Id of the subject."""
    messages: tuple[ChatMessage, ...]
    """What was said so far."""
    max_tokens: int = 256
    """Tokens that the answer may have."""
    temperature: float = 0.0
    """0 takes the likeliest token."""
    seed: int = 0
    """Seed of the random numbers."""
    stream: Literal[False] = False
    """Answers come whole."""


@value
class ChatChoice:
    """One answer."""

    index: int
    """Its number, 0."""
    message: ChatMessage
    """What the model says."""
    finish_reason: Literal["stop", "length"]
    """Whether it came to an end, or to the limit of tokens."""


@value
class ChatUsage:
    """How many tokens it took."""

    prompt_tokens: int
    """Tokens of the conversation."""
    completion_tokens: int
    """Tokens of the answer."""
    total_tokens: int
    """Both."""


@value
class ChatCompletion:
    """The answer to a conversation."""

    id: str
    """A name for this answer alone."""
    object: Literal["chat.completion"]
    """What this is."""
    created: int
    """When, in seconds since 1970."""
    model: str
    """Id of the subject."""
    choices: tuple[ChatChoice, ...]
    """The answer; always one."""
    usage: ChatUsage
    """How many tokens it took."""


@value
class ChatModel:
    """A model that answers."""

    id: str
    """Id of the subject."""
    object: Literal["model"]
    """What this is."""
    created: int
    """Not known: 0."""
    owned_by: str
    """The run that it was opened from."""


@value
class ChatModels:
    """The models that answer."""

    object: Literal["list"]
    """What this is."""
    data: tuple[ChatModel, ...]
    """One for each subject of the runs."""


@router.get("/models")
def list_models(state: StateDep) -> ChatModels:
    """The subjects of the runs."""
    found = sorted(state.models().items())
    return ChatModels(object="list", data=tuple(ChatModel(id=name, object="model", created=0, owned_by=at.run) for name, at in found))


@router.post("/chat/completions")
def complete_chat(state: StateDep, request: ChatRequest) -> ChatCompletion:
    """What a subject answers, by its own chat template, without any change of its features."""
    models, limit = state.models(), state.settings.max_tokens
    if request.model not in models:
        raise unknown("model", request.model, models)
    if not request.messages:
        raise Invalid("There is no message to answer. Send at least one.")
    if not 1 <= request.max_tokens <= limit:
        raise Invalid(f"max_tokens is {request.max_tokens}. This service generates 1 to {limit} tokens a request.")
    if not 0 <= request.temperature <= 5:
        raise Invalid(f"temperature is {request.temperature}; it must be from 0 to 5.")
    if not 0 <= request.seed < 2**63:
        raise Invalid(f"seed is {request.seed}; it must be from 0 to 2^63 - 1.")
    messages = [to_dict(message) for message in request.messages]
    with state.turn(request.model):
        found = state.work(models[request.model]).chat(messages, request.max_tokens, request.temperature, request.seed)
    ended: Literal["stop", "length"] = "stop" if found.tokens_out < request.max_tokens else "length"
    return ChatCompletion(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        object="chat.completion",
        created=int(time.time()),
        model=request.model,
        choices=(ChatChoice(index=0, message=ChatMessage(role="assistant", content=found.text), finish_reason=ended),),
        usage=ChatUsage(prompt_tokens=found.tokens_in, completion_tokens=found.tokens_out, total_tokens=found.tokens_in + found.tokens_out),
    )
