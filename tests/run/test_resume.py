"""A run that was stopped goes on as if it had not been, and says what it repeats."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.run import launch

UPDATES = 7
# 4 updates a rollout: checkpoints lie in the middle of a rollout and at its end
ARGUMENTS = (
    f"training.updates={UPDATES}",
    "training.save_every=1",
    "training.keep_checkpoints=10",
    "training.lr_scheduler_type=linear",
    "evaluation.sets=[]",
    "evaluation.at_start=false",
)
CONTROLS = {
    "plain": [],
    # a target between the entropies of this run: the state decides the temperature and the rows
    "aepo": ["entropy=[{aepo: {rows: 4, prompt_fraction: 0.5, target: 0.5}}]"],
    "kl_cov": ["entropy=[{kl_cov: {fraction: 0.05}}]"],
    "dph": [
        "entropy=[{dph: {rows_per_update: 4, buffer_rows: 8, samples: 4, min_pass_rate: 0.5}}]"
    ],
    "siren, entropy_budget": ["entropy=[{siren: {coef: 0.1}}, {entropy_budget: {target: 0.3}}]"],
    "LoRA": ["model.lora={rank: 4}"],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Callable[[str], Path]:
    """Return a function that returns the folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("finished")

    def find(controls: str) -> Path:
        output = folder / controls
        if not output.exists():
            launch.train(output, *ARGUMENTS, *CONTROLS[controls])
        return output

    return find


def stopped(whole: Path, output: Path, *, checkpoint: int, row: int) -> Path:
    """Make a run folder as it is when a run is killed after a row, with checkpoints up to an earlier one."""
    shutil.copytree(whole, output)
    shutil.rmtree(output / "final")
    for update in range(checkpoint + 1, UPDATES + 1):
        shutil.rmtree(output / f"checkpoints/checkpoint-{update}")
    for path in (output / "completions").iterdir():
        if int(path.stem.removeprefix("update_")) > row + 1:
            path.unlink()
    lines = (output / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["update"] <= row]
    (output / "metrics.jsonl").write_text("".join(kept))
    return output


def resume(output: Path, *args: object) -> launch.Result:
    return launch.train(output, *ARGUMENTS, *args, "--resume")


def check_same(output: Path, whole: Path) -> None:
    """Check that two runs have the same metrics, completions and weights."""
    from safetensors.torch import load_file

    expected = [launch.numbers(row) for row in launch.rows(whole)]
    assert [launch.numbers(row) for row in launch.rows(output)] == expected
    for path in (whole / "completions").iterdir():
        assert (output / "completions" / path.name).read_bytes() == path.read_bytes()
    [weights] = (path.name for path in (whole / "final").glob("*.safetensors"))
    one, other = (load_file(folder / "final" / weights) for folder in (output, whole))
    assert all(one[name].equal(other[name]) for name in other)


@pytest.mark.parametrize(
    ("controls", "checkpoint"),
    [("plain", 4), ("aepo", 4), *((name, 2) for name in CONTROLS)],
    ids=lambda value: {2: "in a rollout", 4: "between rollouts"}.get(value, value),
)
def test_a_resumed_run_ends_like_one_that_was_not_stopped(finished, tmp_path, controls, checkpoint):
    whole = finished(controls)
    output = stopped(whole, tmp_path / "run", checkpoint=checkpoint, row=checkpoint)
    result = resume(output, *CONTROLS[controls])
    assert f"from update {checkpoint}" in result.out
    check_same(output, whole)


def test_updates_after_the_checkpoint_are_set_aside_computed_again_and_said(finished, tmp_path):
    whole = finished("plain")
    output = stopped(whole, tmp_path / "run", checkpoint=3, row=5)
    lost = (output / "metrics.jsonl").read_text().splitlines()[3:]
    result = resume(output)
    assert "2 rows of metrics and 1 files of completions of later updates moved" in result.out
    assert "computed again" in result.out
    aside = output / "set_aside" / "after_update_00003"
    assert (aside / "metrics.jsonl").read_text().splitlines() == lost
    assert (aside / "update_00005.parquet").is_file()
    check_same(output, whole)


def test_a_checkpoint_that_was_not_written_whole_is_skipped_and_said(finished, tmp_path):
    whole = finished("plain")
    output = stopped(whole, tmp_path / "run", checkpoint=4, row=4)
    (output / "checkpoints/checkpoint-4/trainer_state.json").write_text('{"epo')
    result = resume(output)
    assert "checkpoint-4 is not whole" in result.out
    assert "from update 3" in result.out
    check_same(output, whole)


