"""A sandbox service over HTTP: asked again where it failed, and only then."""

import pytest

from rlvr.rewards.sandbox.remote import RemoteSandbox
from rlvr.rewards.sandbox.request import ExecutionRequest, Limits, SandboxBroken, Status
from tests.sandbox.fusion_server import FusionServer
from tests.sandbox.programs import needs_locks

pytestmark = needs_locks
LIMITS = Limits(seconds=0.5)
SERVICE_ERROR = {"status": "SandboxError", "message": "no worker"}


@pytest.fixture(scope="module")
def server():
    with FusionServer() as made:
        yield made


@pytest.mark.parametrize(
    ("program", "status", "stdout", "reason"),
    [
        ("print(input() * 2)", Status.FINISHED, b"abab\n", ""),
        ("1 / 0", Status.FAILED, b"", "ZeroDivisionError: division by zero"),
        ("import time; time.sleep(60)", Status.TIMEOUT, b"", "no answer after 1.5 s"),
        ("print('x' * 200000)", Status.LIMIT, b"x" * 1000, "more than 1000 bytes of output"),
    ],
)
def test_what_the_program_does_is_reported_and_not_tried_again(
    server, program, status, stdout, reason
):
    before = len(server.requests)
    request = ExecutionRequest(program, "ab", Limits(seconds=0.5, output=1000))
    result = RemoteSandbox(server.url + "/").run(request)
    assert (result.status, result.stdout, result.reason) == (status, stdout, reason)
    ((path, body),) = server.requests[before:]
    assert path == "/run_code"
    assert (body["language"], body["stdin"]) == ("python", "ab")


@pytest.mark.parametrize("failure", [500, 503, 429, SERVICE_ERROR])
def test_a_failing_service_is_asked_again(failure):
    with FusionServer([failure, failure]) as server:
        result = RemoteSandbox(server.url, pause=0.02).run(ExecutionRequest("print(1)", "", LIMITS))
        assert result.stdout == b"1\n"
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("failures", "asked", "word"),
    [
        ([404], 1, "404"),
        ([SERVICE_ERROR] * 9, 3, "no worker"),
        ([{"status": 5}] * 9, 3, "status 5"),
    ],
)
def test_a_service_that_goes_on_failing_says_nothing_about_the_program(failures, asked, word):
    with FusionServer(failures) as server:
        with pytest.raises(SandboxBroken, match=word):
            RemoteSandbox(server.url, pause=0.02).run(ExecutionRequest("print(1)", "", LIMITS))
        assert len(server.requests) == asked


def test_nobody_at_the_address_is_a_broken_sandbox():
    with FusionServer() as server:
        url = server.url
    with pytest.raises(SandboxBroken, match=r"127\.0\.0\.1"):
        RemoteSandbox(url, pause=0.02).run(ExecutionRequest("print(1)", "", LIMITS))


def test_programs_run_side_by_side_up_to_the_limit_and_come_back_in_order():
    with FusionServer() as server:
        requests = [
            ExecutionRequest(f"import time; time.sleep(0.03); print({i})", "", LIMITS)
            for i in range(9)
        ]
        results = list(RemoteSandbox(server.url, concurrency=3).run_all(requests))
        assert [int(result.stdout) for result in results] == list(range(9))
        assert 1 < server.most_open <= 3
