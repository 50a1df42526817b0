"""`torch.compile` sees the head's log-probs as one node: the same numbers, no break in the graph, any number of rows."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvr.kernels.op import IGNORED, linear_logprob
from tests.kernels import cases

_PROGRAM = """
import sys
import torch
from rlvr.kernels import chunked
from rlvr.kernels.linear import LowRank, linear_logprob_entropy

chunked.ROWS, chunked.COLUMNS = 8, 64
torch._dynamo.config.error_on_recompile = True
torch.manual_seed(0)
OPTIONS = {
    "all": {
        "adapter": True, "ignored": True, "strides": True, "softcap": 5.0, "cache_bytes": 5 * 130 * 4,
        "statistics": ("sum_p2", "nucleus_entropy:0.8"),
    },
    "plain": {},
    "kept": {"cache_bytes": 5 * 130 * 4},
    "kept nothing": {"cache_bytes": 0},
    "hint": {"cache_bytes": 5 * 130 * 4, "live": True},
    "capped": {"softcap": 5.0, "temperature": 0.7, "logit_scale": 1.3},
    "warm": {"temperature": torch.linspace(0.6, 1.5, 64)},
    "statistics": {"statistics": ("sum_p2", "nucleus_entropy:0.8")},
    "adapter": {"adapter": True},
    "ignored": {"ignored": True},
    "naive": {"impl": "naive", "ignored": True, "softcap": 5.0},
    "auto": {"impl": "auto"},
    "autocast": {"autocast": True},
    "strides": {"strides": True},
}


def inputs(rows, options):
    made = {"hidden": torch.randn(rows, 16), "weight": torch.randn(130, 16)}
    if options.get("strides"):
        made = {"hidden": torch.randn(16, rows).T, "weight": torch.randn(16, 130).T}
    if options.get("adapter"):
        made |= {"bias": torch.randn(130), "low_hidden": torch.randn(rows, 3)}
        made |= {"low_weight": torch.randn(130, 3)}
    targets = torch.randint(0, 130, (rows,))
    if options.get("ignored"):
        targets[::3] = -100
    return made, targets


def step(made, targets, weights, options):
    ours = ("adapter", "ignored", "autocast", "strides")
    named = {key: value for key, value in options.items() if key not in ours}
    named.setdefault("impl", "chunked")
    if "live" in named:
        named["live"] = weights[:, 0] != 0
    if isinstance(named.get("temperature"), torch.Tensor):
        named["temperature"] = named["temperature"][: len(targets)]
    if "low_hidden" in made:
        named["low_rank"] = LowRank(made["low_hidden"], made["low_weight"])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled="autocast" in options):
        found = linear_logprob_entropy(made["hidden"], made["weight"], targets, bias=made.get("bias"), **named)
    values = torch.stack([found.logprobs, found.entropies, *found.statistics.values()], 1)
    return values, (values * weights[:, : values.shape[1]]).sum()


def run(function, made, targets, weights, options):
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in made.items()}
    values, total = function(leaves, targets, weights, options)
    return values.detach(), *torch.autograd.grad(total, list(leaves.values()))


for name in sys.argv[1].split(","):
    options = OPTIONS[name]
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (21, 33, 8):
        made, targets = inputs(rows, options)
        weights = torch.randn(rows, 4) * (torch.rand(rows, 1) < 0.5)
        expected = run(step, made, targets, weights, options)
        found = run(compiled, made, targets, weights, options)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)
    print(name)
"""

FEW = ["all"]
MANY = [
    *("plain", "kept", "kept nothing", "hint", "capped", "warm", "statistics", "adapter"),
    *("ignored", "naive", "auto", "autocast", "strides"),
]


@pytest.mark.parametrize(
    "names", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_a_compiled_step_has_one_graph_for_any_number_of_rows_and_the_same_numbers(
    names: list[str],
) -> None:
    """In another process: what checks shapes in this one is no code that `torch.compile` reads."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, ",".join(names)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout.splitlines() == names


def _arguments(options: dict[str, Any]) -> tuple[Any, ...]:
    inputs = cases.case(9, 130, 16, bias=True, rank=3, seed=1)
    tensors = cases.leaves(inputs.to(torch.float32))
    targets = inputs.targets
    targets[2] = IGNORED
    given: dict[str, Any] = {
        "live": None,
        "temperatures": None,
        "temperature": 0.7,
        "softcap": None,
        "logit_scale": 1.3,
        "operand_dtype": torch.float32,
        "statistics": "",
        "impl": "chunked",
        "cache_rows": 0,
        "block": 0,
        "tolerance": 0.0,
        "report": None,
    }
    return *tensors.values(), targets, *(given | options).values()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"softcap": 5.0, "cache_rows": 4},
        {"statistics": "sum_p2,nucleus_entropy:0.8", "cache_rows": 100},
        {"live": torch.arange(9) < 5, "temperatures": torch.linspace(0.6, 1.5, 9)},
        {"block": 128},
    ],
    ids=lambda options: ",".join(options) or "plain",
)
def test_the_operator_keeps_the_promises_of_its_registration(options: dict[str, Any]) -> None:
    # the gradients themselves are compared with autograd's in test_linear.py
    utilities = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(linear_logprob, _arguments(options), test_utils=utilities)


def test_the_operator_may_be_exported_with_any_number_of_rows() -> None:
    class Head(torch.nn.Module):
        def forward(self, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
            found = linear_logprob(
                *(hidden, weight, None, None, None, targets, None, None),
                *(1.0, None, 1.0, torch.float32, "", "chunked", 0, 0, 0.0, None),
            )
            return found[0] + found[1]

    inputs = cases.case(9, 130, 16).to(torch.float32)
    given = inputs.tensors["hidden"], inputs.tensors["weight"], inputs.targets
    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(
        Head(), given, dynamic_shapes=({0: rows}, None, {0: rows}), strict=False
    )
    more = cases.case(17, 130, 16, seed=1).to(torch.float32)
    given = more.tensors["hidden"], more.tensors["weight"], more.targets
    torch.testing.assert_close(program.module()(*given), Head()(*given))
