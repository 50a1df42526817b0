"""Log-probs, entropies and gradients of a head without its logits in memory: exact, and nothing for what cannot learn."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlvr.kernels import chunked, linear
from rlvr.kernels.linear import LowRank, linear_logprob_entropy
from rlvr.kernels.projection import IGNORED, LOWEST
from tests.kernels import cases
from tests.kernels.cases import Work, assert_exact, assert_same, case, run

STATISTICS = ("sum_p2", "top_p_entropy:0.8", "sum_p2_logp", "nucleus_entropy:0.9:40")


@pytest.fixture(params=["whole", "cut"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Tiles as they are, or so small that every size here has many, and ragged ones at both ends."""
    if request.param == "cut":
        cut_tiles(monkeypatch)
    return request.param


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_tiles(monkeypatch)


def cut_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "ROWS", 8)
    monkeypatch.setattr(chunked, "COLUMNS", 64)
    monkeypatch.setattr(chunked, "WIDEST", 1)


# --- exact ---

# one; below, on and above a multiple of both tiles; a prime number of small ones
VOCABULARIES = [1, 2, 63, 64, 2047, 2048, 2049, 4099]


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_a_vocabulary_need_not_be_a_multiple_of_the_tile(vocabulary: int, tiles: str) -> None:
    assert_exact(case(vocabulary=vocabulary))


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 8, 9, (3, 5), (2, 0), (2, 2, 3)])
def test_rows_have_any_shape(rows: int | tuple[int, ...], tiles: str) -> None:
    assert_exact(case(rows, 129, 16, bias=True, rank=3))


@pytest.mark.parametrize("width", [1, 7, 64])
def test_a_width_is_any(width: int) -> None:
    assert_exact(case(9, 130, width))


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("logit_scale", [1.0, 0.25])
def test_logits_are_scaled_capped_and_warmed(
    temperature: float, softcap: float | None, logit_scale: float, cut: None
) -> None:
    options = {"temperature": temperature, "softcap": softcap, "logit_scale": logit_scale}
    squares = ("sum_p2", "sum_p2_logp")
    assert_exact(case(vocabulary=301, bias=True, rank=4, statistics=squares, **options))
    # in float64: in less, rounding decides which token is the last of a set
    assert_exact(case(vocabulary=301, statistics=STATISTICS, **options), dtype=torch.float64)


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_every_token_may_have_its_own_temperature(softcap: float | None, cut: None) -> None:
    inputs = case((3, 7), 301, softcap=softcap, ignored=0.2, dead=0.3)
    warmth = torch.linspace(0.6, 1.5, 21, dtype=torch.float64).view(3, 7)
    assert_exact(inputs.but(temperature=warmth))
    same = torch.full((3, 7), 0.7)
    one, each = (run(inputs.to(torch.float32).but(temperature=t)) for t in (0.7, same))
    torch.testing.assert_close(one.result.logprobs, each.result.logprobs)
    torch.testing.assert_close(one.gradients, each.gradients)


def test_a_temperature_in_another_dtype_is_not_rounded_further(cut: None) -> None:
    inputs = case(9, 301)
    warmth = torch.linspace(0.6, 1.5, 9, dtype=torch.bfloat16)
    exact, rounded = (
        run(inputs.to(torch.float32).but(temperature=t)) for t in (warmth.float(), warmth)
    )
    assert_same(exact, rounded)
    for impl in ("naive", "chunked"):
        wide = run(inputs.to(torch.float32), impl, temperature=warmth.double())
        assert wide.result.logprobs.dtype == torch.float32


@pytest.mark.parametrize("shift", [-200.0, 80.0])
def test_logits_may_all_be_far_from_zero(shift: float, tiles: str) -> None:
    inputs = case(vocabulary=2049, bias=True)
    inputs.tensors["bias"].add_(shift)
    rounded = inputs.to(torch.float32)
    found = run(rounded)
    # the rounding of the sums x Wᵀ + b themselves, half of the last place
    own = torch.finfo(torch.float32).eps * abs(shift) / 2
    truth, plain = run(rounded.to(torch.float64), "naive"), run(rounded, "naive")
    for name in ("logprobs", "entropies"):
        errors = [
            cases.worst(getattr(one.result, name), getattr(truth.result, name))
            for one in (found, plain)
        ]
        assert errors[0] <= 2 * errors[1] + cases.TINY
        assert errors[0] <= 2 * own
    for name, expected in truth.gradients.items():
        # ln Z is kept to more than its own last place: else they were off by 3e-6
        assert cases.relative(found.gradients[name], expected) <= cases.GRADIENT_BAR, name


