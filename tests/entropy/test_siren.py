"""SIREN: its quantile and selection, its worked example, its anchor, its two forms."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rlvr.batch import Origin, RolloutBatch
from rlvr.entropy import siren
from rlvr.entropy.control import EntropyControl, build_control, chain
from rlvr.kernels.statistics import of_logits
from tests.entropy import toy

NUCLEUS = "nucleus_entropy:0.8:10000"
HEAD = "top_p_entropy:0.8:10000"


@pytest.mark.parametrize("quantile", [0.0, 0.3, 0.8, 1.0])
def test_the_bound_of_a_row_is_torchs_quantile_of_its_tokens(quantile):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(40, 11, generator=generator, dtype=torch.float64)
    mask = torch.rand(40, 11, generator=generator) < 0.4
    mask[0] = False
    found = siren.lower_bound(values, mask, quantile).squeeze(-1)
    for row in range(1, 40):
        expected = torch.quantile(values[row][mask[row]], quantile)
        torch.testing.assert_close(found[row], expected, rtol=1e-14, atol=1e-14)
    assert found[0].isnan()


def test_only_tokens_above_the_bound_are_selected():
    config = siren.Config(quantile=0.5)
    entropies = torch.tensor([[1.0, 2.0, 4.0, 9.0], [3.0, 9.0, 9.0, 9.0], [2.0, 2.0, 2.0, 2.0]])
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[0, 3] = mask[1, 1:] = False
    # bounds 2, 3 and 2, and none of them is above itself
    selected = siren.peak_mask(entropies, mask, config)
    assert selected.tolist() == [[False, False, True, False], [False] * 4, [False] * 4]


def worked_example(form: str) -> Tensor:
    """Return the weights in rows of 3 tokens, 2 tokens, and none; the last row is rehearsed."""
    entropies = torch.tensor([[1.0, 2.0, 3.0], [0.0, 4.0, 0.0], [0.0] * 3, [9.0, 8.0, 7.0]])
    mask = torch.tensor([[True] * 3, [True, True, False], [False] * 3, [False] * 3])
    rows = torch.tensor([True, True, True, False])
    config = siren.Config(quantile=0.2, form=form)
    return siren.peak_weights(entropies.double(), mask, rows, config)


def test_every_sequence_weighs_alike_and_so_does_each_of_its_peaks():
    # bounds 1.4 and 0.8: two peaks of the first row, one of the second; H = ((2 + 3)/2 + 4) / 2 = 3.25
    quarter = [0.0, 0.25, 0.25]
    assert worked_example("sound").tolist() == [quarter, [0.0, 0.5, 0.0], [0.0] * 3, [0.0] * 3]
    # the empty row counts: all of it times 2/3
    assert worked_example("authors")[:2].sum().item() == pytest.approx(2 / 3)


def built(**options: object) -> EntropyControl:
    return build_control("siren", {"coef": 0.1, "quantile": 0.5} | options)


def square(table: Tensor, taken: Tensor, batch: object, config: siren.Config) -> Tensor:
    """Return coef (H - anchor)^2 written out with a loop over rows, with the selection as it is."""
    found = of_logits(table.flatten(0, 1), taken.flatten(), [NUCLEUS])[NUCLEUS].view(taken.shape)
    means = []
    for row, mask in zip(found, batch.mask, strict=True):
        if mask.any():
            own = row[mask]
            peaks = own[own > torch.quantile(own.detach(), config.quantile)]
            means.append(peaks.mean() if len(peaks) else own.sum() * 0)
    assert config.anchor is not None
    return config.coef * (torch.stack(means).mean() - config.anchor).square()


@pytest.mark.parametrize("anchor", [0.1, 2.0])
@pytest.mark.parametrize("parts", [[range(8)], [[7, 0, 3], [5], [1, 2, 6, 4]]])
def test_in_any_cut_value_and_gradient_are_those_of_the_square(anchor, parts):
    batch, table, taken = toy.facts(), toy.logits(8, 7), toy.actions(8, 7)
    still = replace(batch, advantages=torch.zeros_like(batch.advantages))
    config = siren.Config(coef=0.1, quantile=0.5, anchor=anchor)
    cut = [torch.tensor(list(rows)) for rows in parts]
    objective = toy.objective(chain(siren.build(config)))
    loss, gradient, _, stats = toy.loss_and_gradient(objective, still, table, taken, cut)
    free = table.clone().requires_grad_()
    expected = square(free, taken, batch, config)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, free)[0])
    means = {name: float(pair[0] / pair[1]) for name, pair in stats.items()}
    assert means["siren/anchor"] == pytest.approx(anchor)
    assert 0.1 * (means["siren/entropy"] - anchor) ** 2 == pytest.approx(expected.item())


def test_the_authors_scope_is_the_mean_of_the_squares_of_micro_batches():
    batch, table, taken = toy.facts(), toy.logits(8, 7), toy.actions(8, 7)
    still = replace(batch, advantages=torch.zeros_like(batch.advantages))
    config = siren.Config(coef=0.1, quantile=0.5, anchor=1.0, scope="micro_batch")
    parts = [torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5])]
    objective = toy.objective(chain(siren.build(config)))
    loss, _, _, _ = toy.loss_and_gradient(objective, still, table, taken, parts)
    each = [square(table[rows], taken[rows], still.rows(rows), config) for rows in parts]
    assert loss.item() == pytest.approx(float(sum(each)) / 2)
    together = siren.build(config.model_copy(update={"scope": "update"}))
    whole, _, _, _ = toy.loss_and_gradient(
        toy.objective(chain(together)), still, table, taken, parts
    )
    assert abs(loss - whole) > 1e-6


@pytest.mark.parametrize("anchor", [0.7, 1.1])
def test_alone_it_takes_the_peaks_toward_the_anchor_from_both_sides(anchor):
    batch, table, taken = toy.facts(), 0.8 * toy.logits(8, 7), toy.actions(8, 7)
    still = replace(batch, advantages=torch.zeros_like(batch.advantages))
    objective = toy.objective(chain(built(anchor=anchor, coef=1.0)))
    curve = []
    for _ in range(80):
        _, gradient, _, stats = toy.loss_and_gradient(objective, still, table, taken)
        table = table - 4 * gradient
        curve.append(float(stats["siren/entropy"][0] / stats["siren/entropy"][1]))
    assert (curve[0] < anchor) == (anchor == 1.1)
    assert abs(curve[-1] - anchor) < 0.4 * abs(curve[0] - anchor)


def generation(table: Tensor, taken: Tensor, names: list[str]) -> RolloutBatch:
    """Return three rows of the policy `table`; the second has two tokens, the third is rehearsed."""
    seen = toy.look(table, taken, names)
    mask = torch.ones_like(taken, dtype=torch.bool)
    mask[1, 2:] = False
    garbage = {name: torch.where(mask, value, torch.nan) for name, value in seen.statistics.items()}
    return RolloutBatch(
        prompt_ids=taken[:, :1],
        prompt_mask=mask[:, :1],
        completion_ids=taken,
        completion_mask=mask,
        mask=mask,
        advantages=torch.zeros_like(seen.logprobs),
        rewards=torch.zeros(len(taken), dtype=torch.float64),
        group_ids=torch.zeros(len(taken), dtype=torch.long),
        origin=torch.tensor([Origin.POLICY, Origin.POLICY, Origin.REHEARSAL]),
        old_statistics=garbage,
    )


@pytest.mark.parametrize(("form", "name"), [("sound", NUCLEUS), ("authors", HEAD)])
def test_the_anchor_is_measured_of_the_first_generation_and_then_kept(form, name):
    control = built(form=form)
    assert control.shape is not None
    assert control.statistics == control.old_statistics == {name}
    table, taken = toy.logits(3, 5), toy.actions(3, 5)
    first = generation(table, taken, [name])
    rollout, state, _ = control.shape(first, control.init())
    assert rollout is first
    means = []
    for row, length in ((0, 5), (1, 2)):
        own = toy.look(table, taken, [name]).statistics[name][row, :length]
        means.append(float(own[own > torch.quantile(own, 0.5)].mean()))
    assert state["anchor"] == pytest.approx(sum(means) / 2)
    assert control.shape(generation(3 * table, taken, [name]), state)[1] == state


def test_a_generation_without_a_token_leaves_the_anchor_to_the_next():
    control = built()
    assert control.shape is not None
    made = generation(toy.logits(3, 5), toy.actions(3, 5), [NUCLEUS])
    empty = replace(made, mask=torch.zeros_like(made.mask))
    state = control.shape(empty, control.init())[1]
    assert state == {"anchor": None}
    assert control.shape(made, state)[1]["anchor"] > 0


def test_a_run_cannot_go_on_without_its_anchor():
    without = chain(built())
    with pytest.raises(ValueError, match="anchor is missing"):
        without.check_resumed({"siren": {"anchor": None}})
    without.check_resumed({"siren": {"anchor": 0.7}})
    chain(built(anchor=0.7)).check_resumed({"siren": {"anchor": None}})
    batch = toy.facts()
    assert without.controls[0].measure is not None
    with pytest.raises(ValueError, match="no anchor"):
        without.controls[0].measure(batch, {"anchor": None}, torch.Generator())


def test_an_anchor_that_is_given_asks_for_no_statistic_of_the_generation():
    control = built(anchor=0.7)
    assert control.shape is None
    assert not control.old_statistics


def test_a_head_that_one_token_fills_is_empty_only_in_the_authors_form():
    # 0.6, 0.25, 0.15: the nucleus of mass 0.8 is the first two, the authors' head the first
    logits = torch.tensor([[0.6, 0.25, 0.15], [0.85, 0.1, 0.05]], dtype=torch.float64).log()
    found = of_logits(logits, torch.zeros(2, dtype=torch.long), [NUCLEUS, HEAD])
    q = torch.tensor([0.6, 0.25], dtype=torch.float64) / 0.85
    assert found[NUCLEUS].tolist() == pytest.approx([-float((q * q.log()).sum()), 0.0])
    assert found[HEAD].tolist() == pytest.approx([0.0, 0.0], abs=1e-11)


def test_a_coefficient_of_zero_is_said_to_do_nothing():
    assert build_control("siren", {"coef": 0.0}).idle == "coef is 0"
