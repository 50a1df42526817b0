"""A run with dynamic sampling: what it says, what it writes, and that stopping it changes nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr.monitor.metrics import describe
from tests.run import launch
from tests.run.test_resume import ARGUMENTS as RESUMED
from tests.run.test_resume import UPDATES, check_same, stopped

# with this seed both rollouts need a refill, and the first leaves groups over
ARGUMENTS = (*RESUMED, "training.seed=3")
DYNAMIC = "rollout.dynamic_sampling={max_refills: 3, keep_leftovers: true}"
CONTROLS = {
    "plain": (DYNAMIC,),
    # bounds within which only a policy that has not moved stays
    "on policy": (
        *(DYNAMIC, "rollout.prompts_per_update=8"),
        *("algorithm.clip_low=1e-3", "algorithm.clip_high=1e-3"),
    ),
    "kl_cov": (DYNAMIC, "entropy=[{kl_cov: {fraction: 0.05}}]"),
    "aepo and dph": (
        DYNAMIC,
        "entropy=[{aepo: {rows: 4, prompt_fraction: 0.5, target: 0.5}}, "
        "{dph: {rows_per_update: 4, buffer_rows: 8, samples: 4, min_pass_rate: 0.5}}]",
    ),
    "no leftovers": ("rollout.dynamic_sampling={max_refills: 1}",),
}
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return a function that returns the folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("finished")

    def find(controls: str) -> Path:
        output = folder / controls.replace(" ", "_")
        if not output.exists():
            result = launch.train(output, *ARGUMENTS, *CONTROLS[controls])
            assert "refills   up to" in result.out
        return output

    return find


def stream(run: Path, update: int) -> dict:
    text = (run / f"checkpoints/checkpoint-{update}/control_state.json").read_text()
    return json.loads(text)["stream"]


def test_the_checkpoint_counts_every_prompt_that_was_consumed(finished):
    run = finished("plain")
    rows = launch.rows(run)
    first, second = (row["rollout/prompts_consumed"] for row in rows if "rollout/refills" in row)
    assert [stream(run, update)["position"] for update in (1, 4, 5, 7)] == [
        *(first, first),
        *(first + second, first + second),
    ]
    assert rows[4]["rollout/recovered"] == len(stream(run, 4)["leftovers"]) > 0


def test_every_update_trains_on_groups_that_teach_and_every_metric_is_documented(finished):
    rows = launch.rows(finished("plain"))
    for row in rows:
        assert row["group/zero_advantage_fraction"] == 0
        for name in row:
            assert describe(name) is not None
            assert not describe(name).name.startswith("<control>"), name
    shares = ("kept", "all_right", "all_wrong")
    for row in (rows[0], rows[4]):
        assert sum(row[f"group/{share}_fraction"] for share in shares) == pytest.approx(1)
    assert rows[0]["rollout/refills"] > 0


@pytest.mark.parametrize(
    ("controls", "checkpoint"),
    [("plain", 4), ("aepo and dph", 4), *((name, 2) for name in CONTROLS)],
)
def test_a_resumed_run_ends_like_one_that_was_not_stopped(finished, tmp_path, controls, checkpoint):
    whole = finished(controls)
    output = stopped(whole, tmp_path / "run", checkpoint=checkpoint, row=checkpoint)
    launch.train(output, *ARGUMENTS, *CONTROLS[controls], "--resume")
    check_same(output, whole)


def test_a_checkpoint_whose_leftovers_are_missing_is_refused(finished, tmp_path):
    output = stopped(finished("plain"), tmp_path / "run", checkpoint=4, row=4)
    (output / "checkpoints/checkpoint-4/leftovers.pt").unlink()
    arguments = (*launch.SMALL, *ARGUMENTS, *CONTROLS["plain"], f"output={output}", "--resume")
    result = launch.command("train", "demo", *arguments)
    assert result.code == 2
    assert "no leftovers.pt" in result.err


def test_with_one_update_a_rollout_only_recovered_rows_are_off_policy(finished):
    rows = launch.rows(finished("on policy"))
    recovered = [row["rollout/recovered"] > 0 for row in rows]
    assert True in recovered
    assert False in recovered
    clipped = [row["clip/low_fraction"] + row["clip/high_fraction"] > 0 for row in rows]
    assert clipped == recovered


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [2, 4])
def test_two_processes_refill_together_and_go_on_from_a_checkpoint(tmp_path, checkpoint):
    arguments = [*launch.SMALL, *ARGUMENTS, *CONTROLS["aepo and dph"]]

    def run(output: Path, *more: str) -> None:
        command = [*TORCHRUN, "-m", "rlvr.train", "demo", *arguments, f"output={output}", *more]
        done = subprocess.run(
            [*command, "training.micro_batch_size=2"],
            cwd=launch.ROOT,
            env=launch.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]

    whole = tmp_path / "whole"
    run(whole)
    rows = launch.rows(whole)
    assert len(rows) == UPDATES
    assert any(row.get("rollout/recovered", 0) > 0 for row in rows)
    output = stopped(whole, tmp_path / "run", checkpoint=checkpoint, row=checkpoint)
    run(output, "--resume")
    check_same(output, whole)
