"""The part of the hub that publishing a model uses, in a thread, keeping what it is sent."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

TOKEN = "hf_of_the_test"


@dataclass
class Hub:
    """A server's address and what it holds."""

    address: str = ""
    large: tuple[str, ...] = ()
    """Ends of names that are sent as large files (LFS), apart from the commit."""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def create(self, body: dict) -> tuple[int, object]:
        name = f"{body['organization']}/{body['name']}"
        if name in self.files:
            return 409, {
                "error": "You already created this model repo",
                "url": f"{self.address}/{name}",
            }
        self.files[name] = {".gitattributes": b""}
        self.private[name] = body.get("visibility") == "private"
        return 200, {"url": f"{self.address}/{name}"}

    def upload_modes(self, body: dict) -> tuple[int, object]:
        names = [item["path"] for item in body["files"]]
        modes = ["lfs" if name.endswith(self.large or ("\0",)) else "regular" for name in names]
        rows = zip(names, modes, strict=True)
        return 200, {
            "files": [
                {"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in rows
            ]
        }

    def batch(self, body: dict) -> tuple[int, object]:
        objects = [
            item | {"actions": {"upload": {"href": f"{self.address}/objects/{item['oid']}"}}}
            for item in body["objects"]
        ]
        return 200, {"transfer": "basic", "objects": objects}

    def commit(self, name: str, lines: list[dict]) -> tuple[int, object]:
        files = self.files[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                self.commits.append(value["summary"])
        return 200, {"commitUrl": f"{self.address}/{name}/commit/1", "commitOid": "1" * 40}

    def info(self, name: str) -> tuple[int, object]:
        siblings = [{"rfilename": path} for path in self.files[name]]
        return 200, {"id": name, "private": self.private[name], "siblings": siblings}

    def tree(self, name: str) -> tuple[int, object]:
        return 200, [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in self.files[name].items()
        ]

    def answer(self, method: str, path: str, data: bytes) -> tuple[int, object]:
        """Return status and JSON of a request."""
        kind, _, rest = path.lstrip("/").partition("/")
        if kind == "objects" and method == "PUT":
            self.objects[rest] = data
            return 200, {}
        if path == "/api/repos/create":
            return self.create(json.loads(data))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.batch(json.loads(data))
        parts = rest.split("/")  # models/<user>/<name>/<what>/main
        name, what = "/".join(parts[1:3]), parts[3:]
        if name not in self.files:
            return 404, {"error": "Repository not found"}
        if what[:1] == ["preupload"]:
            return self.upload_modes(json.loads(data))
        if what[:1] == ["commit"]:
            return self.commit(name, [json.loads(line) for line in data.splitlines()])
        return self.tree(name) if what[:1] == ["tree"] else self.info(name)


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub on this machine."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            hub.requests.append(f"{self.command} {path}")
            allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if allowed or path.startswith("/objects/"):
                status, answer = hub.answer(self.command, path, data)
            else:
                status, answer = 401, {"error": "Invalid username or password."}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = reply

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
