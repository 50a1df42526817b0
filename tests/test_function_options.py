"""Options of the functions that a recipe names are tried before a model is loaded."""

import pytest

from rlvr.check.methods import check_methods
from rlvr.recipe import load_recipe
from rlvr.recipe_error import RecipeError


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("advantage={pshw: {low: 1.0}}", "algorithm.advantage.pshw: low 1.0 is not below high"),
        ("advantage={pass_at_k: {k: 0}}", "algorithm.advantage.pass_at_k: k is 0"),
        ("advantage={psr_nsr: {negative: -1.0}}", "algorithm.advantage.psr_nsr: positive is 0.1"),
        ("aggregate={token_budget: {tokens: 0}}", "algorithm.aggregate.token_budget: tokens is 0"),
        # of 8 completions 8 make one subset, to which each adds the same
        ("advantage={pass_at_k: {k: 8}}", "0 in every group of 8 completions"),
    ],
)
def test_an_option_without_a_meaning_or_an_effect_is_refused(override, said):
    recipe, origins = load_recipe("demo", overrides=[f"algorithm.{override}"])
    with pytest.raises(RecipeError) as caught:
        check_methods(recipe, origins)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "advantage={pass_at_k: {k: 7}}",
        "advantage={psr_nsr: {positive: 0.0}}",
        "advantage={psr_nsr: {threshold: 40.0}}",
        "aggregate={token_budget: {tokens: 1}}",
    ],
)
def test_other_options_are_not(override):
    recipe, origins = load_recipe("demo", overrides=[f"algorithm.{override}"])
    check_methods(recipe, origins)
