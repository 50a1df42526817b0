"""Are the head's kernels right: `python -m benchmarks.kernel_check [--device cpu] [--dtypes bfloat16] [--json FILE]`.

Results and gradients are compared with float64. A line is printed for every claim, and the exit code is 1 where one does
not hold. On a CPU the PyTorch implementation is checked, on small sizes.
"""

import argparse
import itertools
import json
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.kernel_inputs import problem
from rlvr.kernels import naive
from rlvr.kernels.linear import (
    Certificate,
    Implementation,
    LowRank,
    Result,
    linear_logprob_entropy,
)
from rlvr.kernels.projection import IGNORED

Mode = Literal["recompute", "cached", "certified"]
MODES: tuple[Mode, ...] = ("recompute", "cached", "certified")
TOLERANCE = 2.0**-10
EVERYTHING = 2**62
KERNELS = (
    "forward_kernel",
    "gradient_kernel",
    "sparse_kernel",
    "product_kernel",
    "epilogue_kernel",
)

BARS: dict[torch.dtype, dict[str, float]] = {
    # half precision: hidden states and head are taken as given, sums are in float32, gradients are rounded once
    **{
        dtype: {"logprob": 1e-4, "rms": 1e-5, "entropy": 2e-4, "hidden": 3e-3, "others": 2.5e-3}
        for dtype in (torch.bfloat16, torch.float16)
    },
    torch.float32: {"logprob": 2e-5, "rms": 1e-5, "entropy": 2e-5, "hidden": 2e-6, "others": 2e-6},
}
"""Errors against float64: of log-probs max and rms, of entropies max, nats; of gradients in the Frobenius norm, relative."""
BUDGET = 2.0
"""Where plain PyTorch in float32 is further off on the same inputs: so many times its error."""
MOST_SYNCS = {"recompute": (1, 1), "cached": (1, 4), "certified": (1, 3)}
"""Waits of the host for the device in forward and backward: the counts of rows and of tiles."""
HALF_PRODUCT = re.compile(r"tt\.dot\b.*xb?f16\b")
"""In Triton's first form of a kernel."""
OPTIONS: dict[str, dict[str, Any]] = {
    "softcap": {"softcap": 30.0},
    "scale": {"logit_scale": 0.5},
    "T 0.6": {"temperature": 0.6},
    "T 1.5": {"temperature": 1.5},
}
"""Of the call, by the word for them in a case's name."""


@dataclass(frozen=True)
class Setting:
    """Where and on what the checks run."""

    device: torch.device
    dtypes: tuple[torch.dtype, ...]
    rows: int
    hidden_size: int
    vocabularies: tuple[int, int]
    """Ragged: no multiples of a tile. All cases run on the second."""

    @property
    def impls(self) -> tuple[Implementation, ...]:
        """What is checked."""
        return ("triton", "chunked") if self.device.type == "cuda" else ("chunked",)


@dataclass(frozen=True)
class Case:
    """Inputs of a call, and the weights with which its results are added up to a loss."""

    name: str
    tensors: dict[str, Tensor]
    targets: Tensor
    of_logprobs: Tensor
    of_entropies: Tensor
    options: dict[str, Any] = field(default_factory=dict)

    def rows(self, index: Tensor | slice) -> "Case":
        """Return the case of some rows."""
        tensors = {
            name: tensor[index] if "hidden" in name else tensor
            for name, tensor in self.tensors.items()
        }
        options = {
            name: value[index] if isinstance(value, Tensor) else value
            for name, value in self.options.items()
        }
        e = self.of_entropies[index]
        return Case(self.name, tensors, self.targets[index], self.of_logprobs[index], e, options)


@dataclass(frozen=True)
class Found:
    """Results of a call; all detached."""

    logprobs: Tensor
    entropies: Tensor
    gradients: dict[str, Tensor]
    certificate: Certificate | None = None
    statistics: dict[str, Tensor] = field(default_factory=dict)

    def all(self) -> list[Tensor]:
        """Return every tensor."""
        return [self.logprobs, self.entropies, *self.gradients.values()]


