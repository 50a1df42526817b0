"""What a rollout says about its verifiers, and groups that are cut between processes."""

import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr.monitor.metrics import describe
from rlvr.rewards.scorer import Scored
from rlvr.rewards.verdict import Outcome, Verdict
from rlvr.rollout.verifiers import measurements, verifier_metrics
from tests.rollout import cut_groups

NAMES = ("math", "format")


def scored(part, outcome, seconds, *, gated=False):
    """Return a completion that math judged, and format too unless its gate was closed."""
    verdicts = {"math": Verdict(Outcome(outcome), seconds=seconds)}
    if not gated:
        verdicts["format"] = Verdict(Outcome.CORRECT, seconds=0.5)
    first = verdicts["math"]
    return Scored(part, first, {"math": part, "format": 0.0 if gated else 0.25}, verdicts)


def metrics(items):
    return verifier_metrics(measurements(items, NAMES), NAMES)


def test_times_and_failures_are_those_of_the_completions_that_a_verifier_was_shown():
    items = [
        scored(1.0, "correct", 1.0),
        scored(0.0, "wrong", 2.0, gated=True),
        scored(math.nan, "timeout", 5.0, gated=True),
        scored(math.nan, "crashed", 0.0, gated=True),
        None,  # a filler
    ]
    found = metrics(items)
    assert found["rewards/math"] == 0.5  # (1 + 0) / 2: two were dropped
    assert found["time/verifier/math/mean"] == 2.0  # (1 + 2 + 5 + 0) / 4
    assert found["verifier/math/failed_fraction"] == 0.5
    assert found["rewards/format"] == 0.0625  # 0.25 / 4: a closed gate is a part of 0
    assert found["time/verifier/format/mean"] == 0.5
    assert found["verifier/format/failed_fraction"] == 0.0
    assert all(describe(name).name.replace("<verifier>", "math") in found for name in found)


def test_a_verifier_that_never_ran_has_no_time():
    found = metrics([scored(0.0, "wrong", 1.0, gated=True)])
    assert math.isnan(found["time/verifier/format/mean"])
    assert math.isnan(found["time/verifier/format/p99"])
    assert math.isnan(found["verifier/format/failed_fraction"])


@given(st.lists(st.floats(0, 100), min_size=1, max_size=300), st.integers(0, 5))
def test_neither_fillers_nor_the_order_change_a_metric(seconds, fillers):
    items = [scored(1.0, "correct", value) for value in seconds]
    found = metrics(items)
    assert metrics([*[None] * fillers, *items[::-1]]) == pytest.approx(found)
    assert found["time/verifier/math/mean"] == pytest.approx(statistics.fmean(seconds))
    late = sum(value > found["time/verifier/math/p99"] + 1e-9 for value in seconds)
    assert late <= 0.01 * len(seconds) + 1


def expected_rewards() -> list[float]:
    """Return the rewards of `cut_groups`, by hand."""
    rewards = []
    for row in range(cut_groups.PROMPTS):
        first = row * cut_groups.GROUP
        places = range(first, first + cut_groups.GROUP)
        # the rules of tests/rollout/scripted.py
        right = [(True, False, p % 2 == 0, p % 2 == 1)[row % 4] for p in places]
        said = [-1.0 if row == 1 else float(is_right) for is_right in right]
        spread = statistics.stdev(said) + 1e-4
        for place, (value, is_right) in enumerate(zip(said, right, strict=True)):
            ranked = 100.0 * sum(right) + 10.0 * cut_groups.GROUP + place
            normalized = 0.5 * (value - statistics.fmean(said)) / spread
            rewards.append(ranked + normalized + float(is_right))
    return rewards


def test_a_group_is_scored_as_a_whole(tmp_path):
    found = cut_groups.generation(tmp_path)
    torch.testing.assert_close(found.rows.rewards, torch.tensor(expected_rewards()))
    assert found.stats["verifier/said/failed_fraction"] == 3 / 15  # those of prompt 1
    assert found.stats["verifier/ranked/failed_fraction"] == 0
    assert found.stats["time/verifier/ranked/p99"] >= found.stats["time/verifier/ranked/mean"] > 0


@pytest.mark.slow
def test_a_group_that_is_cut_between_two_processes_is_scored_as_a_whole_on_both(tmp_path):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [sys.executable, *torchrun, str(Path(cut_groups.__file__)), str(tmp_path / "two")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    wanted = expected_rewards()
    seen = {}
    stats = []
    for rank in (0, 1):
        rewards, records, of_rank = torch.load(tmp_path / f"two.{rank}", weights_only=False)
        torch.testing.assert_close(rewards, torch.tensor(wanted))
        seen |= records
        stats.append(of_rank)
    assert sorted(seen) == list(range(15))
    for place, (reward, _) in seen.items():
        assert reward == pytest.approx(wanted[place])
    assert stats[0]["verifier/said/failed_fraction"] == 3 / 15
    for name in (key for key in stats[0] if "verifier/" in key or key.startswith("rewards/")):
        assert stats[0][name] == stats[1][name]
