"""`--verify-resume K` computes updates of a run again, says whether they are what the run recorded, and only reads."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from rlvr.verify_resume import compare, find_start
from tests.run import launch

# 4 updates a rollout: the checkpoints of 4 and 6 lie at its end and in its middle
ARGUMENTS = (
    "training.updates=8",
    "training.save_every=2",
    "training.keep_checkpoints=3",
    "training.lr_scheduler_type=linear",
    "evaluation.at_start=false",
    "evaluation.every=5",
    "entropy=[{siren: {coef: 0.1}}, {dph: {rows_per_update: 4, buffer_rows: 8, samples: 4, min_pass_rate: 0.5}}]",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "run"
    launch.train(output, *ARGUMENTS)
    return output


@pytest.fixture
def run(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def verify(output: Path, updates: int, *args: object) -> launch.Result:
    options = (*launch.SMALL, *ARGUMENTS, f"output={output}", *args, "--verify-resume", updates)
    return launch.command("train", "demo", *options)


def content(folder: Path) -> dict[Path, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def edit_row(run: Path, update: int, **values: object) -> None:
    """Change what a run recorded."""
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["update"] == update:
            row |= values
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("updates", "start"), [(1, 6), (4, 4)], ids=["in a rollout", "over its end"]
)
def test_the_updates_of_a_run_come_out_equal_and_the_run_is_only_read(run, updates, start):
    before = content(run)
    result = verify(run, updates)
    assert result.code == 0, result.out
    assert f"checkpoint-{start}" in result.out
    assert f"metrics of {updates} update" in result.out
    assert content(run) == before


def test_held_out_numbers_are_compared_where_they_were_measured(run):
    assert "eval/countdown/pass@1" in launch.rows(run)[4]
    edit_row(run, 5, **{"eval/countdown/pass@1": 2.0})
    result = verify(run, 4)
    assert result.code == 1
    assert "not equal: 1 metric from update 5 on" in result.out
    assert "eval/countdown/pass@1  1 of 2" in result.out


def test_an_optimizer_state_that_was_lost_is_found(run):
    path = run / "checkpoints/checkpoint-4/optimizer.pt"
    state = torch.load(path)
    for moments in state["state"].values():
        moments["exp_avg"].zero_()
    torch.save(state, path)
    result = verify(run, 4)
    assert result.code == 1
    # the first update's loss is that of the weights, which are those of the checkpoint
    table = result.out[result.out.index("metric  ") :].splitlines()
    [loss] = [line.split() for line in table if line.startswith("loss ")]
    assert int(loss[-1]) == 6
    assert "may be a fault of rlvr" in result.out


def test_what_changed_since_the_run_is_said_with_a_difference(run):
    path = run / "run.json"
    made = json.loads(path.read_text())
    assert made["threads"] == 1
    made["versions"]["torch"] = "2.0.0"
    made["threads"] = 64
    path.write_text(json.dumps(made))
    edit_row(run, 7, loss=1.0)
    result = verify(run, 2, "training.micro_batch_size=2")
    assert result.code == 1
    assert f"not as it was: torch: 2.0.0 -> {torch.__version__}" in result.out
    assert "not as it was: threads: 64 -> 1" in result.out
    assert "not as it was: training.micro_batch_size: 8 -> 2" in result.out
    assert "fault of rlvr" not in result.out


def test_fewer_updates_than_asked_for_are_said(run):
    result = verify(run, 50)
    assert result.code == 0
    assert "only 4 of 50 updates are recorded after a checkpoint" in result.out
    assert "checkpoint-4" in result.out


def test_another_recipe_is_refused(run):
    result = verify(run, 2, "training.learning_rate=1e-5")
    assert result.code == 2
    assert "training.learning_rate" in result.err


def test_it_goes_alone():
    result = launch.command("train", "demo", "--verify-resume", 2, "--resume")
    assert result.code == 2
    assert "give it without --resume" in result.err


# ---------------------------------------------------------------------- where it starts


def recorded(folder: Path, rows: list[int], checkpoints: list[int]) -> Path:
    """Make what a run folder has of rows and whole checkpoints."""
    for update in checkpoints:
        path = folder / f"checkpoints/checkpoint-{update}"
        path.mkdir(parents=True)
        (path / "trainer_state.json").write_text("{}")
    lines = (json.dumps({"update": update}) + "\n" for update in rows)
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


@pytest.mark.parametrize(("updates", "start", "rows"), [(1, 6, 1), (2, 6, 2), (3, 4, 3), (9, 2, 6)])
def test_it_starts_at_the_newest_checkpoint_with_so_many_updates_after_it(
    tmp_path, updates, start, rows
):
    folder = recorded(tmp_path, [*range(9)], [2, 4, 6, 8])
    found = find_start(folder, updates)
    assert found.checkpoint.name == f"checkpoint-{start}"
    assert [row["update"] for row in found.rows] == [*range(start + 1, start + rows + 1)]


def test_rows_beyond_one_that_is_missing_do_not_count(tmp_path):
    found = find_start(recorded(tmp_path, [1, 2, 3, 5, 6], [2, 4]), 2)
    assert found.checkpoint.name == "checkpoint-4"
    found = find_start(recorded(tmp_path / "other", [1, 2, 3, 5], [2, 4]), 2)
    assert [row["update"] for row in found.rows] == [5]


def test_a_checkpoint_that_is_not_whole_is_no_start(tmp_path):
    folder = recorded(tmp_path, [*range(9)], [2, 4])
    (folder / "checkpoints/checkpoint-4/trainer_state.json").write_text('{"epo')
    assert find_start(folder, 1).checkpoint.name == "checkpoint-2"


@pytest.mark.parametrize(
    ("rows", "checkpoints", "said"),
    [
        (None, [], "there is no run at .*metrics.jsonl is missing.*training.save_every"),
        ([1, 2], [], "no whole checkpoint.*training.save_every"),
        ([1, 2], [2], "no update after checkpoint-2.*training.keep_checkpoints"),
    ],
)
def test_a_run_that_cannot_be_compared_says_what_is_missing(tmp_path, rows, checkpoints, said):
    if rows is not None:
        recorded(tmp_path, rows, checkpoints)
    with pytest.raises(ValueError, match=said):
        find_start(tmp_path, 2)


# ---------------------------------------------------------------------- the comparison


def test_a_number_that_only_one_side_has_differs():
    one = [{"update": 1, "a": 1.0, "b": None}, {"update": 2, "a": 1.0, "b": 2.0}]
    other = [{"update": 1, "a": 1.0, "b": None}, {"update": 2, "b": None, "c": 3.0}]
    found = {item.name: (item.equal, item.rows, item.largest) for item in compare(one, other)}
    assert found == {"a": (1, 2, torch.inf), "b": (1, 2, torch.inf), "c": (0, 1, torch.inf)}


def test_an_update_that_was_not_reached_differs():
    [item] = compare([{"update": 1, "a": 1.0}, {"update": 2, "a": 1.0}], [{"update": 1, "a": 1.0}])
    assert (item.equal, item.first) == (1, 2)


def test_the_last_bit_counts_and_the_clock_does_not():
    one = {"update": 1, "a": 0.1 + 0.2, "time/update": 1.0}
    [item] = compare([one], [one | {"a": 0.3, "time/update": 2.0}])
    assert item.name == "a"
    # 0.1 + 0.2 is one spacing of doubles, 2^-54, above 0.3
    assert item.largest == pytest.approx(2**-54 / 0.3)
