"""A chat-completions endpoint on this machine whose replies a test writes down."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What the endpoint answers."""

    text: str = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    raw: bytes | None = None
    """The body; None: a chat completion with the text, or an error with it."""


@dataclass
class Seen:
    """What the endpoint was asked; `url` is its base address."""

    url: str = ""
    chats: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    connections: int = 0
    at_once: int = 0
    most_at_once: int = 0


Script = Callable[[str, int], Reply]
"""From what the user said, and the number of the request, to the reply."""


def code(asked: str) -> str:
    """Return the code that the question asks for in the verdict."""
    return re.findall(r"VERDICT (\w+): <", asked)[-1]


def work(asked: str) -> str:
    """Return the completion that the question shows."""
    mark = f"===== {code(asked)}\n"
    return asked.partition(mark)[2].partition("\n" + mark)[0]


def verdict(asked: str, given: object) -> Reply:
    """Return the reply of a judge that does as it is asked."""
    return Reply(f"I compared the two.\nVERDICT {code(asked)}: {given}")


@contextmanager
def serving(script: Script) -> Iterator[Seen]:
    """Serve until the block ends."""
    seen, lock = Seen(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            with lock:
                seen.connections += 1

        def do_POST(self) -> None:
            chat = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(seen.chats)
                seen.chats.append(chat)
                seen.headers.append(dict(self.headers) | {"path": self.path})
                seen.times.append(time.monotonic())
                seen.at_once += 1
                seen.most_at_once = max(seen.most_at_once, seen.at_once)
            reply = script(chat["messages"][-1]["content"], number)
            time.sleep(reply.seconds)
            with lock:
                seen.at_once -= 1
            self._send(reply)

        def _send(self, reply: Reply) -> None:
            message = {"message": {"role": "assistant", "content": reply.text}}
            said = {"choices": [message]} if reply.status == 200 else {"error": reply.text}
            body = json.dumps(said).encode() if reply.raw is None else reply.raw
            try:
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                self.close_connection = True  # who asked is gone

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        seen.url = f"http://127.0.0.1:{server.server_port}/v1"
        yield seen
        server.shutdown()
        thread.join()
