"""A frozen rollout through methods: what is touched, how gradients lie, how entropy moves; the same numbers again."""

import importlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvr.batch import Origin
from rlvr.entropy.control import (
    DROP,
    EntropyControl,
    Rehearsal,
    RolloutPlan,
    TemperedRollout,
    chain,
    control_names,
)
from rlvr.entropy_change import discriminator, expected_discriminator
from rlvr.loss import Objective
from rlvr.replay.candidates import PLAIN, Candidate
from rlvr.replay.effect import entropy_products, tagged
from rlvr.replay.replay import Effect, Result, plans, replay
from rlvr.replay.report import EDGES, correlations, histogram, table
from rlvr.replay.rollout import Frozen, rehearsal_key, tempered_key
from tests.entropy import settings
from tests.trainer import tiny

OBJECTIVE = Objective(tiny.clipped, tiny.token_mean, clip_high=0.28)


def frozen(made: Any, wanted: list[RolloutPlan]) -> Frozen:
    """Return the generation of `tiny.rollout` with made-up rewards, tempered and rehearsal rows."""
    rows = tiny.rollout(rehearsal=False)
    right = torch.rand(16, generator=torch.Generator().manual_seed(1)) < 0.5
    outcomes = torch.where(right, 0, 1)
    seen = made.look(rows)
    rows = replace(
        rows, rewards=right.float(), outcomes=outcomes, old_logprobs=seen.logprobs,
        truncated=torch.zeros(16, dtype=torch.bool),
        old_entropies=seen.entropies, initial_logprobs=None, segment_ids=None, old_statistics={},
    )  # fmt: skip
    extra = replace(
        rows, group_ids=rows.group_ids + 4, origin=torch.full_like(rows.origin, Origin.TEMPERED)
    )
    buffer = replace(
        rows, mask=torch.zeros_like(rows.mask), group_ids=torch.full_like(rows.group_ids, -1),
        rewards=torch.full_like(rows.rewards, math.nan), initial_logprobs=seen.logprobs + 0.1,
        advantages=torch.zeros_like(rows.advantages),
        origin=torch.full_like(rows.origin, Origin.REHEARSAL),
    )  # fmt: skip
    tempered = {tempered_key(one.tempered.temperature): extra for one in wanted if one.tempered}
    rehearsal = {rehearsal_key(one.rehearsal): buffer for one in wanted if one.rehearsal}
    return Frozen("run", "final", {}, rows, tempered, rehearsal)


def candidate(name: str, control: EntropyControl) -> Candidate:
    return Candidate(name, chain(control), {})


def replayed(
    folder: Path,
    chosen: list[Candidate],
    learning_rate: float = 1e-3,
    checkpointing: bool = False,
    **options: Any,
) -> Result:
    made = tiny.trainer(
        folder, OBJECTIVE, dtype=torch.float64, learning_rate=learning_rate,
        gradient_checkpointing=checkpointing,
    )  # fmt: skip
    before = [item.detach().clone() for item in made.model.parameters()]
    rollout = frozen(made, plans(chosen, {}))
    result = replay(made, rollout, OBJECTIVE, tiny.plan(), chosen, **options)
    for one, other in zip(before, made.model.parameters(), strict=True):
        assert torch.equal(one, other)
    return result


def by_name(result: Result) -> dict[str, Effect]:
    return {effect.name: effect for effect in result.effects}


def numbers(effect: Effect) -> list[float]:
    return [
        *(effect.touched, effect.dropped, effect.added, effect.revived, effect.cosine),
        *(effect.norm_ratio, effect.predicted, *effect.measured.values()),
        *(*effect.first_order.values(), *effect.weights.tolist()),
    ]


