"""How log-probs are computed changes no curve."""

import pytest

from tests.run import launch

HUNDRED = (
    "training.updates=100",
    "evaluation.at_start=false",
    "evaluation.at_end=false",
    "monitor.completions_every=0",
)


@pytest.fixture(scope="module")
def naive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernel") / "naive"
    launch.train(folder, *HUNDRED, "kernel.impl=naive")
    return launch.rows(folder)


@pytest.mark.slow
@pytest.mark.parametrize("options", [["kernel.impl=chunked"], ["kernel.tolerance=1e-9"]])
def test_a_hundred_updates_have_the_curves_of_plain_pytorch(naive, tmp_path, options):
    launch.train(tmp_path / "run", *HUNDRED, *options)
    rows = launch.rows(tmp_path / "run")
    assert len(rows) == len(naive) == 100
    for row, other in zip(rows, naive, strict=True):
        # the same tokens were sampled a hundred times over
        assert row["reward"] == other["reward"]
        assert row["tokens"] == other["tokens"]
        assert row["entropy"] == pytest.approx(other["entropy"], abs=1e-4)
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-2, abs=1e-4)
    assert len({row["reward"] for row in rows}) > 3


def test_a_run_says_once_how_and_measures_what_it_left_out(tmp_path):
    # several tiles of 128 rows in a micro-batch
    large = ("rollout.prompts_per_update=8", "rollout.group_size=8", "training.micro_batch_size=64")
    done = launch.train(tmp_path / "run", *large, "training.updates=2", "kernel.tolerance=0.9")
    assert done.out.count("log-probs chunked, float32, gradient certified to 0.9") == 1
    for row in launch.rows(tmp_path / "run")[1:]:
        assert 0 < row["kernel/left_out"] <= 0.9
        assert 0 < row["kernel/tiles_made"] < 1
    exact = launch.train(tmp_path / "exact", "training.updates=1")
    assert exact.out.count("log-probs chunked, float32, gradient exact") == 1
    assert "kernel/left_out" not in launch.rows(tmp_path / "exact")[-1]
