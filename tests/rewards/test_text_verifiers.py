"""Exact, and what all verifiers of texts have in common."""

import gzip
import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.rewards import registry
from rlvr.rewards.verdict import Outcome, Sample

ROW = {"choices": ["London", "Berlin", "Paris", "Rome"], "numbers": [3, 5], "target": 8}
VERIFIERS = {
    "numeric": ("5 km", {"last_number": True}),
    "choice": ("C", {}),
    "exact": ("Paris", {}),
    "regex": (r"\w+", {}),
    "format": (None, {}),
    "length": (None, {"max_length": 100}),
    "repetition": (None, {}),
    "subset_sum": (None, {}),
}
SECONDS = 5.0  # the default deadline of a completion


def data(*parts):
    given = os.environ.get("RLVR_SHARED_DATA")
    path = Path(given) if given else Path(__file__).parents[3] / "shared" / "data"
    path = path.joinpath(*parts)
    if not path.is_file():
        pytest.skip(f"no file {path}; set RLVR_SHARED_DATA to its folder")
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    return [json.loads(line) for line in content.splitlines()]


@pytest.mark.parametrize(
    ("text", "gold", "options", "expected"),
    [
        (" Paris\n", "Paris", {}, "correct"),
        ("a  b", "a b", {}, "correct"),
        ("paris", "Paris", {}, "wrong"),
        ("paris", "Paris", {"case_sensitive": False}, "correct"),
        (" Paris", "Paris", {"strip": False}, "wrong"),
        ("It is <answer>Paris</answer>.", "Paris", {}, "correct"),
        ("It is <answer>Paris</answer>.", "Paris", {"tag": "answer"}, "correct"),
        ("<city>Paris</city>", "Paris", {"tag": "city"}, "correct"),
        ("<city>Rome</city><city>Paris</city>", "Paris", {"tag": "city"}, "unparsable"),
        ("Paris", "Paris", {"tag": "answer"}, "unparsable"),
        (r"So \boxed{\text{Paris}}.", "Paris", {}, "correct"),
        (r"\boxed{Rome} or \boxed{Paris}", "Paris", {}, "unparsable"),
        ("The answer is **Paris**. It is the capital.", "Paris", {}, "correct"),
        ("The answer is Paris.", "Paris", {"where": "text"}, "wrong"),
        ("The answer is Paris or Rome.", "Paris", {}, "wrong"),
        ("The answer is Paris. This is wrong.", "Paris", {}, "unparsable"),
        ("I was in Paris", "Paris", {}, "wrong"),
        ("So the answer is ] ) }.", "] ) }", {}, "correct"),
        ("The answer is 7", "The answer is 7", {}, "correct"),
        ("<think>Rome</think>Paris", "Paris", {}, "correct"),
        ("<think>Paris</think>Rome", "Paris", {}, "wrong"),
        ("<think>Paris", "Paris", {}, "unparsable"),
        ("caf\u00e9", "cafe\u0301", {}, "correct"),
        ("7", 7, {}, "correct"),
        ("Lutetia", ["Paris", "Lutetia"], {}, "correct"),
        ("", "", {}, "skipped"),
        ("None", None, {}, "skipped"),
        ("", [], {}, "skipped"),
        ("x", ["x", ""], {}, "skipped"),
    ],
)
def test_exact_compares_normalised_text(text, gold, options, expected):
    assert registry.build("exact", options)(Sample("p", text, gold)).outcome == expected


@given(st.text(st.characters(blacklist_categories=["Cs"])).filter(str.strip))
def test_exact_accepts_every_gold_as_it_is_written(gold):
    expected = "unparsable" if "<think>" in gold.rpartition("</think>")[2] else "correct"
    verify = registry.build("exact", {})
    assert "</think>" in gold or verify(Sample("p", gold, gold)).outcome == expected


def test_reasoning_gym_tasks_score_their_own_answers():
    reasoning_gym = pytest.importorskip("reasoning_gym")
    verify = registry.build("reasoning_gym", {})
    for task in ("leg_counting", "basic_arithmetic"):
        entry = reasoning_gym.create_dataset(task, size=1, seed=3)[0]
        for row in ({"entry": json.dumps(entry)}, {"entry": entry}):
            right = Sample("p", f"<think>hm</think><answer>{entry['answer']}</answer>", None, row)
            assert verify(right).outcome == "correct"
            assert verify(Sample("p", "<answer>nonsense</answer>", None, row)).fraction < 0.1
    assert verify(Sample("p", "7", None, {"entry": "{}"})).outcome == "skipped"


