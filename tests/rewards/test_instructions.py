"""IFEval's instructions: what follows them, what only seems to, and which rows can be judged."""

import gzip
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.rewards import registry
from rlvr.rewards.instructions import KINDS, Config, fault, shortcut
from rlvr.rewards.verdict import Sample

LEAST = {"relation": "at least"}
LESS = {"relation": "less than"}
LANGUAGE = {"change_case:english_capital", "change_case:english_lowercase"}
LANGUAGE |= {"language:response_language"}
GERMAN = "Der Fluss ist lang und die Boote fahren langsam unter der alten Brücke hindurch."
ENGLISH = "The river is long and the boats move slowly under the old bridge."
ZERO = "\u200b"

# instruction, its arguments, a response that follows it, one that does not
EXAMPLES = [
    ("length_constraints:number_words", LEAST | {"num_words": 3}, "one two three", "one two"),
    ("length_constraints:number_words", LESS | {"num_words": 3}, "one two", "one two three"),
    (
        "length_constraints:number_sentences",
        LEAST | {"num_sentences": 2},
        "Dr. No came at 3 p.m. today. He left!",
        "Dr. No came at 3 p.m. today",
    ),
    ("length_constraints:number_sentences", LESS | {"num_sentences": 2}, "One.", "One. Two."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb\n***", "a\n***"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "so"},
        'Yes.\n\n"So, that is it.',
        "So.\n\nYes.",
    ),
    ("keywords:existence", {"keywords": ["river", "boat"]}, "A RIVER, boats", "A river"),
    ("keywords:frequency", LEAST | {"keyword": "ha", "frequency": 2}, "Haha", "ha"),
    ("keywords:frequency", LESS | {"keyword": "ha", "frequency": 2}, "ha", "haha"),
    ("keywords:forbidden_words", {"forbidden_words": ["river"]}, "Rivers flow", "The River flows"),
    (
        "keywords:letter_frequency",
        {"let_relation": "at least", "letter": "E", "let_frequency": 2},
        "Eve",
        "end",
    ),
    ("punctuation:no_comma", {}, "one; two", "one, two"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] [b]", "[a] b]"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "x\nP. P.S. y", "x\nP.S. y"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n* b\n* c"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* **b**", "*a*"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Part", "num_sections": 2},
        "Part 1\na\nPart 2\nb",
        "Part 1\na",
    ),
    ("detectable_format:title", {}, "<<A title>>\ntext", "<A title>\ntext"),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', "{'a': 1}"),
    ("detectable_format:constrained_response", {}, "Well: My answer is no.", "No."),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "say it. It.", "It. Say it."),
    ("combination:two_responses", {}, "One.\n******\nTwo.", "One.\n***\nTwo."),
    ("startend:end_checker", {"end_phrase": "Peace!"}, 'Bye. "PEACE!"', "Peace! Bye."),
    ("startend:quotation", {}, ' "All of it." ', '"Some" of it.'),
    ("language:response_language", {"language": "de"}, GERMAN, ENGLISH),
    ("change_case:english_capital", {}, "THIS IS IN LOUD ENGLISH WORDS", "This is not"),
    ("change_case:english_lowercase", {}, "this is in quiet english words", "This is not"),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "at least", "capital_frequency": 2},
        "NASA and ESA",
        "NASA and Esa",
    ),
]


def judge(text, *instructions, **options):
    if any(name in LANGUAGE for name, _ in instructions):
        pytest.importorskip("langdetect")
    names, arguments = zip(*instructions, strict=True)
    row = {"instruction_id_list": list(names), "kwargs": list(arguments)}
    return registry.build("instructions", options)(Sample("p", text, None, row))


def follows(name, arguments, text, **options):
    return judge(text, (name, arguments), **options).outcome == "correct"


@pytest.mark.parametrize(
    ("name", "arguments", "right", "wrong"), EXAMPLES, ids=[name for name, *_ in EXAMPLES]
)
def test_an_instruction_tells_what_follows_it_from_what_does_not(name, arguments, right, wrong):
    assert follows(name, arguments, right)
    assert not follows(name, arguments, wrong)
    assert follows(f"en:{name}", arguments, f"<think>{wrong}</think>\n{right}".strip())
    assert not follows(name, arguments, f"<think>{right}</think>{wrong}")


def test_there_is_an_example_of_each_of_the_25_kinds():
    assert {name for name, *_ in EXAMPLES} == KINDS.keys()
    assert len(KINDS) == 25


