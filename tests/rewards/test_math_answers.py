r"""Math: which answers are equal, as relations between forms of one value."""

import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.rewards import math as math_verifier
from rlvr.rewards.math import Config
from rlvr.rewards.verdict import Sample

VERIFY = math_verifier.build(Config())
FAST = settings(max_examples=40, deadline=None)
NUMBERS = st.integers(min_value=-(10**9), max_value=10**9)
FRACTIONS = st.fractions(min_value=-1000, max_value=1000, max_denominator=999)


def correct(gold, answer, **options):
    verify = math_verifier.build(Config(**options)) if options else VERIFY
    verdict = verify(Sample("p", rf"\boxed{{{answer}}}", gold))
    assert verdict.outcome in ("correct", "wrong"), verdict
    return verdict.outcome == "correct"


def fraction(value):
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


@FAST
@given(NUMBERS, st.sampled_from([",", "{,}", r",\!", r"\,", r"\;", " ", "~", "\u2009"]))
def test_thousands_may_be_set_apart_in_any_way(number, separator):
    typed = f"{number:,}".replace(",", separator)
    assert correct(str(number), typed)
    assert correct(typed, str(number))
    assert not correct(str(number), typed + "1")


@FAST
@given(FRACTIONS)
def test_a_fraction_equals_its_decimal_percent_and_mixed_forms_and_no_neighbour(value):
    gold = fraction(value)
    assert correct(gold, f"{value.numerator}/{value.denominator}")
    assert correct(gold, fraction(value).replace("frac", "dfrac"))
    assert correct(gold, rf"\frac{{{3 * value.numerator}}}{{{3 * value.denominator}}}")
    assert correct(gold, rf"{fraction(100 * value)}\%")
    if value > 1 and value.denominator > 1:
        whole, rest = divmod(value, 1)
        assert correct(gold, rf"{whole}{fraction(rest)}")
        assert correct(gold, f"{whole} {rest}")
    assert not correct(gold, fraction(value + Fraction(1, 10**6)))


@FAST
@given(st.decimals(min_value="0.01", max_value=10**6, places=2))
def test_zeros_at_the_end_and_an_exponent_change_no_decimal(value):
    gold = str(value)
    assert correct(gold, gold + "0")
    assert correct(gold, f"{value:e}")
    assert correct(gold, fraction(Fraction(gold)))
    assert not correct(gold, str(value + 1))
    assert not correct(gold, f"-{gold}")


@FAST
@given(st.lists(FRACTIONS, min_size=2, max_size=6, unique=True), st.randoms(use_true_random=False))
def test_order_counts_in_a_tuple_and_in_no_list_or_set(values, rng):
    items = [fraction(value) for value in values]
    shuffled = rng.sample(items, len(items))
    comma, other = ", ".join(items), ", ".join(shuffled)
    assert correct(comma, other)
    assert correct(comma, " or ".join(f"x = {item}" for item in shuffled))
    assert correct(comma, rf"\{{{other}\}}")
    assert correct(f"({comma})", f"({other})") == (items == shuffled)
    assert correct(f"({comma})", rf"\langle {comma} \rangle")
    assert not correct(f"({comma})", rf"\{{{comma}\}}")
    assert not correct(comma, ", ".join(shuffled[1:]))
    assert not correct(comma, other + ", 1001")
    assert not correct(items[0], comma)


@FAST
@given(st.lists(st.integers(-20, 20), min_size=2, max_size=5), st.integers(1, 50))
def test_a_polynomial_equals_its_factors_and_no_other(roots, change):
    coefficients = [1]
    for root in roots:
        shifted = [*coefficients, 0]
        coefficients = [a - root * b for a, b in zip(shifted, [0, *coefficients], strict=True)]
    degree = len(roots)
    expanded = "+".join(f"({c})x^{{{degree - i}}}" for i, c in enumerate(coefficients))
    factors = "".join(f"(x-({root}))" for root in roots)
    assert correct(expanded, factors)
    assert not correct(expanded, f"{factors}+{change}")
    assert not correct(expanded, factors.replace("x", "y"))


@FAST
@given(st.integers(-50, 50), st.integers(1, 50), st.booleans(), st.booleans())
def test_an_interval_is_an_inequality_and_a_set_with_a_condition(low, width, open_low, open_high):
    high = low + width
    gold = f"{'(' if open_low else '['}{low}, {high}{')' if open_high else ']'}"
    below, above = "<" if open_low else r"\le", "<" if open_high else r"\leq"
    assert correct(gold, rf"{low} {below} x {above} {high}")
    assert correct(gold, rf"{high} {'>' if open_high else '≥'} t {'>' if open_low else '≥'} {low}")
    assert correct(gold, rf"\{{x \mid {low} {below} x {above} {high}\}}")
    assert correct(gold, rf"x \in {gold}")
    assert correct(
        gold, rf"{gold[0]}{low}, {low + width / 2}) \cup [{low + width / 2}, {high}{gold[-1]}"
    )
    other = ("[" if open_low else "(") + gold[1:]
    assert not correct(gold, other)
    assert not correct(gold, f"{low + 1} < x < {high}")
    assert not correct(gold, str(low))


