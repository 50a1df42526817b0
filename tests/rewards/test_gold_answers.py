"""The gold answers of the real math sets verify against themselves."""

import os
import sys
from pathlib import Path

import pytest

from rlvr.rewards.answer.quantity import quantity
from rlvr.rewards.math import Config, fault
from rlvr.rewards.scorer import Scorer
from rlvr.rewards.verdict import Sample

MATH_SETS = ("DAPO-Math-17k", "math500", "aime24", "aime25", "amc23", "minerva_math")
OTHER_SETS = ("gsm8k_test", "olympiadbench")
COMPLETION = (
    "<think>Let me see.</think>We simplify.\n\nThe final answer is ${}$. I hope it is right."
)
# the same expression, typed in another way: equality of texts does not settle it
RETYPED = {r"\frac": r"\dfrac", "+": " + ", "=": " = ", ",": ", ", "(": r"\left(", ")": r"\right)"}


def folder():
    given = os.environ.get("RLVR_SHARED_DATA")
    path = Path(given) if given else Path(__file__).parents[3] / "shared" / "data"
    if not (path / "math").is_dir():
        pytest.skip(f"no math sets at {path}/math; set RLVR_SHARED_DATA to their folder")
    return path / "math"


def retyped(gold):
    if quantity(gold) is not None:  # 1,234 with a blank would be a list
        return gold
    for spelling, other in RETYPED.items():
        gold = gold.replace(spelling, other)
    return gold


@pytest.mark.parametrize("name", MATH_SETS + OTHER_SETS)
def test_gold_answers_in_an_ordinary_completion_are_correct(name, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    column = parquet.read_table(folder() / f"{name}.parquet", columns=["reward_model"]).column(0)
    golds = list(dict.fromkeys(str(row["ground_truth"]) for row in column.to_pylist()))
    usable = [gold for gold in golds if fault(Sample("", "", gold), Config()) is None]
    texts = [COMPLETION.format(rf"\boxed{{{gold}}}") for gold in usable]
    others = [COMPLETION.format(rf"\boxed{{{retyped(gold)}}}") for gold in usable]
    with Scorer(["math"], deadline=10, workers=2) as scorer:
        pairs = list(zip(texts + others, usable + usable, strict=True))
        scored = scorer.score([Sample("p", text, gold) for text, gold in pairs])
    failed = [
        f"{gold!r}: {item.verdict.outcome} {item.verdict.reason}"
        for (_, gold), item in zip(pairs, scored, strict=True)
        if item.reward != 1.0
    ]
    right = sum(item.reward == 1.0 for item in scored[: len(usable)])
    right_retyped = sum(item.reward == 1.0 for item in scored[len(usable) :])
    report = (
        f"{name}: {len(golds)} golds, {len(usable)} usable, {right / len(usable):.4f} verify, "
        f"{right_retyped / len(usable):.4f} typed otherwise"
    )
    with capsys.disabled():
        sys.stdout.write("\n" + "\n  ".join([report, *failed]) + "\n")
    assert right >= 0.995 * len(usable)
    assert right_retyped >= 0.995 * len(usable)
