"""Two launchers, as on two machines: one run, of which only the first machine has the results."""

import socket
import subprocess
import sys

import pytest

from tests.run import launch

pytestmark = pytest.mark.slow

ARGUMENTS = (
    *launch.SMALL,
    *launch.UNEVALUATED,
    "training.updates=2",
    "training.micro_batch_size=2",
)


def test_two_machines_without_a_shared_folder_make_one_run(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    torchrun = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes",
        "2",
        "--nproc_per_node",
        "1",
    )
    where = ("--rdzv_backend", "c10d", "--rdzv_endpoint", endpoint, "--rdzv_id", "test")
    machines = [
        subprocess.Popen(
            [
                *torchrun,
                *where,
                "-m",
                "rlvr.train",
                "demo",
                *ARGUMENTS,
                f"output={tmp_path / name}",
            ],
            cwd=launch.ROOT,
            env=launch.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "other")
    ]
    said = [machine.communicate(timeout=200) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said[0][1][-2000:]
    # either may have come first
    first = 0 if "16 on each of 2 processes" in said[0][0] else 1
    names = ("one", "other")
    assert "update    2/2" in said[first][0]
    assert "update" not in said[1 - first][0]
    silent = {path.name for path in (tmp_path / names[1 - first]).iterdir()}
    assert silent.isdisjoint({"metrics.jsonl", "final", "completions", "resolved.yaml"})
    launch.train(tmp_path / "alone", *ARGUMENTS)
    for row, alone in zip(
        launch.rows(tmp_path / names[first]), launch.rows(tmp_path / "alone"), strict=True
    ):
        for name in ("reward", "entropy", "loss", "grad_norm", "tokens"):
            assert row[name] == pytest.approx(alone[name], rel=1e-4, abs=1e-6)
