"""Judge: a model behind an OpenAI-compatible endpoint says whether the completion is right.

Asked are many samples at once. An endpoint that is down, or whose reply cannot be read, makes a
crashed verdict after the retries, a late one a timeout; neither is ever wrong. How the judge is
kept from taking a completion for its instructions is in rewards/judge_prompt.py.
"""

import os
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rlvr.rewards.chat_client import ChatClient, ChatError, Endpoint
from rlvr.rewards.judge_prompt import Question, visible
from rlvr.rewards.verdict import Sample, Verdict, crashed, partial, skipped, unparsable

COLUMNS: tuple[str, ...] = ()
OPTIONAL_COLUMNS = ("prompt", "answer")
BOUNDED = False
DEADLINE = 60.0

_URL = "OPENAI_BASE_URL"
_OURS = ("messages", "model", "stream", "n")


class Config(BaseModel):
    """Options of the judge."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = None
    """Name of the judge at the endpoint; must be given."""
    url: str | None = None
    """Base address, such as http://localhost:8000/v1; null: the environment variable
    OPENAI_BASE_URL."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """Environment variable that holds the key; null: the endpoint wants none."""
    points: int | None = Field(default=None, ge=1)
    """The judge gives 0 to so many points, which are a share of the reward; null: yes or no."""
    template: str | None = None
    """What is asked, with {completion} and perhaps {prompt} and {answer} in it; null: whether the
    final answer is right, beside the row's answer where it has one."""
    temperature: float | None = Field(default=0.0, ge=0)
    """Of the judge; null: the endpoint's default."""
    max_tokens: int | None = Field(default=1024, ge=1)
    """Of a reply; null: the endpoint's default."""
    body: dict[str, Any] = Field(default_factory=dict)
    """More fields of the request, such as {chat_template_kwargs: {enable_thinking: false}}."""
    concurrency: int = Field(default=16, ge=1)
    """Requests at once from one of the workers (`rewards.workers` on each process)."""
    retries: int = Field(default=4, ge=0, le=10)
    """Tries after the first."""
    max_chars: int = Field(default=20_000, ge=100)
    """Characters of prompt, answer and completion that are shown; of the completion, the last."""

    @field_validator("template")
    @classmethod
    def _shows_the_completion(cls, value: str | None) -> str | None:
        if value is not None and "{completion}" not in value:
            raise ValueError("it must have a place for {completion}")
        return value

    @field_validator("body")
    @classmethod
    def _is_not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in _OURS:
            if name in value:
                raise ValueError(f"{name} is set by the verifier and cannot be given")
        return value


def AT_ONCE(config: Config) -> int:
    """Return how many samples a worker waits for together."""
    return config.concurrency


def ready(config: Config) -> None:
    """Raise ValueError where model, address or key is not set; the endpoint is not asked."""
    if not config.model:
        raise ValueError(
            "verifier judge: model is not set; name the judge as its endpoint does, such as "
            "{judge: {model: Qwen/Qwen3-8B, url: http://localhost:8000/v1}}"
        )
    _endpoint(config)


def fault(sample: Sample, config: Config) -> str | None:
    """Return why no completion of a row can be judged, or None."""
    if config.template and "{answer}" in config.template and sample.answer is None:
        return "the template has a place for {answer}, and the row has no answer"
    return None


def answer_text(sample: Sample, config: Config) -> str:  # noqa: ARG001
    """Return what the judge sees of the completion."""
    text = visible(sample.completion)
    return "<think>" if text is None else text


def build(config: Config) -> Callable[[Sample], Awaitable[Verdict]]:
    """Return the verifier."""
    import httpx  # noqa: F401 - here, where workers are forked, and not in each of them

    clients: list[ChatClient] = []  # made where the event loop is

    def client() -> ChatClient:
        if not clients:
            clients.append(
                ChatClient(
                    _endpoint(config), retries=config.retries, connections=config.concurrency
                )
            )
        return clients[0]

    async def verify(sample: Sample) -> Verdict:
        if reason := fault(sample, config):
            return skipped(reason)
        text = visible(sample.completion)
        if text is None:
            return unparsable("the think block is not closed")
        if not any(map(str.isalnum, text)):
            return unparsable("there is nothing to judge")
        question = Question(secrets.token_hex(6), config.points)
        messages = question.messages(
            config.template, sample.prompt, text, sample.answer, config.max_chars
        )
        given = {"temperature": config.temperature, "max_tokens": config.max_tokens}
        body = {
            "model": config.model,
            "messages": messages,
            **{name: value for name, value in given.items() if value is not None},
            **config.body,
        }
        try:
            share, why = await client().ask(body, question.read)
        except (ChatError, ValueError) as error:
            return crashed(str(error))
        return partial(share, why)

    return verify


def _endpoint(config: Config) -> Endpoint:
    """Return where the judge is asked, or raise ValueError saying what to set."""
    base = config.url or os.environ.get(_URL)
    if not base:
        raise ValueError(
            f"verifier judge: url is not set and neither is the environment variable {_URL}; give "
            "one of them, such as http://localhost:8000/v1"
        )
    name = config.api_key_env
    if name is not None and not name.isidentifier():
        # not shown: it may be a key
        raise ValueError(
            "verifier judge: api_key_env must be the name of an environment variable, not the key"
        )
    key = None if name is None else os.environ.get(name, "").strip()
    if key == "":
        raise ValueError(
            f"verifier judge: the environment variable {name} is not set; set it to the endpoint's "
            "key, or api_key_env to null where it wants none"
        )
    try:
        return Endpoint(base, key)
    except ValueError as error:
        raise ValueError(f"verifier judge: {error}") from None
