"""A small service that speaks SandboxFusion's `POST /run_code`, for tests: a real one over HTTP.

It runs the programs in the sandbox of this machine, and can be told to fail first.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rlvr.rewards.sandbox.local import LocalSandbox
from rlvr.rewards.sandbox.request import ExecutionRequest, Limits, Status


class FusionServer(ThreadingHTTPServer):
    """Serves until it is closed; `failures` are answered first, one a request."""

    daemon_threads = True

    def __init__(self, failures=()):
        super().__init__(("127.0.0.1", 0), Handler)
        self.failures = list(failures)
        self.requests = []
        self.open = self.most_open = 0
        self.lock = threading.Lock()
        self.box = LocalSandbox()
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()
        self.box.close()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.requests.append((self.path, body))
            server.open += 1
            server.most_open = max(server.most_open, server.open)
            failure = server.failures.pop(0) if server.failures else None
        failed = isinstance(failure, int)
        answer = {"detail": "no"} if failed else failure or self._run(body)
        with server.lock:
            server.open -= 1  # before the client knows, and asks again
        self._answer(failure if failed else 200, answer)

    def _run(self, body):
        limits = Limits(seconds=body["run_timeout"], memory=body["memory_limit_MB"] << 20)
        request = ExecutionRequest(body["code"], body["stdin"], limits, body["run_timeout"])
        result = self.server.box.run(request)
        status = "TimeLimitExceeded" if result.status is Status.TIMEOUT else "Finished"
        run = {
            "status": status,
            "execution_time": 0.1,
            "return_code": 0 if result.status is Status.FINISHED else 1,
            "stdout": result.stdout.decode("utf-8", "replace"),
            "stderr": result.reason,
        }
        passed = result.status is Status.FINISHED
        return {"status": "Success" if passed else "Failed", "message": "", "run_result": run}

    def _answer(self, status, message):
        body = json.dumps(message).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
