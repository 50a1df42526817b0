"""Recipes: what is refused and how it is said, composition, origins, and the resolved file."""

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlvr.catalog import trl_fields
from rlvr.check.methods import check_methods
from rlvr.check.trl_names import OWNED, owner
from rlvr.compose import is_override
from rlvr.recipe import Recipe, RecipeError, load_recipe, write_resolved
from rlvr.recipe_yaml import dump_yaml, parse_value, read_yaml

MINIMAL = """
model: {path: tiny}
data: {task: countdown}
training: {updates: 3}
"""


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(MINIMAL)
    return path


def refusal(path, *overrides, overlays=()):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overlays, overrides)
    message = str(caught.value)
    assert len(message.splitlines()) <= 15
    return message


def method_refusal(path, *overrides):
    recipe, origins = load_recipe(path, overrides=overrides)
    with pytest.raises(RecipeError) as caught:
        check_methods(recipe, origins)
    return str(caught.value)


# what is wrong with one value


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rollout.group_siz=4", ["rollout.group_siz", "Did you mean 'group_size'", "passes"]),
        ("rolout={passes: 2}", ["rolout is not a key", "Did you mean 'rollout'", "evaluation"]),
        ("training.group_size=4", ["training.group_size", "not a key"]),
        ("algorithm.group_size=4", ["Did you mean 'rollout.group_size'"]),
        ("rollout.temperature=0", ["rollout.temperature is 0", "above 0"]),
        ("rollout.top_p=1.5", ["rollout.top_p is 1.5", "above 0 and at most 1"]),
        ("rollout.group_size=eight", ["rollout.group_size is 'eight'", "an integer at least 1"]),
        ("rollout.group_size='\"8\"'", ["rollout.group_size is", "an integer"]),
        ("rollout.group_size=true", ["rollout.group_size is true", "an integer"]),
        ("rollout.engine=vlm", ["rollout.engine is 'vlm'", "one of transformers, vllm"]),
        ("algorithm.dual_clip=1", ["algorithm.dual_clip is 1", "above 1, or null"]),
        ("algorithm.clip_low=-0.1", ["algorithm.clip_low is -0.1", "at least 0"]),
        ("training.learning_rate=.inf", ["training.learning_rate is inf", "a number above 0"]),
        ("rewards.scores.wrong=dropp", ["rewards.scores.wrong is 'dropp'", "a number, or drop"]),
        ("rewards.verifiers=[]", ["rewards.verifiers is []", "at least 1"]),
        ("evaluation.k=[0]", ["evaluation.k[0] is 0", "at least 1"]),
        ("monitor.report_to=[wandbb]", ["monitor.report_to[0]", "tensorboard, trackio, wandb"]),
        ("name=a/b", ["name is 'a/b'", "letters, digits"]),
        ("model=tiny", ["model is 'tiny'", "a section with the keys path, revision"]),
        ("model={}", ["model.path is missing", "Hub id or folder"]),
        ("evaluation.sets=[{task: countdown}]", ["evaluation.sets[0].name is missing"]),
        ("algorithm.surrogate=clippd", ["unknown surrogate 'clippd'", "Did you mean 'clipped'"]),
        ("algorithm.surrogate={sapo: {tau: 1}}", ["tau is not an option", "tau_positive"]),
        (
            "algorithm.surrogate={sapo: {tau_positive: hi}}",
            ["algorithm.surrogate.sapo.tau_positive is 'hi'", "float"],
        ),
        ("algorithm.aggregate=token_budget", ["algorithm.aggregate needs tokens"]),
        ("algorithm.advantage=zscore", ["unknown advantage 'zscore'", "group_zscore"]),
        (
            "entropy=[clipcov]",
            ["entropy[0]", "unknown entropy control 'clipcov'", "Did you mean 'clip_cov'"],
        ),
        ("entropy=[steer, steer]", ["steer 2 times"]),
        ("entropy=[{steer: null, weight_min: 1}]", ["entropy[0]", "indent its options"]),
        ("rewards.verifiers=[maths]", ["unknown verifier 'maths'", "'math'", "file.py:function"]),
        ("rewards.batch_deadline=1800", ["batch_deadline is 1800", "training.ddp_timeout"]),
        ("training.lr=1", ["training.lr is another library's name", "training.learning_rate"]),
        ("training.warmup_step=1", ["Did you mean 'warmup_steps'"]),
        ("training.warmup_steps=abc", ["training.warmup_steps is 'abc'", "float"]),
        ("training.num_generations=4", ["TRL's name", "rollout.group_size"]),
        ("training.loss_type=grpo", ["TRL's name", "algorithm.surrogate"]),
        ("training.logging_steps=1", ["TRL's name", "monitor"]),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_the_fix(base, override, said):
    message = refusal(base, override)
    assert "\n" not in message
    assert "command line" in message
    assert [part for part in said if part not in message] == []


