"""Claims about the Triton kernels that hold in the interpreter; run by test_triton.py in a process of its own.

Shapes: a tile of the interpreter has 64 x 128 logits and a depth of 64, so 300 columns and a width of 70 are ragged, and
take three tiles and two steps. What the interpreter takes goes by tiles: but for the first test all rows are in one.
"""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvr.kernels import fused, launch
from rlvr.kernels.launch import Tile
from rlvr.kernels.linear import linear_logprob_entropy
from rlvr.kernels.partials import SQUARES, merge
from rlvr.kernels.projection import IGNORED, Projection
from tests.kernels.cases import (
    PARAMETERS,
    Case,
    Run,
    assert_exact,
    assert_same,
    case,
    leaves,
    relative,
    run,
    worst,
)

SHAPE = {"rows": 40, "vocabulary": 300, "width": 70}
ALL_ROWS = 2**30
SOME_ROWS = 300 * 4 * 20  # 20 rows of 300 logits


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel forgets to write is no number."""
    empty, empty_like, new_empty = torch.empty, torch.empty_like, Tensor.new_empty

    def poison(made: Tensor) -> Tensor:
        return made.fill_(math.nan) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", lambda *a, **k: poison(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: poison(empty_like(*a, **k)))
    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: poison(new_empty(*a, **k)))


def check(inputs: Case, cache_bytes: int = SOME_ROWS, **options: Any) -> Run:
    """Assert that results and gradients are right, some rows kept and others made again; return the run."""
    found = run(inputs.to(torch.float32), "triton", cache_bytes=cache_bytes, **options)
    assert_exact(inputs, found)
    return found


@pytest.mark.parametrize("entropy_gradient", [True, False])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("cache_bytes", [0, SOME_ROWS, ALL_ROWS])
def test_gradients_are_right_however_many_rows_are_kept(
    cache_bytes: int, softcap: float | None, entropy_gradient: bool
) -> None:
    check(case(**SHAPE, softcap=softcap, entropy_gradient=entropy_gradient), cache_bytes)


@pytest.mark.parametrize(
    ("rows", "vocabulary", "width"),
    [(1, 300, 70), (64, 128, 64), (65, 129, 65), (65, 257, 24), (130, 257, 8), (3, 100, 1)],
)
def test_ragged_sizes_are_right(rows: int, vocabulary: int, width: int) -> None:
    check(case(rows, vocabulary, width))


def test_no_rows_give_nothing_and_no_gradient() -> None:
    found = run(case(0, 300, 70).to(torch.float32), "triton")
    assert found.result.logprobs.shape == (0,)
    assert not found.gradients["weight"].any()


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
def test_every_temperature_is_right(temperature: float) -> None:
    check(case(**SHAPE, temperature=temperature))


def test_entropy_gradient_alone_is_right() -> None:
    check(case(**SHAPE, logprob_gradient=False))


def test_a_temperature_of_each_row_is_right() -> None:
    check(case(**SHAPE, temperature=torch.linspace(0.5, 2.0, 40), softcap=5.0))


@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize(("bias", "rank"), [(True, 0), (False, 3), (True, 20)])
def test_bias_adapter_and_cap_are_right_together(
    bias: bool, rank: int, softcap: float | None
) -> None:
    check(case(**SHAPE, bias=bias, rank=rank, softcap=softcap, temperature=0.9, logit_scale=0.7))


def test_a_rank_above_a_step_is_right() -> None:
    check(case(20, 130, 16, rank=70))


def test_a_bias_of_minus_infinity_takes_tokens_out() -> None:
    inputs = case(**SHAPE, bias=True)
    # all of the second tile, and single tokens; no target among them
    inputs.tensors["bias"][128:256] = -torch.inf
    inputs.tensors["bias"][::7] = -torch.inf
    allowed = inputs.tensors["bias"].isfinite().nonzero().squeeze(1)
    inputs = replace(inputs, targets=allowed[inputs.targets % len(allowed)])
    found = check(inputs)
    assert all(gradient.isfinite().all() for gradient in found.gradients.values())
    assert not found.gradients["weight"][128:256].any()


@pytest.mark.parametrize("offset", [-100.0, 100.0])
@pytest.mark.parametrize("cache_bytes", [0, ALL_ROWS])
def test_logits_far_from_zero_are_right(offset: float, cache_bytes: int) -> None:
    # columns that do not exist must not count as logits of 0, nor may exp overflow
    inputs = case(**SHAPE, bias=True)
    inputs.tensors["bias"] += offset
    check(inputs, cache_bytes)


def test_what_rounding_leaves_out_of_the_normalizer_counts() -> None:
    # of logits of -200 it is up to 8e-6 nats: left out, gradients are off by 1.6 times plain PyTorch's error
    inputs = case(**SHAPE, bias=True)
    inputs.tensors["bias"] -= 200.0
    rounded = inputs.to(torch.float32)
    truth, plain = run(rounded.to(torch.float64), "naive"), run(rounded, "naive")
    for name, gradient in run(rounded, "triton").gradients.items():
        error = relative(gradient, truth.gradients[name])
        assert error < 1.2 * relative(plain.gradients[name], truth.gradients[name]), name


def test_capped_columns_that_do_not_exist_do_not_count() -> None:
    inputs = case(**SHAPE, softcap=2.0)
    inputs.tensors["hidden"][:, 0] = -100.0
    inputs.tensors["weight"][:, 0] = 1.0
    result = run(inputs.to(torch.float32), "triton").result
    # every logit is -2, the cap: all tokens are alike
    torch.testing.assert_close(result.entropies, torch.full((40,), math.log(300)))


def test_peaked_rows_are_right() -> None:
    check(case(**SHAPE, sharpness=40.0))


def test_first_and_last_token_are_found() -> None:
    inputs = case(**SHAPE)
    assert {0, 299} <= set(inputs.targets.tolist())
    for token in (0, 128, 299):
        check(replace(inputs, targets=torch.full_like(inputs.targets, token)))


@pytest.mark.parametrize("names", [SQUARES, SQUARES[:1], SQUARES[1:]])
def test_squares_are_right(names: tuple[str, ...]) -> None:
    check(case(**SHAPE, statistics=names, temperature=0.8))


def test_ignored_rows_are_zero_and_never_read() -> None:
    inputs = case(**SHAPE, ignored=0.4).to(torch.float32)
    ignored = inputs.targets == IGNORED
    check(inputs)
    poisoned = replace(
        inputs, tensors=inputs.tensors | {"hidden": inputs.tensors["hidden"].clone()}
    )
    poisoned.tensors["hidden"][ignored] = math.nan
    found, clean = run(poisoned, "triton"), run(inputs, "triton")
    assert_same(found, clean)
    assert not found.result.logprobs[ignored].any()
    assert not found.gradients["hidden"][ignored].any()


def test_all_rows_ignored_give_zeros() -> None:
    inputs = case(**SHAPE).to(torch.float32)
    found = run(replace(inputs, targets=torch.full_like(inputs.targets, IGNORED)), "triton")
    for value in (found.result.logprobs, found.result.entropies, *found.gradients.values()):
        assert not value.any()


def test_dead_rows_have_a_gradient_of_exactly_zero() -> None:
    inputs = case(**SHAPE, dead=0.5)
    found = check(inputs)
    assert inputs.of_logprobs is not None
    dead = inputs.of_logprobs == 0
    assert dead.any()
    assert not found.gradients["hidden"][dead].any()


def test_a_live_hint_changes_which_rows_are_kept_and_no_result() -> None:
    inputs = case(**SHAPE, dead=0.5)
    assert inputs.of_logprobs is not None
    alive = inputs.of_logprobs != 0
    for live in (alive, ~alive):
        check(inputs.but(live=live))


def test_non_contiguous_inputs_are_right() -> None:
    inputs = case(**SHAPE, bias=True, rank=4)

    def spread(tensor: Tensor) -> Tensor:
        # every other number of a larger tensor, along each dimension
        room = torch.full([2 * n for n in tensor.shape], math.nan, dtype=torch.float32)
        view = room[tuple(slice(None, None, 2) for _ in tensor.shape)]
        return view.copy_(tensor)

    rounded = inputs.to(torch.float32)
    strided = replace(rounded, tensors={k: spread(t) for k, t in rounded.tensors.items()})
    matrices = {k: t.T.contiguous().T for k, t in rounded.tensors.items() if t.ndim == 2}
    turned = replace(rounded, tensors=rounded.tensors | matrices)
    for cache_bytes in (0, ALL_ROWS):
        plain = run(rounded, "triton", cache_bytes=cache_bytes)
        assert_exact(inputs, plain)
        for other in (strided, turned):
            assert_same(run(other, "triton", cache_bytes=cache_bytes), plain)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_gradient_asked_for_alone_is_the_same(name: str) -> None:
    inputs = case(**SHAPE, bias=True, rank=4).to(torch.float32)
    whole, alone = run(inputs, "triton"), run(inputs, "triton", learning=[name])
    assert list(alone.gradients) == [name]
    assert torch.equal(alone.gradients[name], whole.gradients[name])


def test_sums_of_results_have_a_gradient() -> None:
    # upstream gradients are then one number, expanded
    inputs = case(**SHAPE).to(torch.float32)
    ones = torch.ones(40)
    tensors = leaves(inputs)
    found = linear_logprob_entropy(
        tensors["hidden"], tensors["weight"], inputs.targets, temperature=0.9, impl="triton"
    )
    (found.logprobs.sum() + found.entropies.sum()).backward()
    weighted = replace(inputs, of_logprobs=ones, of_entropies=ones).but(temperature=0.9)
    for name, gradient in run(weighted, "triton").gradients.items():
        assert torch.equal(tensors[name].grad, gradient)


@pytest.mark.parametrize("cache_bytes", [0, SOME_ROWS, ALL_ROWS])
def test_two_runs_are_equal_bit_for_bit(cache_bytes: int) -> None:
    inputs = case(**SHAPE, bias=True, statistics=SQUARES).to(torch.float32)
    first = run(inputs, "triton", cache_bytes=cache_bytes)
    assert_same(first, run(inputs, "triton", cache_bytes=cache_bytes))


def test_a_row_does_not_depend_on_the_others() -> None:
    inputs = case(**SHAPE).to(torch.float32)
    hidden, weight = inputs.tensors["hidden"], inputs.tensors["weight"]
    whole = linear_logprob_entropy(hidden, weight, inputs.targets, impl="triton")
    order = torch.arange(40).flip(0)
    turned = linear_logprob_entropy(hidden[order], weight, inputs.targets[order], impl="triton")
    assert torch.equal(whole.logprobs[order], turned.logprobs)
    assert torch.equal(whole.entropies[order], turned.entropies)


def test_rows_folded_in_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = case(**SHAPE, bias=True, rank=3, statistics=SQUARES)
    inputs = inputs.but(temperature=torch.linspace(0.5, 2.0, 40))
    for cache_bytes in (0, SOME_ROWS):
        whole = check(inputs, cache_bytes)
        monkeypatch.setattr(launch, "FOLDED_ROWS", 16)
        assert_same(check(inputs, cache_bytes), whole)


def test_pieces_of_the_head_give_the_same_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = case(40, 400, 70, bias=True)
    whole = run(inputs.to(torch.float32), "triton", cache_bytes=SOME_ROWS)
    # room for one tile of columns and a little more: four pieces
    monkeypatch.setattr(launch, "GRADIENT_BYTES", 40 * 130 * 4)
    parts = run(inputs.to(torch.float32), "triton", cache_bytes=SOME_ROWS)
    assert_exact(inputs, parts)
    for name in ("weight", "bias"):
        torch.testing.assert_close(parts.gradients[name], whole.gradients[name])


@pytest.mark.parametrize("block", [32, 64, 128])
def test_partials_of_smaller_blocks_are_those_of_the_tile_split(block: int) -> None:
    inputs = case(**SHAPE).to(torch.float32)
    projection = Projection(inputs.tensors["hidden"], inputs.tensors["weight"], temperature=0.8)
    found = fused.forward(projection, inputs.targets, statistics=SQUARES, block=block)
    partials = found.partials
    assert partials.m.shape == (math.ceil(300 / block), 40)
    logits = (projection.hidden.double() @ projection.weight.double().T / 0.8).split(block, dim=1)
    for number, z in enumerate(logits):
        top = z.amax(1)
        e = (z - top.unsqueeze(1)).exp()
        assert worst(partials.m[number], top) < 1e-5
        assert worst(partials.s[number], e.sum(1)) < 1e-4
        assert worst(partials.w[number], (e * (z - top.unsqueeze(1))).sum(1)) < 1e-4
    whole = fused.forward(projection, inputs.targets, statistics=SQUARES)
    for name in ("log_z", "entropies", *SQUARES):
        one, other = getattr(merge(partials), name), getattr(whole.merged, name)
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cache_bytes", [0, ALL_ROWS])
def test_descriptors_give_the_same_bits_as_addresses(
    cache_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # rows of 16 bytes: 72 numbers, and a rank of 4
    inputs = case(130, 300, 72, bias=True, rank=4, statistics=SQUARES).to(torch.float32)
    # a piece of the head is one tile of columns
    monkeypatch.setattr(launch, "GRADIENT_BYTES", 0)
    plain = run(inputs, "triton", cache_bytes=cache_bytes)
    monkeypatch.setattr(launch, "INTERPRETED", replace(launch.INTERPRETED, variant="descriptor"))
    assert launch.can_describe(*(t for t in inputs.tensors.values() if t.ndim == 2))
    assert_same(run(inputs, "triton", cache_bytes=cache_bytes), plain)
    # rows of 70 numbers cannot be described: by addresses, and right
    check(case(**SHAPE))


@pytest.mark.parametrize(("rows", "columns"), [(32, 64), (128, 512)])
def test_no_result_depends_on_the_tile(
    rows: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "INTERPRETED", Tile(rows, columns, 32, warps=1, stages=1))
    check(case(**SHAPE, softcap=6.0, statistics=SQUARES))


def test_a_probability_too_small_for_the_cache_has_no_gradient() -> None:
    # 120 nats below the maximum nothing is left of p in float32
    inputs = case(8, 300, 16, bias=True, sharpness=0.0)
    inputs.tensors["bias"][5] += 120.0
    found = check(inputs, ALL_ROWS)
    sampled = torch.zeros(300, dtype=torch.bool).index_fill_(0, inputs.targets, True)
    by_bias = found.gradients["bias"]
    assert by_bias[sampled].all()
    sampled[5] = True
    assert not by_bias[~sampled].any()


def test_a_head_in_another_dtype_is_cast() -> None:
    inputs = case(**SHAPE).to(torch.float32)
    half = replace(inputs, tensors=inputs.tensors | {"weight": inputs.tensors["weight"].half()})
    wide = replace(inputs, tensors=inputs.tensors | {"weight": half.tensors["weight"].float()})
    found, expected = run(half, "triton"), run(wide, "triton")
    assert found.gradients["weight"].dtype == torch.float16
    assert torch.equal(found.result.logprobs, expected.result.logprobs)
    assert torch.equal(found.gradients["weight"], expected.gradients["weight"].half())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    inputs = case(**SHAPE).to(dtype)
    hidden, weight = inputs.tensors["hidden"], inputs.tensors["weight"]
    low = Projection(hidden, weight, operand_dtype=dtype)
    found = fused.forward(low, inputs.targets)
    wide = fused.forward(Projection(hidden.float(), weight.float()), inputs.targets)
    # the same numbers, and their products are exact in float32
    torch.testing.assert_close(found.logprobs, wide.logprobs, atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(found.merged.entropies, wide.merged.entropies, atol=2e-6, rtol=1e-6)


def test_an_id_that_is_no_token_gives_no_number() -> None:
    inputs = case(**SHAPE).to(torch.float32)
    projection = Projection(inputs.tensors["hidden"], inputs.tensors["weight"])
    inputs.targets[3] = 300
    found = fused.forward(projection, inputs.targets).logprobs
    assert found.isnan().tolist() == [row == 3 for row in range(40)]