def test_a_method_that_is_off_touches_nothing(tmp_path):
    modules = {name: importlib.import_module(f"rlvr.entropy.{name}") for name in control_names()}
    chosen = [candidate(name, module.build(module.OFF)) for name, module in modules.items()]
    result = replayed(tmp_path, chosen)
    assert result.left_out == {}
    plain = result.effects[0]
    assert plain.name == PLAIN
    assert len(result.effects) == 1 + len(modules)
    for effect in result.effects:
        assert (effect.touched, effect.dropped, effect.added, effect.revived) == (0, 0, 0, 0), (
            effect.name
        )
        assert effect.cosine == pytest.approx(1, abs=1e-12), effect.name
        assert effect.norm_ratio == pytest.approx(1, abs=1e-12), effect.name
        torch.testing.assert_close(effect.weights, torch.ones_like(plain.weights))
        assert effect.predicted == pytest.approx(plain.predicted, rel=1e-9), effect.name
        assert effect.measured == pytest.approx(plain.measured, rel=1e-6), effect.name


def test_every_method_is_replayed_and_twice_gives_the_same_numbers(tmp_path):
    chosen = [candidate(name, settings.built(name)) for name in control_names()]
    first, second = replayed(tmp_path, chosen), replayed(tmp_path, chosen)
    assert first.left_out == {}
    assert [effect.name for effect in first.effects] == [PLAIN, *control_names()]
    for one, other in zip(first.effects, second.effects, strict=True):
        assert numbers(one) == numbers(other)
    for effect in first.effects:
        assert math.isfinite(effect.predicted), effect.name
        assert all(map(math.isfinite, effect.measured.values())), effect.name
        assert -1 - 1e-9 <= effect.cosine <= 1 + 1e-9, effect.name
        assert histogram(effect).sum() == len(effect.weights)


def halved(terms, batch, marks, state):
    weights = torch.where(marks["chosen"], 0.5, terms.weights)
    return replace(terms, weights=weights), {}


def first_rows(population, state, generator):
    chosen = torch.zeros_like(population.mask)
    chosen[:2] = True
    return {"chosen": chosen & population.mask}


def test_tokens_of_half_weight_are_touched_and_counted(tmp_path):
    control = EntropyControl(name="half", measure=first_rows, apply=halved)
    result = replayed(tmp_path, [candidate("half", control)], after=0)
    effect = by_name(result)["half"]
    rows = tiny.rollout(rehearsal=False)
    tokens, chosen = int(rows.mask[:8].sum()), int(rows.mask[:2].sum())
    # rows of a group with one outcome have no gradient, and half of nothing is nothing
    pulled = int((effect.weights == 0.5).sum())
    assert 0 < pulled <= chosen
    assert effect.touched == pytest.approx(pulled / tokens)
    assert effect.dropped == effect.added == 0
    assert set(effect.weights.tolist()) == {0.5, 1.0}


def test_tokens_that_are_dropped_touch_no_other_though_the_denominator_changes(tmp_path):
    control = EntropyControl(
        name="drop", measure=lambda *given: {DROP: first_rows(*given)["chosen"]}
    )
    effect = by_name(replayed(tmp_path, [candidate("drop", control)], after=0))["drop"]
    rows = tiny.rollout(rehearsal=False)
    share = int(rows.mask[:2].sum()) / int(rows.mask[:8].sum())
    assert effect.touched == effect.dropped == pytest.approx(share)
    assert set(effect.weights.round(decimals=9).tolist()) == {0.0, 1.0}


def test_a_loss_that_reads_entropies_touches_tokens_whose_log_prob_it_leaves_alone(tmp_path):
    def measure(population, state, generator):
        return {"mean": population.mask / population.mask.sum()}

    def apply(terms, batch, marks, state):
        return terms.regularize("bonus", -0.3 * (marks["mean"] * batch.entropies).sum()), {}

    control = EntropyControl(
        name="bonus", needs=frozenset({"entropies"}), measure=measure, apply=apply
    )
    found = by_name(replayed(tmp_path, [candidate("bonus", control)]))
    bonus, plain = found["bonus"], found[PLAIN]
    assert bonus.touched == 1
    torch.testing.assert_close(bonus.weights, torch.ones_like(bonus.weights))
    assert bonus.predicted > plain.predicted
    assert bonus.first_order["sgd"] > plain.first_order["sgd"]
    assert bonus.measured["sgd"] > plain.measured["sgd"]


