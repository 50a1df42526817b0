"""The benchmark of the trainer beside TRL's, at a size of seconds."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import trainer
from benchmarks.trainer_cases import REWARDS, Case, Job, demo, random_policy
from benchmarks.trainer_peer import arguments
from benchmarks.trainer_side import given_rollout, measure
from rlvr.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]


def job(case: Case, folder: Path, **changes) -> Job:
    """Return rlvr's job of two updates, its files in a folder of its own."""
    folder = folder / f"{changes.get('part', 'updates')} {changes.get('side', 'rlvr')}"
    folder.mkdir(parents=True)
    start = Job("updates", "rlvr", case.recipe, case.options, case.reward, str(folder), updates=2)
    return replace(start, **changes)


@pytest.fixture(scope="module", params=["demo", pytest.param("random", marks=pytest.mark.slow)])
def case(request, tmp_path_factory) -> Case:
    if request.param == "demo":
        return demo(quick=True)
    return random_policy(tmp_path_factory.mktemp("random"), quick=True)


@pytest.fixture(scope="module")
def rollout(case, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp(case.name)
    path = str(folder / "rollout.pt")
    found = measure(job(case, folder, part="sample", side="TRL", given=path))
    assert found["rows"] == 32
    return path


@pytest.mark.parametrize("idle", [0.0, 0.5])
def test_both_sides_have_one_gradient_on_a_given_rollout(case, rollout, idle, tmp_path):
    flat = []
    for side in ("rlvr", "TRL"):
        wanted = job(case, tmp_path, part="gradient", side=side, given=rollout, idle=idle)
        flat.append(torch.load(measure(wanted)["gradient"], weights_only=True))
    ours, theirs = flat
    assert theirs.norm() > 1e-3
    assert (ours - theirs).norm() <= trainer.DIFFERENCE * theirs.norm()


@pytest.mark.parametrize("side", ["rlvr", "TRL"])
def test_a_side_measures_whole_updates(case, side, tmp_path):
    found = measure(job(case, tmp_path, side=side, warm=2))
    assert 0 < found["scoring_seconds"] < found["rollout_seconds"] < found["seconds"]
    assert found["training_seconds"] == pytest.approx(found["seconds"] - found["rollout_seconds"])
    assert found["cpu_seconds"] > 0
    assert found["peak_mib"] > found["training_mib"] >= 0
    # 2 updates of 16 completions
    tokens = found["tokens_per_second"] * found["seconds"]
    assert tokens == pytest.approx(128) if case.name == "demo" else 16 <= tokens <= 256


@pytest.mark.parametrize("side", ["rlvr", "TRL"])
def test_training_on_a_given_rollout_has_no_rollout(case, rollout, side, tmp_path):
    found = measure(
        job(case, tmp_path, part="training", side=side, given=rollout, idle=0.5, warm=2)
    )
    assert found["rollout_seconds"] < 1e-3
    assert found["scoring_seconds"] == 0
    assert found["tokens_per_second"] > 0


@pytest.mark.parametrize("side", ["rlvr", "TRL"])
def test_held_out_problems_are_looked_at_off_the_clock(side, tmp_path):
    case = demo(quick=True)
    found = measure(job(case, tmp_path, part="reward", side=side, every=1, samples=1))
    updates, seconds, rates = zip(*found["held_out"], strict=True)
    assert updates == (0, 1, 2)
    assert seconds[0] == 0 < seconds[1] < seconds[2]
    assert seconds[2] == pytest.approx(2 * found["seconds"])
    assert rates[0] == pytest.approx(0.33, abs=0.08)  # the base policy, one sample of 200 problems


@pytest.mark.parametrize(("idle", "groups"), [(0.0, 0), (0.5, 4), (0.8, 6), (1.0, 8)])
def test_a_share_of_the_groups_has_no_advantage(rollout, case, idle, groups, tmp_path):
    wanted = job(case, tmp_path, given=rollout, idle=idle)
    advantages = given_rollout(wanted, wanted.load()[0])["advantages"].view(8, 4)
    is_idle = (advantages == 0).all(-1)
    assert is_idle.sum() == groups
    # as many in the first update as in the second, and the others have completions of both kinds
    assert abs(int(is_idle[:4].sum()) - int(is_idle[4:].sum())) <= 1
    assert (advantages[~is_idle].amin(-1) < 0).all()


def test_the_peer_is_judged_by_the_recipes_verifier():
    puzzle = {"numbers": [[1, 2, 3, 4]] * 2, "target": [10] * 2}
    assert REWARDS["countdown"]()(completions=["1+2+3+4", "1+2+3"], **puzzle) == [1.0, 0.0]
    assert REWARDS["first_word"]()(completions=["w4 w3", "w3 w4", ""]) == [1.0, 0.0, 0.0]


def test_the_peer_refuses_what_trl_has_no_name_for():
    recipe, _ = load_recipe("demo", overrides=["algorithm.dual_clip=3.0"])
    with pytest.raises(ValueError, match=r"algorithm\.dual_clip is 3\.0"):
        arguments(recipe, 128)


def test_the_peer_cuts_a_rollout_as_the_recipe_does():
    recipe, _ = load_recipe("demo")
    made = arguments(recipe, 32)
    assert made.generation_batch_size == 64 * 8
    assert made.gradient_accumulation_steps == 4
    assert made.steps_per_generation == 4 * made.gradient_accumulation_steps
    assert (made.adam_beta2, made.learning_rate) == (0.99, 1e-3)


def test_a_level_is_reached_by_the_mean_of_three_looks():
    curve = [[0, 0.0, 0.3], [10, 1.0, 0.9], [20, 2.0, 0.3], [30, 3.0, 0.6], [40, 5.0, 0.9]]
    assert trainer.first_reach(curve, 0.4) == (20, 2.0)  # (0.3 + 0.9 + 0.3) / 3 is above
    assert trainer.first_reach(curve, 0.55) == pytest.approx((25, 2.5))
    assert trainer.first_reach(curve, 0.7) is None


def test_gradients_that_differ_end_the_benchmark(tmp_path, monkeypatch):
    flat = torch.ones(100)

    def run(wanted: Job, folder: Path, note: str) -> dict[str, str]:
        path = tmp_path / f"{wanted.side}.pt"
        torch.save(flat * (1 + 2e-5 * (wanted.side == "TRL")), path)
        return {"gradient": str(path)}

    monkeypatch.setattr(trainer, "_run", run)
    own = job(demo(quick=True), tmp_path)
    lines = [trainer.Line(side, replace(own, side=side)) for side in ("rlvr", "TRL")]
    with pytest.raises(SystemExit, match=r"differ by 2\.0e-05"):
        trainer._difference(lines, tmp_path)


@pytest.mark.slow
def test_the_command_prints_what_it_measured(tmp_path):
    path = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.trainer", "updates", "--quick", "--cases", "demo"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--threads", "1", "--json", str(path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    (row,) = found["rows"]
    ours, theirs = row["lines"]["rlvr"], row["lines"]["TRL"]
    ratio = theirs[0]["seconds"] / ours[0]["seconds"]
    assert f"| {ratio:.2f} ({ratio:.2f} to {ratio:.2f}) |" in done.stdout
    assert found["versions"]["trl"] in done.stdout
    assert "1 thread a process" in done.stdout