@pytest.mark.parametrize("target", [0, 70, 300])
@pytest.mark.parametrize("top", [0, 70, 300])
@pytest.mark.parametrize("height", [10.0, 60.0])
def test_a_row_may_be_all_but_certain(target: int, top: int, height: float, cut: None) -> None:
    inputs = case(1, 301, 8, bias=True, sharpness=0.0)
    inputs.tensors["bias"][top] = height
    inputs.targets[0] = target
    inputs = inputs.to(torch.float32)
    truth, found = run(inputs.to(torch.float64), "naive"), run(inputs)
    assert cases.worst(found.result.logprobs, truth.result.logprobs) <= cases.LOGPROB_BAR
    assert cases.worst(found.result.entropies, truth.result.entropies) <= cases.ENTROPY_BAR
    assert float(found.result.logprobs.detach()) <= 0
    assert float(found.result.entropies.detach()) >= 0
    # gradients by the logits are those by the bias; p is in (0, 1), so they are known to its last place
    of_logits = found.gradients["bias"]
    assert inputs.of_logprobs is not None
    assert inputs.of_entropies is not None
    place = 2e-7 * float(inputs.of_logprobs.abs() + height * inputs.of_entropies.abs())
    assert cases.worst(of_logits, truth.gradients["bias"]) <= place
    # they add up to nothing
    assert float(of_logits.double().sum().abs()) <= place


@pytest.mark.parametrize("sharpness", [0.0, 20.0, 60.0])
def test_rows_are_flat_or_peaked(sharpness: float, tiles: str) -> None:
    assert_exact(case(vocabulary=2049, sharpness=sharpness))


def test_targets_at_both_ends_are_found(tiles: str) -> None:
    inputs = case(4, 2049)
    inputs.targets.copy_(torch.tensor([0, 2048, 0, 2048]))
    assert_exact(inputs)


def test_masked_tokens_have_no_mass_and_no_gradient(tiles: str) -> None:
    inputs = case(vocabulary=300, bias=True, statistics=("sum_p2", "sum_p2_logp"))
    # a whole small tile, a part of another, the last
    masked = torch.zeros(300, dtype=torch.bool)
    masked[64:150], masked[-1] = True, True
    inputs.tensors["bias"][masked] = -torch.inf
    inputs.targets[masked[inputs.targets]] = 7
    assert_exact(inputs)
    found = run(inputs.to(torch.float32))
    assert all(g[masked].eq(0).all() for n, g in found.gradients.items() if n != "hidden")
    left = {name: t if name == "hidden" else t[~masked] for name, t in inputs.tensors.items()}
    places = masked.logical_not().cumsum(0) - 1
    fewer = cases.Case(left, places[inputs.targets]).to(torch.float64)
    expected = cases.call(fewer, fewer.tensors, "naive")
    assert cases.worst(found.result.logprobs, expected.logprobs) <= cases.LOGPROB_BAR
    assert cases.worst(found.result.entropies, expected.entropies) <= cases.ENTROPY_BAR


@pytest.mark.parametrize("impl", ["naive", "chunked"])
def test_a_masked_target_is_improbable_and_no_nan(impl: str) -> None:
    inputs = case(2, 300, bias=True)
    inputs.tensors["bias"][7] = -torch.inf
    inputs.targets[0] = 7
    found = run(inputs.to(torch.float32), impl)
    assert float(found.result.logprobs[0].detach()) <= LOWEST / 2
    assert all(gradient.isfinite().all() for gradient in found.gradients.values())


@pytest.mark.parametrize("both", [(True, False), (False, True), (True, True)])
def test_the_loss_may_be_of_log_probs_of_entropies_or_of_both(
    both: tuple[bool, bool], tiles: str
) -> None:
    of_logprobs, of_entropies = both
    assert_exact(
        case(bias=True, rank=4, logprob_gradient=of_logprobs, entropy_gradient=of_entropies)
    )


