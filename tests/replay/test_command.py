"""`rlvr replay` on a run that was trained before: what it prints and writes, and what it says of wrong input."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvr.entropy.control import control_names
from rlvr.recipe import load_recipe
from rlvr.replay.candidates import candidates, shipped_options
from tests.run import launch

LARGER = ("rollout.prompts_per_update=4",)  # with 2 prompts an update can be without a signal


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay") / "run"
    launch.train(
        folder, *launch.UNEVALUATED, *LARGER, "training.save_every=2",
        "entropy=[{aepo: {target: 0.1, prompt_fraction: 0.5}}]",
    )  # fmt: skip
    return folder


def replay(*args: object) -> tuple[str, dict[str, Any]]:
    """Run `rlvr replay`, which must succeed; return what it printed and replay.json."""
    result = launch.command("replay", *args)
    assert result.code == 0, result.err
    [line] = [line for line in result.out.splitlines() if line.startswith("written")]
    return result.out, json.loads(Path(line.split(maxsplit=1)[1]).read_text())


METHODS = ("--methods", "steer,kl_cov")


@pytest.fixture(scope="module")
def frozen(run: Path) -> tuple[Path, str, dict[str, Any]]:
    """Return a folder with a frozen rollout, and what its first replay printed and wrote."""
    folder = run.with_name("frozen")
    return folder, *replay(run, *METHODS, "--to", folder)


def refused(*args: object) -> str:
    result = launch.command("replay", *args)
    assert result.code == 2
    assert "Traceback" not in result.err
    return result.err


def test_a_replay_shows_every_control_and_writes_three_files(run, tmp_path):
    before = {path for path in run.rglob("*") if path.is_file()}
    out, numbers = replay(run, "--to", tmp_path / "all")
    shown = {method["name"] for method in numbers["methods"]} | set(numbers["left_out"])
    assert shown == {"grpo", *control_names()}
    for name in control_names():
        assert name in out
    assert {path.name for path in (tmp_path / "all").iterdir()} == {
        *("rollout.pt", "replay.json", "replay.png")
    }
    assert {path for path in run.rglob("*") if path.is_file()} == before
    aepo = next(item for item in numbers["methods"] if item["name"] == "aepo")
    assert aepo["options"]["aepo"]["target"] == 0.1  # the run's, not the shipped recipe's
    assert numbers["protocol"]["weights"] == "final"


def test_the_same_file_gives_the_same_numbers(run, frozen):
    folder, out, numbers = frozen
    before = (folder / "rollout.pt").read_bytes()
    again = replay(run, *METHODS, "--to", folder)
    assert "freezing" in out
    assert "freezing" not in again[0]
    assert again[1] == numbers
    assert (folder / "rollout.pt").read_bytes() == before


def test_a_frozen_rollout_stands_for_its_run(frozen):
    folder, _, numbers = frozen
    by_file = replay(folder / "rollout.pt", *METHODS)[1]
    for key in ("methods", "update", "correlation"):
        assert by_file[key] == numbers[key]


def test_the_same_seed_freezes_the_same_rollout(run, frozen, tmp_path):
    again = replay(run, *METHODS, "--to", tmp_path, "--fresh")[1]
    assert again["methods"] == frozen[2]["methods"]
    other = replay(run, *METHODS, "training.seed=7", "--to", tmp_path, "--fresh")[1]
    assert other["methods"] != again["methods"]


def test_options_and_compositions_are_those_of_recipes(run, tmp_path):
    asked = "[{kl_cov: {fraction: 0.1}}, {kl_cov: {fraction: 0.5}}, [steer, {clip_cov: {fraction: 0.1}}]]"
    _, numbers = replay(run, "--methods", asked, "--to", tmp_path)
    found = {item["name"]: item for item in numbers["methods"]}
    assert list(found) == ["grpo", "kl_cov", "kl_cov 2", "steer + clip_cov"]
    assert found["kl_cov 2"]["touched"] > found["kl_cov"]["touched"] > 0
    assert found["steer + clip_cov"]["options"]["clip_cov"]["fraction"] == 0.1


def test_methods_on_the_ratio_do_nothing_before_the_policy_has_moved(run, tmp_path):
    asked = ("--methods", "[{kl_cov: {fraction: 0.5, replace_clip: false}}]", "--to", tmp_path)
    still, moved = (replay(run, *asked, "--after", after)[1]["methods"][1] for after in (0, 1))
    assert still["touched"] == 0
    assert still["gradient_cosine"] == pytest.approx(1)
    assert moved["touched"] > 0


def test_a_checkpoint_is_replayed_from_the_states_of_its_controls(run, tmp_path):
    saved = run / "checkpoints" / "checkpoint-2"
    state = json.loads((saved / "control_state.json").read_text())["controls"]["aepo"]
    assert state["entropy"] > 0.1
    # above its target it asks for the lower temperature; a new control asks for the higher
    replay(run, "--methods", "aepo", "--checkpoint", "2", "--to", tmp_path / "two")
    replay(run, "--methods", "aepo", "--checkpoint", "initial", "--to", tmp_path / "new")
    kept = {
        name: list(torch.load(tmp_path / name / "rollout.pt", weights_only=True)["tempered"])
        for name in ("two", "new")
    }
    assert kept == {"two": ["0.8"], "new": ["1.2"]}


def test_what_was_not_frozen_is_asked_for_by_name(run, frozen, tmp_path):
    shutil.copy(frozen[0] / "rollout.pt", tmp_path)
    out, numbers = replay(run, "--methods", "steer,aepo", "--to", tmp_path)
    assert "freeze again with --fresh" in numbers["left_out"]["aepo"]
    assert "left out  aepo" in out
    assert "freeze again with --fresh" in refused(run, "--methods", "aepo", "--to", tmp_path)


def test_a_frozen_rollout_of_other_values_is_not_taken_for_this_one(run, frozen, tmp_path):
    shutil.copy(frozen[0] / "rollout.pt", tmp_path)
    error = refused(run, "rollout.group_size=8", "--methods", "steer", "--to", tmp_path)
    assert "rollout.group_size: 4 -> 8" in error
    assert "--fresh" in error
    error = refused(run, "--checkpoint", "2", "--methods", "steer", "--to", tmp_path)
    assert "weights: final -> checkpoints/checkpoint-2" in error
    # what is not sampling may change
    _, numbers = replay(
        run, "training.learning_rate=1e-4", "algorithm.clip_high=0.28", "--methods", "steer",
        "--to", tmp_path,
    )  # fmt: skip
    assert numbers["protocol"]["learning_rate"] == 1e-4


def test_weights_that_did_not_sample_the_rollout_are_refused(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    replay(copy, "--methods", "steer")
    base = launch.BASE / "model.safetensors"
    shutil.copyfile(base, copy / "final" / "model.safetensors")
    error = refused(copy, "--methods", "steer")
    assert "are not those that sampled" in error
    assert "--fresh" in error


def test_wrong_input_is_said_before_a_model_loads(run, tmp_path):
    assert "does not exist" in refused(tmp_path / "no-such-run")
    assert "has no resolved.yaml" in refused(tmp_path)
    error = refused(run, "--checkpoint", "3")
    assert "initial, 2, 4" in error
    assert "Did you mean 'clip_cov'" in refused(run, "--methods", "clipcov")
    assert "Did you mean 'fraction'" in refused(run, "--methods", "[{kl_cov: {fractoin: 1}}]")
    assert "--methods is empty" in refused(run, "--methods", "[]")
    assert "is no control" in refused(run, "--methods", "[3]")
    assert "Did you mean 'learning_rate'" in refused(run, "training.learningrate=1")
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"not a rollout")
    assert "is no frozen rollout" in refused(broken)
    torch.save({"format": 99}, broken)
    assert "has format 99" in refused(broken)


def test_several_processes_are_refused(run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "one process, not in 2" in refused(run)


def test_a_run_without_final_weights_names_those_it_has(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.rmtree(copy / "final")
    assert "--checkpoint: initial, 2, 4" in refused(copy)
    shutil.rmtree(copy / "checkpoints" / "checkpoint-4")
    (copy / "checkpoints" / "checkpoint-2" / "model.safetensors").unlink()
    assert "no weights of this model" in refused(copy, "--checkpoint", "2", "--methods", "steer")


def test_a_frozen_rollout_without_its_run_says_so(frozen, tmp_path):
    content = torch.load(frozen[0] / "rollout.pt", weights_only=True)
    torch.save(content | {"run": str(tmp_path / "gone")}, tmp_path / "rollout.pt")
    assert "which is not there" in refused(tmp_path / "rollout.pt")


def test_an_adapter_is_replayed_against_its_base(tmp_path):
    folder = tmp_path / "lora"
    launch.train(folder, *launch.UNEVALUATED, *LARGER, "model.lora={rank: 4}")
    _, numbers = replay(folder, "--methods", "steer", "algorithm.kl_coef=0.1")
    plain = numbers["methods"][0]
    assert plain["gradient_cosine"] == pytest.approx(1)
    assert plain["entropy_change"]["measured"]["sgd"] != 0


def test_the_run_that_composes_controls_has_its_composition_replayed():
    recipe, _ = load_recipe("demo", overrides=["entropy=[{steer: {weight_min: 0.5}}, clip_cov]"])
    found, _ = candidates(recipe)
    by_name = {one.name: one for one in found}
    assert list(by_name)[-1] == "steer + clip_cov"
    assert by_name["steer"].options["steer"]["weight_min"] == 0.5


def test_options_come_from_the_shipped_recipe_of_a_method():
    assert shipped_options("kl_cov")["fraction"] == 2e-3
    assert shipped_options("no_such_method") == {}