SURDS = [
    (r"\sqrt{3}-1", r"\sqrt{4-2\sqrt{3}}", r"\sqrt{4-2\sqrt{2}}"),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt 2}{2}", r"\frac{\sqrt 3}{2}"),
    (r"\sec^2 y", r"\tan^2(y)+1", r"\tan^2(y)-1"),
    (r"\sin 2x", r"2 \sin x \cos x", r"2\sin x"),
    (r"\log_2 3", r"\frac{\ln 3}{\ln 2}", r"\frac{\ln 2}{\ln 3}"),
    (r"2 \arcsin \sqrt{a}", r"\arccos(1-2a)", r"\arccos(1-3a)"),
    (r"2^{k-n}", r"2^k 2^{-n}", r"2^{n-k}"),
    (r"(-1)^n", r"(-1)^{n+2}", r"(-1)^{n+1}"),
    (r"n!", r"n (n-1)!", r"(n+1)!"),
    (r"e^{i\pi}", "-1", "1"),
    (r"\sqrt{x^2}", "|x|", "x"),
    (r"0.1\overline{6}", r"\frac16", r"\frac{4}{25}"),
    (r"10^{100}", "10^{99} \\cdot 10", "10^{100}+1"),
    (r"\binom{10}{3}", "120", "121"),
    (r"\lfloor n/2 \rfloor", r"\lfloor \frac{n}{2} \rfloor", r"\lceil n/2 \rceil"),
    (r"k\pi, k \in \mathbb{Z}", r"n\pi", r"2n\pi"),
]


@pytest.mark.parametrize(("gold", "same", "other"), SURDS)
def test_expressions_are_compared_by_value(gold, same, other):
    assert correct(gold, same)
    assert correct(same, gold)
    assert not correct(gold, other)