def case(
    setting: Setting,
    dtype: torch.dtype,
    vocabulary: int,
    kind: str = "plain",
    rows: int | None = None,
) -> Case:
    """Return a policy's inputs; half of the rows have no gradient, targets 0, V - 1 and -100 are among them."""
    size = setting.rows if rows is None else rows
    made = problem(
        *(max(size, 16), setting.hidden_size, vocabulary),
        dtype=dtype,
        device=setting.device,
        pattern="half",
        entropy_gradient=True,
    )
    tensors = {"hidden": made.hidden.detach(), "weight": made.weight.detach()}
    targets = made.targets.clone()
    targets[0], targets[1], targets[2] = 0, vocabulary - 1, IGNORED
    source = torch.Generator(setting.device).manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source, device=setting.device)

    g = noise(len(targets)) * (made.of_logprobs != 0)
    e = 0.1 * noise(len(targets)) * (made.of_logprobs != 0)
    kinds = kind.split(" + ")
    options = {name: value for each in kinds for name, value in OPTIONS.get(each, {}).items()}
    if "T per token" in kinds:
        options["temperature"] = 0.6 + noise(len(targets)).abs()
    if "negative" in kinds:  # 8 x -6 is added to all logits
        tensors["hidden"][:, 0], tensors["weight"][:, 0] = 8, -6
    if "peaked" in kinds:
        tensors["hidden"] *= 3
    if "bias" in kinds:
        tensors["bias"] = noise(vocabulary).to(dtype)
    if "low rank" in kinds:
        tensors["low_hidden"] = (0.3 * noise(len(targets), 16)).to(dtype)
        tensors["low_weight"] = (0.3 * noise(vocabulary, 16)).to(dtype)
    found = Case(f"{kind}, V {vocabulary}, {_short(dtype)}", tensors, targets, g, e, options)
    return found.rows(slice(0, size))


def ours(
    given: Case,
    impl: Implementation,
    mode: Mode = "recompute",
    *,
    wanted: Sequence[str] | None = None,
    statistics: Sequence[str] = (),
) -> Found:
    """Return what the public function gives; gradients of `wanted` inputs, None: of all."""
    names = list(given.tensors) if wanted is None else list(wanted)
    own = {
        name: tensor.detach().requires_grad_(name in names)
        for name, tensor in given.tensors.items()
    }
    certificate = Certificate(TOLERANCE) if mode == "certified" else None
    low = None
    if "low_hidden" in own:
        low = LowRank(own["low_hidden"], own["low_weight"])
    result: Result = linear_logprob_entropy(
        *(own["hidden"], own["weight"], given.targets),
        bias=own.get("bias"),
        low_rank=low,
        statistics=statistics,
        cache_bytes=EVERYTHING if mode == "cached" else 0,
        certificate=certificate,
        impl=impl,
        **given.options,
    )
    results = (result.logprobs, result.entropies)
    gradients = torch.autograd.grad(
        results, [own[name] for name in names], (given.of_logprobs, given.of_entropies)
    )
    logprobs, entropies = (value.detach() for value in results)
    found = dict(zip(names, gradients, strict=True))
    return Found(logprobs, entropies, found, certificate, result.statistics)


def plain(given: Case, dtype: torch.dtype, statistics: Sequence[str] = ()) -> Found:
    """Return what plain PyTorch gives in a dtype."""
    own = {
        name: tensor.detach().to(dtype).requires_grad_() for name, tensor in given.tensors.items()
    }
    options = dict(given.options)
    if isinstance(options.get("temperature"), Tensor):
        options["temperature"] = options["temperature"].to(dtype)
    logprobs, entropies, found = naive.linear_logprob_entropy(
        *(own["hidden"], own["weight"], given.targets),
        bias=own.get("bias"),
        low_hidden=own.get("low_hidden"),
        low_weight=own.get("low_weight"),
        statistics=statistics,
        **options,
    )
    upstream = (given.of_logprobs.to(dtype), given.of_entropies.to(dtype))
    gradients = torch.autograd.grad((logprobs, entropies), list(own.values()), upstream)
    by_name = dict(zip(own, gradients, strict=True))
    return Found(logprobs.detach(), entropies.detach(), by_name, statistics=found)


def errors(found: Found, truth: Found) -> dict[str, float]:
    """Return errors by name: those of `BARS`, and of every gradient."""
    off = found.logprobs.double() - truth.logprobs
    of_entropies = found.entropies.double() - truth.entropies
    own = {
        "logprob": float(off.abs().max()),
        "rms": float(off.square().mean().sqrt()),
        "entropy": float(of_entropies.abs().max()),
    }
    for name, gradient in found.gradients.items():
        own[name] = relative(gradient, truth.gradients[name])
    return own