# what is wrong between values


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["rollout.group_size=1"], ["every advantage is 0", "2 or more"]),
        (
            ["rollout.prompts_per_rollout=100"],
            ["not a multiple of prompts_per_update 32", "96 or 128", "25 or 50"],
        ),
        (["evaluation.k=[1, 16]"], ["evaluation.k has 16", "samples 8", "set samples to 16"]),
        (["training.updates=null"], ["neither updates nor epochs"]),
        (
            ["training.updates=3", "training.epochs=1"],
            ["training.updates is 3", "epochs is 1", "keep one"],
        ),
        (["data.task=null"], ["data has neither path nor task"]),
        (
            ["data.task=countdown", "data.path=x.jsonl"],
            ["data.path is 'x.jsonl'", "data.task", "keep one"],
        ),
        (["data.split=validation"], ["data.split", "train and test"]),
        (
            ["data.task=null", "data.path=x", r"data.template='{p} \boxed{}'"],
            ["data.template", "{{}}"],
        ),
        (["data.task=null", "data.path=x", "data.template=solve"], ["names no column"]),
        (["data.task=null", "data.path=x", "data.template='{p'"], ["not a format string"]),
        (["rollout.engine=vllm", "rollout.top_p=0.9"], ["rollout.top_p is 0.9", "renormalised"]),
        (["rollout.engine=vllm", "training.device=cpu"], ["needs a GPU"]),
        (["rewards.batch_deadline=1"], ["rewards.batch_deadline is 1 s", "deadline 5 s"]),
        (["evaluation.temperature=0"], ["greedy", "samples: 1"]),
    ],
)
def test_a_wrong_combination_is_refused_with_the_nearest_that_works(base, overrides, said):
    message = refusal(base, *overrides)
    assert [part for part in said if part not in message] == []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["algorithm.surrogate=gpg", "algorithm.clip_high=0.28"], ["surrogate gpg", "clipped"]),
        (["algorithm.surrogate=cispo", "algorithm.dual_clip=3"], ["does not use it", "gppo"]),
        (["algorithm.kl_estimator=k1"], ["kl_estimator is k1", "kl_coef is 0"]),
        (["data.columns={prompt: x}"], ["data.columns", "for a data set"]),
        (["data.task=null", "data.path=x", "data.size=4"], ["data.size", "for a task"]),
        (["evaluation.every=5"], ["evaluation.every is 5", "sets is empty"]),
        (["export.private=false"], ["export.private", "export.to"]),
        (["training.keep_checkpoints=5"], ["save_every 0"]),
    ],
)
def test_a_value_without_effect_is_refused(base, overrides, said):
    message = refusal(base, *overrides)
    assert [part for part in said if part not in message] == []


def test_an_inherited_value_that_a_later_source_makes_moot_is_accepted(tmp_path, base):
    base.write_text(MINIMAL + "algorithm: {clip_high: 0.28}\n")
    child = tmp_path / "child.yaml"
    child.write_text("extends: base.yaml\nalgorithm: {surrogate: gpg}\n")
    recipe, origins = load_recipe(child)
    assert recipe.algorithm.clip_high == 0.28
    write_resolved(recipe, origins, tmp_path / "resolved.yaml")
    assert load_recipe(tmp_path / "resolved.yaml")[0] == recipe
    assert "does not use it" in refusal(child, "algorithm.clip_high=0.3")
    assert "does not use it" in refusal(
        tmp_path / "resolved.yaml", "algorithm.clip_high=0.3", "algorithm.surrogate=gpg"
    )


