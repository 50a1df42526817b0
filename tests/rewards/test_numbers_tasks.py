"""Countdown and subset sum: what counts as an answer, and what is cheating."""

import time
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rlvr.rewards import registry
from rlvr.rewards.verdict import Sample


def outcome(verifier, text, numbers, target, **options):
    sample = Sample("p", text, None, {"numbers": numbers, "target": target})
    return registry.build(verifier, options)(sample).outcome


@pytest.mark.parametrize(
    "text",
    [
        "3*5-7",
        " 3 * 5 - 7\n",
        "(3*5)-7",
        "3*5-7=8",
        "3×5−7 = 8",
        r"\boxed{3 \times 5 - 7}",
        "<think>5*7 is too much</think>\n<answer>5*3-7</answer>",
        "First \\boxed{3*5-7}, so \\boxed{3*5-7}",
        "$3*5-7$",
    ],
)
def test_a_right_expression_counts_in_every_usual_spelling(text):
    assert outcome("countdown", text, [3, 5, 7], 8) == "correct"


@pytest.mark.parametrize(
    "text",
    [
        "7+5-3-1",  # a number that was not given
        "3+5",  # leaves one out
        "3+5+7-7",  # one twice
        "35-27",
        "35*7/7-27",
        "3-5*7+5*8",
        "3*5-7=9",  # claims another value
        "3*5+7",
        "8",
        "7-(5-5)*3",
        "3**5-7",  # power is no operator
        "3//5+7",
        "-3+5+7",
        "3*5/(7-7)",
    ],
)
def test_cheating_and_errors_are_wrong(text):
    assert outcome("countdown", text, [3, 5, 7], 8) == "wrong"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I do not know",
        "3*5-",
        "3 5 7",
        "03*5-7",
        "3*(5-7",
        "__import__('os')",
        "3*5-+7",
        "3*5--7",
        "(3*5-7) if True else 0",
        "3*5-7 # 99",
        "(lambda: 8)()",
        "3*5-7 or 8",
        "3_5",
        "\\boxed{3*5-7} \\n or \\boxed{3+5+7}",
        "<think>3*5-7",
        "(" * 200 + "3" + ")" * 200,
        "3*5-7=",
        "9" * 100_000,
        "(" * 100_000,
        "3+" * 100_000,
    ],
)
def test_what_is_no_expression_is_unparsable_in_no_time(text):
    began = time.monotonic()
    assert outcome("countdown", text, [3, 5, 7], 8) == "unparsable"
    assert time.monotonic() - began < 0.5


@pytest.mark.parametrize(
    "text", ["-7+3*5", "-(7-3*5)", r"[3*5]-7", r"3\cdot5-7", r"\boxed{-7+3*5}"]
)
def test_a_minus_sign_may_stand_first_and_brackets_may_be_square(text):
    assert outcome("countdown", text, [3, 5, 7], 8) == "correct"


@pytest.mark.parametrize("sign", ["+", "-"])
def test_two_signs_in_a_row_are_no_way_around_the_allowed_operators(sign):
    assert outcome("countdown", f"5-{sign}3", [3, 5], 8, operators="-") == "unparsable"


def test_fractions_may_be_nested():
    assert outcome("countdown", r"\dfrac{8}{3-\frac{8}{3}}", [8, 3, 8, 3], 24) == "correct"


def test_numbers_may_be_left_out_only_where_the_row_or_the_option_says_so():
    verify = registry.build("countdown", {})
    row = {"numbers": [3, 5, 7, 2], "target": 24}
    assert outcome("countdown", "(5+7)*2", [3, 5, 7, 2], 24) == "wrong"
    assert outcome("countdown", "(5+7)*2", [3, 5, 7, 2], 24, use_all=False) == "correct"
    assert verify(Sample("p", "(5+7)*2", None, row | {"use_all": False})).outcome == "correct"
    assert outcome("countdown", "3*8", [3, 5, 7, 2], 24, use_all=False) == "wrong"
    assert outcome("countdown", "(5+7)*2*5/5", [3, 5, 7, 2], 24, use_all=False) == "wrong"


NUMBERS = st.lists(st.integers(1, 30), min_size=2, max_size=5)
OPERATORS = st.lists(st.sampled_from("+-*/"), min_size=4, max_size=4)


@given(NUMBERS, OPERATORS, st.randoms(use_true_random=False))
def test_any_expression_over_the_numbers_is_right_for_its_own_value_alone(numbers, signs, random):
    parts = [(str(number), Fraction(number)) for number in numbers]
    while len(parts) > 1:
        random.shuffle(parts)
        (left, a), (right, b) = parts.pop(), parts.pop()
        sign = signs[len(parts) % 4]
        assume(sign != "/" or b)
        value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else a}[sign]
        parts.append((f"({left}{sign}{right})", value))
    ((text, value),) = parts
    assume(value.denominator == 1)
    assert outcome("countdown", text, numbers, int(value)) == "correct"
    assert outcome("countdown", text, numbers, int(value) + 1) == "wrong"
    assert outcome("countdown", text, [*numbers, 31], int(value)) == "wrong"
    assert outcome("countdown", text, numbers[1:] or [31], int(value)) == "wrong"


@given(st.text(alphabet="0123456789+-*/()=. \\frac{}[]e_x\n", max_size=60))
def test_every_text_gets_a_verdict(text):
    assert outcome("countdown", text, [3, 5, 7], 8) in {"correct", "wrong", "unparsable"}


def test_joined_digits_are_another_number():
    assert outcome("countdown", "35-7", [3, 5, 7], 28) == "wrong"


def test_arithmetic_is_exact():
    assert outcome("countdown", "8/(3-8/3)", [8, 3, 8, 3], 24) == "correct"


def test_operators_can_be_restricted():
    assert outcome("countdown", "3*5-7", [3, 5, 7], 8, operators="+-") == "wrong"


def test_numbers_may_be_stored_as_text():
    assert outcome("countdown", "3*5-7", "[3, 5, 7]", "8") == "correct"


@pytest.mark.parametrize(("numbers", "target"), [(None, 8), ([3], None), (["x"], 8), ("{", 8)])
def test_a_row_without_numbers_is_skipped(numbers, target):
    assert outcome("countdown", "3", numbers, target) == "skipped"
    assert outcome("subset_sum", "3", numbers, target) == "skipped"


@pytest.mark.parametrize(
    "text", ["3 9", "9,3", "9 + 3", "8+4", "3 4 5", "[3, 4, 5]", r"\boxed{\{3, 9\}}", "3+9=12"]
)
def test_any_subset_with_the_sum_counts(text):
    assert outcome("subset_sum", text, [3, 9, 8, 4, 5], 12) == "correct"


@pytest.mark.parametrize("text", ["12", "3 3 3 3", "4 4 4", "9", "3+9=13", "-3 15", "3 9 9 -9"])
def test_numbers_that_were_not_given_or_another_sum_are_wrong(text):
    assert outcome("subset_sum", text, [3, 9, 8, 4, 5], 12) == "wrong"


@pytest.mark.parametrize("text", ["", "none", "3*4", "3 and 9", "3..9", "3,,9", "1 " * 50_000])
def test_what_is_no_list_is_unparsable(text):
    assert outcome("subset_sum", text, [3, 9, 8, 4, 5], 12) == "unparsable"


def test_a_number_counts_as_often_as_it_was_given():
    assert outcome("subset_sum", "4 4", [4, 4, 1], 8) == "correct"
    assert outcome("subset_sum", "4 4", [4, 1, 3], 8) == "wrong"