def test_a_small_step_changes_entropy_as_the_gradient_says(tmp_path):
    chosen = [candidate("steer", settings.built("steer"))]
    for effect in replayed(tmp_path, chosen, learning_rate=1e-6).effects:
        for kind, measured in effect.measured.items():
            # the rest is of second order: a thousandth of the step of the other tests leaves a thousandth of it
            assert measured == pytest.approx(effect.first_order[kind], rel=1e-2)


def test_the_prediction_is_the_formula_where_only_log_probs_are_in_the_loss(tmp_path):
    """-mean A r (S - N) with A r of every token, N and S from statistics."""
    made = tiny.trainer(tmp_path, OBJECTIVE, dtype=torch.float64)
    rows = tiny.rollout(rehearsal=False)
    products = entropy_products(made, rows, [])
    seen = made.look(rows, ["sum_p2", "sum_p2_logp"])
    sampled = discriminator(seen.logprobs, seen.entropies)
    expected = expected_discriminator(
        seen.entropies, seen.statistics["sum_p2"], seen.statistics["sum_p2_logp"]
    )
    mask = rows.completion_mask
    torch.testing.assert_close(products["logprob"][mask], (expected - sampled)[mask])

    rollout = frozen(made, [])
    effect = replay(made, rollout, OBJECTIVE, tiny.plan(), [], after=0).effects[0]
    credited, _, _ = made.roller.credit(rollout.rows, None, {})
    first = mask.clone()
    first[8:] = False  # of the second update
    gain = credited.advantages[first].double()
    assert effect.predicted == pytest.approx(
        float(-(gain * (sampled - expected)[first]).mean()), rel=1e-6
    )
    assert effect.predicted != 0


@pytest.mark.parametrize("name", ["top_p_entropy:0.8", "nucleus_entropy:0.9"])
def test_products_of_statistics_are_finite(name, tmp_path):
    made = tiny.trainer(tmp_path, OBJECTIVE, dtype=torch.float64)
    products = entropy_products(made, tiny.rollout(rehearsal=False), [name])
    assert products[name].isfinite().all()
    assert products[name].abs().max() > 0
    assert (products["entropy"] >= 0).all()


def test_rows_keep_their_numbers_when_a_control_takes_some_and_turns_the_rest(tmp_path):
    def shape(rollout, state):
        order = torch.tensor([7, 5, 3, 1, 0, 15, 13, 11, 9, 8])
        return rollout.rows(order), state, {}

    effect = by_name(
        replayed(tmp_path, [candidate("few", EntropyControl(name="few", shape=shape))], after=0)
    )["few"]
    rows = tiny.rollout(rehearsal=False)
    gone = int(rows.mask[[2, 4, 6]].sum()) / int(rows.mask[:8].sum())
    assert effect.dropped == effect.touched == pytest.approx(gone)


def test_a_control_that_learns_sees_the_updates_before(tmp_path):
    seen: list[dict[str, float]] = []

    def step(state, stats):
        seen.append(dict(stats))
        return {"steps": state["steps"] + 1}

    states = []

    def apply(terms, batch, marks, state):
        states.append(state["steps"])
        return terms, {}

    control = EntropyControl(name="learner", init=lambda: {"steps": 0}, step=step, apply=apply)
    replayed(tmp_path, [candidate("learner", control)], after=2)
    assert [stats["entropy"] > 0 for stats in seen] == [True, True]
    assert states == [0, 1, 2]


def test_the_state_of_the_run_is_where_a_control_starts(tmp_path):
    states = []

    def apply(terms, batch, marks, state):
        states.append(state)
        return terms, {}

    control = EntropyControl(name="learner", init=lambda: {"steps": 0}, apply=apply)
    replayed(tmp_path, [candidate("learner", control)], states={"learner": {"steps": 9}})
    assert states == [{"steps": 9}]