def test_all_problems_come_in_one_message_in_the_order_of_the_file(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(
        "model: {path: tiny}\n"
        "data: {task: countdown}\n"
        "rollout:\n"
        "  group_siz: 8\n"
        "  temperature: hot\n"
        "  prompts_per_rollout: 100\n"
        "training: {updates: 3, num_generations: 2}\n"
    )
    lines = refusal(path).splitlines()
    assert lines[0] == f"{path} has 4 problems:"
    keys = ["group_siz", "temperature", "prompts_per_rollout", "num_generations"]
    assert [key for key, line in zip(keys, lines[1:], strict=True) if key not in line] == []
    assert [line.split(":")[1] for line in lines[1:]] == ["4", "5", "6", "7"]


def test_many_problems_still_fit_one_screen(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(MINIMAL + "".join(f"wrong_{i}: 1\n" for i in range(40)))
    message = refusal(path)
    assert "40 problems" in message
    assert "and 30 more" in message


def test_a_combination_is_not_blamed_on_a_value_that_is_itself_wrong(base):
    message = refusal(base, "data.task=5", "rollout.prompts_per_update=many")
    assert "neither" not in message
    assert "multiple" not in message
    assert "data.task is 5" in message


# options of methods


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["entropy=[{clip_cov: {fraction: 2.0}}]"],
            ["entropy[0].clip_cov.fraction is 2.0", "at least 0 and at most 1"],
        ),
        (["entropy=[{clip_cov: {fracton: 0.1}}]"], ["fracton", "Did you mean 'fraction'", "scope"]),
        (["entropy=[{steer: {weight_min: 2}}]"], ["entropy[0].steer", "weight_max"]),
        (["entropy=[clip_cov, kl_cov]"], ["entropy cannot be combined", "replace the clip"]),
        (
            ["entropy=[kl_cov]", "rollout.prompts_per_rollout=32"],
            ["kl_cov has no effect", "one update per rollout", "passes"],
        ),
        (
            ["entropy=[clip_cov]", "algorithm.clip_high=0.3"],
            ["algorithm.clip_high is 0.3", "clip_cov replaces the clip"],
        ),
        (["rewards.verifiers=[{math: {tolerence: 1}}]"], ["rewards.verifiers[0].math.tolerence"]),
        (["rewards.verifiers=[nowhere.py:reward]"], ["rewards.verifiers[0]", "nowhere.py"]),
        (["rewards.verifiers=[{math: {when_correct: true}}]"], ["first verifier"]),
        (["rewards.verifiers=[{math: {weight: big}}]"], ["math.weight is 'big'", "a number"]),
        (["rewards.verifiers=[{math: {deadline: 0}}]"], ["math.deadline is 0", "above 0"]),
        (["rewards.verifiers=[{math: {normalize: batch}}]"], ["normalize is 'batch'", "group"]),
        (["data.task=cuontdown"], ["data.task", "Did you mean 'countdown'"]),
        (["data.task_options={nubers: 3}"], ["data.task", "nubers"]),
    ],
)
def test_options_of_methods_are_checked_against_their_own_schema(base, overrides, said):
    message = method_refusal(base, *overrides)
    assert [part for part in said if part not in message] == []


def test_a_verifier_of_the_user_is_found_by_path(base, tmp_path):
    (tmp_path / "mine.py").write_text("def reward(sample):\n    return 1.0\n")
    verifier = f"{tmp_path}/mine.py:reward"
    recipe, origins = load_recipe(base, overrides=[f"rewards.verifiers=[{{'{verifier}': {{}}}}]"])
    check_methods(recipe, origins)
    assert "rewards.verifiers[0]" in method_refusal(
        base, f"rewards.verifiers=['{tmp_path}/mine.py:other']"
    )


