r"""Countdown: reach the target with the given numbers, each used exactly once.

    numbers 3 5 7, target 8   ->   3*5-7

The completion is the expression, alone or in `<answer>` or a box; "= 8" may follow. Allowed are
+ - * / (also \times, \div, \frac) and brackets on the numbers as given: no joined digits, no power, a
minus sign only at the beginning or after a bracket. Arithmetic is exact. Where the puzzle lets
numbers be left out, the row's column `use_all` or the option says so.
"""

import ast
import re
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction

from pydantic import BaseModel, ConfigDict, field_validator

from rlvr.rewards.extraction import short_answer
from rlvr.rewards.integers import integer, integers
from rlvr.rewards.verdict import CORRECT, Sample, Verdict, skipped, unparsable, wrong

COLUMNS = ("numbers", "target")
OPTIONAL_COLUMNS = ("use_all",)
BOUNDED = True

MAX_EXPRESSION = 400  # characters; also bounds the depth of the tree
_ALLOWED = re.compile(r"[0-9+\-*/() ]+")
_DIGITS = re.compile(r"[0-9]+")
_TWO_SIGNS = re.compile(r"[-+*/] *[-+]")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_SPELLINGS = str.maketrans(
    {"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", "\n": " ", "[": "(", "]": ")"}
)
_COMMANDS = {r"\times": "*", r"\cdot": "*", r"\div": "/", r"\left": "", r"\right": ""}
_SYMBOLS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


class Config(BaseModel):
    """Options of the countdown verifier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    operators: str = "+-*/"
    """The operators that may be used, a selection of + - * /."""

    use_all: bool = True
    """Every number must be used; False: numbers may be left out. A row's column `use_all` wins."""

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
            return skipped(str(fault(sample, config)))
        use_all = sample.row.get("use_all")
        return check(
            short_answer(sample.completion),
            numbers,
            target,
            operators=config.operators,
            use_all=config.use_all if use_all is None else bool(use_all),
        )

    return verify


def fault(sample: Sample, config: Config) -> str | None:  # noqa: ARG001 - every verifier takes one
    """Return why the row is no puzzle; None if it is one."""
    numbers, target = sample.row.get("numbers"), sample.row.get("target")
    if not integers(numbers):
        return f"numbers is {str(numbers)[:60]!r}; it must be a list of at least one integer"
    if integer(target) is None:
        return f"target is {str(target)[:60]!r}; it must be an integer"
    return None


def check(
    text: str | None,
    numbers: Sequence[int],
    target: int,
    *,
    operators: str = "+-*/",
    use_all: bool = True,
) -> Verdict:
    """Return the verdict on an expression.

    Example:
        >>> check("(7-3)*5", [3, 5, 7], 20).outcome.value, check("4*5", [3, 5, 7], 20).reason
        ('correct', 'uses 4 more often than given')
    """
    if not text:
        return unparsable("no expression")
    if len(text) > MAX_EXPRESSION:
        return unparsable(f"longer than {MAX_EXPRESSION} characters")
    try:
        tree, used, claimed = _parse(text)
    except _Refused as refusal:
        return unparsable(str(refusal))
    try:
        _check_numbers(used, numbers, use_all)
        value = _value(tree, operators)
    except _Refused as refusal:
        return wrong(str(refusal))
    if value != target:
        return wrong(f"is {_shown(value)}, not {target}")
    return CORRECT if claimed in (None, target) else wrong(f"says that it equals {claimed}")


class _Refused(Exception):
    """The expression breaks a rule; the message says which."""


def _parse(text: str) -> tuple[ast.expr, list[int], int | None]:
    """Return the expression's tree, its numbers, and the value that the text claims after '=', if any."""
    text = text.translate(_SPELLINGS).strip("`$ .")
    for command, sign in _COMMANDS.items():
        text = text.replace(command, sign)
    while (spelled := _FRACTION.sub(r"((\1)/(\2))", text)) != text:
        text = spelled
    expression, equals, claim = text.partition("=")
    expression = expression.strip()
    if not _ALLOWED.fullmatch(expression):
        raise _Refused("not an expression of integers, + - * / and brackets")
    if _TWO_SIGNS.search(expression):
        raise _Refused("a sign may only stand at the beginning or after a bracket")
    claimed = integer(claim.strip()) if equals else None
    if equals and claimed is None:
        raise _Refused("an integer must follow '='")
    try:
        tree = ast.parse(expression, mode="eval").body
        return tree, [int(digits) for digits in _DIGITS.findall(expression)], claimed
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise _Refused("not a well-formed expression") from None


def _check_numbers(used: Sequence[int], numbers: Sequence[int], use_all: bool) -> None:
    if sorted(used) == sorted(numbers):
        return
    if use_all or Counter(used) - Counter(numbers):
        raise _Refused(_difference(Counter(used), Counter(numbers)))


def _difference(used: Counter[int], numbers: Counter[int]) -> str:
    if extra := used - numbers:
        return f"uses {next(iter(extra))!r} more often than given"
    return f"does not use {next(iter(numbers - used))}"


def _value(node: ast.expr, operators: str) -> Fraction | int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and "-" in operators:
        return -_value(node.operand, operators)
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
    return Fraction(left) / right


def _shown(value: Fraction | int) -> str:
    text = str(value)
    return text if len(text) <= 40 else "another number"