@pytest.mark.parametrize("blank", ["", " \n ", ZERO * 50, "\u3164 \u3164", "...", "<!-- a b -->"])
@pytest.mark.parametrize("name", ["punctuation:no_comma", "keywords:forbidden_words"])
def test_saying_nothing_follows_no_instruction(name, blank):
    arguments = {"forbidden_words": ["x"]} if "words" in name else {}
    assert judge(blank, (name, arguments)).outcome == "unparsable"
    assert judge(blank, (name, arguments), mode="loose").outcome == "unparsable"


HOLLOW = [
    ("length_constraints:number_words", LEAST | {"num_words": 9}, "a b " + f"{ZERO} " * 20),
    ("length_constraints:number_words", LEAST | {"num_words": 9}, "a b " + "_ " * 20),
    ("length_constraints:number_words", LEAST | {"num_words": 9}, "a b " + "\u3164 " * 20),
    ("length_constraints:number_words", LEAST | {"num_words": 9}, "a <!-- b c d e f g h i j -->"),
    ("length_constraints:number_words", LESS | {"num_words": 4}, "one_two_three_four_five"),
    (
        "length_constraints:number_words",
        LESS | {"num_words": 4},
        "one\u203ftwo\u203fthree\u203ffour",
    ),
    ("length_constraints:number_sentences", LEAST | {"num_sentences": 4}, "Yes! ! ! . ? ."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 3}, "a\n***\n.\n***\nb"),
    ("keywords:existence", {"keywords": ["river"]}, "Hi <!-- river -->"),
    ("keywords:existence", {"keywords": ["river"]}, f"Hi ri{ZERO}ver"),
    ("keywords:forbidden_words", {"forbidden_words": ["river"]}, f"The ri{ZERO}ver"),
    ("keywords:forbidden_words", {"forbidden_words": ["river"]}, "The r\u0456ver"),
    ("keywords:forbidden_words", {"forbidden_words": ["river"]}, "The r**iv**er"),
    ("keywords:forbidden_words", {"forbidden_words": ["river"]}, "The r<b>iv</b>er"),
    ("keywords:forbidden_words", {"forbidden_words": ["river"]}, "The &#114;iver"),
    ("keywords:forbidden_words", {"forbidden_words": ["river"]}, "The r-i-v-e-r"),
    ("keywords:forbidden_words", {"forbidden_words": ["river"]}, "The r i v e r"),
    ("keywords:forbidden_words", {"forbidden_words": ["river"]}, "The ri\u0332v\u0332er"),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["river"]},
        "The \u0280\u026a\u1d20\u1d07\u0280",
    ),
    ("keywords:forbidden_words", {"forbidden_words": ["cop"]}, "The \u0441\u043e\u0440"),
    ("keywords:forbidden_words", {"forbidden_words": ["river"]}, "The \uff52\uff49\uff56er"),
    ("keywords:frequency", LESS | {"keyword": "river", "frequency": 1}, "The r\u0456ver"),
    (
        "keywords:letter_frequency",
        {"let_relation": "less than", "letter": "e", "let_frequency": 1},
        "th\u0435 riv\u0435r",
    ),
    ("punctuation:no_comma", {}, "one\u060c two"),
    ("punctuation:no_comma", {}, "one\uff0c two"),
    ("punctuation:no_comma", {}, "one&#44; two"),
    ("punctuation:no_comma", {}, "one\u201a two"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "a [] [ ] []"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "a\n\nP.S."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 3}, "* a\n* \n* "),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "a ** ** * * ****"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "* a\n* b\n* c"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Part", "num_sections": 2},
        "Part 1 Part 2 Part 3 a",
    ),
    ("detectable_format:title", {}, "<<  >> a"),
    ("detectable_format:json_format", {}, "NaN"),
    ("detectable_format:json_format", {}, "17"),
    ("detectable_format:json_format", {}, '{"a": Infinity}'),
    ("detectable_format:json_format", {}, '{"a": 1} and more'),
    ("detectable_format:json_format", {}, '{"a":' * 50_000 + "1" + "}" * 50_000),
    ("detectable_format:constrained_response", {}, "My answer is yes. My answer is no."),
    ("combination:two_responses", {}, "Yes\n******\nyes."),
    ("combination:two_responses", {}, "Yes\n******\n..."),
    ("startend:end_checker", {"end_phrase": "Peace!"}, "Peace!\n\nP.S. no"),
    ("startend:end_checker", {"end_phrase": "Peace!"}, f"Hi Pea{ZERO}ce!"),
    ("startend:quotation", {}, '"" a'),
    ("change_case:english_lowercase", {}, "12345 !!!"),
    (
        "change_case:english_lowercase",
        {},
        "\u1d1b\u029c\u026a\ua731 \u026a\ua731 \u1d0e\u1d0f\u1d1b",
    ),
    ("change_case:english_capital", {}, "\u0422\u041d\u0406\u0405 \u0406\u0405 \u041d\u041e\u0422"),
    ("language:response_language", {"language": "de"}, "12345"),
]


