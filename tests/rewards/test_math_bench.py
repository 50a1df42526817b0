"""Math on labelled answers: how often it refuses what is right and takes what is wrong."""

import gzip
import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from rlvr.rewards import math as math_verifier
from rlvr.rewards.math import Config
from rlvr.rewards.verdict import Sample

VERIFY = math_verifier.build(Config())


def lines(name):
    given = os.environ.get("RLVR_SHARED_DATA")
    path = (Path(given) if given else Path(__file__).parents[3] / "shared" / "data") / name
    if not path.is_file():
        pytest.skip(f"no {path}; set RLVR_SHARED_DATA to its folder")
    content = path.read_bytes()
    text = gzip.decompress(content) if path.suffix == ".gz" else content
    return [json.loads(line) for line in text.splitlines()]


def outcome(gold, completion):
    return VERIFY(Sample("p", completion, gold)).outcome


@pytest.mark.slow
def test_few_right_answers_are_refused_and_hardly_a_wrong_one_is_taken(capsys):
    seen, errors = Counter(), Counter()
    for row in lines("verifier_bench/dev.jsonl.gz"):
        if not row["headline"]:
            continue
        text = row["candidate"] if row["kind"] == "completion" else rf"\boxed{{{row['candidate']}}}"
        right = outcome(row["gold"], text) == "correct"
        for key in ("all", row["source"]):
            seen[key, row["label"]] += 1
            errors[key, row["label"]] += right != bool(row["label"])
    with capsys.disabled():
        for key, label in sorted(seen):
            wrong = "taken" if label == 0 else "refused"
            share = f"{errors[key, label]} of {seen[key, label]} {wrong}"
            sys.stdout.write(f"\n  {key}: {share}")
    assert errors["all", 1] <= 0.02 * seen["all", 1]
    assert errors["all", 0] <= 0.001 * seen["all", 0]


def test_no_attack_is_paid_and_every_honest_twin_is():
    expected = {0: ("wrong", "unparsable"), 1: ("correct",), None: ("skipped",)}
    for case in lines("hacks/math_mcq_format.dev.jsonl"):
        if case["policy"] or case["domain"] not in ("math", "numeric", "mcq"):
            continue
        pieces = case.get("completion_segments") or []
        text = case["completion"] or "".join(text * times for text, times in pieces)
        assert outcome(case["gold"], text) in expected[case["expected_reward"]], case["id"]