def relative(found: Tensor, right: Tensor) -> float:
    """Return the relative error in the Frobenius norm; NaN stays NaN."""
    scale = right.double().norm()
    return float((found.double() - right.double()).norm() / scale) if scale else float(found.norm())


@contextmanager
def unpoisoned() -> Iterator[None]:
    """Run as users do: new memory holds anything, and PyTorch may take faster ways."""
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        _poison()


def _poison() -> None:
    """Have PyTorch fill new memory with NaN, as it does when it is told to be deterministic."""
    torch.use_deterministic_algorithms(True, warn_only=True)


def accuracy(setting: Setting, dtype: torch.dtype, vocabulary: int, kind: str) -> str:
    """Every implementation and mode is as close to float64 as the bars ask."""
    given = case(setting, dtype, vocabulary, kind)
    truth = plain(given, torch.float64)
    allowed = errors(plain(given, torch.float32), truth)
    bars = BARS[dtype]
    worst: tuple[float, str] = (0.0, "")
    has_extras = len(given.tensors) > 2 or "softcap" in given.options
    for impl, mode in itertools.product(setting.impls, MODES):
        if mode == "certified" and has_extras:
            continue
        for name, error in errors(ours(given, impl, mode), truth).items():
            bar = max(bars.get(name, bars["others"]), BUDGET * allowed[name])
            if mode == "certified" and name in given.tensors:
                bar = max(bar, 2 * TOLERANCE)
            share = error / bar if error == error else float("inf")
            worst = max(worst, (share, f"{impl} {mode} {name} {error:.1e}, allowed {bar:.1e}"))
    assert worst[0] <= 1, worst[1]
    return f"closest to its bar: {worst[1]}"


def repeats(setting: Setting, dtype: torch.dtype) -> str:
    """Two runs give the same bits, also where PyTorch is not told to be deterministic."""
    given = case(setting, dtype, setting.vocabularies[1])
    with unpoisoned():
        for impl, mode in itertools.product(setting.impls, MODES):
            runs = zip(ours(given, impl, mode).all(), ours(given, impl, mode).all(), strict=True)
            assert all(torch.equal(a, b) for a, b in runs), f"{impl} {mode} differs"
    return "bitwise, all modes"


def permuted(setting: Setting, dtype: torch.dtype) -> str:
    """Rows do not know of each other: permuting them permutes results."""
    given = case(setting, dtype, setting.vocabularies[1])
    order = torch.randperm(len(given.targets), device="cpu").to(setting.device)
    said = []
    for impl in setting.impls:
        one, other = ours(given, impl), ours(given.rows(order), impl)
        same = torch.equal(one.logprobs[order], other.logprobs)
        same &= torch.equal(one.entropies[order], other.entropies)
        # a library's product of dense matrices may add up in another order at another place
        assert same or impl != "triton", "triton: log-probs or entropies are not the same bits"
        off = (one.logprobs[order] - other.logprobs).abs().max()
        assert off <= BARS[dtype]["logprob"], f"{impl}: log-probs differ by {off:.1e}"
        gradients = relative(other.gradients["hidden"], one.gradients["hidden"][order])
        assert gradients <= BARS[dtype]["hidden"], f"{impl}: dX differs by {gradients:.1e}"
        said.append(f"{impl} {'bitwise' if same else f'to {off:.0e}'}")
    return ", ".join(said)


def dead_rows(setting: Setting, dtype: torch.dtype) -> str:
    """Rows without upstream gradient get exactly 0, whatever they hold, and disturb nobody."""
    given = case(setting, dtype, setting.vocabularies[1])
    is_dead = (given.of_logprobs == 0) & (given.of_entropies == 0) | (given.targets == IGNORED)
    hidden = given.tensors["hidden"].clone()
    hidden[is_dead] = torch.nan
    broken = replace(given, tensors=given.tensors | {"hidden": hidden})
    for impl, mode in itertools.product(setting.impls, MODES):
        whole, found = ours(given, impl, mode), ours(broken, impl, mode)
        for run in (whole, found):
            assert not run.gradients["hidden"][is_dead].any(), f"{impl} {mode}: not 0"
        off = relative(found.gradients["weight"], whole.gradients["weight"])
        assert off <= BARS[dtype]["others"], f"{impl} {mode}: dW differs by {off:.1e}"
    return f"{int(is_dead.sum())} of {len(is_dead)} rows"


