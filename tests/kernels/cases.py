"""Inputs of the head's kernels, and how far a result may be from the truth: plain PyTorch in float64."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rlvr.kernels import chunked
from rlvr.kernels.linear import LowRank, Result, linear_logprob_entropy
from rlvr.kernels.projection import IGNORED

PARAMETERS = ("hidden", "weight", "bias", "low_hidden", "low_weight")
LOGPROB_BAR, ENTROPY_BAR, GRADIENT_BAR = 2e-5, 2e-5, 2e-6
"""Of float32: greatest error of a log-prob and an entropy, nats; relative Frobenius error of a gradient."""
WIDE_BAR = 1e-12
"""Of float64, for all of them: there plain PyTorch is the truth."""
TINY = 2e-7
"""Added to the error that plain PyTorch makes in float32: it may be exact by luck."""


@dataclass(frozen=True)
class Case:
    """Inputs of one call, and the weights with which its results are added up to a loss."""

    tensors: dict[str, Tensor]
    targets: Tensor
    options: dict[str, Any] = field(default_factory=dict)
    of_logprobs: Tensor | None = None
    of_entropies: Tensor | None = None
    of_statistics: dict[str, Tensor] = field(default_factory=dict)

    def to(self, dtype: torch.dtype) -> "Case":
        """Return the same numbers in another dtype, the result's weights too."""
        new = {name: tensor.to(dtype) for name, tensor in self.tensors.items()}
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        of_own = {name: tensor.to(wide) for name, tensor in self.of_statistics.items()}
        options = dict(self.options)
        if isinstance(options.get("temperature"), Tensor):
            options["temperature"] = options["temperature"].to(wide)
        g, e = (None if t is None else t.to(wide) for t in (self.of_logprobs, self.of_entropies))
        return replace(
            self,
            tensors=new,
            options=options,
            of_logprobs=g,
            of_entropies=e,
            of_statistics=of_own,
        )

    def but(self, **options: Any) -> "Case":
        """Return the same with other options."""
        return replace(self, options=self.options | options)


@dataclass(frozen=True)
class Run:
    """What a call gave; gradients of those inputs that asked for one."""

    result: Result
    gradients: dict[str, Tensor]


def case(
    rows: int | tuple[int, ...] = 37,
    vocabulary: int = 2049,
    width: int = 24,
    *,
    bias: bool = False,
    rank: int = 0,
    sharpness: float = 6.0,
    ignored: float = 0.0,
    dead: float = 0.0,
    entropy_gradient: bool = True,
    logprob_gradient: bool = True,
    seed: int = 0,
    **options: Any,
) -> Case:
    """Return a case whose rows are from flat to peaked, half of them on their target.

    Args:
        rows: N, or the batch shape.
        vocabulary: V.
        width: H.
        bias: Whether the head has one.
        rank: R of an adapter; 0: none.
        sharpness: Of the most peaked row: roughly how far its greatest logit stands out.
        ignored: Share of targets that are left out.
        dead: Share of rows with no gradient.
        entropy_gradient: Whether entropies are in the loss.
        logprob_gradient: Whether log-probs are.
        seed: Of all numbers.
        options: Of the call.
    """
    shape = (rows,) if isinstance(rows, int) else rows
    size = torch.Size(shape).numel()
    generator = torch.Generator().manual_seed(seed)

    def normal(*of: int) -> Tensor:
        return torch.randn(*of, generator=generator, dtype=torch.float64)

    weight = normal(vocabulary, width) / width**0.5
    targets = torch.randint(0, vocabulary, (size,), generator=generator)
    if size > 2:
        targets[0], targets[-1] = 0, vocabulary - 1
    # real heads have correlated rows: noise alone would be flat, and hide a wrong maximum
    favourite = torch.where(torch.arange(size) % 2 == 0, targets, targets.flip(0))
    strength = torch.linspace(0, sharpness, size, dtype=torch.float64).unsqueeze(1)
    hidden = normal(size, width) + strength * weight[favourite]
    if ignored:
        targets[torch.rand(size, generator=generator) < ignored] = IGNORED
    tensors = {"hidden": hidden.view(*shape, width), "weight": weight}
    if bias:
        tensors["bias"] = normal(vocabulary)
    if rank:
        tensors["low_hidden"] = normal(*shape, rank)
        tensors["low_weight"] = normal(vocabulary, rank) / rank**0.5
    alive = (torch.rand(size, generator=generator) >= dead).double()
    g, e = ((normal(size) * alive).view(shape) for _ in range(2))
    statistics: Sequence[str] = options.get("statistics", ())
    return Case(
        tensors,
        targets.view(shape),
        options,
        of_logprobs=g if logprob_gradient else None,
        of_entropies=e if entropy_gradient else None,
        of_statistics={name: (normal(size) * alive).view(shape) for name in statistics},
    )


def call(inputs: Case, tensors: dict[str, Tensor], impl: str, **options: Any) -> Result:
    """Return what the public function gives for these tensors in place of the case's own."""
    low_rank = None
    if "low_hidden" in tensors:
        low_rank = LowRank(tensors["low_hidden"], tensors["low_weight"])
    return linear_logprob_entropy(
        tensors["hidden"],
        tensors["weight"],
        inputs.targets,
        bias=tensors.get("bias"),
        low_rank=low_rank,
        impl=impl,  # type: ignore[arg-type]
        **(inputs.options | options),
    )