PIECES = st.sampled_from(
    [
        *(
            "<think>",
            "</think>",
            "<answer>",
            "</answer>",
            "\\boxed{",
            "{",
            "}",
            "$",
            "\\",
            "(",
            ")",
        ),
        *(
            "the answer is ",
            "Answer: ",
            "####",
            "\n",
            " or ",
            ", ",
            "not ",
            ".",
            "?",
            "%",
            "^",
            "_",
        ),
        *(
            "5",
            "km",
            "1,000",
            "\\frac12",
            "e9",
            "C",
            "(C)",
            "A ",
            "Paris",
            "London",
            "\ud800",
            "\0",
        ),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join)))
def test_every_text_gets_a_verdict_of_every_verifier(text):
    for name, (gold, options) in VERIFIERS.items():
        verdict = registry.build(name, options)(Sample("p", text, gold, ROW, length=len(text)))
        assert verdict.outcome in Outcome
        assert verdict.outcome not in ("crashed", "timeout", "skipped")


GOLDS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.lists(st.text()),
    st.dictionaries(st.text(), st.text()),
)


@settings(max_examples=200, deadline=None)
@given(GOLDS, GOLDS, st.lists(PIECES, max_size=8).map("".join))
def test_a_row_is_at_fault_exactly_where_its_verdict_is_skipped(gold, column, text):
    row = {"choices": column, "numbers": column, "target": gold}
    for name, (_, options) in VERIFIERS.items():
        module, config = registry.load(name), registry.configure(name, options)
        if hasattr(module, "fault"):
            sample = Sample("p", text, gold, row)
            is_at_fault = module.fault(sample, config) is not None
            assert (module.build(config)(sample).outcome == "skipped") is is_at_fault


SPAM = (
    *("the answer is ", "\\boxed{7} ", "C\n"),  # the slowest ones
    *("7", "\\boxed{", "answer to x ", "answer\n", "$", "C ", "(C)", "C is correct. ", "<answer>"),
    *("</answer>", "<think ", "</think>", "<", " ", "\n", "1 2 3 ", "1,234,", "\\frac{1}{2}", "*"),
    *("~~", "答案是", "\u200b", "\ud800", "5 km ", "5e", "Paris or ", "("),
)


@pytest.mark.parametrize(
    "piece", [*SPAM[:3], *(pytest.param(piece, marks=pytest.mark.slow) for piece in SPAM[3:])]
)
def test_a_megabyte_is_read_within_the_deadline(piece):
    text = piece * (10**6 // len(piece))
    for name, (gold, options) in VERIFIERS.items():
        verify = registry.build(name, options)
        for completion in (text, f"The answer is {text}", f"<answer>{text}</answer>"):
            start = time.monotonic()
            verify(Sample("p", completion, gold, ROW))
            assert time.monotonic() - start < SECONDS


HACKED = {"mcq": ("choice", {}), "numeric": ("numeric", {}), "format": ("format", {})}


def test_strict_attacks_of_the_hack_corpus_earn_nothing_and_their_twins_everything():
    rows = data("hacks", "math_mcq_format.dev.jsonl")
    wrong = []
    for row in rows:
        if row["domain"] in HACKED and not row["policy"] and row["expected_reward"] is not None:
            name, options = HACKED[row["domain"]]
            verdict = registry.build(name, options)(Sample("p", row["completion"], row["gold"]))
            if (verdict.outcome == "correct") is not bool(row["expected_reward"]):
                wrong.append((row["id"], verdict))
    assert not wrong


BENCHED = {"mcq": "choice", "numeric": "numeric", "text": "exact"}


@pytest.mark.parametrize("domain", BENCHED)
def test_the_verifier_bench_has_no_false_positive_and_few_false_negatives(domain):
    verify = registry.build(BENCHED[domain], {})
    counts = {0: [], 1: []}
    for row in data("verifier_bench", "dev.jsonl.gz"):
        if row["domain"] == domain and row["headline"]:
            text = row["candidate"]
            text = rf"\boxed{{{text}}}" if row["form"] == "expr" else text
            verdict = verify(Sample("p", text, row["gold"]))
            counts[row["label"]].append(verdict.outcome == "correct")
    assert not any(counts[0])
    # mcq: "The answer is (B) and (D)" counts there as B
    assert sum(counts[1]) >= 0.99 * len(counts[1])
