"""The entropy budget on a plant of one line, through its actuators, and on the exact bandit."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from rlvr.check.methods import check_methods
from rlvr.entropy import entropy_budget
from rlvr.entropy.control import Chain, EntropyControl, State, build_control, chain
from rlvr.entropy.entropy_budget import Config, controller, target_at, value_at
from rlvr.recipe import load_recipe
from rlvr.recipe_error import RecipeError
from tests.entropy import toy
from tests.entropy.test_bandit import entropies_of_a_run

ACTUATORS = entropy_budget.actuator_names()


def budget(**options: Any) -> EntropyControl:
    return build_control("entropy_budget", options)


def stepped(control: EntropyControl, state: State, entropy: float) -> State:
    assert control.step is not None
    return control.step(state, {"entropy": entropy})


def plant(
    control: EntropyControl,
    updates: int,
    entropy: float = 0.6,
    *,
    loss: float = 0.006,
    force: float = 0.012,
    state: State | None = None,
) -> tuple[list[float], State]:
    """Return the entropies of a policy that loses `loss` an update and gains up to `force` by the actuator.

    What the actuator does shows half at once and half in the next update, as with an optimizer's momentum.
    """
    state = state or control.init()
    curve, before = [], state["level"]
    for _ in range(updates):
        curve.append(entropy)
        state = stepped(control, state, entropy)
        entropy = max(1e-3, entropy - loss + force * (state["level"] + before) / 2)
        before = state["level"]
    return curve, state


def updates_until(curve: list[float], target: float, within: float = 0.05) -> int:
    """Return after how many updates the entropy has come within a share of the target."""
    return next(number for number, value in enumerate(curve) if abs(value / target - 1) <= within)


# ---------------------------------------------------------------- the controller


def test_a_relative_error_of_one_over_the_gain_asks_for_the_end_of_the_range() -> None:
    # 0.5 nats, measured 0.4: e = 0.2, level = 5 x 0.2 = 1; I <- 5 / 50 x 0.2 = 0.02
    control = budget(target=0.5, smoothing=1.0)
    state = stepped(control, control.init(), 0.4)
    assert state["level"] == pytest.approx(1.0)
    assert state["integral"] == pytest.approx(0.02)
    # measured 0.55: e = -0.1, level = -0.5 + 0.02, I <- 0.02 - 0.01
    state = stepped(control, state, 0.55)
    assert state["level"] == pytest.approx(-0.48)
    assert state["integral"] == pytest.approx(0.01)


def test_the_entropy_of_one_update_counts_by_its_share_of_the_smoothing() -> None:
    control = budget(target=0.5, smoothing=4.0)
    state = stepped(control, stepped(control, control.init(), 0.4), 0.8)
    # the first counts whole; 0.4 + (0.8 - 0.4) / 4
    assert state["entropy"] == pytest.approx(0.5)
    assert state["level"] == pytest.approx(0.02)  # only the integral of the first error is left


def test_the_unit_of_the_entropy_never_matters() -> None:
    small, large = (
        stepped(budget(target=0.5 * scale), budget().init(), 0.45 * scale) for scale in (1, 7)
    )
    assert small["level"] == pytest.approx(large["level"])


def test_a_level_is_a_value_between_the_three_of_the_range() -> None:
    least, neutral, most = -0.1, 0.02, 0.5
    assert value_at(-1.0, least, neutral, most) == pytest.approx(least)
    assert value_at(0.0, least, neutral, most) == neutral
    assert value_at(1.0, least, neutral, most) == most
    # half the level is a quarter of the way from 0.02 to 0.5
    assert value_at(0.5, least, neutral, most, power=2.0) == pytest.approx(0.14)


@pytest.mark.parametrize("first", [0.2, 0.9], ids=["from below", "from above"])
@pytest.mark.parametrize("loss", [0.006, -0.004], ids=["falling", "rising"])
def test_the_target_is_held_from_either_side_of_a_policy_that_falls_or_rises(
    first: float, loss: float
) -> None:
    curve, state = plant(budget(target=0.5), 400, first, loss=loss)
    assert max(abs(value / 0.5 - 1) for value in curve[200:]) < 0.02
    # the integral has found the level that balances the loss: force x level = loss
    assert state["integral"] == pytest.approx(loss / 0.012, abs=0.05)


def test_without_the_integral_the_entropy_settles_beside_the_target() -> None:
    curve, _ = plant(budget(target=0.5, integral_updates=math.inf), 400)
    # level 0.5 = gain x e, so e = 0.1
    assert curve[-1] == pytest.approx(0.45, abs=0.005)


def test_recovery_from_a_long_saturation_is_as_quick_as_from_a_short_one() -> None:
    # the policy loses more than the actuator can give, until the loss ends
    control = budget(target=0.5)
    times = []
    for saturated in (60, 300):
        curve, state = plant(control, saturated, 0.3, loss=0.02)
        assert state["level"] == 1.0
        assert curve[-1] < 0.05
        after, _ = plant(control, 100, curve[-1], loss=0.0, state=state)
        times.append(updates_until(after, 0.5))
        assert max(after) < 0.5 * 1.1
    assert times[0] == times[1]


def test_the_integral_waits_only_while_the_error_pushes_outward() -> None:
    assert controller(0.4, 0.3, 5.0, 50.0) == (1.0, 0.3)
    assert controller(-0.4, -0.3, 5.0, 50.0) == (-1.0, -0.3)
    # still clipped by a large integral, but the error has turned: 0.99 - 0.05 / 50 ...
    level, integral = controller(-0.001, 1.0, 5.0, 50.0)
    assert level == pytest.approx(0.995)
    assert integral == pytest.approx(0.9999)


def test_a_side_on_which_nothing_moves_winds_up_nothing() -> None:
    control = budget(target=0.5, range=(0.0, 0.0, 0.1))
    curve, state = plant(control, 40, 0.8, loss=0.006, force=0.0)
    assert state["level"] == 0.0
    assert state["integral"] == 0.0
    after, state = plant(control, 150, curve[-1], state=state)
    assert min(after) > 0.5 * 0.85
    assert after[-1] == pytest.approx(0.5, rel=0.02)


def test_a_schedule_is_followed() -> None:
    control = budget(schedule=[(50, 0.6), (250, 0.4)], gain=8.0)
    curve, _ = plant(control, 400)
    config = Config(schedule=((50, 0.6), (250, 0.4)))
    assert target_at(config, 0) == 0.6
    assert target_at(config, 150) == pytest.approx(0.5)
    assert target_at(config, 900) == 0.4
    for update in (49, 150, 249, 399):
        assert curve[update] == pytest.approx(target_at(config, update), rel=0.1)


def test_a_relative_target_is_a_multiple_of_the_first_entropies() -> None:
    control = budget(target=0.8, relative=True, initial_updates=2, start=0.25, smoothing=1.0)
    state = stepped(control, control.init(), 1.0)
    assert (state["level"], state["integral"]) == (0.25, 0.25)
    state = stepped(control, state, 2.0)
    assert state["initial"] == 1.5
    # target 0.8 x 1.5 = 1.2, e = (1.2 - 2) / 1.2 = -2/3
    assert state["level"] == -1.0
    assert stepped(control, state, 1.2)["level"] == pytest.approx(0.25)
    assert stepped(control, state, 9.0)["initial"] == 1.5


@pytest.mark.parametrize("stats", [{"entropy": math.nan}, {}], ids=["nan", "missing"])
def test_an_update_without_an_entropy_changes_no_level(stats: Mapping[str, float]) -> None:
    control = budget(target=0.5, relative=True, initial_updates=1)
    assert control.step is not None
    state = stepped(control, control.init(), 0.4)
    after = control.step(state, stats)
    assert after == state | {"updates": 2}


def test_a_run_goes_on_from_its_state_as_json() -> None:
    control = budget(target=0.7, relative=True, schedule=[], initial_updates=3)
    whole, _ = plant(control, 200)
    first, state = plant(control, 2)
    restored = json.loads(json.dumps(state))
    control.check_resumed(restored)  # type: ignore[misc]
    # the plant's momentum is of level 0 there: nothing has moved while the initial entropy is measured
    rest, _ = plant(control, 198, whole[2], state=restored)
    assert first + rest == whole


def test_a_state_without_what_it_needs_is_not_resumed() -> None:
    control = budget(target=0.7, relative=True)
    state = stepped(control, control.init(), 0.5)
    with pytest.raises(ValueError, match="the initial entropy is not in the state"):
        control.check_resumed(state | {"initial": None})  # type: ignore[misc]
    tempered = budget(actuator="aepo")
    with pytest.raises(ValueError, match="actuator aepo lacks entropy"):
        tempered.check_resumed(tempered.init() | {"actuator": {}})  # type: ignore[misc]
    with pytest.raises(ValueError, match="entropy_budget lacks integral"):
        chain(control).check_resumed(
            {"entropy_budget": {k: v for k, v in state.items() if k != "integral"}}
        )


# ---------------------------------------------------------------- the actuators


@pytest.mark.parametrize("name", ACTUATORS)
@pytest.mark.parametrize("level", [-1.0, -0.5, 0.0, 0.6, 1.0])
def test_at_a_level_the_budget_is_its_actuator_with_that_value(name: str, level: float) -> None:
    update = toy.facts(), toy.logits(8, 7), toy.actions(8, 7)
    config = Config(actuator=name, start=level)
    options = entropy_budget.options_at(config, level)
    itself = build_control(name, options.model_dump())
    for parts in (None, [torch.tensor([3, 0, 7, 1]), torch.tensor([2, 6, 5, 4])]):
        budgeted = toy.objective(chain(entropy_budget.build(config)))
        loss, gradient, decision, _ = toy.loss_and_gradient(budgeted, *update, parts)
        own, own_gradient, own_decision, _ = toy.loss_and_gradient(
            toy.objective(chain(itself)), *update, parts
        )
        assert loss == own
        assert (gradient == own_gradient).all()
        assert decision.marks.get("entropy_budget", {}).keys() == (
            own_decision.marks.get(name, {}).keys()
        )


@pytest.mark.parametrize("name", ACTUATORS)
def test_the_two_ends_of_an_actuator_differ(name: str) -> None:
    assert len({entropy_budget._value(Config(actuator=name), level) for level in (-1, 0, 1)}) >= 2
    assert budget(actuator=name).idle is None


@pytest.mark.parametrize("name", ACTUATORS)
def test_what_an_actuator_reads_is_asked_for(name: str) -> None:
    control = budget(actuator=name)
    for level in (-1.0, 1.0):
        own = build_control(
            name, entropy_budget.options_at(Config(actuator=name), level).model_dump()
        )
        assert own.needs <= control.needs
        assert own.statistics <= control.statistics
        assert own.scope == control.scope
        assert own.replaces_clip <= control.replaces_clip
        assert own.measures_current_policy <= control.measures_current_policy


def test_the_temperature_of_aepo_follows_the_level() -> None:
    control = chain(budget(actuator="aepo", target=0.5))
    temperatures = []
    for entropy in (0.4, 0.5, 0.6):
        state = control.step(control.init(), {"entropy": entropy})
        tempered = control.plan(state).tempered
        assert tempered is not None
        temperatures.append(tempered.temperature)
    # levels 1, 0, -1
    assert temperatures == pytest.approx([1.5, 1.0, 0.6])


def test_the_statistics_of_an_actuator_reach_its_own_step(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Mapping[str, float]] = []
    module = entropy_budget._module("aepo")
    make: Callable[..., EntropyControl] = module.build

    def listening(config: Any) -> EntropyControl:
        def step(state: State, stats: Mapping[str, float]) -> State:
            heard.append(stats)
            return state

        return replace(make(config), step=step)

    monkeypatch.setattr(module, "build", listening)
    control = chain(budget(actuator="aepo"))
    control.step(control.init(), {"entropy": 0.4, "entropy_budget/positives": 3.0})
    assert heard[0]["aepo/positives"] == 3.0


def test_the_same_control_may_stand_beside_the_budget() -> None:
    update = toy.facts(), toy.logits(8, 7), toy.actions(8, 7)
    bonus = build_control("entropy_bonus", {"coef": 0.3})
    # level 1 with most 0.2
    moved = budget(start=1.0, gain=0.0, range=(-0.1, 0.0, 0.2))
    sum_of_both = build_control("entropy_bonus", {"coef": 0.5})
    _, both, _, _ = toy.loss_and_gradient(toy.objective(chain(bonus, moved)), *update)
    _, one, _, _ = toy.loss_and_gradient(toy.objective(chain(sum_of_both)), *update)
    torch.testing.assert_close(both, one)


def test_level_value_and_target_are_told() -> None:
    control = chain(budget(target=0.4, start=0.5, range=(-0.1, 0.0, 0.2)))
    objective = toy.objective(control)
    _, _, _, sums = toy.loss_and_gradient(
        objective, toy.facts(), toy.logits(8, 7), toy.actions(8, 7)
    )
    told = {
        key: float(sums[f"entropy_budget/{key}"][0] / sums[f"entropy_budget/{key}"][1])
        for key in ("level", "value", "target")
    }
    # value: a quarter of 0.2
    assert told == pytest.approx({"level": 0.5, "value": 0.05, "target": 0.4})


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"actuator": "entropy_bonsu"}, "Did you mean 'entropy_bonus'"),
        ({"actuator": "dph"}, "unknown actuator 'dph'.* Known: aepo"),
        ({"actuator": "entropy_budget"}, "unknown actuator 'entropy_budget'"),
        ({"target": 0.0}, "greater than 0"),
        ({"target": 0.5, "schedule": [[0, 1.0]]}, "target and schedule are both given"),
        ({"schedule": [[10, 1.0], [10, 0.5]]}, r"must rise; they are \[10, 10\]"),
        ({"actuator_options": {"coef": 0.1}}, r"actuator_options.coef is what the level moves"),
        ({"actuator_options": {"coeff": 0.1}}, "actuator_options.coeff 0.1, which entropy_bonus"),
        ({"range": [-9.0, 0.0, 0.1]}, "range makes coef -9.0, which entropy_bonus does not take"),
        ({"gain": -1.0}, "greater than or equal to 0"),
        ({"start": 2.0}, "less than or equal to 1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("range: [0, 1]", "range is [0, 1]; it must be a list of 3: a number, a number, a number"),
        ("schedule: [[0, 1.0], [9]]", "schedule[1] is [9]; it must be a list of 2: an integer"),
        ("schedule: [[0, -1]]", "schedule[0][1] is -1; it must be a number above 0"),
    ],
)
def test_a_list_of_the_wrong_length_is_refused_in_words(options: str, message: str) -> None:
    item = f"entropy=[{{entropy_budget: {{{options}}}}}]"
    recipe, origins = load_recipe("demo", overrides=[item])
    with pytest.raises(RecipeError) as error:
        check_methods(recipe, origins)
    assert message in str(error.value)


def test_a_budget_that_cannot_act_says_so() -> None:
    assert "gain is 0" in (budget(gain=0.0).idle or "")
    assert "one value for every level, 0.1" in (budget(range=(0.1, 0.1, 0.1)).idle or "")
    assert budget().idle is None


def test_two_controls_that_want_tempered_rows_are_refused() -> None:
    both = chain(budget(actuator="aepo"), build_control("aepo", {}))
    with pytest.raises(ValueError, match="two controls ask for tempered rows"):
        both.plan(both.init())


# ---------------------------------------------------------------- a policy


@pytest.fixture(scope="module")
def plain() -> list[float]:
    return entropies_of_a_run(Chain(), rollouts=30)


@pytest.mark.parametrize("target", [0.8, 1.1])
def test_a_target_is_held_on_the_bandit(target: float, plain: list[float]) -> None:
    # updates have contexts of their own there, which share no parameter: eight updates meet them all
    controls = chain(budget(target=target, range=(-0.1, 0.0, 1.0), smoothing=8.0))
    settled = entropies_of_a_run(controls, rollouts=30)[15:]
    assert max(abs(value / target - 1) for value in settled) < 0.1
    assert max(value / target for value in plain[15:]) < 0.9
