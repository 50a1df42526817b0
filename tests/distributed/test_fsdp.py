"""FSDP2 on two processes: a head that is divided gives the gradient of a whole one."""

import re
import subprocess
import sys

import pytest

from tests.distributed import fsdp
from tests.run import launch

pytestmark = pytest.mark.slow


def test_a_divided_model_has_the_gradient_of_the_whole_one():
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    done = subprocess.run(
        [*torchrun, "--nproc_per_node", "2", fsdp.__file__],
        env=launch.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.findall(r"tied (\w+): (\S+) apart, (15[01]) of 301 rows here", done.stdout)
    assert {kind for kind, _, _ in found} == {"False", "True"}
    assert len(found) == 4  # each says it of both
    assert all(float(apart) < 1e-12 for _, apart, _ in found)