def test_a_run_without_a_whole_checkpoint_starts_again_and_says_so(finished, tmp_path):
    whole = finished("plain")
    output = stopped(whole, tmp_path / "run", checkpoint=0, row=2)
    result = resume(output)
    assert "starts from its beginning" in result.out
    assert "2 rows of metrics" in result.out
    check_same(output, whole)


def test_the_state_of_a_control_is_in_the_checkpoint(finished):
    whole = finished("aepo")
    rows = launch.rows(whole)
    for update in (2, 4):
        path = whole / f"checkpoints/checkpoint-{update}/control_state.json"
        state = json.loads(path.read_text())
        assert state["controls"] == {"aepo": {"entropy": rows[update - 1]["entropy"]}}


def test_a_checkpoint_without_the_anchor_is_refused_before_any_step(finished, tmp_path):
    name = "siren, entropy_budget"
    output = stopped(finished(name), tmp_path / "run", checkpoint=4, row=4)
    path = output / "checkpoints/checkpoint-4/control_state.json"
    state = json.loads(path.read_text())
    assert state["controls"]["siren"]["anchor"] > 0
    state["controls"]["siren"]["anchor"] = None
    path.write_text(json.dumps(state))
    before = (output / "metrics.jsonl").read_text()
    args = (*launch.SMALL, *ARGUMENTS, f"output={output}", *CONTROLS[name], "--resume")
    result = launch.command("train", "demo", *args)
    assert result.code == 2
    assert "control_state.json" in result.err
    assert "the anchor is missing" in result.err
    assert (output / "metrics.jsonl").read_text() == before


def test_a_checkpoint_of_other_controls_is_refused(finished, tmp_path):
    output = stopped(finished("plain"), tmp_path / "run", checkpoint=4, row=4)
    before = (output / "metrics.jsonl").read_text()
    args = (*launch.SMALL, *ARGUMENTS, f"output={output}", *CONTROLS["aepo"], "--resume")
    result = launch.command("train", "demo", *args)
    assert result.code == 2
    assert "entropy: [] -> [{'aepo'" in result.err
    assert (output / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize(
    "change", ["training.seed=7", "data.size=32", "training.learning_rate=1e-5"]
)
def test_a_recipe_that_differs_from_that_of_the_run_is_said(finished, tmp_path, change):
    output = stopped(finished("plain"), tmp_path / "run", checkpoint=4, row=4)
    args = (*launch.SMALL, *ARGUMENTS, f"output={output}", change, "--resume")
    result = launch.command("train", "demo", *args)
    assert change.partition("=")[0] in result.out + result.err


def test_a_finished_run_is_not_trained_again(finished, tmp_path):
    output = Path(shutil.copytree(finished("plain"), tmp_path / "run"))
    before = (output / "metrics.jsonl").read_text()
    resume(output)
    assert (output / "metrics.jsonl").read_text() == before
    assert not (output / "set_aside").exists()


def test_a_finished_run_without_checkpoints_is_neither_trained_again_nor_overwritten(tmp_path):
    output = tmp_path / "run"
    launch.train(output, *launch.UNEVALUATED)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    result = launch.command(
        "train", "demo", *launch.SMALL, *launch.UNEVALUATED, f"output={output}", "--resume"
    )
    assert "finished" in result.out + result.err
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


SLOW_REWARD = """
import time

def reward(sample):
    time.sleep(0.05)
    return "*" in sample.completion
"""


def kill_after(output: Path, update: int, *args: object) -> None:
    """Start a run in a process of its own and kill it with signal 9 when a row is written."""
    process = subprocess.Popen(
        launch.apart(output, *args),
        cwd=launch.ROOT,
        env=launch.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = output / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= update):
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(("controls", "every"), [("aepo", 3), ("kl_cov", 5)])
def test_a_run_killed_with_signal_9_goes_on_where_its_last_checkpoint_was(
    tmp_path, controls, every
):
    # slow rewards: the next rollout takes longer than the kill
    reward = tmp_path / "slow.py"
    reward.write_text(SLOW_REWARD)
    args = (
        *ARGUMENTS,
        *CONTROLS[controls],
        f"rewards.verifiers=['{reward}:reward']",
        "training.updates=12",
        f"training.save_every={every}",
    )
    launch.train(tmp_path / "whole", *args)
    output = tmp_path / "run"
    kill_after(output, 6, *args)
    killed = [row["update"] for row in launch.rows(output)][-1]
    assert 6 <= killed < 12
    result = launch.train(output, *args, "--resume")
    [start] = [
        int(line.split("from update ")[1].split()[0])
        for line in result.out.splitlines()
        if "from update" in line
    ]
    assert 0 < start <= killed
    if start < killed:
        assert f"{killed - start} rows of metrics" in result.out
        assert "computed again" in result.out
    check_same(output, tmp_path / "whole")