def few_rows(setting: Setting, dtype: torch.dtype) -> str:
    """No row and one row are no special cases."""
    for impl, mode in itertools.product(setting.impls, MODES):
        found = ours(case(setting, dtype, setting.vocabularies[1], rows=0), impl, mode)
        assert found.logprobs.shape == (0,), f"{impl} {mode}"
        assert not found.gradients["weight"].any(), f"{impl} {mode}: dW of no row is not 0"
        one = case(setting, dtype, setting.vocabularies[1], rows=1)
        off = errors(ours(one, impl, mode), plain(one, torch.float64))
        assert off["logprob"] <= BARS[dtype]["logprob"], f"{impl} {mode}: {off}"
    return "0 and 1"


def no_gradient(setting: Setting, dtype: torch.dtype) -> str:
    """Where all upstream gradients are 0, all gradients are."""
    given = case(setting, dtype, setting.vocabularies[1])
    nothing = torch.zeros_like(given.of_logprobs)
    given = replace(given, of_logprobs=nothing, of_entropies=nothing)
    for impl, mode in itertools.product(setting.impls, MODES):
        for name, gradient in ours(given, impl, mode).gradients.items():
            assert not gradient.any(), f"{impl} {mode}: {name}"
    return "exactly 0"


def parts(setting: Setting, dtype: torch.dtype) -> str:
    """A gradient asked for alone is the one asked for with the others; strides do not matter."""
    given = case(setting, dtype, setting.vocabularies[1], "bias + low rank")
    rows, wide = given.tensors["hidden"].shape
    room = torch.full((rows, 2 * wide + 8), torch.nan, dtype=dtype, device=setting.device)
    apart = room[:, 8 : wide + 8]
    apart.copy_(given.tensors["hidden"])
    turned = given.tensors["weight"].T.contiguous().T
    strided = replace(given, tensors=given.tensors | {"hidden": apart, "weight": turned})
    for impl in setting.impls:
        whole = ours(given, impl)
        for name in given.tensors:
            alone = ours(given, impl, wanted=[name]).gradients[name]
            away = relative(alone, whole.gradients[name])
            assert away <= BARS[dtype]["others"] / 10, f"{impl} {name} alone: {away:.1e}"
        found = ours(strided, impl)
        off = float((found.logprobs - whole.logprobs).abs().max())
        assert off <= BARS[dtype]["logprob"], f"{impl} strided: {off:.1e}"
        for name, gradient in found.gradients.items():
            away = relative(gradient, whole.gradients[name])
            assert away <= BARS[dtype]["others"], f"{impl} strided {name}: {away:.1e}"
    return ", ".join(given.tensors)


def squares(setting: Setting, dtype: torch.dtype) -> str:
    """The sums of squared probabilities agree with float64."""
    names = ("sum_p2", "sum_p2_logp")
    given = case(setting, dtype, setting.vocabularies[1])
    truth = plain(given, torch.float64, names)
    worst = 0.0
    for impl in setting.impls:
        found = ours(given, impl, statistics=names)
        for name in names:
            off = (found.statistics[name].double() - truth.statistics[name]).abs().max()
            worst = max(worst, float(off))
            assert off <= BARS[dtype]["entropy"], f"{impl} {name}: {off:.1e}"
    return f"max error {worst:.1e}"


def sums_to_zero(setting: Setting, dtype: torch.dtype) -> str:
    """The gradient by a row's logits adds up to 0."""
    given = case(setting, dtype, setting.vocabularies[1], "bias")
    given = given.rows(slice(3, 4))
    one = torch.ones_like(given.of_logprobs)
    bias = given.tensors["bias"].float()
    given = replace(
        given, of_logprobs=one, of_entropies=0.1 * one, tensors=given.tensors | {"bias": bias}
    )
    worst = 0.0
    for impl, mode in itertools.product(setting.impls, MODES):
        total = float(ours(given, impl, mode).gradients["bias"].double().sum().abs())
        worst = max(worst, total)
        assert total <= 1e-3, f"{impl} {mode}: {total:.1e}"
    return f"to {worst:.1e} of an upstream gradient of 1"


