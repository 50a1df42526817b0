"""A run that is killed with signal 9 at random moments, and gone on with each time, ends like one that was left alone.

More kills, and every start in a new interpreter: `python -m tests.run.kills --help`.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.run import kills, launch, mortal


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "count"), [(1, 8), (2, 3)])
def test_a_run_that_is_killed_again_and_again_ends_like_one_that_was_left_alone(
    tmp_path, processes, count
):
    report = kills.torture(tmp_path, kills=count, processes=processes)
    assert report.differences == []
    assert len(report.moments) == count
    whole = kills.Killer(tmp_path / "whole", processes, fresh=False)
    whole.finish("--verify-resume", "2")
    assert "metrics of 2 updates, bitwise" in whole.log.read_text()


@pytest.mark.slow
def test_a_run_that_dies_at_a_change_of_its_folder_has_not_made_it(tmp_path):
    output = tmp_path / "run"
    arguments = ["demo", *launch.SMALL, *launch.UNEVALUATED, f"output={output}"]
    run = mortal.fork(arguments, 1, tmp_path / "log", **{mortal.DIES_AT: "0:1"})
    run.wait(120)
    assert run.codes() == [-9]
    assert not output.exists() or not any(output.iterdir())


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("finished") / "run"
    arguments = ("training.updates=2", "training.save_every=2", "evaluation.at_start=false")
    launch.train(output, *arguments)
    return output


def change_weights(run: Path) -> str:
    path = run / "final/model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return "final/model.safetensors: not equal"


def change_optimizer(run: Path) -> str:
    path = run / "checkpoints/checkpoint-2/optimizer.pt"
    state = torch.load(path)
    first = state["state"][0]["exp_avg"].view(-1)[:1]
    first.copy_(torch.nextafter(first, first + 1))
    torch.save(state, path)
    return "checkpoints/checkpoint-2/optimizer.pt: not equal"


def change_log(run: Path) -> str:
    path = run / "checkpoints/checkpoint-2/trainer_state.json"
    state = json.loads(path.read_text())
    state["log_history"][0]["entropy"] += 1e-15
    path.write_text(json.dumps(state))
    return "checkpoints/checkpoint-2/trainer_state.json: not equal"


def change_metrics(run: Path) -> str:
    path = run / "metrics.jsonl"
    path.write_text(path.read_text().replace('"grad_norm": ', '"grad_norm": 1'))
    return "metrics of 1"


def lose_a_row(run: Path) -> str:
    path = run / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    return "1 rows of metrics, expected 2"


def lose_completions(run: Path) -> str:
    (run / "completions/update_00001.parquet").unlink()
    return "completions/update_00001.parquet: in one of two"


def leave_a_partial_file(run: Path) -> str:
    (run / "completions/update_00001.partial").touch()
    return "left over: completions/update_00001.partial"


def leave_an_unfinished_checkpoint(run: Path) -> str:
    (run / "checkpoints/.writing").mkdir()
    return "left over: checkpoints/.writing"


@pytest.mark.parametrize(
    "damage",
    [
        *(change_weights, change_optimizer, change_log, change_metrics),
        *(lose_a_row, lose_completions, leave_a_partial_file, leave_an_unfinished_checkpoint),
    ],
    ids=lambda damage: damage.__name__,
)
def test_the_comparison_sees(finished, tmp_path, damage):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    assert kills.differences(run, finished) == []
    said = damage(run)
    assert said in kills.differences(run, finished)
