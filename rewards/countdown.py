"""Countdown: reach the target with the given numbers, each used exactly once.

    numbers 3 5 7, target 8   ->   3*5-7

The completion is the expression, alone or in `<answer>` or a box; "= 8" may follow. Allowed are
+ - * / and parentheses on the numbers as given: no joined digits, no sign in front of a number or
parenthesis, no power. Arithmetic is exact.
"""

import ast
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

from pydantic import BaseModel, ConfigDict, field_validator

from rlvr.rewards.extraction import short_answer
from rlvr.rewards.integers import integer, integers
from rlvr.rewards.verdict import CORRECT, Sample, Verdict, skipped, unparsable, wrong

COLUMNS = ("numbers", "target")
BOUNDED = True

MAX_EXPRESSION = 400  # characters; also bounds the depth of the tree
_ALLOWED = re.compile(r"[0-9+\-*/() ]+")
_SPELLINGS = str.maketrans({"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", "\n": " "})
_SYMBOLS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


class Config(BaseModel):
    """Options of the countdown verifier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    operators: str = "+-*/"
    """The operators that may be used, a selection of + - * /."""

    @field_validator("operators")
    @classmethod
    def _known(cls, value: str) -> str:
        if not value or set(value) - set("+-*/"):
            raise ValueError("must be a selection of + - * /, such as '+-'")
        return value


def build(config: Config) -> Callable[[Sample], Verdict]:
    """Return the verifier."""

    def verify(sample: Sample) -> Verdict:
        numbers, target = integers(sample.row.get("numbers")), integer(sample.row.get("target"))
        if not numbers or target is None:
            return skipped("the row needs `numbers` (integers) and `target` (an integer)")
        text = short_answer(sample.completion)
        if not text:
            return unparsable("no expression")
        if len(text) > MAX_EXPRESSION:
            return unparsable(f"longer than {MAX_EXPRESSION} characters")
        try:
            tree, claimed = _parse(text)
        except _Refused as refusal:
            return unparsable(str(refusal))
        try:
            value = _evaluate(tree, Counter(numbers), config.operators)
        except _Refused as refusal:
            return wrong(str(refusal))
        if value != target:
            return wrong(f"is {value}, not {target}")
        return CORRECT if claimed in (None, target) else wrong(f"says that it equals {claimed}")

    return verify


class _Refused(Exception):
    """The expression breaks a rule; the message says which."""


def _parse(text: str) -> tuple[ast.expr, int | None]:
    """Return the expression's tree and the value that the text claims after '=', if any."""
    text = text.translate(_SPELLINGS).strip("`$ .")
    text = text.replace(r"\times", "*").replace(r"\cdot", "*").replace(r"\div", "/")
    text = text.replace(r"\left", "").replace(r"\right", "")
    expression, equals, claim = text.partition("=")
    expression = expression.strip()
    if not _ALLOWED.fullmatch(expression):
        raise _Refused("not an expression of integers, + - * / and parentheses")
    claimed = integer(claim.strip()) if equals else None
    if equals and claimed is None:
        raise _Refused("an integer must follow '='")
    try:
        return ast.parse(expression, mode="eval").body, claimed
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise _Refused("not a well-formed expression") from None


def _evaluate(tree: ast.expr, numbers: Counter[int], operators: str) -> Fraction:
    used = Counter(node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    if used != numbers:
        raise _Refused(_difference(used, numbers))
    return _value(tree, operators)


def _difference(used: Counter, numbers: Counter[int]) -> str:
    if extra := used - numbers:
        return f"uses {next(iter(extra))!r} more often than given"
    return f"does not use {next(iter(numbers - used))}"


def _value(node: ast.expr, operators: str) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Fraction(node.value)
    if not isinstance(node, ast.BinOp):
        raise _Refused("only a number, or two sides of an operator, are allowed")
    symbol = _SYMBOLS.get(type(node.op))
    if symbol is None or symbol not in operators:
        raise _Refused(f"only the operators {' '.join(operators)} are allowed")
    left, right = _value(node.left, operators), _value(node.right, operators)
    if symbol == "+":
        return left + right
    if symbol == "-":
        return left - right
    if symbol == "*":
        return left * right
    if right == 0:
        raise _Refused("divides by zero")
    return left / right