def certified(setting: Setting, dtype: torch.dtype) -> str:
    """What is left out is less than the bound that is reported, and the bound less than asked for."""
    given = case(setting, dtype, setting.vocabularies[0], "peaked", rows=600)
    truth = plain(given, torch.float64)
    longest = float(given.tensors["weight"].double().norm(dim=1).max())
    said = []
    for impl in setting.impls:
        found = ours(given, impl, "certified")
        exact = ours(given, impl)
        assert found.certificate is not None
        report = found.certificate.report
        assert 0 < report.left_out <= TOLERANCE * report.whole * (1 + 1e-6), f"{impl}: {report}"
        assert 0 < report.tiles_made < report.tiles, f"{impl}: {report}"
        right = truth.gradients["hidden"]
        away, rounding = (
            float((each.gradients["hidden"].double() - right).norm(dim=1).sum())
            for each in (found, exact)
        )
        # ‖δdX_i‖ <= Σ |δd_iv| max ‖W_v‖
        bound = report.left_out * longest + 2 * rounding
        assert away <= bound, f"{impl}: dX is off by {away:.2e}, the bound is {bound:.2e}"
        made = report.tiles_made / report.tiles
        said.append(f"{impl}: {made:.0%} of tiles, off {away:.1e}, bound {bound:.1e}")
    return "; ".join(said)


def beyond_32_bits(setting: Setting, dtype: torch.dtype) -> str:
    """More than 2^31 logits: addresses do not wrap. On a CPU as many as fit into seconds."""
    is_gpu = setting.device.type == "cuda"
    rows, vocabulary = (16400, 151936) if is_gpu else (300, 4099)
    narrow = replace(setting, hidden_size=64)
    given = case(narrow, dtype, vocabulary, rows=rows)
    sample = torch.cat([torch.arange(8), torch.arange(rows - 40, rows)]).to(setting.device)
    only = torch.zeros(rows, dtype=torch.bool, device=setting.device)
    only[sample] = True
    given = replace(given, of_logprobs=torch.where(only, given.of_logprobs + 1, given.of_logprobs))
    truth = plain(given.rows(sample), torch.float64)
    weights = []
    for impl, mode in itertools.product(setting.impls, MODES[:2]):
        if impl == "chunked" and is_gpu and mode == "cached":
            continue  # its cache is in float32: 10 GB
        found = ours(given, impl, mode)
        off = (found.logprobs[sample].double() - truth.logprobs).abs().max()
        assert off <= BARS[dtype]["logprob"], f"{impl} {mode}: log-probs off by {off:.1e}"
        away = relative(found.gradients["hidden"][sample], truth.gradients["hidden"])
        assert away <= BARS[dtype]["hidden"], f"{impl} {mode}: dX off by {away:.1e}"
        weights.append(found.gradients["weight"])
    apart = max(relative(weight, weights[0]) for weight in weights)
    assert apart <= 2 * BARS[dtype]["others"], f"dW of two ways differ by {apart:.1e}"
    return f"{rows * vocabulary:.2e} logits"