# composition


def test_maps_merge_lists_replace_and_the_later_source_wins(tmp_path):
    (tmp_path / "a.yaml").write_text(
        MINIMAL + "rollout: {group_size: 4, passes: 2}\nentropy: [steer]\nevaluation: {k: [1, 2]}\n"
    )
    (tmp_path / "b.yaml").write_text(
        "extends: a.yaml\nrollout: {group_size: 6}\nentropy: [clip_cov]\n"
    )
    (tmp_path / "c.yaml").write_text("rollout: {group_size: 10}\nevaluation: {k: [1]}\n")
    recipe, origins = load_recipe(
        tmp_path / "b.yaml", [tmp_path / "c.yaml"], ["rollout.group_size=12"]
    )
    assert recipe.rollout.group_size == 12
    assert recipe.rollout.passes == 2
    assert [item.name for item in recipe.entropy] == ["clip_cov"]
    assert recipe.evaluation.k == (1,)
    assert origins.of(("rollout", "group_size")) == "command line"
    assert origins.of(("rollout", "passes")) == f"{tmp_path}/a.yaml:5"
    assert origins.of(("entropy", 0)) == f"{tmp_path}/b.yaml:3"
    assert origins.of(("evaluation", "k")) == f"{tmp_path}/c.yaml:2"
    assert origins.of(("rollout", "top_p")) == "default"


def test_what_describes_one_file_is_not_inherited(tmp_path):
    (tmp_path / "a.yaml").write_text(
        MINIMAL + "name: first\noutput: here\nexpect: x\nsource: {paper: p}\n"
    )
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    recipe, _ = load_recipe(tmp_path / "b.yaml")
    assert recipe.name == "b"
    assert recipe.output == Path("runs/b")
    assert recipe.source is None
    assert recipe.expect is None


def test_a_named_choice_merges_only_with_the_same_name(base):
    base.write_text(MINIMAL + "algorithm: {surrogate: {sapo: {tau_positive: 2.0}}}\n")
    merged, _ = load_recipe(base, overrides=["algorithm.surrogate.sapo.tau_negative=3"])
    assert merged.algorithm.surrogate.options == {"tau_positive": 2.0, "tau_negative": 3}
    other, _ = load_recipe(base, overrides=["algorithm.surrogate={gpg: {}}"])
    assert (other.algorithm.surrogate.name, other.algorithm.surrogate.options) == ("gpg", {})
    assert "algorithm.surrogate is sapo, not gpg" in refusal(base, "algorithm.surrogate.gpg.a=1")


def test_items_of_named_lists_are_addressed_by_name(base):
    base.write_text(
        MINIMAL
        + "entropy: [{clip_cov: {fraction: 0.1}}, steer]\n"
        + "rewards: {verifiers: [math, format]}\n"
        + "evaluation: {sets: [{name: A, task: countdown, split: test}]}\n"
    )
    recipe, origins = load_recipe(
        base,
        overrides=[
            "entropy.clip_cov.fraction=5e-4",
            "entropy.steer.weight_min=0.9",
            "rewards.verifiers.format.weight=0.5",
            "evaluation.sets.A.limit=7",
        ],
    )
    assert recipe.entropy[0].options == {"fraction": 5e-4}
    assert recipe.entropy[1].options == {"weight_min": 0.9}
    assert recipe.rewards.verifiers[1].options == {"weight": 0.5}
    assert recipe.evaluation.sets[0].limit == 7
    assert origins.of(("entropy", 0, "clip_cov", "fraction")) == "command line"
    message = refusal(base, "entropy.clipcov.fraction=1")
    assert "no item 'clipcov'" in message
    assert "Did you mean 'clip_cov'" in message
    assert "entropy='[{clipcov: {}}]'" in message


def test_an_override_of_an_empty_list_says_how_to_fill_it(base):
    assert "entropy='[{kl_cov: {}}]'" in refusal(base, "entropy.kl_cov.fraction=1e-3")


