"""Numeric: which numbers are equal, and which texts are a number."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.rewards import registry
from rlvr.rewards.answer.measurement import measurement, stated_measurement
from rlvr.rewards.answer.units import unit
from rlvr.rewards.verdict import Sample


def outcome(gold, text, **options):
    return registry.build("numeric", options)(Sample("p", text, gold)).outcome


@pytest.mark.parametrize(
    "text",
    [
        "7",
        r"\boxed{7}",
        r"\boxed{7.0}",
        r"\boxed{\frac{14}{2}}",
        r"\boxed{x = 7}",
        r"\boxed{7\text{ apples}}",
        r"\boxed{７}",
        "The answer is 7.",
        "The answer is $7$ apples, since 3 + 4 = 7.",
        "The answer is 7, not 8.",
        "The final answer is 5. On reflection, the final answer is 7.",
        "The answer is 7.\n\nQ: And then?\nA: 9",
        "2 and 5 make\n#### 7",
        "**Answer:** 7",
        "<answer>The answer is 7</answer>",
        "<think>8?</think>7",
        r"First \boxed{7}, and \boxed{7} it is.",
    ],
)
def test_the_gold_number_is_right_in_every_usual_place_and_writing(text):
    assert outcome("7", text) == "correct"


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{7} or \boxed{8}",
        r"\boxed{6} \boxed{7} \boxed{8}",
        r"\boxed{7 or 8}",
        r"\boxed{7, 8}",
        r"\boxed{[0, 10]}",
        r"\boxed{6 < x < 8}",
        r"\boxed{6-8}",
        r"\boxed{\pm 7}",
        r"\boxed{3 = 7}",
        r"\boxed{5 + 2}",
        r"\boxed{7x}",
        r"\boxed{7i}",
        r"\boxed{7!}",
        r"\boxed{7^2}",
        r"\boxed{9^{9^{9^{9}}}}",
        r"\boxed{5\phantom{7}}",
        r"\boxed{7 \text{ (this is wrong, ignore it)}}",
        r"\boxed{7 \text{ million}}",
        r"\boxed{①}",
        r"<think>\boxed{7}</think> Done.",
        r"<think>\boxed{7}",
        "<answer>7</answer><answer>8</answer>",
        "The answer is 7 or 8.",
        "The answer is 7; 8",
        "The answer is not 7.",
        "The answer is 7?",
        "The answer is 7. This is wrong.",
        " ".join(f"The answer is {guess}." for guess in range(8)),
        "Step 6 gave 7",
        "1 2 3 4 5 6 7",
        "{answer}",
        "",
    ],
)
def test_lists_ranges_expressions_doubts_and_thoughts_are_not_the_number(text):
    assert outcome("7", text) in ("wrong", "unparsable")


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        ("123456789", "1.23456789e8", "123456788"),
        ("6.63 \\times 10^{-34}", "0.663 × 10⁻³³", "6.64e-34"),
        ("0.0000001", "1e-7", "0.0000004"),
        ("0", "0.0", "1e-12"),
        ("0.3333333333", r"\frac{1}{3}", "0.333"),
        ("1/3", "0.33333333", "33333333/100000000"),
        ("1,234.5", "1234.50", "1.2345"),
        ("12345", r"12\,345", "12, 345"),
        ("2.5", r"2\frac{1}{2}", r"2\frac{1}{3}"),
        (7.0, "7", "7.0000001"),
        ("She has 3 + 4.\n#### 7", "7", "4"),
    ],
)
def test_integers_and_fractions_are_exact_and_decimals_nearly(gold, right, wrong):
    assert outcome(gold, right) == "correct"
    assert outcome(gold, rf"\boxed{{{wrong}}}") != "correct"


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        (
            "5 km",
            ["5000 m", r"5\text{ kilometers}", "5"],
            ["5 m", "5000", "5 kg", "5 km^2", "5 apples"],
        ),
        (r"\$5", ["$5", "5 dollars", "500 cents", "USD 5"], ["5 cents", "€5", "5%"]),
        ("36 km/h", ["10 m/s", "36 kilometers per hour"], ["36 mph", "36 km"]),
        ("12 square feet", ["12 ft^2", r"12\text{ ft}^2"], ["12 ft", "12 m²"]),
        (r"90^\circ", ["90°", "90 degrees"], ["90 rad"]),
        ("20 °C", ["20 degrees Celsius"], ["20 °F", "20 K"]),
        ("5 apples", ["5", "5 red apples"], ["5 pears"]),
    ],
)
def test_units_are_converted_or_differ(gold, right, wrong):
    assert [outcome(gold, text) for text in right] == ["correct"] * len(right)
    assert [outcome(gold, text) for text in wrong] == ["wrong"] * len(wrong)


def test_a_unit_may_be_required_or_ignored():
    assert outcome("5 km", "5", unit="required") == "wrong"
    assert outcome("5 km", "5000 m", unit="required") == "correct"
    assert outcome("5 km", "5 m", unit="ignored") == "correct"
    assert outcome("5", "5 km", unit="required") == "skipped"


@pytest.mark.parametrize(
    ("gold", "text", "either", "strict"),
    [
        ("25%", "25%", "correct", "correct"),
        ("25%", "0.25", "correct", "correct"),
        ("25%", "25", "correct", "wrong"),
        ("25%", "0.25%", "wrong", "wrong"),
        ("25", "25%", "correct", "wrong"),
        ("0.25", "25 percent", "correct", "correct"),
        ("0.25", "0.25%", "wrong", "wrong"),
    ],
)
def test_a_percent_sign_may_be_left_out_but_a_share_is_no_percentage(gold, text, either, strict):
    assert outcome(gold, text) == either
    assert outcome(gold, text, percent="strict") == strict


def test_tolerances_hold_for_every_gold_once_they_are_given():
    assert outcome("100", "101", relative=0.01) == "correct"
    assert outcome("100", "101.1", relative=0.01) == "wrong"
    assert outcome("100", "100.5", absolute=0.5) == "correct"


@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [
        ("3.14159", "3.14", "correct"),
        ("3.14159", "3.1", "wrong"),  # too few digits
        ("3.14159", "3.15", "wrong"),  # not its rounding
        ("3.14", "3.14159", "correct"),
        ("123456", "1.23e5", "correct"),
        ("123456", "123000", "wrong"),  # six digits, all of them meant
    ],
)
def test_a_number_rounded_to_enough_digits_is_right(gold, text, expected):
    assert outcome(gold, text, significant=3) == expected


def test_the_last_number_counts_only_where_it_is_asked_for_and_nothing_is_stated():
    text = "We used 7 and found 42 apples."
    assert outcome("42", text) == "unparsable"
    assert outcome("42", text, last_number=True) == "correct"
    assert outcome("42", "The answer is 41. Not 42", last_number=True) == "wrong"
    assert outcome("42", "<think>42</think>", last_number=True) == "unparsable"


@pytest.mark.parametrize(
    "gold", [None, "", "x", r"\pi", "1, 2", "5 or 6", True, float("nan"), [1, 2]]
)
def test_a_gold_that_is_not_one_number_is_a_fault_of_the_row(gold):
    module = registry.load("numeric")
    assert module.fault(Sample("p", "", gold), module.Config())
    assert outcome(gold, "5") == "skipped"


@given(
    st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=10**6),
    st.sampled_from(
        ["{}", r"\boxed{{{}}}", "The answer is {}.", "<answer>{}</answer>", "so\n#### {}"]
    ),
)
def test_every_fraction_equals_itself_and_not_its_neighbours(value, form):
    assert outcome(str(value), form.format(value)) == "correct"
    latex = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    assert outcome(str(value), form.format(latex)) == "correct"
    assert outcome(str(value), form.format(value + Fraction(1, 10**9))) == "wrong"


@given(st.integers(min_value=0, max_value=10**15))
def test_thousands_separators_change_nothing(value):
    grouped = f"{value:,}"
    for written in (grouped, grouped.replace(",", r"\,"), grouped.replace(",", "{,}")):
        assert measurement(written).value == value
        assert stated_measurement(f"{written} dollars.").value == value


@given(
    st.sampled_from(["m", "g", "s", "L", "N", "J", "W", "V", "Hz", "Pa"]),
    st.sampled_from(["n", "u", "m", "c", "d", "h", "k", "M", "G", "T"]),
)
def test_prefixes_of_a_unit_are_powers_of_ten(symbol, prefix):
    base, scaled = unit(symbol), unit(prefix + symbol)
    factor = {"n": -9, "u": -6, "m": -3, "c": -2, "d": -1, "h": 2, "k": 3, "M": 6, "G": 9, "T": 12}
    assert scaled.powers == base.powers
    assert scaled.factor == base.factor * Fraction(10) ** factor[prefix]
    assert unit(f"{prefix}{symbol}/{symbol}").powers == frozenset()