def test_statistics_come_with_their_gradients(tiles: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if tiles == "cut":
        monkeypatch.setattr(chunked, "WHOLE_ROWS", 5 * 2049)
    inputs = case(statistics=STATISTICS, bias=True, rank=4, ignored=0.2, dead=0.2)
    # in float64: in less, rounding decides which of many tokens is the last of a set
    assert_exact(inputs, dtype=torch.float64)
    assert_exact(case(20, 65, statistics=STATISTICS, bias=True, rank=4))
    only = case(statistics=("top_p_entropy:0.8",), logprob_gradient=False, entropy_gradient=False)
    assert_exact(only, dtype=torch.float64)


def test_a_statistic_without_gradient_asks_for_none() -> None:
    for impl in ("naive", "chunked"):
        found = run(case(5, 99, statistics=("sum_p2", "nucleus_entropy:0.8")), impl).result
        assert not found.statistics["sum_p2"].requires_grad
        assert found.statistics["nucleus_entropy:0.8"].requires_grad


def test_an_adapter_is_what_it_adds_to_the_head(cut: None) -> None:
    inputs = case(9, 300, 16, rank=4).to(torch.float64)
    found = run(inputs)
    t = inputs.tensors
    weight = torch.cat([t["weight"], t["low_weight"]], dim=1)
    hidden = torch.cat([t["hidden"], t["low_hidden"]], dim=1)
    wide = cases.Case(
        {"hidden": hidden, "weight": weight},
        inputs.targets,
        of_logprobs=inputs.of_logprobs,
        of_entropies=inputs.of_entropies,
    )
    expected = run(wide, "naive")
    torch.testing.assert_close(found.result.logprobs, expected.result.logprobs)
    of_hidden, of_low_hidden = expected.gradients["hidden"].split([16, 4], dim=1)
    of_weight, of_low_weight = expected.gradients["weight"].split([16, 4], dim=1)
    parts = (of_hidden, of_weight, of_low_hidden, of_low_weight)
    torch.testing.assert_close(tuple(found.gradients.values()), parts)


@pytest.mark.parametrize("impl", ["naive", "chunked"])
def test_strides_do_not_matter(impl: str, cut: None) -> None:
    inputs = case((3, 5), 300, 16, bias=True, rank=4).to(torch.float32)
    spread = {
        "hidden": inputs.tensors["hidden"].transpose(0, 1).contiguous().transpose(0, 1),
        "weight": inputs.tensors["weight"].T.contiguous().T,
        "bias": inputs.tensors["bias"].repeat_interleave(2)[::2],
        "low_hidden": inputs.tensors["low_hidden"].repeat_interleave(3, dim=-1)[..., ::3],
        "low_weight": inputs.tensors["low_weight"].T.contiguous().T,
    }
    assert not any(tensor.is_contiguous() for tensor in spread.values())
    targets = inputs.targets.T.contiguous().T
    strided = cases.Case(spread, targets, {}, inputs.of_logprobs, inputs.of_entropies)
    found, expected = run(strided, impl), run(inputs, impl)
    torch.testing.assert_close(found.result.logprobs, expected.result.logprobs)
    torch.testing.assert_close(found.gradients, expected.gradients)
    assert_exact(strided, found)
    if impl == "chunked":
        # as the operator is registered: a compiled graph counts on it
        assert all(found.gradients[name].is_contiguous() for name in ("weight", "low_weight"))


def test_one_hidden_state_may_stand_for_many_rows(cut: None) -> None:
    inputs = case(1, 300, 16).to(torch.float32)
    hidden = inputs.tensors["hidden"].requires_grad_()
    targets = torch.arange(6)
    found = linear_logprob_entropy(
        hidden.expand(6, 16), inputs.tensors["weight"], targets, impl="chunked"
    )
    found.logprobs.sum().backward()
    # Σ over six targets of x -> 1[t] - p
    p = (hidden.detach() @ inputs.tensors["weight"].T).softmax(-1)
    by_logits = torch.zeros(300).index_fill_(0, targets, 1.0) - 6 * p
    torch.testing.assert_close(hidden.grad, by_logits @ inputs.tensors["weight"])


def test_float64_is_exact_to_its_own_precision(tiles: str) -> None:
    inputs = case(bias=True, rank=4, softcap=9.0, temperature=0.6, statistics=STATISTICS)
    assert_exact(inputs, dtype=torch.float64)
    assert run(inputs).result.logprobs.dtype == torch.float64


@pytest.mark.parametrize("parts", ["plain", "capped", "statistics"])
def test_gradients_are_those_of_differences(parts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "ROWS", 1)
    monkeypatch.setattr(chunked, "COLUMNS", 4)
    monkeypatch.setattr(chunked, "WIDEST", 1)
    options: dict[str, Any] = {
        "plain": {},
        "capped": {"softcap": 4.0, "temperature": 0.7, "logit_scale": 1.3},
        "statistics": {"statistics": ("top_p_entropy:0.8", "nucleus_entropy:0.8:5")},
    }[parts]
    inputs = case(2, 7, 2, bias=True, rank=1, **options)

    def values(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(inputs.tensors, tensors, strict=True))
        found = cases.call(inputs, given, "chunked")
        return found.logprobs, found.entropies, *found.statistics.values()

    assert torch.autograd.gradcheck(values, tuple(cases.leaves(inputs).values()))


# --- low precision ---


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("impl", ["naive", "chunked"])
def test_low_precision_is_summed_in_float32(dtype: torch.dtype, impl: str, cut: None) -> None:
    inputs = case(33, 301, 40, bias=True, rank=4, sharpness=20.0).to(dtype)
    found = run(inputs, impl)
    assert found.result.logprobs.dtype == found.result.entropies.dtype == torch.float32
    # a gradient is rounded once, to its own dtype
    assert_exact(inputs, found, dtype=dtype)


def test_logits_are_not_rounded_to_bfloat16() -> None:
    inputs = case(33, 301, 40, sharpness=20.0).to(torch.bfloat16)
    truth = run(inputs.to(torch.float64), "naive").result
    logits = inputs.tensors["hidden"] @ inputs.tensors["weight"].T
    rounded = logits.float().log_softmax(-1).gather(-1, inputs.targets[:, None])[:, 0]
    errors = [cases.worst(t, truth.logprobs) for t in (run(inputs).result.logprobs, rounded)]
    assert errors[0] < 1e-3 * errors[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_gradient_of_the_head_is_rounded_once(dtype: torch.dtype, cut: None) -> None:
    # many tiles of rows: a sum in the head's own dtype would be rounded in each
    inputs = case(300, 130, 16).to(dtype)
    found = run(inputs).gradients["weight"]
    exact = run(inputs.to(torch.float64), "naive").gradients["weight"]
    last_place = torch.finfo(dtype).eps * exact.abs().clamp(min=torch.finfo(dtype).tiny)
    error = (found.double() - exact).abs()
    # half of the last place, and what float32 adds to it
    assert (error <= 0.51 * last_place + 2e-6 * exact.abs().max()).all()


@pytest.mark.parametrize("impl", ["naive", "chunked"])
def test_hidden_states_and_head_may_differ_in_dtype(impl: str, cut: None) -> None:
    inputs = case(9, 301, 16, bias=True, rank=4)
    mixed = {
        name: tensor.to(torch.bfloat16 if name == "hidden" else torch.float32)
        for name, tensor in inputs.tensors.items()
    }
    of = inputs.to(torch.float32)
    found = run(cases.Case(mixed, of.targets, {}, of.of_logprobs, of.of_entropies), impl)
    wide = {name: tensor.double() for name, tensor in mixed.items()}
    truth = run(cases.Case(wide, of.targets, {}, inputs.of_logprobs, inputs.of_entropies), "naive")
    assert cases.worst(found.result.logprobs, truth.result.logprobs) <= cases.LOGPROB_BAR
    for name, gradient in found.gradients.items():
        assert gradient.dtype == mixed[name].dtype
        bar = torch.finfo(torch.bfloat16).eps / 2 if name == "hidden" else cases.GRADIENT_BAR
        assert cases.relative(gradient, truth.gradients[name]) <= bar, name


@pytest.mark.parametrize("impl", ["naive", "chunked"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_on_a_cpu_changes_nothing(impl: str, dtype: torch.dtype, cut: None) -> None:
    inputs = case(9, 301, 16, rank=4, statistics=STATISTICS).to(torch.float32)
    plain = run(inputs, impl)
    with torch.autocast("cpu", dtype=dtype):
        tensors = cases.leaves(inputs)
        result = cases.call(inputs, tensors, impl)
        if impl == "chunked":
            assert_same(run(inputs, impl), plain)
    # where a loop has it: the backward pass of plain PyTorch is cast too if it is inside
    found = torch.autograd.grad(cases.loss(inputs, result), list(tensors.values()))
    assert_same(cases.Run(result, dict(zip(tensors, found, strict=True))), plain)


# --- nothing for what cannot learn ---


def test_an_ignored_token_costs_nothing(monkeypatch: pytest.MonkeyPatch, cut: None) -> None:
    inputs = case(64, 300, 16, ignored=0.6, bias=True, statistics=("sum_p2",)).to(torch.float32)
    valid = int((inputs.targets != IGNORED).sum())
    work = Work(monkeypatch)
    tensors = cases.leaves(inputs)
    result = cases.call(inputs, tensors, "chunked", cache_bytes=0)
    assert work.taken() == valid * 300 * 16
    cases.loss(inputs, result).backward()
    assert work.taken() == 3 * valid * 300 * 16
    values = (result.logprobs, result.entropies, result.statistics["sum_p2"])
    for value in (*values, tensors["hidden"].grad):
        assert value is not None
        assert value[inputs.targets == IGNORED].eq(0).all()


@pytest.mark.parametrize("rows", [3, (2, 3)])
def test_all_tokens_may_be_ignored(
    rows: int | tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = case(rows, 300, 16, bias=True, rank=4, statistics=STATISTICS).to(torch.float32)
    inputs.targets.fill_(IGNORED)
    work = Work(monkeypatch)
    found = run(inputs)
    assert work.taken() == 0
    for value in (*found.gradients.values(), *cases.values(found.result)):
        assert value.eq(0).all()


@pytest.mark.parametrize("cache", [0, 2**20])
def test_a_row_without_upstream_gradient_costs_nothing_in_backward(
    cache: int, monkeypatch: pytest.MonkeyPatch, cut: None
) -> None:
    inputs = case(64, 300, 16, dead=0.7, bias=True).to(torch.float32)
    assert inputs.of_logprobs is not None
    live = int((inputs.of_logprobs != 0).sum())
    tensors = cases.leaves(inputs)
    result = cases.call(inputs, tensors, "chunked", cache_bytes=cache)
    work = Work(monkeypatch)
    cases.loss(inputs, result).backward()
    # logits again, unless they were kept; and two gradients
    assert work.taken() == (2 if cache else 3) * live * 300 * 16
    assert tensors["hidden"].grad is not None
    assert tensors["hidden"].grad[inputs.of_logprobs == 0].eq(0).all()


def test_no_live_row_is_no_work_and_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = case(9, 300, 16, dead=1.1, bias=True, rank=4).to(torch.float32)
    tensors = cases.leaves(inputs)
    result = cases.call(inputs, tensors, "chunked")
    work = Work(monkeypatch)
    cases.loss(inputs, result).backward()
    assert work.taken() == 0
    for tensor in tensors.values():
        assert tensor.grad is not None
        assert tensor.grad.eq(0).all()


@pytest.mark.parametrize("kind", ["ignored", "dead"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_row_that_cannot_learn_may_be_no_number(kind: str, bad: float, cut: None) -> None:
    good = case(16, 300, 16, rank=4, **{kind: 0.5}).to(torch.float32)
    assert good.of_logprobs is not None
    out = good.targets == IGNORED if kind == "ignored" else good.of_logprobs == 0
    tensors = dict(good.tensors)
    for name in ("hidden", "low_hidden"):
        tensors[name] = tensors[name].masked_fill(out[:, None], bad)
    spoilt = cases.Case(tensors, good.targets, {}, good.of_logprobs, good.of_entropies)
    # plain PyTorch knows of the targets, and nothing of the rest
    for impl in ["chunked", "naive"] if kind == "ignored" else ["chunked"]:
        found, expected = (run_without_sum(inputs, impl) for inputs in (spoilt, good))
        torch.testing.assert_close(found, expected)
        assert found["hidden"][out].eq(0).all()


def run_without_sum(inputs: cases.Case, impl: str) -> dict[str, Tensor]:
    """Return gradients, with the upstream ones handed over: 0 x NaN in a loss is no number."""
    tensors = cases.leaves(inputs)
    found = cases.call(inputs, tensors, impl)
    upstream = [inputs.of_logprobs, inputs.of_entropies]
    outputs = [found.logprobs, found.entropies]
    gradients = torch.autograd.grad(outputs, list(tensors.values()), upstream)
    return dict(zip(tensors, gradients, strict=True))


@pytest.mark.parametrize("cache", [0, 2**20])
def test_a_live_row_that_is_no_number_is_not_hidden(cache: int, cut: None) -> None:
    inputs = case(16, 300, 16, statistics=("sum_p2", "nucleus_entropy:0.8")).to(torch.float32)
    inputs.tensors["hidden"][3, 5] = torch.nan
    found = run(inputs, cache_bytes=cache)
    for value in cases.values(found.result):
        assert value[3].isnan()
        assert value[:3].isfinite().all()
    assert found.gradients["hidden"][3].isnan().all()
    assert found.gradients["weight"].isnan().all()


@pytest.mark.parametrize("of", ["logprobs", "entropies"])
def test_an_upstream_gradient_that_is_no_number_is_not_hidden(of: str, cut: None) -> None:
    inputs = case(16, 300, 16, dead=0.5).to(torch.float32)
    weights = getattr(inputs, f"of_{of}")
    weights[3] = torch.nan
    gradients = run(inputs).gradients
    assert gradients["hidden"][3].isnan().all()
    assert gradients["weight"].isnan().all()
    assert gradients["hidden"][:3].isfinite().all()


def test_leaving_out_dead_rows_changes_nothing_but_the_order_of_sums(cut: None) -> None:
    inputs = case(40, 300, 16, dead=0.5, bias=True, rank=4)
    assert inputs.of_logprobs is not None
    assert inputs.of_entropies is not None
    live = inputs.of_logprobs != 0
    assert_exact(inputs)
    of_rows = ("hidden", "low_hidden")
    alone = cases.Case(
        {n: t[live] if n in of_rows else t for n, t in inputs.tensors.items()},
        *(inputs.targets[live], {}, inputs.of_logprobs[live], inputs.of_entropies[live]),
    ).to(torch.float32)
    whole, part = run(inputs.to(torch.float32)).gradients, run(alone).gradients
    for name, gradient in part.items():
        torch.testing.assert_close(whole[name][live] if name in of_rows else whole[name], gradient)


@pytest.mark.parametrize(
    ("rows", "vocabulary"), [(2, 2000), (3, 700), (100, 20), (200, 9), (50, 300)]
)
def test_few_rows_or_columns_do_not_make_small_tiles(
    rows: int, vocabulary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_tiles(monkeypatch)
    inputs = case(rows, vocabulary, 4).to(torch.float32)
    with_small = run(inputs)
    monkeypatch.setattr(chunked, "WIDEST", 4)
    work = Work(monkeypatch)
    found = run(inputs, learning=[])
    assert found.result.logprobs.shape == (rows,)
    logits = [m * n for m, _, n in work.products]
    assert sum(logits) == rows * vocabulary
    assert max(logits) <= 8 * 64
    assert max(logits) >= 8 * 64 / 2
    torch.testing.assert_close(run(inputs).gradients, with_small.gradients)


# --- only what is asked for ---

COST = {"hidden": 16, "weight": 16, "bias": 0, "low_hidden": 4, "low_weight": 4}
"""Multiplications of each gradient, for a logit."""


@pytest.mark.parametrize("name", cases.PARAMETERS)
@pytest.mark.parametrize("cache", [0, 2**20])
def test_only_the_gradients_that_are_needed_are_computed(
    name: str, cache: int, monkeypatch: pytest.MonkeyPatch, cut: None
) -> None:
    inputs = case(20, 300, 16, bias=True, rank=4).to(torch.float32)
    every = run(inputs, cache_bytes=cache).gradients[name]
    tensors = cases.leaves(inputs, [name])
    result = cases.call(inputs, tensors, "chunked", cache_bytes=cache)
    work = Work(monkeypatch)
    cases.loss(inputs, result).backward()
    logits = 0 if cache else 16 + 4
    assert work.taken() == 20 * 300 * (logits + COST[name])
    assert torch.equal(tensors[name].grad, every)  # type: ignore[arg-type]
    assert all(tensors[other].grad is None for other in tensors if other != name)


def test_a_frozen_head_costs_no_gradient_of_it(monkeypatch: pytest.MonkeyPatch, cut: None) -> None:
    inputs = case(20, 300, 16).to(torch.float32)
    work = Work(monkeypatch)
    found = run(inputs, learning=["hidden"], cache_bytes=0)
    assert work.taken() == (1 + 2) * 20 * 300 * 16
    assert_exact(case(20, 300, 16), found=_with_weight(found, inputs))


def _with_weight(found: cases.Run, inputs: cases.Case) -> cases.Run:
    """Return a run with the gradient that was not asked for, from a run that asks for it."""
    return cases.Run(found.result, run(inputs).gradients | found.gradients)


def test_nothing_is_kept_where_nothing_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = case(20, 300, 16).to(torch.float32)
    rows: list[int] = []
    original = chunked.forward

    def seen(*args: Any, cached: int, **options: Any) -> Any:
        rows.append(cached)
        return original(*args, cached=cached, **options)

    monkeypatch.setattr(chunked, "forward", seen)
    assert not cases.call(inputs, inputs.tensors, "chunked").logprobs.requires_grad
    with torch.no_grad():
        cases.call(inputs, cases.leaves(inputs), "chunked")
    cases.call(inputs, cases.leaves(inputs), "chunked")
    assert rows == [0, 0, 20]


def test_a_head_that_is_also_the_embedding_has_the_sum_of_both_gradients() -> None:
    torch.manual_seed(0)
    tokens, targets = torch.randint(0, 300, (12,)), torch.randint(0, 300, (12,))
    embedding = nn.Embedding(300, 16)
    found = {}
    for impl in ("naive", "chunked"):
        hidden = embedding(tokens).tanh()
        result = linear_logprob_entropy(hidden, embedding.weight, targets, impl=impl)  # type: ignore[arg-type]
        (found[impl],) = torch.autograd.grad(
            (result.logprobs + result.entropies).sum(), embedding.weight
        )
    torch.testing.assert_close(found["chunked"], found["naive"])


# --- the cache ---


@pytest.mark.parametrize("kept", [0, 1, 7, 20, 64])
@pytest.mark.parametrize("statistics", [(), STATISTICS])
def test_what_is_kept_is_what_would_be_made_again(
    kept: int, statistics: tuple[str, ...], cut: None
) -> None:
    inputs = case(20, 300, 16, bias=True, rank=4, softcap=9.0, statistics=statistics)
    inputs = inputs.to(torch.float32)
    made, cached = (run(inputs, cache_bytes=rows * 300 * 4) for rows in (0, kept))
    torch.testing.assert_close(made.gradients, cached.gradients, rtol=1e-5, atol=1e-6)
    for one, other in zip(cases.values(made.result), cases.values(cached.result), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    if kept >= 20 and not statistics:
        # the tiles are the same ones
        assert_same(made, cached)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kept", [0, 5, 64])
def test_the_hint_of_live_tokens_never_changes_a_result(share: float, kept: int, cut: None) -> None:
    inputs = case((4, 5), 300, 16, ignored=0.2, dead=0.4, statistics=("sum_p2",))
    rounded = inputs.to(torch.float32)
    hint = torch.rand(4, 5, generator=torch.Generator().manual_seed(1)) < share
    found = run(rounded, live=hint, cache_bytes=kept * 300 * 4)
    assert_exact(inputs, found)
    torch.testing.assert_close(found.gradients, run(rounded).gradients, rtol=1e-5, atol=1e-6)


def test_the_hint_saves_the_logits_of_the_rows_it_names(
    monkeypatch: pytest.MonkeyPatch, cut: None
) -> None:
    inputs = case(40, 300, 16, dead=0.5).to(torch.float32)
    assert inputs.of_logprobs is not None
    hint = inputs.of_logprobs != 0
    live = int(hint.sum())
    budget = live * 300 * 4
    work = Work(monkeypatch)
    run(inputs, cache_bytes=budget, live=hint)
    with_hint = work.taken()
    run(inputs, cache_bytes=budget)
    without = work.taken()
    assert with_hint == (40 + 2 * live) * 300 * 16
    assert with_hint < without


@pytest.mark.parametrize("budget", [0, 1199, 1200, 12_345, 10**9])
def test_no_more_is_kept_than_the_budget(budget: int) -> None:
    inputs = case(20, 300, 16).to(torch.float32)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        cases.call(inputs, cases.leaves(inputs), "chunked", cache_bytes=budget)
    given = sum(tensor.nbytes for tensor in inputs.tensors.values())
    small = 20 * 64  # targets, places, log-probs, entropies, normalizers
    logits = sum(tensor.nbytes for tensor in kept) - given
    cached = min(budget // 1200, 20) * 1200
    assert cached <= logits <= cached + small


# --- again, and the same ---


def test_two_runs_give_the_same_bits(tiles: str) -> None:
    inputs = case(40, 2049, bias=True, rank=4, dead=0.3, ignored=0.1, statistics=STATISTICS).to(
        torch.float32
    )
    assert_same(run(inputs), run(inputs))


def test_a_row_does_not_depend_on_where_it_stands(cut: None) -> None:
    inputs = case(32, 300, 16).to(torch.float32)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    tensors = inputs.tensors | {"hidden": inputs.tensors["hidden"][order]}
    moved = cases.call(cases.Case(tensors, inputs.targets[order]), tensors, "chunked")
    found = cases.call(inputs, inputs.tensors, "chunked")
    torch.testing.assert_close(moved.logprobs, found.logprobs[order], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(moved.entropies, found.entropies[order], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("cache", [0, 7 * 1200, 2**20])
def test_backward_may_be_run_twice(cache: int, cut: None) -> None:
    inputs = case(20, 300, 16, bias=True, rank=4).to(torch.float32)
    tensors = cases.leaves(inputs)
    total = cases.loss(inputs, cases.call(inputs, tensors, "chunked", cache_bytes=cache))
    first = torch.autograd.grad(total, list(tensors.values()), retain_graph=True)
    again = torch.autograd.grad(total, list(tensors.values()))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_inputs_are_not_changed(cut: None) -> None:
    warmth = torch.linspace(0.5, 2.0, 20)
    inputs = case(20, 300, 16, bias=True, rank=4, softcap=9.0, ignored=0.2, temperature=warmth)
    inputs = inputs.to(torch.float32)
    before = {name: tensor.clone() for name, tensor in inputs.tensors.items()}
    targets = inputs.targets.clone()
    run(inputs)
    assert all(torch.equal(inputs.tensors[name], tensor) for name, tensor in before.items())
    assert torch.equal(inputs.targets, targets)


@pytest.mark.parametrize("cache", [0, 7 * 1200])
def test_every_number_is_written_before_it_is_read(
    cache: int, monkeypatch: pytest.MonkeyPatch, cut: None
) -> None:
    inputs = case(20, 300, 16, bias=True, rank=4, dead=0.3, ignored=0.2, statistics=STATISTICS).to(
        torch.float32
    )
    expected = run(inputs, cache_bytes=cache)
    for owner, name in (
        (torch, "empty"),
        (torch, "empty_like"),
        (Tensor, "new_empty"),
    ):
        monkeypatch.setattr(owner, name, _poisoned(getattr(owner, name)))
    assert torch.empty(3).isnan().all()
    assert_same(run(inputs, cache_bytes=cache), expected)
    inputs.targets.fill_(IGNORED)
    nothing = run(inputs, cache_bytes=cache)
    assert all(gradient.eq(0).all() for gradient in nothing.gradients.values())


def _poisoned(original: Any) -> Any:
    def filled(*args: Any, **options: Any) -> Tensor:
        made = original(*args, **options)
        return made.fill_(torch.nan) if made.is_floating_point() else made.fill_(-7)

    return filled


# --- the choice ---


def test_few_logits_take_plain_pytorch_and_many_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight = torch.zeros(1, 4), torch.zeros(100, 4)
    few = linear.FEW_LOGITS // 100
    assert linear.choose(hidden, weight, few) == "naive"
    assert linear.choose(hidden, weight, few + 1) == "chunked"
    assert linear.choose(hidden, weight, few, has_certificate=True) == "chunked"
    assert linear.choose(hidden, weight, few, impl="chunked") == "chunked"


@pytest.mark.parametrize("few", [0, 10**9])
def test_auto_is_what_it_chooses(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "FEW_LOGITS", few)
    inputs = case(9, 300, 16, bias=True, statistics=STATISTICS).to(torch.float32)
    chosen = linear.choose(inputs.tensors["hidden"], inputs.tensors["weight"], 9, STATISTICS)
    assert_same(run(inputs, "auto"), run(inputs, chosen))


def test_an_adapter_of_no_rows_has_its_rank() -> None:
    weight, low = torch.ones(5, 4), LowRank(torch.ones(2, 0, 3), torch.ones(5, 3))
    found = linear_logprob_entropy(
        torch.ones(2, 0, 4), weight, torch.ones(2, 0, dtype=torch.long), low_rank=low
    )
    assert found.logprobs.shape == (2, 0)


# --- memory ---

_PEAK = """
import sys, torch
from rlvr.kernels.linear import linear_logprob_entropy
def run(rows, impl):
    hidden = torch.randn(rows, 64, requires_grad=True)
    weight = torch.randn(16_000, 64, requires_grad=True)
    targets = torch.randint(0, 16_000, (rows,))
    found = linear_logprob_entropy(hidden, weight, targets, impl=impl, cache_bytes=0)
    (found.logprobs + found.entropies).sum().backward()
# not ru_maxrss: that of a process begins with what its parent had
def memory(kind):
    [line] = [line for line in open("/proc/self/status") if line.startswith(kind)]
    return int(line.split()[1])
# what is loaded and made once does not count
run(8, sys.argv[1])
before = memory("VmRSS")
run(2048, sys.argv[1])
print(memory("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads Linux's account of memory"
)
def test_memory_is_that_of_tiles_not_of_all_logits() -> None:
    """2048 rows of 16,000 logits are 131 MB; two tiles of 512 x 2048 are 8 MB, and 4 MB of the head's gradient."""
    peaks = {}
    for impl in ("chunked", "naive"):
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, impl],
            # what is freed goes back to the system at once: the peak is that of live memory
            env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "100000"},
            capture_output=True,
            text=True,
            check=True,
        )
        peaks[impl] = int(done.stdout) * 1024
    logits = 2048 * 16_000 * 4
    assert peaks["naive"] > 3 * logits
    assert peaks["chunked"] < logits / 4
