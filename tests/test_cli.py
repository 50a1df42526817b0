"""The command line: fast help, errors without traceback and exit code 2, before any model loads."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from rlvr import cli
from rlvr.recipe import RecipeError, parse_recipe_arguments

MINIMAL = """
model: {path: no-such-model}
data: {task: countdown, size: 64}
rewards: {verifiers: [countdown]}
rollout: {prompts_per_rollout: 16, prompts_per_update: 8, group_size: 4, max_completion_length: 8}
training: {updates: 2}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(MINIMAL)
    return str(path)


def run(capsys, *args):
    """Return (exit code, stdout, stderr) of the command, run in this process."""
    code = 0
    try:
        cli.main(list(args))
    except SystemExit as exit_:
        code = exit_.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def test_nothing_heavy_is_imported_for_help_or_for_a_wrong_recipe(recipe):
    code = f"""
import sys
import rlvr, rlvr.cli
from rlvr.cli import main
for args in (["--help"], ["train", {recipe!r}, "rollout.group_siz=1"]):
    try:
        main(args)
    except SystemExit:
        pass
heavy = {{"torch", "transformers", "trl", "datasets", "matplotlib", "plotly"}} & set(sys.modules)
assert not heavy, heavy
"""
    result = python(code)
    assert result.returncode == 0, result.stderr
    assert "Did you mean 'group_size'" in result.stderr


def test_a_check_imports_no_model_code(recipe):
    code = f"""
import sys
from rlvr.check.methods import check_methods
from rlvr.recipe import load_recipe
check_methods(load_recipe({recipe!r}, overrides=["entropy=[steer]"])[0])
heavy = {{"transformers", "trl", "datasets"}} & set(sys.modules)
assert not heavy, heavy
"""
    result = python(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rollout.group_siz=8", "Did you mean 'group_size'"),
        ("rollout.group_size=many", "an integer"),
        ("rollout.group_size=1", "every advantage is 0"),
        ("training.tokens_per_micro_batch=7", "set it to"),
        ("entropy=[clipcov]", "Did you mean 'clip_cov'"),
        ("entropy=[{clip_cov: {fraction: 2}}]", "at most 1"),
    ],
)
@pytest.mark.parametrize("command", ["train", "check"])
def test_a_wrong_recipe_ends_with_code_2_and_one_screen_on_stderr(
    capsys, recipe, command, override, said
):
    code, out, err = run(capsys, command, recipe, override)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert said in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 15


def test_a_traceback_is_shown_on_request(monkeypatch, recipe):
    monkeypatch.setenv("RLVR_TRACEBACK", "1")
    with pytest.raises(RecipeError):
        cli.main(["train", recipe, "rollout.group_size=1"])


def test_an_error_of_another_package_keeps_its_traceback():
    with pytest.raises(json.JSONDecodeError), cli.user_errors():
        json.loads("{invalid")


def test_only_the_first_process_prints(capsys, monkeypatch, recipe):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(capsys, "train", recipe, "--dry-run") == (0, "", "")


def test_another_process_lets_the_first_say_what_is_wrong_and_says_its_own_if_it_still_lives(
    capsys, monkeypatch, recipe
):
    waited = []
    monkeypatch.setattr(cli.time, "sleep", waited.append)
    assert run(capsys, "train", recipe, "rollout.group_size=1")[0] == 2
    assert waited == []
    monkeypatch.setenv("RANK", "1")
    code, _, err = run(capsys, "train", recipe, "rollout.group_size=1")
    assert (code, waited) == (2, [cli._PATIENCE])
    assert "rollout.group_size is 1" in err


def test_a_dry_run_prints_the_plan_and_every_value_and_loads_no_model(capsys, recipe):
    code, out, err = run(capsys, "train", recipe, "training.seed=7", "--dry-run")
    assert code == 0, err
    assert "16 prompts x 4 completions = 64 completions" in out
    assert "seed: 7  # command line" in out
    assert f"updates: 2  # {recipe}:6" in out


def test_the_plan_is_for_the_processes_that_were_launched(capsys, monkeypatch, recipe):
    monkeypatch.setenv("WORLD_SIZE", "8")
    code, out, _ = run(capsys, "train", recipe, "--dry-run")
    assert code == 0
    assert "8 on each of 8 processes" in out
    monkeypatch.setenv("WORLD_SIZE", "3")
    code, _, err = run(capsys, "train", recipe, "--dry-run")
    assert code == 2
    assert "run on 2 or 4 processes" in err


def test_check_counts_the_rows_of_local_data(capsys, recipe):
    code, out, err = run(capsys, "check", recipe, "--processes", "2")
    assert code == 0, err
    assert "64 rows" in out
    assert out.splitlines()[-1] == "ok"


def test_check_refuses_data_that_is_smaller_than_a_rollout(capsys, recipe):
    code, _, err = run(capsys, "check", recipe, "data.size=4")
    assert code == 2
    assert "the data has 4 prompts" in err


def test_check_refuses_local_data_without_an_answer(capsys, recipe, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "1 + 1 =", "solved": "2"}\n')
    code, _, err = run(
        capsys, "check", recipe, "data.task=null", "data.size=null", f"data.path={data}"
    )
    assert code == 2
    assert "answer" in err
    assert "Traceback" not in err


def test_check_refuses_data_without_a_column_that_the_verifiers_need(capsys, recipe, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(f'{{"prompt": "{i} + 1 =", "answer": "{i + 1}"}}\n' for i in range(64)))
    values = ("data.task=null", "data.size=null", f"data.path={data}")
    code, _, err = run(capsys, "check", recipe, *values)
    assert code == 2
    assert "the verifiers need a column" in err
    assert run(capsys, "check", recipe, *values, "rewards.verifiers=[exact]")[0] == 0


def test_recipe_arguments_are_files_and_values_in_any_order(recipe, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("training: {seed: 3, learning_rate: 1e-4}\n")
    loaded, origins = parse_recipe_arguments([recipe, "training.seed=5", str(overlay)])
    assert (loaded.training.seed, loaded.training.learning_rate) == (5, 1e-4)
    assert origins.of(("training", "learning_rate")) == f"{overlay}:1"


@pytest.mark.parametrize(
    ("args", "said"),
    [([], "no recipe is given"), (["a=1"], "no recipe is given"), (["x", "--lr"], "--lr")],
)
def test_arguments_without_a_recipe_or_with_a_flag_are_refused(args, said):
    with pytest.raises(RecipeError, match=said):
        parse_recipe_arguments(args)


def test_the_lists_name_every_recipe_and_control(capsys):
    _, recipes, _ = run(capsys, "recipes", "list")
    _, methods, _ = run(capsys, "methods")
    for name in ("clip_cov", "steer", "aepo"):
        assert name in recipes
        assert name in methods
    assert "arxiv.org/abs/2505.22617" in methods


def test_a_recipe_is_shown_with_origins(capsys):
    code, out, _ = run(capsys, "recipes", "show", "clip_cov")
    assert code == 0
    assert "group_size: 8  # recipes/base_math.yaml:" in out
    assert "top_k: 0  # default" in out


def test_every_command_has_help():
    for command in (
        [],
        ["train"],
        ["check"],
        ["monitor"],
        ["eval"],
        ["export"],
        ["demo"],
        ["methods"],
    ):
        result = CliRunner().invoke(cli.app, [*command, "--help"])
        assert result.exit_code == 0
        assert "Usage" in result.output