@pytest.mark.parametrize(("name", "arguments", "text"), HOLLOW)
def test_marks_around_nothing_and_disguises_do_not_count(name, arguments, text):
    assert not follows(name, arguments, text)
    if not ("*" in text and "words" in name) and name != "startend:end_checker":
        # loose leaves the last line and asterisks out by definition
        assert not follows(name, arguments, text, mode="loose")


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("keywords:forbidden_words", {"forbidden_words": ["name"]}, "He was renamed."),
        ("keywords:forbidden_words", {"forbidden_words": ["cafe"]}, "The caf\u00e9 is here"),
        (
            "keywords:forbidden_words",
            {"forbidden_words": ["pika"]},
            "\u0440\u0456\u043a\u0430 is a river",
        ),
        ("keywords:forbidden_words", {"forbidden_words": ["coop"]}, "The co-op is a shop"),
        ("punctuation:no_comma", {}, "Er sagt \u201eja\u201c; \u0218tefan hears it"),
        (
            "language:response_language",
            {"language": "fa"},
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u0628\u0647 \u062e\u0627\u0646\u0647 \u0628\u0631\u0648\u0645",
        ),
        ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[[a] [b\n] [c]"),
        ("detectable_format:json_format", {}, '["a", "b"]'),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* *a*: x\n  - b\n**c**"),
    ],
)
def test_ordinary_texts_are_not_taken_for_disguises(name, arguments, text):
    assert follows(name, arguments, text)


def test_loose_forgives_a_first_line_a_last_line_and_asterisks():
    quoted = ("startend:quotation", {})
    for text in ('Sure!\n"It is."', '"It is."\nBye!', 'Sure!\n"It is."\nBye!', '*"It is."*'):
        assert judge(text, quoted).outcome == "wrong"
        assert judge(text, quoted, mode="loose").outcome == "correct"


def test_the_share_of_followed_instructions_is_a_choice():
    three = [
        ("punctuation:no_comma", {}),
        ("detectable_format:title", {}),
        ("startend:quotation", {}),
    ]
    assert judge('"one <<two>>"', *three).outcome == "correct"
    assert judge("one <<two>>", *three).outcome == "wrong"
    some = judge("one <<two>>", *three, score="fraction")
    assert (some.outcome, some.fraction) == ("partial", pytest.approx(2 / 3))
    assert "startend:quotation" in some.reason
    assert judge("one, two", *three, score="fraction").outcome == "wrong"


def test_an_open_think_block_is_no_response():
    assert judge("<think>one", ("punctuation:no_comma", {})).outcome == "unparsable"


ROW = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}


@pytest.mark.parametrize("names", ['["punctuation:no_comma"]', ("en:punctuation:no_comma",)])
@pytest.mark.parametrize("kwargs", ["[{}]", "[null]", [None], ({},)])
def test_columns_may_be_lists_or_json_and_null_is_no_argument(names, kwargs):
    row = {"instruction_id_list": names, "kwargs": kwargs}
    assert fault(Sample("p", "", None, row), Config()) is None


def test_arguments_that_are_null_are_not_given():
    row = {
        "instruction_id_list": ["length_constraints:number_words"],
        "kwargs": [{"num_words": 3.0, "relation": "at least", "keywords": None}],
    }
    assert registry.build("instructions", {})(Sample("p", "a b c", None, row)).outcome == "correct"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({}, "instruction_id_list is 'None'"),
        (ROW | {"instruction_id_list": []}, "empty"),
        (ROW | {"kwargs": []}, "1 items and kwargs 0"),
        (ROW | {"kwargs": "["}, "kwargs is '['"),
        (ROW | {"kwargs": [7]}, "must be a mapping"),
        (
            ROW | {"instruction_id_list": ["punctuation:nocomma"]},
            "Did you mean 'punctuation:no_comma'",
        ),
        (ROW | {"instruction_id_list": [None]}, "unknown instruction 'None'"),
        (ROW | {"kwargs": [{"num_words": 3}]}, "unknown argument 'num_words'"),
        (
            {"instruction_id_list": ["keywords:existence"], "kwargs": [{}]},
            "keywords: Field required",
        ),
        (
            {"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": [""]}]},
            "at least 1 character",
        ),
        (
            {
                "instruction_id_list": ["language:response_language"],
                "kwargs": [{"language": "dee"}],
            },
            "Did you mean 'de'",
        ),
        (
            {
                "instruction_id_list": ["length_constraints:number_words"],
                "kwargs": [{"relation": "at most", "num_words": 3}],
            },
            "'at least' or 'less than'",
        ),
    ],
)
def test_a_row_that_cannot_be_judged_says_what_is_wrong_and_is_skipped(row, says):
    sample = Sample("p", "a", None, row)
    assert says in fault(sample, Config())
    assert registry.build("instructions", {})(sample).outcome == "skipped"
    assert shortcut(Config())(sample).outcome == "skipped"