STRUCTURES = [
    ("y = 2x + 1", "2x - y + 1 = 0", "2x - y - 1 = 0"),
    ("x^2 + y^2 = 1", "1 - y^2 = x^2", "1 = 1"),
    ("f(n) = 2n + 1", "f(m) = 2m + 1", "f(m) = 2m - 1"),
    ("x = 5", "5 = x", "y = 5"),
    ("x = 5", "5", "x = x"),
    ("(1, 2)", "x = 1, y = 2", "x = 2, y = 1"),
    ("x=1, y=2", "y = 2 \\text{ and } x = 1", "x = 2, y = 1"),
    (r"1 \pm \sqrt{2}", r"1 - \sqrt 2, 1 + \sqrt 2", r"1 + \sqrt 2"),
    (r"(1, \pm 2)", "(1, 2), (1, -2)", "(1, 2)"),
    ("x < 1", "-x > -1", "x > 1"),
    (r"x \ne 2", r"(-\infty, 2) \cup (2, \infty)", "x = 2"),
    (r"\mathbb{R} \setminus \{2\}", r"x \neq 2", r"\mathbb{R}"),
    (r"(-\infty, 2]", r"]-\infty, 2]", r"(-\infty, 2)"),
    ("2:3", "4:6", "3:2"),
    ("12:00", "12:00", "1:00"),
    ("1011_2", r"(1011)_{\text{two}}", "1011_3"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(1, 2)", "(2, 1)"),
    (r"\text{no solution}", r"\emptyset", "0"),
    (r"5 \text{ m}", r"500 \text{ cm}", r"5 \text{ km}"),
    (r"5 \text{ cm}^2", "5 square centimeters", r"5 \text{ cm}"),
    (r"\$5", "500 cents", "5 cents"),
    (r"10\%", r"0.1", r"\$10"),
    (r"\$16{,}386.16", "16386.16", "16386.16 cents"),
    ("1, 2", "2, 1, 2", "1, 1"),
    ("1, 2", "2 and 1", r"\begin{pmatrix} 1 & 2 \\ 2 & 1 \end{pmatrix}"),
    (r"60^\circ", r"60 \text{ degrees}", r"60 \text{ radians}"),
    (r"\frac{\pi}{3}", r"60^\circ", "60"),
    (r"16 \text{ students}", "16", r"16 \text{ teachers}"),
    ("3 million", "3,000,000", "3"),
    (r"\text{C}", "(C) Paris", "(C) or (D)"),
    ("C", "c", "C, D"),
    ("Saturday", r"\text{saturday.}", r"\text{not Saturday}"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "same", "other"), STRUCTURES)
def test_the_shape_of_an_answer_is_read_whole(gold, same, other):
    assert correct(gold, gold)
    assert correct(gold, same)
    assert not correct(gold, other)


def test_a_gold_without_unit_takes_one_and_a_gold_with_unit_does_not_need_it():
    assert correct("5", r"5 \text{ cm}")
    assert correct(r"5 \text{ cm}", "5")
    assert not correct("5", r"5 \text{ or so}")
    assert not correct("5", r"5 \text{ times } 2")


@pytest.mark.parametrize(
    ("options", "gold", "answer"),
    [
        ({"units": "required"}, r"5 \text{ cm}", "5"),
        ({"percent": "value"}, r"25\%", "25"),
        ({"rounding": 0}, r"\frac13", "0.333333"),
        ({"rounding": 8}, r"\frac13", "0.333333"),
        ({"rounding": 0}, "30.52", r"\frac{1587}{52}"),
        ({"evaluated": True}, "56088", r"123 \cdot 456"),
        ({"evaluated": True}, "x = 56088", r"123 \cdot 456"),
    ],
)
def test_an_option_refuses_what_the_default_takes(options, gold, answer):
    assert correct(gold, answer)
    assert not correct(gold, answer, **options)
    assert correct(gold, gold, **options)


def test_units_may_be_ignored_and_a_denial_is_none():
    assert not correct(r"5 \text{ cm}", r"5 \text{ km}")
    assert correct(r"5 \text{ cm}", r"5 \text{ km}", units="ignored")
    assert not correct(r"5 \text{ cm}", r"5 \text{ is wrong}", units="ignored")


def test_a_decimal_needs_its_digits():
    assert correct(r"\frac13", "0.3333333")
    assert not correct(r"\frac13", "0.333")
    assert not correct(r"\frac13", "0.333334")
    assert correct(r"\frac{3}{56}", "0.0535714285714164")  # noise of binary floating point
    assert not correct("123456789", "123456788")
    assert not correct("0.0000001", "0.0000004")


def test_math_verify_decides_where_both_sides_are_beyond_the_parser():
    gold = r"F_n = \sum_{k=0}^{n-1} F_k F_{n-k-1}"
    assert correct(gold, r"F_n = \sum_{k=0}^{n-1} F_{n-k-1} F_k")
    assert not correct(gold, r"F_n = \sum_{k=0}^{n-2} F_{n-k-1} F_k")
    assert not correct("3", r"\int_0^3 dx")  # not done


def test_every_equality_holds_both_ways():
    rng = random.Random(0)
    forms = [pair for gold, same, _ in SURDS + STRUCTURES[:14] for pair in ((gold, same),)]
    for gold, same in rng.sample(forms, 12):
        assert correct(same, same)
        assert correct(gold, same) == correct(same, gold)


@pytest.mark.parametrize(
    "completion", ["Simplify 6/8.", "We simplify. Simplify 6/8.", "The value of 6/8 is wanted."]
)
def test_the_question_again_is_no_answer(completion):
    prompt = [{"role": "user", "content": "The value of 6/8 is wanted.\nReduce it."}]
    sample = Sample(prompt, completion, r"\frac{3}{4}")
    assert VERIFY(sample).outcome == "unparsable"
    assert math_verifier.shortcut(Config())(sample).outcome == "unparsable"


@pytest.mark.parametrize(
    "completion",
    [
        r"\boxed{7} is incorrect.",
        r"$\boxed{7}$. On reflection, this is wrong.",
        "<answer>7</answer> is not right.",
        "The answer is 7. Just kidding, it is 8.",
        "The answer is 7.\n\nNo, wait, the answer should be $8$.",
        "% \\boxed{7}",
        "<!-- \\boxed{7} -->",
        "The answer is <!-- 7 -->",
    ],
)
def test_what_is_taken_back_or_commented_out_is_no_answer(completion):
    assert VERIFY(Sample("p", completion, "7")).outcome in ("unparsable", "wrong")


@pytest.mark.parametrize(
    "completion",
    [
        r"\boxed{7}. It would be wrong to count the last one twice.",
        "The answer is 7. There is no need to check, as it is 5 more than 2.",
        "Wait, that is 8 - 1. The answer is 7.",
        "<!-- done -->\n\\boxed{7}",
        "It grows by 50 %, so \\boxed{7}",
    ],
)
def test_what_only_sounds_like_it_is_an_answer(completion):
    assert VERIFY(Sample("p", completion, "7")).outcome == "correct"
