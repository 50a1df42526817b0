"""The adaptive coefficient: its worked example, its bounds, which entropy it regulates."""

import math

import pytest
import torch
from pydantic import ValidationError

from rlvr.batch import initial_terms
from rlvr.entropy import adaptive_entropy
from rlvr.entropy.adaptive_entropy import coefficient
from rlvr.entropy.control import build_control
from tests.entropy import toy


def test_the_bonus_follows_the_update_before():
    control = build_control("adaptive_entropy", {"target": 0.5, "delta": 0.25, "coef_max": 0.5})
    assert control.step is not None
    state, applied = control.init(), []
    for entropy in (0.4, 0.4, 0.4, 0.6, 0.5, 0.4):
        applied.append(coefficient(state))
        state = control.step(state, {"entropy": entropy})
    # up to the bound, off while the update before was not below 0.5, and down to 0 meanwhile
    assert applied == [0.0, 0.25, 0.5, 0.5, 0.0, 0.0]
    assert state == {"coef": 0.25, "is_below": True}


@pytest.mark.parametrize(("is_below", "factor"), [(True, -0.25), (False, 0.0)])
def test_the_term_is_the_mean_entropy_times_the_coefficient_where_it_is_on(is_below, factor):
    control = build_control("adaptive_entropy", {"coef_max": 0.5})
    batch = toy.facts()
    assert batch.entropies is not None
    assert control.measure is not None
    assert control.apply is not None
    state = {"coef": 0.25, "is_below": is_below}
    marks = control.measure(batch, state, torch.Generator())
    terms, stats = control.apply(initial_terms(batch), batch, marks, state)
    expected = factor * batch.entropies[batch.mask].mean()
    torch.testing.assert_close(terms.regularizers["adaptive_entropy"], expected)
    assert float(stats["coef"][0] / stats["coef"][1]) == -factor


@pytest.mark.parametrize(("form", "is_below"), [("sound", True), ("authors", False)])
def test_the_sound_form_regulates_entropy_and_the_authors_surprisal(form, is_below):
    control = build_control("adaptive_entropy", {"target": 0.5, "form": form})
    assert control.step is not None
    assert control.step(control.init(), {"entropy": 0.4, "surprisal": 0.6})["is_below"] is is_below


def test_an_update_that_measured_no_entropy_leaves_the_coefficient():
    control = build_control("adaptive_entropy", {"coef_init": 0.002})
    assert control.step is not None
    assert control.step(control.init(), {"entropy": math.nan}) == control.init()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"coef_max": 0.0}, "coef_max is 0"),
        ({"delta": 0.0}, "delta is 0"),
        ({"target": 0.0}, "target of 0"),
    ],
)
def test_options_that_never_act_are_said_to_do_nothing(options, why):
    idle = build_control("adaptive_entropy", options).idle
    assert idle is not None
    assert why in idle


def test_a_first_coefficient_out_of_its_bounds_is_refused():
    with pytest.raises(ValidationError, match=r"coef_init 0.1 is not between .* coef_max 0.005"):
        adaptive_entropy.Config(coef_init=0.1)
