"""Claims about the Triton kernels of a certified backward pass in the interpreter; test_certified.py runs them.

A tile has 128 x 128 logits, a product a depth of 64 and, in the interpreter, a width of 16 to 256: 150 rows, 300 columns and
a hidden size of 70 are just over a tile, ragged, and take two steps.
"""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvr.kernels import chunked, sparse
from rlvr.kernels.chunked import Gradients, Wanted
from tests.kernels.cases import relative
from tests.kernels.policy import NAMES, Asked, asked, by_product, multiplied, with_means

KINDS: dict[str, dict[str, Any]] = {
    "log-probs": {},
    "temperatures": {"warmth": True, "logit_scale": 1.3, "entropy_gradient": True},
    "everything": {"bias": True, "rank": 20, "softcap": 20.0, "entropy_gradient": True},
}
SIZES = [(1, 3, 70), (129, 257, 65), (3, 385, 256), (128, 128, 8)]
TOLERANCE = 0.1
"""So much that some of the few tiles are left out."""


def add_to_poisoned(*arguments: Any) -> None:
    """Call `add_tiles` with parameters' gradients that are no number before it writes them."""
    gradients: Gradients = arguments[3]
    for own in (gradients.weight, gradients.bias, gradients.low_weight):
        if own is not None:
            own.fill_(math.nan)
    sparse.add_tiles(*arguments)


TRITON = SimpleNamespace(add_tiles=add_to_poisoned)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel reads before it was written is no number."""
    new_empty = Tensor.new_empty

    def poison(*arguments: Any, **options: Any) -> Tensor:
        made = new_empty(*arguments, **options)
        return made.fill_(math.nan) if made.is_floating_point() else made

    monkeypatch.setattr(Tensor, "new_empty", poison)


def small(rows: int = 150, vocabulary: int = 300, width: int = 70, **kind: Any) -> Asked:
    return asked(rows, vocabulary, width, **{"dtype": torch.float32} | kind)


def assert_right(of: Asked, tolerance: float = TOLERANCE, bar: float = 0.0) -> None:
    """Assert that errors against float64 are within twice the chunked implementation's, and rounding's."""
    # of logits: another one than in forward, which another kernel ran
    bar += torch.finfo(torch.float32).eps * float(of.upstream.log_z.max())
    found, report = of.backward(tolerance, implementation=TRITON)
    chunk, other = of.backward(tolerance)
    assert report == other
    truth = multiplied(with_means(by_product(of), of.plan(tolerance)), of)
    for name in NAMES:
        got, expected = getattr(found, name), getattr(chunk, name)
        assert (got is None) == (expected is None), name
        if got is not None:
            assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
            error, allowed = relative(got, truth[name]), relative(expected, truth[name])
            assert error <= 2 * allowed + bar, f"{name}: {error:.1e}, {allowed:.1e}"


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_gradients_of_made_tiles_are_right(kind: dict[str, Any]) -> None:
    of = small(**kind)
    plan = of.plan(TOLERANCE)
    assert 0 < plan.made.sum() < plan.made.numel()
    assert_right(of)


@pytest.mark.parametrize(("rows", "vocabulary", "width"), SIZES)
def test_ragged_sizes_are_right(rows: int, vocabulary: int, width: int) -> None:
    assert_right(small(rows, vocabulary, width, bias=True, rank=2))


def test_no_rows_give_no_gradient() -> None:
    found, _ = small(0, bias=True).backward(TOLERANCE, implementation=TRITON)
    assert found.hidden is not None
    assert found.hidden.shape == (0, 70)
    for own in (found.weight, found.bias):
        assert own is not None
        assert not own.any()


def test_a_block_without_tiles_gets_its_start() -> None:
    of = small(bias=True, rank=2)
    plan = of.plan(1e300)
    assert not plan.made.any()
    assert_right(of, 1e300)


def test_ranges_of_the_vocabulary_change_only_the_order_of_sums(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of = small(vocabulary=500, bias=True, rank=2)
    assert of.plan(TOLERANCE).made.sum() > 3
    whole, _ = of.backward(TOLERANCE, implementation=TRITON)
    monkeypatch.setattr(sparse, "TILES_BYTES", 3 * 128 * 128 * 4)
    cut, _ = of.backward(TOLERANCE, implementation=TRITON)
    for name in NAMES:
        one, other = getattr(whole, name), getattr(cut, name)
        if name in ("hidden", "low_hidden"):
            torch.testing.assert_close(one, other)
        else:
            assert torch.equal(one, other), name


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([], [(0, 0, 0, 0)]),
        ([0, 0], [(0, 2, 0, 0)]),
        ([2, 2, 2], [(0, 2, 0, 4), (2, 3, 4, 6)]),
        ([9, 0, 9], [(0, 2, 0, 9), (2, 3, 9, 18)]),
        ([1, 4, 0, 5], [(0, 1, 0, 1), (1, 3, 1, 5), (3, 4, 5, 10)]),
    ],
)
def test_a_range_has_no_more_tiles_than_fit_but_one_block_at_least(
    counts: list[int], expected: list[tuple[int, ...]]
) -> None:
    found = sparse._ranges(counts, 4)
    assert [(b.start, b.stop, t.start, t.stop) for b, t in found] == expected


def test_two_runs_give_the_same_bits() -> None:
    of = small(bias=True, rank=2, entropy_gradient=True)
    one, other = (of.backward(TOLERANCE, implementation=TRITON)[0] for _ in range(2))
    for name in NAMES:
        assert torch.equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("name", ["hidden", "weight", "bias"])
def test_each_gradient_is_made_alone(name: str) -> None:
    of = small(bias=True)
    wanted = Wanted(*(name == other for other in NAMES))
    alone, _ = of.backward(TOLERANCE, wanted=wanted, implementation=TRITON)
    expected, _ = of.backward(TOLERANCE, wanted=wanted)
    for other in NAMES:
        assert (getattr(alone, other) is None) == (other != name)
    torch.testing.assert_close(getattr(alone, name), getattr(expected, name), rtol=1e-5, atol=1e-4)


def test_matrices_need_not_be_contiguous() -> None:
    of = small()
    before, _ = of.backward(TOLERANCE)
    p = of.projection
    turned = Asked(
        chunked.Projection(
            p.hidden.T.contiguous().T, p.weight.T.contiguous().T, operand_dtype=p.operand_dtype
        ),
        *(of.upstream, of.partials),
    )
    after, _ = turned.backward(TOLERANCE, implementation=TRITON)
    for name in ("hidden", "weight"):
        torch.testing.assert_close(
            getattr(after, name), getattr(before, name), rtol=1e-5, atol=1e-5
        )


def test_low_precision_is_rounded_where_the_chunked_implementation_rounds() -> None:
    kind = {"bias": True, "rank": 2, "entropy_gradient": True}
    # the interpreter cuts digits off where a GPU rounds to the nearest: up to 2^-7 of a number, always to the same side
    assert_right(small(dtype=torch.bfloat16, **kind), bar=2**-7)
    assert_right(small(operand_dtype=torch.bfloat16, **kind), bar=2**-7)
