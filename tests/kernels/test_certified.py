"""What the certificate promises holds, against float64; and what is made of it is right."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rlvr.kernels import certified
from rlvr.kernels.certified import BLOCK, ROW_BLOCK
from rlvr.kernels.chunked import Wanted
from rlvr.kernels.linear import Certificate, LowRank, linear_logprob_entropy
from rlvr.kernels.projection import IGNORED
from tests.kernels.cases import relative
from tests.kernels.policy import NAMES, Asked, asked, by_block, by_product, multiplied, with_means

ROUNDING = 1e-12
"""Of float64, relative, over a few thousand additions."""
KINDS: dict[str, dict[str, Any]] = {
    "log-probs": {},
    "entropies too": {"entropy_gradient": True},
    "cap": {"softcap": 20.0, "entropy_gradient": True},
    "temperatures": {"warmth": True, "logit_scale": 1.3, "entropy_gradient": True},
    "bias and adapter": {"bias": True, "rank": 3, "entropy_gradient": True},
}
SIZES = [(1, 1), (1, 300), (127, 127), (128, 128), (129, 129), (3, 256), (200, 385)]

kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@kinds
def test_the_bound_holds_in_every_block_of_every_row(kind: dict[str, Any]) -> None:
    of = asked(**kind)
    bound, _ = certified.bounds(of.projection, of.upstream, of.partials)
    norm = by_block(by_product(of).abs())
    assert (norm <= bound * (1 + ROUNDING)).all()


def test_without_entropies_and_cap_the_bound_is_the_norm() -> None:
    of = asked(warmth=True, logit_scale=-0.7)
    bound, _ = certified.bounds(of.projection, of.upstream, of.partials)
    torch.testing.assert_close(bound, by_block(by_product(of).abs()), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "cap"])
def test_sums_of_blocks_are_exact(name: str) -> None:
    of = asked(**KINDS[name])
    _, total = certified.bounds(of.projection, of.upstream, of.partials)
    torch.testing.assert_close(total, by_block(by_product(of)), rtol=1e-9, atol=1e-12)


@kinds
@pytest.mark.parametrize("sharpness", [1.0, 30.0])
def test_rounding_of_float32_does_not_take_the_bound_below_the_norm(
    kind: dict[str, Any], sharpness: float
) -> None:
    """With logits of up to 900 most rows are certain up to rounding."""
    scale = sharpness * kind.get("logit_scale", 1.0)
    of = asked(dtype=torch.float32, **kind | {"logit_scale": scale})
    bound, _ = certified.bounds(of.projection, of.upstream, of.partials)
    norm = by_block(by_product(of).abs())
    # below it float32 has not all of its digits
    assert (norm <= bound.double() + 1e-37).all()


@kinds
@pytest.mark.parametrize("tolerance", [2**-10, 2**-4, 0.9])
def test_what_is_left_out_is_no_more_than_reported_and_allowed(
    kind: dict[str, Any], tolerance: float
) -> None:
    of = asked(**kind)
    plan, d = of.plan(tolerance), by_product(of)
    assert not plan.made.all()
    left_out = (with_means(d, plan) - d).abs().sum()
    assert 0 < left_out <= plan.left_out <= tolerance * plan.whole
    assert d.abs().sum() <= plan.whole * (1 + ROUNDING)


@kinds
def test_gradients_are_those_with_means_for_what_is_left_out(kind: dict[str, Any]) -> None:
    of = asked(**kind)
    found, report = of.backward(2**-6)
    plan = of.plan(2**-6)
    assert report == (plan.left_out, plan.whole, plan.made.sum(), plan.made.numel())
    assert 0 < report.tiles_made < report.tiles
    for name, expected in multiplied(with_means(by_product(of), plan), of).items():
        got = getattr(found, name)
        if got is not None:
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "cap"])
def test_a_shift_of_all_logits_has_no_gradient_also_where_tiles_are_left_out(name: str) -> None:
    of = asked(**KINDS[name])
    d = with_means(by_product(of), of.plan(2**-4))
    assert d.sum(1).abs().max() <= 1e-12


@kinds
def test_errors_are_within_what_the_bound_says(kind: dict[str, Any]) -> None:
    of, tolerance = asked(**kind), 2**-8
    found, report = of.backward(tolerance)
    d = by_product(of)
    error = with_means(d, of.plan(tolerance)) - d
    exact, p = multiplied(d, of), of.projection
    assert found.hidden is not None
    assert found.weight is not None
    of_rows = (found.hidden - exact["hidden"]).norm(dim=1)
    assert (of_rows <= p.weight.norm(dim=1).max() * error.abs().sum(1) + 1e-9).all()
    assert of_rows.sum() <= p.weight.norm(dim=1).max() * report.left_out
    of_head = (found.weight - exact["weight"]).norm()
    assert of_head <= p.hidden.norm(dim=1).max() * report.left_out


@kinds
def test_with_a_tolerance_near_nothing_the_gradient_is_exact(kind: dict[str, Any]) -> None:
    of = asked(**kind)
    found, report = of.backward(1e-300)
    assert report.left_out == 0
    assert report.tiles_made == report.tiles
    exact = of.exact()
    for name in NAMES:
        torch.testing.assert_close(getattr(found, name), getattr(exact, name), rtol=0, atol=1e-11)


def test_the_error_at_the_advised_tolerance_is_less_than_that_of_bfloat16() -> None:
    of = asked(600, 4000)
    found, report = of.backward(2**-10)
    assert report.tiles_made <= report.tiles / 2
    d = by_product(of)
    exact, rounded = multiplied(d, of), multiplied(d.bfloat16().double(), of)
    for name in ("hidden", "weight"):
        error = relative(getattr(found, name), exact[name])
        assert error <= relative(rounded[name], exact[name]) / 3


def test_the_cheapest_tiles_are_left_out_as_long_as_the_budget_lasts() -> None:
    cost = torch.tensor([[4.0, 1.0, 8.0], [2.0, 2.0, 1.0]], dtype=torch.float64)
    made = certified._is_made(cost, torch.tensor(4.5, dtype=torch.float64))
    # 1 + 1 + 2 = 4; of equal ones the first
    assert made.tolist() == [[True, False, True], [False, True, False]]


def test_what_is_no_number_is_made() -> None:
    cost = torch.tensor([[torch.nan, torch.inf, 1.0, 0.0]], dtype=torch.float64)
    made = certified._is_made(cost, torch.tensor(2.0, dtype=torch.float64))
    assert made.tolist() == [[True, True, False, False]]
    for budget in (torch.nan, torch.inf, 0.0):
        made = certified._is_made(cost, torch.tensor(budget, dtype=torch.float64))
        assert made.tolist() == [[True, True, True, False]]


def test_a_gradient_that_is_no_number_stays_one() -> None:
    of = asked(20)
    of.upstream.of_logprobs[3] = torch.nan
    found, report = of.backward(0.5)
    assert found.hidden is not None
    assert found.hidden[3].isnan().all()
    assert report.tiles_made == report.tiles


def test_rows_that_need_few_blocks_are_neighbours() -> None:
    """Certain and uncertain rows in turn: in that order every tile of rows would need what the uncertain ones do."""
    of = asked(1024, 4000, 32, seed=1)
    plan = of.plan(2**-10)
    bound, total = certified.bounds(of.projection, of.upstream, of.partials)
    cost = certified._tile_sums(bound + total.abs())
    as_they_come = certified._is_made(cost, 2**-10 * bound.sum(dtype=torch.float64))
    assert plan.made.sum() <= 0.8 * as_they_come.sum()
    assert plan.order.sort().values.tolist() == list(range(1024))


def test_two_runs_give_the_same_bits() -> None:
    of = asked(dtype=torch.float32, entropy_gradient=True, bias=True, rank=3)
    one, other = of.backward(2**-8), of.backward(2**-8)
    assert one[1] == other[1]
    for name in NAMES:
        assert torch.equal(getattr(one[0], name), getattr(other[0], name))


@pytest.mark.parametrize(("rows", "vocabulary"), SIZES)
def test_ragged_sizes_are_right(rows: int, vocabulary: int) -> None:
    of = asked(rows, max(vocabulary, 3), entropy_gradient=True, bias=True)
    for tolerance in (2**-10, 0.5):
        found, report = of.backward(tolerance)
        plan = of.plan(tolerance)
        assert report.tiles == -(-rows // ROW_BLOCK) * -(-max(vocabulary, 3) // BLOCK)
        for name, expected in multiplied(with_means(by_product(of), plan), of).items():
            torch.testing.assert_close(getattr(found, name), expected, rtol=0, atol=1e-10)


def test_no_rows_give_no_gradient() -> None:
    found, report = asked(0, 300, bias=True, rank=2).backward(0.5)
    assert report == (0, 0, 0, 0)
    assert found.hidden is not None
    assert found.hidden.shape == (0, 32)
    for name in ("weight", "bias", "low_weight"):
        assert not getattr(found, name).any()


@pytest.mark.parametrize("name", ["hidden", "weight", "bias", "low_hidden", "low_weight"])
def test_each_gradient_is_made_alone(name: str) -> None:
    of = asked(bias=True, rank=3)
    alone, _ = of.backward(2**-6, wanted=Wanted(*(name == other for other in NAMES)))
    together, _ = of.backward(2**-6)
    for other in NAMES:
        assert (getattr(alone, other) is None) == (other != name)
    torch.testing.assert_close(getattr(alone, name), getattr(together, name))


def called(of: Asked, certificate: Certificate | None, **options: Any) -> dict[str, Tensor]:
    """Return the gradients by name, through the public function."""
    p, u = of.projection, of.upstream
    tensors = {"hidden": p.hidden, "weight": p.weight, "bias": p.bias}
    tensors |= {"low_hidden": p.low_hidden, "low_weight": p.low_weight}
    frozen = options.pop("frozen", ())
    leaves = {
        name: tensor.detach().clone().requires_grad_(name not in frozen)
        for name, tensor in tensors.items()
        if tensor is not None
    }
    low_rank = None
    if "low_hidden" in leaves:
        low_rank = LowRank(leaves["low_hidden"], leaves["low_weight"])
    found = linear_logprob_entropy(
        *(leaves["hidden"], leaves["weight"], options.pop("targets", u.targets)),
        bias=leaves.get("bias"),
        low_rank=low_rank,
        temperature=p.temperature,
        softcap=p.softcap,
        certificate=certificate,
        impl="chunked",
        **options,
    )
    total = (found.logprobs * u.of_logprobs).sum()
    if u.of_entropies is not None:
        total = total + (found.entropies * u.of_entropies).sum()
    total.backward()
    return {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ({"entropy_gradient": True}, {}),
        ({"dtype": torch.bfloat16}, {}),
        ({"bias": True, "rank": 3}, {"frozen": ("weight", "bias")}),
        ({"warmth": True}, {"live": torch.arange(300) % 3 == 0}),
    ],
    ids=["plain", "bfloat16", "frozen head with an adapter", "hint"],
)
def test_the_public_function_leaves_out_no_more_than_it_reports(
    kind: dict[str, Any], options: dict[str, Any]
) -> None:
    of = asked(**{"dtype": torch.float32} | kind)
    certificate = Certificate(2**-8)
    found, exact = called(of, certificate, **options), called(of, None, **options)
    report, p = certificate.report, of.projection
    assert report.tiles_made < report.tiles
    assert report.left_out <= certificate.tolerance * report.whole
    assert found.keys() == exact.keys()
    partner = {"hidden": p.weight, "weight": p.hidden, "low_hidden": p.low_weight}
    partner |= {"low_weight": p.low_hidden}
    for name, gradient in found.items():
        assert gradient.dtype == exact[name].dtype
        own = partner[name]
        assert own is not None
        most = own.double().norm(dim=1).max() * report.left_out
        # both are rounded, to the parameter's dtype
        rounding = 2 * torch.finfo(gradient.dtype).eps * exact[name].double().norm() + 1e-4
        assert (gradient.double() - exact[name].double()).norm() <= most + rounding, name


def test_rows_without_a_gradient_change_nothing_and_have_none() -> None:
    of = asked(entropy_gradient=True)
    u = of.upstream
    assert u.of_entropies is not None
    dead = torch.arange(300) % 2 == 0
    targets = u.targets.clone()
    targets[:20] = IGNORED
    u.of_logprobs[dead], u.of_entropies[dead] = 0.0, 0.0
    certificate = Certificate(2**-8)
    found = called(of, certificate, targets=targets)
    is_out = dead | (targets == IGNORED)
    assert not found["hidden"][is_out].any()
    assert found["hidden"][~is_out].any()
    assert certificate.report.tiles == -(-int((~is_out).sum()) // ROW_BLOCK) * 8


def test_with_no_row_that_has_a_gradient_there_is_none() -> None:
    of = asked(bias=True)
    of.upstream.of_logprobs.zero_()
    certificate = Certificate(2**-8)
    assert not any(gradient.any() for gradient in called(of, certificate).values())
    assert certificate.report == (0, 0, 0, 0)


def test_calls_that_share_a_certificate_report_the_last_backward() -> None:
    certificate = Certificate(2**-8)
    large, small = asked(), asked(rows=40)
    losses = []
    for of in (large, small):
        p, u = of.projection, of.upstream
        hidden = p.hidden.clone().requires_grad_()
        found = linear_logprob_entropy(
            hidden, p.weight, u.targets, certificate=certificate, impl="chunked"
        )
        losses.append((found.logprobs * u.of_logprobs).sum())
    losses[0].backward()
    first = certificate.report
    losses[1].backward()
    assert certificate.report.tiles < first.tiles
    assert certificate.report.whole < first.whole
