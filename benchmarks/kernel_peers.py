"""What the benchmark of the kernel compares: our implementations, and those of others where they are installed.

Each takes a `Problem` and returns log-probs and entropies; gradients come through autograd. Others are called as their own
trainers call them. One that is not installed, or does not run here, is left out with a reason.
"""

import sys
import types
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.kernel_inputs import Problem
from rlvr.kernels.linear import Certificate, Implementation, linear_logprob_entropy

TOLERANCE = 2.0**-10
EVERYTHING = 2**62
"""Bytes of cache: as many as it takes."""
TRL_COLUMNS = 32768
"""The width of a tile in TRL's trainer."""
LIGER_COLUMNS = 4096
MATMUL_COLUMNS = 16384


@dataclass
class Outputs:
    """What forward gives."""

    logprobs: Float[Tensor, " N"] | None = None
    entropies: Float[Tensor, " N"] | None = None
    notes: Callable[[], dict[str, float]] = dict
    """What is known after backward."""
    scratch: Any = None


Gradients = tuple[Tensor, Tensor] | None
"""Of hidden states and head."""


def by_autograd(given: Problem, outputs: Outputs) -> Gradients:
    """Return the gradients of Σ g log-prob + e entropy."""
    pairs = [(outputs.logprobs, given.of_logprobs), (outputs.entropies, given.of_entropies)]
    asked = [(out, g.to(out.dtype)) for out, g in pairs if out is not None and g is not None]
    results, upstream = zip(*asked, strict=True)
    of_hidden, of_weight = torch.autograd.grad(results, (given.hidden, given.weight), upstream)
    return of_hidden, of_weight


@dataclass(frozen=True)
class Contender:
    """An implementation."""

    name: str
    forward: Callable[[Problem], Outputs]
    backward: Callable[[Problem, Outputs], Gradients] = by_autograd
    is_ours: bool = False
    gives_entropy: bool = True
    """With gradient; else it has no part where the loss has an entropy term."""
    gemms: int | None = None
    """Of matrix products and nothing else: how many."""
    dtypes: tuple[torch.dtype, ...] = field(default=(torch.float32, torch.bfloat16, torch.float16))

    def takes(self, given: Problem) -> bool:
        """Return whether it can do this problem."""
        return given.hidden.dtype in self.dtypes and (
            self.gives_entropy or given.of_entropies is None
        )


def contenders(
    device: torch.device, wanted: Sequence[str] | None = None
) -> tuple[list[Contender], dict[str, str]]:
    """Return those that run here, and why others do not.

    Args:
        device: Where they shall run.
        wanted: Names; packages of others are not imported. None: all.
    """
    found = [*ours(device), Contender("naive", naive), *matmuls()]
    left_out: dict[str, str] = {}
    for package, load in PEERS.items():
        if wanted is not None and not any(name.startswith(package) for name in wanted):
            continue
        try:
            found += load(device)
        except (ImportError, AttributeError) as error:  # not installed, or another version
            left_out[package] = str(error).splitlines()[0]
    return found, left_out


def ours(device: torch.device) -> list[Contender]:
    """Return our implementations."""

    def one(
        name: str, impl: Implementation, cache: int | None, certified: bool = False
    ) -> Contender:
        def forward(given: Problem) -> Outputs:
            certificate = Certificate(TOLERANCE) if certified else None
            result = linear_logprob_entropy(
                *(given.hidden, given.weight, given.targets),
                temperature=given.temperature,
                live=given.live,
                cache_bytes=cache,
                certificate=certificate,
                impl=impl,
            )
            entropies = result.entropies
            if given.of_entropies is None:
                entropies = entropies.detach()
            notes = dict if certificate is None else lambda: _noted(certificate)
            return Outputs(result.logprobs, entropies, notes)

        return Contender(name, forward, is_ours=True)

    found = [
        one("auto", "auto", None),
        one("chunked recompute", "chunked", 0),
        one("chunked cached", "chunked", EVERYTHING),
    ]
    if device.type != "cuda":
        return [*found, one("chunked certified", "chunked", 0, certified=True)]
    return [
        *found,
        one("triton recompute", "triton", 0),
        one("triton cached", "triton", EVERYTHING),
        one("triton certified", "triton", 0, certified=True),
    ]


def _noted(certificate: Certificate) -> dict[str, float]:
    report = certificate.report
    return {
        "tiles_made": report.tiles_made,
        "tiles": report.tiles,
        "bound": report.left_out / report.whole if report.whole else 0.0,
    }


def naive(given: Problem) -> Outputs:
    """Return what plain PyTorch gives: all logits at the dtype of the head, then float32."""
    logits = torch.nn.functional.linear(given.hidden, given.weight).float()
    if given.temperature != 1:
        logits = logits / given.temperature
    log_p = torch.log_softmax(logits, dim=-1)
    logprobs = log_p.gather(1, given.targets.unsqueeze(1)).squeeze(1)
    with torch.no_grad() if given.of_entropies is None else nullcontext():
        entropies = -(log_p.exp() * log_p).sum(-1)
    return Outputs(logprobs, entropies)