def loss(inputs: Case, result: Result) -> Tensor:
    """Return Σ weight x result of everything that has a weight."""
    total = result.logprobs.new_zeros(())
    if inputs.of_logprobs is not None:
        total = total + (inputs.of_logprobs * result.logprobs).sum()
    if inputs.of_entropies is not None:
        total = total + (inputs.of_entropies * result.entropies).sum()
    for name, weight in inputs.of_statistics.items():
        if result.statistics[name].requires_grad:
            total = total + (weight * result.statistics[name]).sum()
    return total


def leaves(inputs: Case, learning: Iterable[str] = PARAMETERS) -> dict[str, Tensor]:
    """Return the tensors as leaves, those in `learning` with a gradient; strides are kept."""
    return {
        name: tensor.detach().requires_grad_(name in set(learning))
        for name, tensor in inputs.tensors.items()
    }


def run(
    inputs: Case, impl: str = "chunked", learning: Iterable[str] = PARAMETERS, **options: Any
) -> Run:
    """Return results and gradients of a case."""
    learning = set(learning)
    tensors = leaves(inputs, learning)
    result = call(inputs, tensors, impl, **options)
    asked = {name: tensor for name, tensor in tensors.items() if name in learning}
    found = torch.autograd.grad(loss(inputs, result), list(asked.values())) if asked else ()
    return Run(result, dict(zip(asked, found, strict=True)))


def relative(found: Tensor, truth: Tensor) -> float:
    """Return ‖found - truth‖ / ‖truth‖, or ‖found‖ where the truth is 0."""
    norm = truth.double().norm()
    return float((found.double() - truth.double()).norm() / (norm if norm > 0 else 1.0))


def worst(found: Tensor, truth: Tensor) -> float:
    """Return the greatest error; 0 of no number."""
    error = (found.detach().double() - truth.detach().double()).abs()
    return float(error.max()) if error.numel() else 0.0


def assert_exact(
    inputs: Case,
    found: Run | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    impl: str = "chunked",
    **options: Any,
) -> None:
    """Assert that a run is within the bars of float64, and, but in float64, within twice the error of plain PyTorch.

    Args:
        inputs: In any dtype; all runs start with its numbers as they are in `dtype`.
        found: What is judged; None: of a run here.
        dtype: Of the run.
        impl: Of the run.
        options: Of the run that is judged.
    """
    rounded = inputs.to(dtype)
    found = run(rounded, impl, **options) if found is None else found
    truth, plain = run(rounded.to(torch.float64), "naive"), run(rounded, "naive")
    scale = max(1.0, worst(truth.result.entropies, torch.zeros(())))
    is_wide = dtype == torch.float64
    bars = {"logprobs": LOGPROB_BAR, "entropies": ENTROPY_BAR * scale}
    bars |= dict.fromkeys(inputs.options.get("statistics", ()), ENTROPY_BAR * scale)
    for name, bar in bars.items():
        expected = _value(truth, name)
        assert _value(found, name).shape == inputs.targets.shape, name
        error = worst(_value(found, name), expected)
        allowed = 2 * worst(_value(plain, name), expected) + TINY * scale
        limit = WIDE_BAR * scale if is_wide else min(bar, allowed)
        assert error <= limit, f"{name}: {error:.2e} > {limit:.2e}"
    for name, expected in truth.gradients.items():
        got = found.gradients[name]
        assert (got.dtype, got.shape) == (rounded.tensors[name].dtype, expected.shape), name
        error = relative(got, expected)
        allowed = 2 * relative(plain.gradients[name], expected) + TINY
        # rounded once, to the dtype of what it is the gradient of
        own = torch.finfo(got.dtype).eps / 2 if got.dtype.itemsize < 4 else 0.0
        limit = WIDE_BAR if is_wide else min(GRADIENT_BAR + own, allowed)
        assert error <= limit, f"gradient of {name}: {error:.2e} > {limit:.2e}"


def _value(of: Run, name: str) -> Tensor:
    own = {"logprobs": of.result.logprobs, "entropies": of.result.entropies}
    return (own | of.result.statistics)[name]


def assert_same(one: Run, other: Run) -> None:
    """Assert that two runs agree bit for bit."""
    assert one.gradients.keys() == other.gradients.keys()
    pairs = zip(
        [*values(one.result), *one.gradients.values()],
        [*values(other.result), *other.gradients.values()],
        strict=True,
    )
    for a, b in pairs:
        assert torch.equal(a, b)


def values(result: Result) -> list[Tensor]:
    """Return log-probs, entropies and every statistic."""
    return [result.logprobs, result.entropies, *result.statistics.values()]


class Work:
    """Counts the multiplications that the chunked implementation makes from here on."""

    def __init__(self, monkeypatch: Any) -> None:
        self.products: list[tuple[int, int, int]] = []
        original = chunked.product

        def counted(a: Tensor, b: Tensor, out: Tensor, *, add: bool = False) -> Tensor:
            self.products.append((a.shape[0], a.shape[1], b.shape[1]))
            return original(a, b, out, add=add)

        monkeypatch.setattr(chunked, "product", counted)

    def taken(self) -> int:
        """Return Σ m k n since it was last asked, and forget it."""
        total = sum(m * k * n for m, k, n in self.products)
        self.products.clear()
        return total