def test_only_rows_that_ask_for_a_language_need_a_worker_and_the_package(monkeypatch):
    pytest.importorskip("langdetect")
    for name, arguments, right, _ in EXAMPLES:
        row = {"instruction_id_list": [name], "kwargs": [arguments]}
        settled = shortcut(Config())(Sample("p", right, None, row))
        assert settled is None if name in LANGUAGE else settled.outcome == "correct"
    monkeypatch.setitem(sys.modules, "langdetect", None)
    row = {"instruction_id_list": ["change_case:english_capital"], "kwargs": [{}]}
    assert "rlvr[instructions]" in fault(Sample("p", "", None, row), Config())
    assert fault(Sample("p", "", None, ROW), Config()) is None


def test_the_language_of_a_text_is_always_the_same():
    pytest.importorskip("langdetect")
    from rlvr.rewards.instruction.language import LANGUAGES, language_of

    for text in ("SHREK", "carvings", "a b c", ENGLISH.upper()):
        assert len({language_of(text) for _ in range(5)}) == 1
    assert language_of(GERMAN) == "de"
    assert {language_of(GERMAN), language_of(ENGLISH)} < LANGUAGES


INLINE = [item for item in EXAMPLES if item[0] not in LANGUAGE]


@given(st.text(max_size=200), st.sampled_from(INLINE), st.sampled_from(["strict", "loose"]))
def test_every_text_gets_a_verdict_and_loose_forgives_only(text, example, mode):
    name, arguments, *_ = example
    strict, loose = (follows(name, arguments, text, mode=m) for m in ("strict", "loose"))
    assert loose or not strict


@given(st.sampled_from(INLINE), st.integers(0, 40), st.sampled_from([ZERO, "\u2060", "\u00ad"]))
def test_invisible_characters_turn_no_wrong_response_into_a_right_one(example, place, char):
    name, arguments, _, wrong = example
    assert not follows(name, arguments, wrong[:place] + char + wrong[place:])


@pytest.mark.parametrize(
    "unit", ["[", "*", "<<", "<!--", "\n", "- ", "a.", "&#", "<b", "P.S", "Part ", "\ud800", "***"]
)
def test_long_texts_of_anything_are_judged_in_linear_time(unit):
    text = "a" + unit * (300_000 // len(unit))
    instructions = [(name, arguments) for name, arguments, *_ in INLINE]
    began = time.monotonic()
    judge(text, *instructions)
    assert time.monotonic() - began < 5


def shared(name):
    given = os.environ.get("RLVR_SHARED_DATA")
    path = (Path(given) if given else Path(__file__).parents[3] / "shared" / "data") / name
    if not path.is_file():
        pytest.skip(f"there is no {path}; set RLVR_SHARED_DATA to its folder")
    read = gzip.open if path.suffix == ".gz" else open
    with read(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_every_row_of_ifeval_can_be_judged():
    pytest.importorskip("langdetect")
    rows = shared("src/ifeval/en_input_data.jsonl")
    assert [said for row in rows if (said := fault(Sample("p", "", None, row), Config()))] == []


def test_attacks_get_no_reward_and_their_benign_twins_get_it():
    pytest.importorskip("langdetect")
    rows = [row for row in shared("hacks/ifeval_puzzle.dev.jsonl") if row["domain"] == "ifeval"]
    for row in rows:
        arguments = {key: value for key, value in row["constraint"].items() if key != "id"}
        got = follows(row["constraint"]["id"], arguments, row["completion"])
        assert got == (row["expected_reward"] == 1), row["id"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["strict", "loose"])
def test_the_reference_checkers_agree_on_real_responses(mode):
    pytest.importorskip("langdetect")
    seen, agreed = Counter(), Counter()
    for row in shared("ifeval_bench/dev.jsonl.gz"):
        for name, arguments, label in zip(
            row["instruction_id_list"], row["kwargs"], row[mode], strict=True
        ):
            if not str(arguments.get("letter", "a")).isalpha():
                continue  # the reference takes a random letter there
            seen[name] += 1
            agreed[name] += label == follows(name, arguments, row["response"] or "", mode=mode)
    assert agreed.total() >= 0.995 * seen.total()
    assert [name for name in seen if agreed[name] < 0.96 * seen[name]] == []
