"""The Triton kernels agree with float64, in the interpreter.

Triton chooses between compiler and interpreter when it is imported, and other tests import it: the claims of
`interpreted*.py` run in a process of their own, and are reported here one by one.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
CLAIMS = sorted(Path(__file__).parent.glob("interpreted*.py"))
NAMES = [
    f"{path.stem}: {node.name}"
    for path in CLAIMS
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
]


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Return what each claim's cases failed with."""
    to = tmp_path_factory.mktemp("interpreted") / "report.xml"
    # the options of the run around this one are not meant for it
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--junitxml={to}",
            *CLAIMS,
        ],
        cwd=ROOT,
        env=own | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert to.exists(), done.stdout + done.stderr
    failures: dict[str, list[str]] = {}
    for found in ElementTree.parse(to).iter("testcase"):
        name, _, parameters = found.get("name", "").partition("[")
        file = found.get("classname", "").rpartition(".")[-1]
        own_failures = failures.setdefault(f"{file}: {name}", [])
        for outcome in found:
            if outcome.tag in ("failure", "error", "skipped"):
                own_failures.append(f"[{parameters} {outcome.get('message')}\n{outcome.text}")
    assert failures, done.stdout + done.stderr
    return failures


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_in_the_interpreter(name: str, report: dict[str, list[str]]) -> None:
    assert name in report, "it did not run"
    assert not report[name], "\n".join(report[name])


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the kernels are interpreted")
def test_a_cpu_is_refused_without_the_interpreter() -> None:
    from rlvr.kernels.linear import linear_logprob_entropy

    with pytest.raises(ValueError, match=r"hidden is on cpu; it needs a GPU"):
        linear_logprob_entropy(
            torch.ones(1, 2), torch.ones(3, 2), torch.zeros(1, dtype=torch.int64), impl="triton"
        )
