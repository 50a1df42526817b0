"""Whatever a completion is, each verifier answers, in time and in order; a killed worker leaves nothing.

The long run is a command: `python -m benchmarks.reward_fuzz --kills 10000`.
"""

import pytest

from benchmarks.reward_fuzz import drawn, fuzz, mutated
from benchmarks.rewards import kills
from rlvr.reward.example import load_examples
from rlvr.rewards.registry import load, names

SLOW = {"code", "judge"}
"""They run programs, or ask a service."""


def known():
    """Return the verifiers whose packages are installed."""
    found = []
    for name in names():
        try:
            load(name)
        except ValueError:
            continue
        found.append(name)
    return found


@pytest.mark.parametrize("verifier", known())
def test_every_completion_gets_a_verdict_in_time(verifier):
    outcome = fuzz(verifier, 24 if verifier in SLOW else 100, seed=1, workers=2)
    assert outcome.lost == 0
    assert outcome.late == 0
    assert outcome.outcomes.get("crashed", 0) == 0


@pytest.mark.slow
@pytest.mark.parametrize("verifier", known())
def test_every_one_of_many_completions_gets_a_verdict_in_time(verifier):
    outcome = fuzz(verifier, 100 if verifier in SLOW else 2_000, seed=2, workers=2)
    assert outcome.holds


def test_completions_are_the_same_for_the_same_seed_and_differ_otherwise():
    rows = load_examples("math", None)
    assert mutated(rows, 50, seed=1) == mutated(rows, 50, seed=1) != mutated(rows, 50, seed=2)
    assert len(drawn(40, seed=1)) == 40


def test_workers_killed_at_their_deadline_leave_neither_zombies_nor_descriptors():
    found = kills(60, workers=2)
    assert found["kills"] == 60
    assert found["zombies"] == 0
    assert found["leaked_descriptors"] == 0