def syncs(setting: Setting, dtype: torch.dtype) -> str:
    """The host waits for the device only to learn how many rows there are."""
    if setting.device.type != "cuda":
        return "no device to wait for"
    given = case(setting, dtype, setting.vocabularies[1])
    given = given.rows((given.targets != IGNORED).nonzero().squeeze(1))
    hidden = given.tensors["hidden"].requires_grad_()
    said = []

    def forward(mode: Mode) -> Tensor:
        return linear_logprob_entropy(
            *(hidden, given.tensors["weight"], given.targets),
            cache_bytes=EVERYTHING if mode == "cached" else 0,
            certificate=Certificate(TOLERANCE) if mode == "certified" else None,
            impl="triton",
        ).logprobs

    def backward(logprobs: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(logprobs, hidden, given.of_logprobs)

    with unpoisoned():
        for mode in MODES:
            backward(forward(mode))  # compiles
            logprobs, before = _waits(partial(forward, mode))
            _, after = _waits(partial(backward, logprobs))
            most = MOST_SYNCS[mode]
            holds = before <= most[0] and after <= most[1]
            assert holds, f"{mode}: {before} + {after} waits, {most[0]} + {most[1]} expected"
            said.append(f"{mode} {before} + {after}")
    return ", ".join(said)


def _waits(step: Callable[[], Any]) -> tuple[Any, int]:
    """Return what a step gives, and how often it waits for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return found, sum("synchroniz" in str(warning.message) for warning in caught)


def compiled() -> list[dict[str, Any]]:
    """Return registers, spills and use of Hopper's tensor cores of every kernel that ran in this process."""
    from triton.runtime.jit import JITFunction

    found = []
    for name in KERNELS:
        try:
            module = import_module(f"rlvr.kernels.{name}")
        except ImportError:
            continue
        for function in vars(module).values():
            if not isinstance(function, JITFunction) or function.fn.__module__ != module.__name__:
                continue
            for caches in function.device_caches.values():
                for kernel in caches[0].values():
                    multiplies = HALF_PRODUCT.search(kernel.asm["ttir"]) is not None
                    found.append(
                        {
                            "kernel": kernel.name,
                            "hash": kernel.hash,
                            "registers": getattr(kernel, "n_regs", None),
                            "spills": getattr(kernel, "n_spills", None),
                            "warps": kernel.metadata.num_warps,
                            "on_tensor_cores": "wgmma" in kernel.asm["ptx"] if multiplies else None,
                        }
                    )
    return found


def claims(setting: Setting) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield what is claimed, and how it is checked."""
    large, small = setting.vocabularies
    everything = "bias + softcap + scale + low rank + T per token"
    kinds = ["plain", "negative", "peaked", "softcap", "T 0.6", "T 1.5", "T per token", "bias"]
    kinds += ["low rank", everything]
    for dtype in setting.dtypes:
        for kind in kinds:
            name = f"accuracy: {kind}, V {small}, {_short(dtype)}"
            yield name, partial(accuracy, setting, dtype, small, kind)
        for kind in ("plain", "negative", "peaked", "T 0.6"):
            name = f"accuracy: {kind}, V {large}, {_short(dtype)}"
            yield name, partial(accuracy, setting, dtype, large, kind)
        for check in (repeats, permuted, dead_rows, few_rows, no_gradient, parts, squares):
            yield f"{check.__name__}, {_short(dtype)}", partial(check, setting, dtype)
        for check in (sums_to_zero, certified, beyond_32_bits, syncs):
            yield f"{check.__name__}, {_short(dtype)}", partial(check, setting, dtype)


def check(given: argparse.Namespace) -> int:
    """Check all claims; 1 if one does not hold."""
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("FAIL  no CUDA device: PyTorch sees none; use --device cpu to check the PyTorch code")
        return 1
    _poison()
    warnings.filterwarnings("ignore", message=".*deterministic")
    torch.backends.cuda.matmul.allow_tf32 = False
    dtypes = tuple(getattr(torch, name) for name in given.dtypes)
    setting = Setting(device, dtypes, 300, 896, (151936, 32003))
    if device.type == "cpu":
        setting = replace(setting, rows=70, hidden_size=64, vocabularies=(4500, 2051))
    lines: list[dict[str, Any]] = []
    began = time.monotonic()
    for name, run in claims(setting):
        if given.seconds and time.monotonic() - began > given.seconds:
            lines.append(_line(name, False, "not run: no time left"))
            continue
        try:
            lines.append(_line(name, True, run()))
        except (
            Exception
        ) as error:  # a claim that cannot be checked does not hold, and the others go on
            where = "" if isinstance(error, AssertionError) else traceback.format_exc(limit=-3)
            lines.append(_line(name, False, f"{type(error).__name__}: {error} {where}".strip()))
    kernels = compiled() if device.type == "cuda" else []
    if kernels:
        spilled = [k for k in kernels if k["spills"]]
        lines.append(_line("no register spills", not spilled, f"{len(kernels)} kernels {spilled}"))
    failed = sum(not line["holds"] for line in lines)
    print(f"{len(lines) - failed} of {len(lines)} hold, {time.monotonic() - began:.0f} s")
    if given.json:
        Path(given.json).write_text(json.dumps({"checks": lines, "kernels": kernels}))
    return int(failed > 0)


def _line(name: str, holds: bool, said: str) -> dict[str, Any]:
    print(f"{'PASS' if holds else 'FAIL'}  {name}: {said}", flush=True)
    return {"name": name, "holds": holds, "said": said}


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def main() -> None:
    """Check what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    names = [_short(dtype) for dtype in BARS]
    parser.add_argument("--dtypes", nargs="+", choices=names, default=names)
    parser.add_argument("--seconds", type=float, help="begin no further check after so long")
    parser.add_argument("--json", metavar="FILE", help="also written to this file")
    sys.exit(check(parser.parse_args()))


if __name__ == "__main__":
    main()
