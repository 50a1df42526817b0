"""`rlvr monitor`: a table, a picture and one page of the curves of runs."""

import math
import re
from pathlib import Path

import pytest
from PIL import Image

from rlvr.monitor.figure import draw
from rlvr.monitor.store import RunWriter, read_run
from rlvr.monitor.summary import final_values
from tests.run import launch


def write_run(folder: Path, *, shift: float = 0.0, updates: int = 12) -> Path:
    """Write a run as the trainer does: evaluations at its ends, a control's share, timeouts at the last update."""
    with RunWriter(folder) as writer:
        writer.log({"update": 0, "eval/MATH-500/pass@1": 0.2, "eval/MATH-500/pass@8": 0.6})
        for update in range(1, updates + 1):
            writer.log(
                {
                    "update": update,
                    "reward": 0.1 + 0.02 * update + shift,
                    "entropy": 0.9 - 0.05 * update + shift,
                    "entropy/covariance": 0.01,
                    "entropy/predicted_change": -0.001,
                    "entropy/measured_change": -0.05 if update > 1 else None,
                    "kl_cov/selected_fraction": 0.002,
                    "verdict/correct": 0.5,
                    "verdict/wrong": 0.5 if update < updates else 0.25,
                    "verdict/timeout": 0.0 if update < updates else 0.25,
                    "length/mean": 700.0,
                    "loss": float("nan") if update == 5 else 0.01,
                }
            )
        writer.log({"update": updates, "eval/MATH-500/pass@1": 0.4, "eval/MATH-500/pass@8": 0.5})
    (folder / "resolved.yaml").write_text(f"name: {folder.name}\n")
    return folder


@pytest.fixture
def runs(tmp_path):
    return [write_run(tmp_path / "both" / "grpo"), write_run(tmp_path / "both" / "mine", shift=0.2)]


def test_the_picture_and_the_page_hold_every_run(runs, tmp_path):
    png, html = draw([read_run(run) for run in runs], tmp_path / "curves")
    with Image.open(png) as picture:
        picture.verify()
        assert min(picture.size) > 400
    page = html.read_text("utf-8")
    for text in ("grpo", "mine", "Entropy", "nats", "MATH-500"):
        assert text in page
    # the numbers are in it, and nothing is fetched when it is opened
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']?https?:", page)
    assert "<script" in page


def test_a_folder_of_runs_stands_for_its_runs(runs):
    result = launch.command("monitor", runs[0].parent)
    assert result.code == 0, result.err
    assert "grpo" in result.out
    assert "mine" in result.out
    assert "0.850 → 0.300" in result.out  # entropy of the first run
    assert "0.200 → 0.400" in result.out  # pass@1
    assert (runs[0].parent / "curves.png").is_file()
    assert (runs[0].parent / "curves.html").is_file()


def test_figures_go_where_they_are_wanted(runs, tmp_path):
    result = launch.command("monitor", runs[0], "--output", tmp_path)
    assert result.code == 0, result.err
    assert (tmp_path / "curves.png").is_file()
    assert not (runs[0] / "curves.png").exists()


def test_the_table_says_which_verdicts_were_dropped(runs):
    [row] = [row for row in final_values([read_run(runs[0])]) if row.label == "dropped verdicts"]
    assert row.cells == ("0.250",)  # of the last update


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nothing", "does not exist"),
        ("both/grpo/metrics.jsonl", "is a file; give the folder of the run"),
        ("both/grop", "Did you mean"),
        ("empty", "no run is in it"),
    ],
)
def test_a_path_that_is_no_run_is_said_with_the_runs_nearby(runs, tmp_path, path, said):
    (tmp_path / "empty").mkdir()
    result = launch.command("monitor", tmp_path / path)
    assert result.code == 2
    assert said in result.err
    assert "Traceback" not in result.err


def test_runs_of_one_name_are_told_apart(tmp_path):
    from rlvr.monitor.panels import run_names

    first, second = write_run(tmp_path / "a" / "same"), write_run(tmp_path / "b" / "same")
    names = run_names([read_run(first), read_run(second)])
    assert len(set(names)) == 2


@pytest.mark.parametrize("evaluations", [3, 4])
def test_the_accuracy_without_entropy_is_fitted_from_four_evaluations_on(tmp_path, evaluations):
    with RunWriter(tmp_path / "run") as writer:
        for update, entropy in enumerate([1.2, 0.9, 0.7, 0.3][:evaluations]):
            accuracy = 0.8 - 0.25 * math.exp(entropy)
            writer.log(
                {
                    "update": update,
                    "eval/A/pass@1": accuracy,
                    "eval/A/entropy": entropy,
                    "reward": 0,
                }
            )
    (tmp_path / "run/resolved.yaml").write_text("name: run\n")
    rows = {row.label: row.cells for row in final_values([read_run(tmp_path / "run")])}
    fitted = rows.get("A pass@1 at entropy 0")
    assert fitted == (("0.550 (a 0.250)",) if evaluations == 4 else None)
