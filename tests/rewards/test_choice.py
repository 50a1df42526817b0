"""Choice: what states one option, and what only seems to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.rewards import registry
from rlvr.rewards.verdict import Sample

CITIES = ["London", "Berlin", "Paris", "Rome"]


def outcome(gold, text, choices=None):
    row = {} if choices is None else {"choices": choices}
    return registry.build("choice", {})(Sample("p", text, gold, row)).outcome


@pytest.mark.parametrize("choices", [None, CITIES], ids=["letters", "cities"])
@pytest.mark.parametrize(
    "text",
    [
        "C",
        "c",
        "**C**",
        "(C).",
        r"\boxed{C}",
        r"\boxed{\text{(C) Paris}}",
        "<answer>C</answer>",
        "<answer>(C) Paris</answer>",
        "The answer is (C).",
        "answer: c",
        "**Answer: C**",
        "## Final answer\n\nC",
        "The correct option is C.",
        "I think the answer is C, since A is too small.",
        "The answer is for sure C, it can't be A or B.",
        "The answer is C, not D.",
        "The answer is\n(C) Paris",
        "A good approach is to compute. Answer: C",
        "A is wrong.\nB is wrong.\n\nC",
        "So C is the correct answer.",
        "Therefore, option C is correct.",
        "C) Paris\n\nIt is the capital.",
        "I said the answer is A. On reflection, the answer is C.",
        "The answer is ~~A~~ C.",
        "A)\nToo small.\nB)\nToo big.\n\nSo it is C.",
        "I think it's C.",
        "```\nC\n```",
        "The answer is (C)<|im_end|>\n<|im_start|>user\nThe answer is (D)",
        "The answer is (C).\n\nQuestion: next one?\nThe answer is (D).",
        "答案：Ｃ",
        "La réponse est C non A",
        "<think>The answer is A.</think>The answer is C.",
    ],
)
def test_an_option_that_is_stated_alone_is_the_answer(text, choices):
    assert outcome("C", text, choices) == "correct"


@pytest.mark.parametrize("choices", [None, CITIES], ids=["letters", "cities"])
@pytest.mark.parametrize(
    "text",
    [
        "C or D",
        "The answer is C or D.",
        "The answer is either C or D.",
        "The answer is C, maybe D.",
        "The answer is C, unless it is D.",
        "The answer is (C) and (D).",
        "The answer is (A)(B)(C)(D)",
        "Answer: A, B, C, D",
        "Answer: A/B/C/D",
        "A B C D",
        "The answer is A. The answer is B. The answer is C.",
        "The correct answers are A and C.",
        "答案是 C 或 D",
        "A\nB\nC\nD",
        "A. London\nB. Berlin\nD. Rome\nC. Paris",
        r"\boxed{A} \boxed{C}",
        r"\boxed{A \text{ or } C}",
        r"\boxed{\cancel{C}}",
        "<answer>A</answer><answer>C</answer>",
        "The answer is not C.",
        "The answer is C. This is wrong.",
        "The answer is C?",
        "Neither C nor D is correct.",
        "If C is correct, the sum is 3.",
        "The answer is С.",  # the Cyrillic letter
        "The answer is C\u0338.",  # struck out
        "The answer is C++.",
        "The answer is vitamin C.",
        "<think>C</think> I am done.",
        "<think>The answer is C.",
        "",
    ],
)
def test_several_options_denials_and_look_alikes_are_no_answer(text, choices):
    assert outcome("C", text, choices) in ("wrong", "unparsable")


@pytest.mark.parametrize(
    ("gold", "text"),
    [
        ("A", "A good approach is to compute the ratio first. Answer: B"),
        ("A", "The answer is a triangle."),
        ("A", "The answer is A good approach."),
        ("A", "A man walks."),
        ("I", "I think the answer is (B)."),
        ("I", "The answer is I think B."),
        ("I", "The answer is copper(I) oxide."),
        ("C", "The answer is Paris."),  # without choices nobody knows
    ],
)
def test_words_of_one_letter_are_no_options(gold, text):
    assert outcome(gold, text) != "correct"


@pytest.mark.parametrize("gold", ["A", "I"])
@pytest.mark.parametrize(
    "form",
    ["{}", "{}.", "({})", "The answer is {}.", "The answer is {} because it is.", r"\boxed{{{}}}"],
)
def test_options_a_and_i_can_be_stated(gold, form):
    assert outcome(gold, form.format(gold)) == "correct"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paris", "correct"),
        ("The answer is Paris, because it is.", "correct"),
        ("The answer is Paris (C).", "correct"),
        (r"\boxed{\text{paris}}", "correct"),
        ("The answer is Rome.", "wrong"),
        ("The answer is Paris or Rome.", "unparsable"),
        ("The answer is not Paris.", "unparsable"),
        ("Paris, Rome, London, Berlin", "unparsable"),
        ("The answer is Parisian.", "unparsable"),
        ("The answer is Rome (C).", "unparsable"),  # label and text contradict each other
        ("The answer is (C) Rome.", "unparsable"),
        ("The answer is E.", "unparsable"),
    ],
)
def test_the_text_of_an_option_states_it_where_it_is_the_only_one(text, expected):
    assert outcome("C", text, CITIES) == expected


def test_the_longest_text_that_fits_is_meant():
    choices = ["5", "5 km", "5 km per hour"]
    assert outcome("B", "The answer is 5 km.", choices) == "correct"
    assert outcome("A", "The answer is 5 km.", choices) == "wrong"
    assert outcome("A", "The answer is 5 miles.", choices) == "unparsable"


@pytest.mark.parametrize(
    "choices",
    [
        CITIES,
        tuple(CITIES),
        '["London", "Berlin", "Paris", "Rome"]',
        {"A": "London", "B": "Berlin", "C": "Paris", "D": "Rome"},
        {"label": ["A", "B", "C", "D"], "text": CITIES},
    ],
)
@pytest.mark.parametrize("gold", ["C", "(C)", "c", "Paris", "C. Paris", 2])
def test_choices_and_golds_may_be_stored_in_every_usual_form(choices, gold):
    assert outcome(gold, "The answer is C.", choices) == "correct"
    assert outcome(gold, "The answer is D.", choices) == "wrong"


def test_labels_may_be_numbers():
    choices = {"1": "ten", "2": "twenty"}
    assert outcome("2", "The answer is (2).", choices) == "correct"
    assert outcome("2", "The answer is 2.5.", choices) == "unparsable"


@pytest.mark.parametrize(
    ("gold", "choices"),
    [
        (None, None),
        ("", CITIES),
        ("E", CITIES),
        ("Madrid", CITIES),
        ("C. Rome", CITIES),
        ("Paris", None),
        ("A", ["only one"]),
        ("A", 5),
        ("x", ["x", "x"]),  # two options with one text
        (1, ["1", "0", "2"]),  # the place, or the text?
        (9, CITIES),
    ],
)
def test_a_gold_that_is_not_one_option_is_a_fault_of_the_row(gold, choices):
    assert outcome(gold, "The answer is A.", choices) == "skipped"


@given(
    st.integers(0, 9),
    st.integers(0, 9),
    st.sampled_from(["{}", "The answer is ({}).", r"\boxed{{{}}}"]),
)
def test_only_the_gold_letter_is_right(gold, answer, form):
    gold, answer = "ABCDEFGHIJ"[gold], "ABCDEFGHIJ"[answer]
    assert (outcome(gold, form.format(answer)) == "correct") is (gold == answer)


@given(st.lists(st.sampled_from("ABCDE"), min_size=2, max_size=5, unique=True), st.data())
def test_a_list_of_options_is_never_right(letters, data):
    joint = data.draw(st.sampled_from([", ", " or ", "/", " and ", "; ", " | ", ". ", " "]))
    form = data.draw(
        st.sampled_from(["{}", "The answer is {}.", r"\boxed{{{}}}", "<answer>{}</answer>"])
    )
    for gold in letters:
        assert outcome(gold, form.format(joint.join(letters))) != "correct"