def matmuls() -> list[Contender]:
    """Return the matrix products alone, which nobody who makes all of them can beat.

    Three: logits, dX and dW. Four: with the logits made again in backward.
    """

    def columns(given: Problem) -> list[slice]:
        return [
            slice(first, first + MATMUL_COLUMNS)
            for first in range(0, len(given.weight), MATMUL_COLUMNS)
        ]

    @torch.no_grad()
    def forward(given: Problem) -> Outputs:
        width = min(MATMUL_COLUMNS, len(given.weight))
        tile = given.hidden.new_empty(len(given.hidden) * width)
        for part in columns(given):
            logits(given, part, tile)
        return Outputs(scratch=tile)

    def logits(given: Problem, part: slice, tile: Tensor) -> Tensor:
        own = given.weight[part]
        out = tile[: len(given.hidden) * len(own)].view(len(given.hidden), len(own))
        return torch.mm(given.hidden, own.T, out=out)

    def backward(count: int) -> Callable[[Problem, Outputs], Gradients]:
        @torch.no_grad()
        def run(given: Problem, outputs: Outputs) -> Gradients:
            of_hidden = torch.zeros_like(given.hidden)
            of_weight = torch.empty_like(given.weight)
            for part in columns(given):
                own, tile = given.weight[part], outputs.scratch
                d = tile[: len(given.hidden) * len(own)].view(len(given.hidden), len(own))
                if count == 4:
                    d = logits(given, part, tile)
                of_hidden.addmm_(d, own)
                torch.mm(d.T, given.hidden, out=of_weight[part])
            return None

        return run

    return [
        Contender(f"matmuls {count}U", forward, backward(count), gemms=count) for count in (3, 4)
    ]


def trl(_: torch.device) -> list[Contender]:
    """Return TRL's chunked log-probs."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    try:
        import_module("trl.trainer.utils")
    except ImportError:  # its trainers need more packages; backward asks them for one function
        stand_in: Any = types.ModuleType("trl.trainer.utils")
        stand_in.maybe_gather_lm_head_ctx = lambda *_: nullcontext()
        sys.modules["trl.trainer"] = types.ModuleType("trl.trainer")
        sys.modules["trl.trainer.utils"] = stand_in

    def forward(given: Problem) -> Outputs:
        logprobs, entropies, *_ = ChunkedLogProbFunction.apply(
            *(given.hidden, given.weight, None, given.targets, given.temperature, TRL_COLUMNS),
            *(None, 1.0, ("entropy",)),
        )
        return Outputs(logprobs, entropies)

    return [Contender("TRL", forward)]


def liger(device: torch.device) -> list[Contender]:
    """Return Liger's scaled cross-entropy, and the log-probs of its chunked losses, which have no entropies.

    The former on any device but one of CUDA capability 9.0 where its CUTLASS packages are missing: there its own chunked
    PyTorch.
    """
    from liger_kernel.chunked_loss.fused_linear_ppo import _ChunkedSelectiveLogProbFunction
    from liger_kernel.ops.fused_linear_scaled_cross_entropy import (
        LigerFusedLinearScaledCrossEntropyFunction,
        _FusedLinearPPOFallbackFunction,
    )

    has_cutlass = find_spec("cutlass") is not None
    is_hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)
    native = has_cutlass and is_hopper

    def scaled(given: Problem) -> Outputs:
        function = (
            LigerFusedLinearScaledCrossEntropyFunction
            if native
            else _FusedLinearPPOFallbackFunction
        )
        middle = (1,) if native else ()
        nll, entropies = function.apply(
            *(given.hidden, given.weight, given.targets, given.temperature, -100, *middle, True)
        )
        return Outputs(-nll, entropies)

    def chunked(given: Problem) -> Outputs:
        arguments = (given.hidden, given.weight, given.targets, None)
        made = _ChunkedSelectiveLogProbFunction.apply(*arguments, given.temperature, LIGER_COLUMNS)
        return Outputs(made[0] if isinstance(made, tuple) else made)

    name = "Liger CuTe" if native else "Liger PyTorch"
    return [Contender(name, scaled), Contender("Liger chunked", chunked, gives_entropy=False)]


def cce(device: torch.device) -> list[Contender]:
    """Return CCE's log-probs: as it comes, and without its filter of gradients."""
    _needs_cuda(device)
    from cut_cross_entropy import linear_cross_entropy

    def one(name: str, filter_eps: str | None) -> Contender:
        def forward(given: Problem) -> Outputs:
            hidden = given.hidden
            if given.temperature != 1:
                hidden = hidden / given.temperature
            nll = linear_cross_entropy(
                *(hidden, given.weight, given.targets), reduction="none", filter_eps=filter_eps
            )
            return Outputs(-nll)

        half = (torch.bfloat16, torch.float16)
        return Contender(name, forward, gives_entropy=False, dtypes=half)

    return [one("CCE", "high"), one("CCE unfiltered", None)]


def verl_torch(_: torch.device) -> list[Contender]:
    """Return verl's chunked PyTorch."""
    from verl.utils.experimental.torch_functional import FusedLinearForPPO

    run = FusedLinearForPPO()

    def forward(given: Problem) -> Outputs:
        return Outputs(*run(given.hidden, given.weight, given.targets, given.temperature))

    return [Contender("verl PyTorch", forward)]


def verl_triton(device: torch.device) -> list[Contender]:
    """Return verl's Triton kernel."""
    _needs_cuda(device)
    from verl.utils.kernel.linear_cross_entropy import linear_cross_entropy

    def forward(given: Problem) -> Outputs:
        arguments = (given.hidden, given.weight, given.targets, given.temperature)
        logprobs, entropies = linear_cross_entropy(*arguments, "none")
        return Outputs(logprobs, entropies)

    return [Contender("verl Triton", forward)]


PEERS: dict[str, Callable[[torch.device], list[Contender]]] = {  # names begin with these
    "TRL": trl,
    "Liger": liger,
    "CCE": cce,
    "verl PyTorch": verl_torch,
    "verl Triton": verl_triton,
}


def versions() -> dict[str, str | None]:
    """Return the versions of what is compared; None where it is not installed."""
    packages = ("torch", "triton", "numpy", "transformers", "trl", "liger-kernel")
    return {name: _version(name) for name in (*packages, "cut-cross-entropy", "verl")}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _needs_cuda(device: torch.device) -> None:
    if device.type != "cuda":
        raise ImportError("needs a CUDA device")
