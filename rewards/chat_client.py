"""A client of an OpenAI-compatible chat-completions endpoint, for many requests at once.

What may pass is tried again: no connection, status 408, 409, 429 and 5xx, a reply that cannot be
read. The wait doubles each time, with jitter, unless the endpoint says how long (Retry-After).
How long all of it may take is the caller's deadline.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from rlvr.rewards.calling import describe

if TYPE_CHECKING:
    import httpx

Read = TypeVar("Read")

FIRST_WAIT = 0.5  # seconds before the second try
LONGEST_WAIT = 20.0  # seconds; an endpoint that asks for more is down
CONNECT_TIMEOUT = 10.0  # seconds
SHOWN = 160  # characters of what an endpoint said, in a message
_RETRIED = {408, 409, 429}


class ChatError(Exception):
    """The endpoint gave no usable reply; the text says why, without the key."""


@dataclass(frozen=True)
class Endpoint:
    """Where a model is asked.

    Raises:
        ValueError: For an address or a key that cannot be used.
    """

    base: str
    """Such as http://localhost:8000/v1."""
    key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.base)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{self.name!r} is no address; write http://HOST:PORT/v1")
        if self.key is not None and not (self.key.isascii() and self.key.isprintable()):
            raise ValueError("the key has characters that no key has, such as a line break")

    @property
    def url(self) -> str:
        """Address of the chat completions."""
        parts = urlsplit(self.base)
        path = parts.path.rstrip("/").removesuffix("/chat/completions")
        return parts._replace(path=f"{path}/chat/completions").geturl()

    @property
    def name(self) -> str:
        """The address without user, password and query, for messages."""
        parts = urlsplit(self.base)
        host = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=host, query="", fragment="").geturl()


class ChatClient:
    """Asks an endpoint; keeps its connections, and so belongs to one event loop.

    Args:
        endpoint: Where.
        retries: Tries after the first.
        connections: Requests at once.
    """

    def __init__(self, endpoint: Endpoint, *, retries: int, connections: int) -> None:
        self._endpoint, self._retries, self._connections = endpoint, retries, connections
        self._client: httpx.AsyncClient | None = None
        self._jitter = random.SystemRandom()

    async def ask(self, body: Mapping[str, Any], read: Callable[[str], Read | None]) -> Read:
        """Return what is read in the reply to a request.

        Args:
            body: Of the request.
            read: From the text of a reply to what it says; None: not readable, ask again.

        Raises:
            ChatError: Where there is none after the retries.
        """
        failure = ""
        for attempt in range(self._retries + 1):
            wait = FIRST_WAIT * 2**attempt * self._jitter.uniform(0.5, 1.0)
            found, failure, asked = await self._try(body, read)
            if found is not None:
                return found
            wait = wait if asked is None else asked
            if wait > LONGEST_WAIT:
                break
            if attempt < self._retries:
                await asyncio.sleep(wait)
        if self._endpoint.key:
            failure = failure.replace(self._endpoint.key, "[key]")
        raise ChatError(f"{self._endpoint.name}: {failure}")

    async def _try(
        self, body: Mapping[str, Any], read: Callable[[str], Read | None]
    ) -> tuple[Read | None, str, float | None]:
        """Return what was read, else why nothing was, and the wait that the endpoint asks for."""
        import httpx

        if self._client is None:
            key = self._endpoint.key
            self._client = httpx.AsyncClient(
                headers={} if key is None else {"Authorization": f"Bearer {key}"},
                timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT),
                limits=httpx.Limits(
                    max_connections=self._connections,
                    max_keepalive_connections=self._connections,
                ),
            )
        try:
            response = await self._client.post(self._endpoint.url, json=body)
        except httpx.RequestError as error:
            return None, describe(error), None
        if not response.is_success:
            passes = response.status_code in _RETRIED or response.status_code >= 500
            asked = _retry_after(response.headers.get("Retry-After")) if passes else float("inf")
            return None, f"HTTP {response.status_code}: {_shown(response.text)}", asked
        text = _content(response)
        if text is None:
            return None, f"no chat completion: {_shown(response.text)}", None
        found = read(text)
        return found, f"the reply does not end as it was asked to: {_shown(text[::-1])[::-1]}", None


def _content(response: "httpx.Response") -> str | None:
    """Return the text of a chat completion; None where the response is none."""
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return None
    return content if isinstance(content, str) else None


def _retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for; None without a usable one.

    Example:
        >>> _retry_after("2"), _retry_after("soon")
        (2.0, None)
    """
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _shown(text: str) -> str:
    """Return the beginning of a text in one line."""
    line = " ".join(text[: 4 * SHOWN].split())
    return line if len(line) <= SHOWN else line[: SHOWN - 3] + "..."
