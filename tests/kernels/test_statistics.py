"""Named statistics against their definitions, in whole rows a few at a time, and within the memory that those need."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rlvr.kernels import chunked
from rlvr.kernels.statistics import (
    FILTERED,
    carries_gradient,
    of_logits,
    parse,
    statistic,
)
from tests.kernels import cases

NAMES = [
    "sum_p2",
    "sum_p2_logp",
    "top_p_entropy:0.8",
    "top_p_entropy:0.8:4",
    "nucleus_entropy:0.8",
    "nucleus_entropy:0.8:2",
    "top_k_entropy:3",
    "top_k_mass:3",
    "min_p_logprob:0.2",
    "tempered_logprob:1.5",
]


def by_hand(p: list[float], taken: int) -> dict[str, float]:
    """Return every statistic of NAMES of one distribution, token by token."""
    from math import log

    def entropy(masses: list[float]) -> float:
        total = sum(masses)
        return -sum(m / total * log(m / total) for m in masses)

    ranked = sorted(p, reverse=True)
    head: list[float] = []
    for mass in ranked:
        if sum(head) + mass >= 0.8:
            break
        head.append(mass)
    nucleus = ranked[: len(head) + 1]
    most = max(p)
    left = [mass for mass in p if mass >= 0.2 * most]
    hot = [mass ** (1 / 1.5) for mass in p]
    return {
        "sum_p2": sum(m * m for m in p),
        "sum_p2_logp": sum(m * m * log(m) for m in p),
        "top_p_entropy:0.8": entropy(head) if head else 0.0,
        "top_p_entropy:0.8:4": entropy(head[:4]) if head else 0.0,
        "nucleus_entropy:0.8": entropy(nucleus),
        "nucleus_entropy:0.8:2": entropy(nucleus[:2]),
        "top_k_entropy:3": -sum(m * log(m) for m in ranked[:3]),
        "top_k_mass:3": sum(ranked[:3]),
        "min_p_logprob:0.2": log(p[taken] / sum(left)) if p[taken] >= 0.2 * most else FILTERED,
        "tempered_logprob:1.5": log(hot[taken] / sum(hot)),
    }


def some_logits(rows: int = 40, size: int = 9, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(rows, size, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, size, (rows,), generator=generator)


@pytest.mark.parametrize("name", NAMES)
def test_a_statistic_is_its_definition(name: str) -> None:
    logits, taken = some_logits()
    found = of_logits(logits, taken, [name])[name]
    rows = logits.softmax(-1).tolist()
    expected = [by_hand(p, int(a))[name] for p, a in zip(rows, taken, strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_temperature_is_that_of_the_distribution_and_tempered_is_of_the_raw_logits() -> None:
    logits, taken = some_logits()
    warm = of_logits(logits, taken, NAMES, temperature=1.7)
    scaled = of_logits(logits / 1.7, taken, NAMES)
    for name in NAMES[:-1]:
        torch.testing.assert_close(warm[name], scaled[name])
    torch.testing.assert_close(warm[NAMES[-1]], of_logits(logits, taken, NAMES)[NAMES[-1]])
    at_one = of_logits(logits, taken, ["tempered_logprob:1"])["tempered_logprob:1"]
    torch.testing.assert_close(at_one, logits.log_softmax(-1).gather(-1, taken[:, None])[:, 0])


def test_one_token_that_has_the_mass_leaves_no_head_and_a_nucleus_of_one() -> None:
    logits = torch.tensor([[9.0, 0.0, 0.0]])
    found = of_logits(logits, torch.tensor([0]), ["top_p_entropy:0.8", "nucleus_entropy:0.8"])
    assert all(value.item() == 0 for value in found.values())


def test_impossible_tokens_are_no_nan() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 1.0, -torch.inf]], requires_grad=True)
    found = of_logits(logits, torch.tensor([1]), NAMES)
    for name, value in found.items():
        assert not value.isnan().any(), name
    sum(found[name].sum() for name in NAMES if carries_gradient(name)).backward()  # type: ignore[union-attr]
    assert logits.grad is not None
    assert logits.grad[:, [0, 2]].isfinite().all()


@pytest.mark.parametrize("name", [name for name in NAMES if carries_gradient(name)])
def test_the_gradient_is_that_of_the_head_held_fixed(name: str) -> None:
    logits, taken = some_logits(rows=4)
    assert torch.autograd.gradcheck(
        lambda free: of_logits(free, taken, [name])[name], logits.requires_grad_()
    )
    # SIREN: -q (ln q + H) inside, 0 outside
    (gradient,) = torch.autograd.grad(of_logits(logits, taken, [name])[name].sum(), logits)
    value = of_logits(logits, taken, [name])[name].detach()
    p = logits.detach().softmax(-1)
    inside = gradient.abs() > 1e-12
    q = torch.where(inside, p, 0.0)
    q = q / q.sum(-1, keepdim=True).clamp(min=1e-300)
    expected = torch.where(inside, -q * (q.clamp(min=1e-300).log() + value[:, None]), 0.0)
    torch.testing.assert_close(gradient, expected)


def test_a_row_that_is_no_number_has_no_statistic_that_is_one() -> None:
    logits = torch.tensor([[0.0, torch.nan, 1.0]])
    for name in ("sum_p2", "sum_p2_logp", "top_k_entropy:3", "top_k_mass:3"):
        assert of_logits(logits, torch.tensor([0]), [name])[name].isnan().all(), name


@pytest.mark.parametrize("rows", [1, 5, 10_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_how_many_rows_are_looked_at_never_matters(
    rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "WHOLE_ROWS", rows * 33)
    # the target's own probability decides what min_p does: none is near its bound
    inputs = cases.case(23, 33, 6, bias=True, statistics=NAMES, temperature=0.7)
    cases.assert_exact(inputs, dtype=dtype)


def test_no_token_is_no_statistic() -> None:
    found = cases.run(cases.case(0, 9, 6, statistics=NAMES)).result.statistics
    assert list(found) == NAMES
    assert all(value.shape == (0,) for value in found.values())


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that an operation returns."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for item in result if isinstance(result, tuple | list) else [result]:
            if isinstance(item, Tensor):
                self.numbers = max(self.numbers, item.numel())
        return result


def test_no_tensor_is_larger_than_the_rows_that_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunked, "WHOLE_ROWS", 8 * 500)
    inputs = cases.case(400, 500, 4, statistics=NAMES)
    with _Largest() as largest:
        cases.run(inputs, cache_bytes=0)
    # logits and what they become, side by side
    assert 8 * 500 <= largest.numbers <= 2 * 8 * 500


def test_names_are_checked() -> None:
    assert statistic("top_p_entropy", 0.8, 10_000) == "top_p_entropy:0.8:10000"
    assert parse("min_p_logprob:0.02") == ("min_p_logprob", [0.02])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "top_entropy",
            r"unknown statistic 'top_entropy'\. Did you mean 'top_k_entropy' or 'top_p_entropy'\?",
        ),
        ("top_k_mass", "'top_k_mass' has 0 parameters; it is written top_k_mass:K"),
        ("sum_p2:1", "'sum_p2:1' has 1 parameters; it is written sum_p2$"),
        ("top_p_entropy", r"it is written top_p_entropy:M\[:K\]"),
        ("top_p_entropy:0", "M is 0; it is above 0, at most 1"),
        ("nucleus_entropy:0.8:2.5", "K is 2.5; it is an integer above 0"),
        ("top_k_entropy:ten", "K is ten; it is an integer above 0"),
        ("min_p_logprob:2", "R is 2; it is between 0 and 1"),
        ("tempered_logprob:inf", "T is inf; it is a number above 0"),
    ],
)
def test_a_wrong_name_is_told_what_is_right(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(name)