@pytest.mark.parametrize("override", ["training.seed", ".a=1", "a..b=1", "training.seed=[1"])
def test_a_malformed_override_is_refused(base, override):
    assert "command line" in refusal(base, override)


def test_a_cycle_of_extends_is_named(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    message = refusal(tmp_path / "a.yaml")
    assert "extends itself" in message
    assert message.count("a.yaml") >= 2


def test_a_missing_parent_is_named_with_the_line_that_asks_for_it(tmp_path):
    (tmp_path / "a.yaml").write_text("\nextends: base_mat\n")
    message = refusal(tmp_path / "a.yaml")
    assert "a.yaml:2" in message
    assert "Did you mean 'base_math'" in message


def test_an_overlay_cannot_extend(tmp_path, base):
    (tmp_path / "o.yaml").write_text("extends: base.yaml\n")
    assert "cannot extend" in refusal(base, overlays=[tmp_path / "o.yaml"])


def test_a_shipped_recipe_is_found_by_name_and_an_unknown_one_gets_a_suggestion():
    assert load_recipe("clip_cov")[0].name == "clip_cov"
    assert "Did you mean 'clip_cov'" in refusal("clip_cv")


# YAML


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2\n", "given twice (first in line 1)"),
        ("a: [1\n", "not YAML"),
        ("a:\n\tb: 1\n", ":2: not YAML"),
        ("- 1\n", "holds a list"),
        ("1: 2\n", "not a string"),
        ("a: !!python/object:os.system {}\n", ":1: a has the tag !!python/object:os.system"),
        ("a: &x [*x]\n", ":1: a[0][0] is nested more than 32 levels deep"),
        ("a: !!int b\n", ":1: a is 'b', which is no int"),
        ("a: b\0\n", "not YAML"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path, text, said):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    message = refusal(path)
    assert str(path) in message
    assert said in message


def test_an_empty_file_lacks_the_required_sections(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    message = refusal(tmp_path / "empty.yaml")
    assert [
        key for key in ("model", "data", "training") if f"{key} is missing" not in message
    ] == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("010", 10),
        ("no", "no"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("", None),
    ],
)
def test_scalars_are_read_as_in_yaml_1_2(text, value):
    read = parse_value(text)
    assert read == value
    assert type(read) is type(value)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.sampled_from(["1e-5", "no", "on", "~", "1:30", "0x1", "<<", "=", "- a", "a: b", "1_0"]),
)
trees = st.dictionaries(
    st.text(min_size=1),
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@example({"A\n": None})  # a name and the end of a line
@given(trees)
@settings(deadline=None, max_examples=200)
def test_what_is_written_is_read_back(tree):
    text = dump_yaml(tree, lambda _: "origin")
    assert read_yaml(text, "file")[0] == tree


# the resolved file


def test_a_resolved_recipe_loads_equal_and_is_plain_yaml(tmp_path, base):
    recipe, origins = load_recipe(
        base,
        overrides=[
            "entropy=[steer, {clip_cov: {fraction: 1e-3}}]",
            "model.lora={rank: 4}",
            "data.system='no, {x}\\n#'",
            "output=/tmp/a folder",
            "training.warmup_steps=3",
            "training.lr_scheduler_type=constant",
            "rewards.scores={wrong: -1, timeout: 0}",
            "algorithm.surrogate.clipped={}",
            "evaluation.sets=[{name: A, task: countdown, split: test, verifiers: [exact]}]",
        ],
    )
    path = tmp_path / "resolved.yaml"
    write_resolved(recipe, origins, path)
    again, _ = load_recipe(path)
    assert again == recipe
    assert again.training.model_extra == recipe.training.model_extra
    write_resolved(again, origins, tmp_path / "second.yaml")
    assert (tmp_path / "second.yaml").read_text() == path.read_text()
    assert yaml.safe_load(path.read_text())["rollout"]["group_size"] == 8
    text = path.read_text()
    assert "warmup_steps: 3  # command line" in text
    assert f"updates: 3  # {base}:4" in text
    assert "top_k: 0  # default" in text


def test_every_value_of_a_resolved_recipe_has_an_origin(tmp_path, base):
    recipe, origins = load_recipe(base)
    write_resolved(recipe, origins, tmp_path / "resolved.yaml")
    lines = (tmp_path / "resolved.yaml").read_text().splitlines()[3:]
    assert [line for line in lines if not line.endswith(":") and "  # " not in line] == []


fields = st.fixed_dictionaries(
    {},
    optional={
        "rollout.group_size": st.integers(2, 64),
        "rollout.passes": st.integers(1, 4),
        "rollout.temperature": st.floats(0.1, 2),
        "algorithm.clip_low": st.floats(0, 1),
        "training.learning_rate": st.floats(1e-9, 1),
        "training.seed": st.integers(0, 2**31),
        "model.path": st.text(min_size=1),
        "model.trust_remote_code": st.booleans(),
        "data.system": st.none() | st.text(),
        "rewards.deadline": st.floats(1e-3, 100),
    },
)


@given(fields)
@settings(deadline=None, max_examples=40)
def test_any_recipe_survives_the_resolved_file(tmp_path_factory, given_fields):
    folder = tmp_path_factory.mktemp("recipe")
    values = yaml.safe_load(MINIMAL)
    for key, value in given_fields.items():
        section, _, name = key.partition(".")
        values.setdefault(section, {})[name] = value
    (folder / "r.yaml").write_text(dump_yaml(values, lambda _: ""))
    recipe, origins = load_recipe(folder / "r.yaml")
    write_resolved(recipe, origins, folder / "resolved.yaml")
    assert load_recipe(folder / "resolved.yaml")[0] == recipe


# the schema itself


def undescribed(model, at=""):
    for name, field in model.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            yield from undescribed(field.annotation, f"{at}{name}.")
        elif not field.description:
            yield f"{at}{name}"


def test_every_field_says_what_it_means():
    assert list(undescribed(Recipe)) == []


def test_a_recipe_cannot_be_changed_after_loading(base):
    recipe, _ = load_recipe(base)
    with pytest.raises(ValueError, match="frozen"):
        recipe.rollout.group_size = 4


def test_a_wrong_recipe_built_in_python_is_refused_too():
    with pytest.raises(ValueError, match="every advantage is 0"):
        Recipe.model_validate(yaml.safe_load(MINIMAL) | {"rollout": {"group_size": 1}})


def test_every_owned_name_is_a_field_of_trl():
    assert sorted(OWNED.keys() - trl_fields().keys()) == []


def test_optimizer_and_schedule_stay_free():
    names = ("warmup_steps", "lr_scheduler_type", "weight_decay", "adam_beta2", "max_grad_norm")
    assert {name: owner(name) for name in names} == dict.fromkeys(names)


@pytest.mark.slow
def test_the_fields_read_from_trls_source_are_those_of_its_class():
    import dataclasses

    from trl import GRPOConfig

    assert {field.name for field in dataclasses.fields(GRPOConfig)} == set(trl_fields())


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("training.seed=1", True),
        ("entropy.clip_cov.fraction=5e-4", True),
        ("name=", True),
        ("clip_cov", False),
        ("runs/a.yaml", False),
        ("--resume", False),
    ],
)
def test_an_override_is_told_from_a_file(argument, expected):
    assert is_override(argument) is expected


def test_updates_and_epochs_of_a_later_source_replace_each_other(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("extends: dapo_math\ntraining: {updates: 7}\n")  # dapo_math has epochs
    recipe, origins = load_recipe(file)
    assert (recipe.training.updates, recipe.training.epochs) == (7, None)
    assert origins.of(("training", "epochs")) == "default"
    recipe, _ = load_recipe(file, overrides=["training.epochs=2"])
    assert (recipe.training.updates, recipe.training.epochs) == (None, 2)


def test_a_task_takes_the_place_of_an_inherited_data_set():
    overrides = ["data.task=countdown", "rewards.verifiers=[countdown]"]
    recipe, _ = load_recipe("dapo_math", overrides=overrides)
    assert (recipe.data.path, recipe.data.task) == (None, "countdown")
