"""A sandbox service over HTTP: SandboxFusion's `POST /run_code`.

Scripts only. What fails on the way, or in the service, is tried again; what the program does is not.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rlvr.rewards.sandbox.request import (
    WALL,
    ExecutionRequest,
    ExecutionResult,
    SandboxBroken,
    Status,
)

_TRIES = 3
_SERVICE = 10.0  # seconds that the service may take beyond the program
_MAX_ANSWER = 64 << 20  # bytes
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)


class RemoteSandbox:
    """Runs programs at a service.

    Args:
        url: Its address, without the path.
        concurrency: Requests that are open at once.
        pause: Seconds before the second try; twice as long before the third.
    """

    def __init__(self, url: str, *, concurrency: int = 8, pause: float = 0.5) -> None:
        self._url = url.rstrip("/") + "/run_code"
        self._concurrency = concurrency
        self._pause = pause

    def run_all(self, requests: Iterable[ExecutionRequest]) -> Iterator[ExecutionResult]:
        """Run programs side by side; yield what becomes of them in order."""
        with ThreadPoolExecutor(self._concurrency) as pool:
            try:
                yield from pool.map(self.run, requests)
            finally:
                pool.shutdown(cancel_futures=True)

    def run(self, request: ExecutionRequest) -> ExecutionResult:
        """Run a program as a script."""
        seconds = min(request.limits.seconds * WALL, request.wall)
        body = {
            "code": request.program,
            "stdin": request.stdin,
            "language": "python",
            "run_timeout": seconds,
            "memory_limit_MB": request.limits.memory >> 20,
        }
        answer = self._post(json.dumps(body).encode("ascii"), seconds + _SERVICE)
        return _result(answer, request, seconds)

    def close(self) -> None:
        """There is nothing to give back."""

    def _post(self, body: bytes, seconds: float) -> Mapping[str, Any]:
        reason = ""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(self._pause * 2 ** (attempt - 1))
            try:
                answer = self._ask(body, seconds)
            except urllib.error.HTTPError as error:
                reason = f"HTTP status {error.code}"
                if error.code not in _TRY_AGAIN:
                    break
            except (OSError, ValueError) as error:
                reason = str(error)
            else:
                if answer.get("status") in ("Success", "Failed"):
                    return answer
                reason = f"status {answer.get('status')}: {str(answer.get('message'))[:200]}"
        raise SandboxBroken(f"{self._url}: {reason}")

    def _ask(self, body: bytes, seconds: float) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url, body, headers)
        with urllib.request.urlopen(request, timeout=seconds) as response:
            answer = json.loads(response.read(_MAX_ANSWER))
        if not isinstance(answer, dict):
            raise ValueError("the answer is no object")
        return answer


def _result(
    answer: Mapping[str, Any], request: ExecutionRequest, seconds: float
) -> ExecutionResult:
    run = answer.get("run_result") or {}
    stdout = str(run.get("stdout") or "").encode("utf-8", "surrogatepass")
    if run.get("status") == "TimeLimitExceeded":
        return ExecutionResult(Status.TIMEOUT, stdout, f"no answer after {seconds:.3g} s")
    if len(stdout) > request.limits.output:
        stdout = stdout[: request.limits.output]
        return ExecutionResult(Status.LIMIT, stdout, f"more than {len(stdout)} bytes of output")
    if answer.get("status") == "Success" and run.get("return_code") == 0:
        return ExecutionResult(Status.FINISHED, stdout)
    said = str(run.get("stderr") or "").strip().rpartition("\n")[2]
    return ExecutionResult(Status.FAILED, stdout, said or f"exit code {run.get('return_code')}")
