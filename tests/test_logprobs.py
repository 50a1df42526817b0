"""Named statistics against their definitions, in chunks, and within the memory that a chunk needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rlvr import logprobs
from rlvr.logprobs import FILTERED, carries_gradient, in_chunks, of_logits, parse, statistic

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
    logits, taken = some_logits(rows=12)
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


@pytest.mark.parametrize("chunk", [9, 40, 10_000])
def test_chunks_never_matter(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(23, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    taken = torch.randint(0, 9, (23,), generator=generator)
    head = nn.Linear(6, 9, dtype=torch.float64)
    found = in_chunks(
        hidden, head, taken, NAMES, vocabulary=9, temperature=0.7, dtype=torch.float64
    )
    whole = of_logits(head(hidden), taken, NAMES, temperature=0.7)
    assert found.keys() == whole.keys()
    torch.testing.assert_close(found, {name: whole[name] for name in found})
    ours, theirs = (
        torch.autograd.grad(
            sum(
                (2 * part[name].sum() for name in NAMES if carries_gradient(name)), torch.zeros(())
            ),
            [hidden, head.weight, head.bias],
        )
        for part in (found, whole)
    )
    torch.testing.assert_close(ours, theirs)


def test_no_token_is_no_statistic() -> None:
    head = nn.Linear(6, 9)
    none = torch.zeros(0, dtype=torch.long)
    found = in_chunks(torch.zeros(0, 6), head, none, NAMES, vocabulary=9)
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


def test_no_tensor_is_larger_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "CHUNK", 8 * 500)
    hidden, head = torch.randn(400, 4, requires_grad=True), nn.Linear(4, 500)
    with _Largest() as largest:
        found = in_chunks(hidden, head, torch.zeros(400, dtype=torch.long), NAMES, vocabulary=500)
        sum((value.sum() for value in found.values()), torch.zeros(())).backward()
    assert 0 < largest.numbers <= 8 * 500


_PEAK = """
import sys, torch
from rlvr.logprobs import in_chunks, of_logits
tokens, vocabulary = 1024, 16_000
hidden, head = torch.randn(tokens, 64, requires_grad=True), torch.nn.Linear(64, vocabulary)
taken = torch.zeros(tokens, dtype=torch.long)
names = ["sum_p2", "top_p_entropy:0.8"]
def descend(found):
    sum(value.sum() for value in found.values()).backward()
# what is loaded and made once does not count
descend(in_chunks(hidden[:8], head, taken[:8], names, vocabulary=vocabulary))
# not ru_maxrss: that of a process begins with what its parent had
def memory(kind):
    [line] = [line for line in open("/proc/self/status") if line.startswith(kind)]
    return int(line.split()[1])
before = memory("VmRSS")
if sys.argv[1] == "chunks":
    import rlvr.logprobs
    rlvr.logprobs.CHUNK = 2**19
    found = in_chunks(hidden, head, taken, names, vocabulary=vocabulary)
else:
    found = of_logits(head(hidden), taken, names)
descend(found)
print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads Linux's account of memory"
)
def test_memory_is_that_of_chunks_not_of_all_logits() -> None:
    """1024 tokens of 16,000 logits are 66 MB; chunks of 2**19 logits are 2 MB, and some of them live at a time."""
    peaks = {}
    for how in ("chunks", "whole"):
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, how],
            # what is freed goes back to the system at once: the peak is that of live memory
            env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"},
            capture_output=True,
            text=True,
            check=True,
        )
        peaks[how] = int(done.stdout) * 1024
    assert peaks["whole"] > 3 * 1024 * 16_000 * 4
    assert peaks["chunks"] < 1024 * 16_000 * 4 / 2


def test_names_are_checked() -> None:
    assert statistic("top_p_entropy", 0.8, 10_000) == "top_p_entropy:0.8:10000"
    assert parse("min_p_logprob:0.02") == ("min_p_logprob", [0.02])
    with pytest.raises(ValueError, match="no statistic 'top_entropy'; there are: sum_p2"):
        parse("top_entropy")
    with pytest.raises(ValueError, match="top_k_mass takes 1 to 1 parameters, not 0"):
        parse("top_k_mass")
