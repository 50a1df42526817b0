"""The same generation on one process and on two: the same gradient, statistics, weights and control states."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import updates

pytestmark = pytest.mark.slow

WORKER = Path(updates.__file__)


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, Any]:
    """Return what one process and each of two processes find."""
    folder = tmp_path_factory.mktemp("updates")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for launcher, name in (([], "one"), (torchrun, "two")):
        command = [sys.executable, *launcher, str(WORKER), str(folder / name)]
        done = subprocess.run(
            command, env=environment(), capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
    files = ("one.0", "two.0", "two.1")
    return {name: torch.load(folder / name, weights_only=True) for name in files}


def cuts(found: dict[str, Any], kind: str, file: str, name: str) -> dict[str, Any]:
    return {cut: value for cut, value in found[file][kind].items() if cut.startswith(f"{name}, ")}


def close(one: object, other: object) -> None:
    # NaN is a mean of nothing: ares' KL of a bucket without a row
    torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11, equal_nan=True)


@pytest.mark.parametrize("name", [name for name in updates.CASES if "scope" not in name])
@pytest.mark.parametrize("update", [0, 1], ids=["first update", "policy has moved"])
def test_the_number_of_processes_never_matters_to_a_gradient(found, name, update):
    chosen = f"update {update}"
    ones, twos = (
        {cut: value for cut, value in cuts(found, "gradients", file, name).items() if chosen in cut}
        for file in ("one.0", "two.0")
    )
    assert len(ones) == len(twos) == len(updates.CUTS)
    whole, statistics = next(iter(ones.values()))
    assert whole.abs().max() > 1e-6
    for gradient, means in [*ones.values(), *twos.values()]:
        close(gradient, whole)
        close(means, statistics)


@pytest.mark.parametrize("name", updates.TRAINED)
def test_the_number_of_processes_never_matters_to_training(found, name):
    ones, twos, ranks = (cuts(found, "trained", file, name) for file in ("one.0", "two.0", "two.1"))
    whole, row, state = next(iter(ones.values()))
    skipped = {"time/update"}
    expected = {key: value for key, value in row.items() if key not in skipped}
    for weights, other, other_state in [*ones.values(), *twos.values()]:
        close(weights, whole)
        close({key: value for key, value in other.items() if key not in skipped}, expected)
        close(other_state, state)
    for cut in twos:
        assert torch.equal(twos[cut][0], ranks[cut][0])
        assert twos[cut][2] == ranks[cut][2]


def test_the_comparison_sees_what_does_depend_on_the_cut(found):
    one = found["one.0"]["gradients"]["micro_batch scope, 8 rows, update 0"][0]
    two = found["two.0"]["gradients"]["micro_batch scope, 8 rows, update 0"][0]
    assert (one - two).abs().max() > 1e-6