@pytest.mark.parametrize(
    ("plan", "match"),
    [
        (
            RolloutPlan(tempered=TemperedRollout(1.7, 0.5)),
            r"2 prompts at temperature 1\.7.*--fresh",
        ),
        (RolloutPlan(rehearsal=Rehearsal(4, 8, 1.0, 64, None)), r"8 samples, 1 right.*--fresh"),
    ],
)
def test_rows_that_were_not_frozen_are_missed_by_name(plan, match, tmp_path):
    made = tiny.trainer(tmp_path, OBJECTIVE, dtype=torch.float64)
    wants = candidate("wants", EntropyControl(name="wants", plan=lambda _: plan))
    rollout = frozen(made, [])
    with pytest.raises(ValueError, match=match):
        replay(made, rollout, OBJECTIVE, tiny.plan(), [wants])
    other = candidate("steer", settings.built("steer"))
    result = replay(made, rollout, OBJECTIVE, tiny.plan(), [wants, other])
    assert list(result.left_out) == ["wants"]
    assert [effect.name for effect in result.effects] == [PLAIN, "steer"]


def test_activations_that_are_computed_again_change_no_number(tmp_path):
    chosen = [candidate("steer", settings.built("steer"))]
    kept = replayed(tmp_path, chosen).effects
    again = replayed(tmp_path, chosen, checkpointing=True).effects
    for one, other in zip(kept, again, strict=True):
        assert numbers(one) == pytest.approx(numbers(other), rel=1e-9)


def test_a_rollout_without_a_signal_is_refused(tmp_path):
    made = tiny.trainer(tmp_path, OBJECTIVE, dtype=torch.float64)
    rollout = frozen(made, [])
    rows = replace(rollout.rows, rewards=torch.ones_like(rollout.rows.rewards))
    with pytest.raises(ValueError, match="all completions earn the same"):
        replay(made, replace(rollout, rows=rows), OBJECTIVE, tiny.plan(), [])


def test_numbers_of_rows_start_at_one_so_that_added_rows_have_none():
    rows = tagged(tiny.rollout(rehearsal=False))
    joined = rows.join(tiny.rollout(rehearsal=True))
    from rlvr.replay.effect import TAG

    assert joined.old_statistics[TAG][:, 0].tolist() == [*range(1, 17), *[0] * 20]


def effect(name: str, predicted: float, measured: float, weights: list[float]) -> Effect:
    change = {"optimizer": measured, "sgd": -measured}
    return Effect(
        name, {}, 0.0, 0.0, 0.0, 0.0, torch.tensor(weights), 1.0, 1.0, predicted, change, change
    )


def test_the_histogram_holds_every_weight():
    counts = histogram(effect("x", 0, 0, [1.0, 1.0, 0.0, -9.0, 9.0, 0.94, 0.96]))
    edges = torch.tensor(EDGES)
    assert counts.sum() == 7
    assert (counts[0], counts[-1]) == (1, 1)
    # a bin reaches half of its width to either side of its middle, 1.0: 1, 1, 0.96
    assert counts[int((edges == 1.0).nonzero())] == 3


def test_correlation_is_that_of_the_methods():
    effects = [effect(str(i), float(i), 2.0 * i + 1, [1.0]) for i in range(3)]
    found = correlations(Result(effects, {}, {}))
    assert found["predicted"]["optimizer"] == pytest.approx(1)
    assert found["predicted"]["sgd"] == pytest.approx(-1)
    constant = correlations(Result([effects[0]] * 2, {}, {}))
    assert math.isnan(constant["predicted"]["sgd"])


def test_a_narrow_table_leaves_columns_to_the_picture():
    result = Result([effect("x", 0.1, 0.2, [1.0])], {}, {})
    assert len(table(result, width=120).columns) == 10
    assert len(table(result, width=80).columns) == 8
