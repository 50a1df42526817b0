"""Every shipped recipe loads, plans, cites its source, and there is one for every entropy control."""

import pytest
import yaml

from rlvr.catalog import methods
from rlvr.check.methods import check_methods
from rlvr.check.plan import plan_batches
from rlvr.compose import SHIPPED, shipped_recipes
from rlvr.recipe import load_recipe, write_resolved

CONTROLS = sorted(methods("entropy"))


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_loads_and_its_methods_take_its_options(name):
    recipe, origins = load_recipe(name)
    check_methods(recipe, origins)
    assert recipe.expect


@pytest.mark.parametrize("processes", [1, 2, 8])
@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_runs_on_one_two_and_eight_processes(name, processes):
    recipe, _ = load_recipe(name)
    plan_batches(recipe, processes)


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_can_be_repeated_from_its_resolved_file(name, tmp_path):
    recipe, origins = load_recipe(name)
    write_resolved(recipe, origins, tmp_path / "resolved.yaml")
    assert load_recipe(tmp_path / "resolved.yaml")[0] == recipe


def test_every_control_has_a_recipe_of_its_name_that_uses_it_alone():
    used = {
        name: [item.name for item in load_recipe(name)[0].entropy]
        for name in shipped_recipes()
        if name in CONTROLS
    }
    assert used == {name: [name] for name in CONTROLS}


@pytest.mark.parametrize("name", CONTROLS)
def test_a_methods_recipe_cites_paper_code_commit_and_deviations(name):
    recipe, _ = load_recipe(name)
    source = recipe.source
    assert source.paper
    assert source.url.startswith("https://")
    assert source.repository.count("/") == 1
    assert len(source.commit) == 40
    assert source.deviations


@pytest.mark.parametrize("name", CONTROLS)
def test_a_methods_recipe_states_only_its_difference_from_the_base(name):
    values = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text())
    assert values["extends"] == "base_math.yaml"
    base = load_recipe("base_math")[0].model_dump()
    for section in set(values) - {"extends", "source", "expect", "entropy"}:
        # 512 prompts are restated beside the number of updates they make
        repeated = {
            key
            for key, value in values[section].items()
            if base[section].get(key) == value and key != "prompts_per_rollout"
        }
        assert repeated == set(), section


def test_methods_on_the_base_compare_at_the_same_number_of_updates_per_rollout():
    plain = plan_batches(load_recipe("dapo_math")[0], 1).updates_per_rollout
    for name in ("clip_cov", "kl_cov", "steer"):
        assert plan_batches(load_recipe(name)[0], 1).updates_per_rollout == plain


def test_the_real_data_recipe_takes_local_files_in_place_of_hub_ids(tmp_path):
    recipe, _ = load_recipe(
        "dapo_math",
        overrides=[f"data.path={tmp_path}/train.parquet", "evaluation.sets.AIME24.path=a.parquet"],
    )
    assert recipe.data.path == f"{tmp_path}/train.parquet"
    assert [s.path for s in recipe.evaluation.sets] == [
        "HuggingFaceH4/MATH-500",
        "a.parquet",
        "yentinglin/aime_2025",
    ]


@pytest.mark.parametrize(
    "path", sorted((SHIPPED / "accelerate").glob("*.yaml")), ids=lambda p: p.stem
)
def test_an_accelerate_profile_is_complete(path):
    values = yaml.safe_load(path.read_text())
    assert values["num_processes"] >= 2
    assert values["mixed_precision"] == "no"
    zero = values.get("deepspeed_config", {}).get("zero_stage")
    assert f"zero{zero}" in path.stem if zero else path.stem == "ddp"
