"""Which reasoning-gym scorers evaluate the answer as code, and what may be shown to these.

Some scorers call `eval` or sympy's `parse_expr` on the answer, so an answer could run any program
in the worker, or have the question solved by the scorer (`Integral(x**2, x)`). They are shown
literals and plain formulas only.
"""

import ast
import builtins
import inspect
import keyword
import re
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any, Literal

Evaluation = Literal["python", "sympy"]

MAX_FORMULA = 2000  # characters
FUNCTIONS = frozenset(
    {"sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "sinh", "cosh", "tanh"}
    | {"exp", "log", "ln", "sqrt", "abs", "Abs"}
)
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_FORMULA = re.compile(rf"(?:{_NUMBER}|[A-Za-z_][A-Za-z_0-9]*|[-+*/^(),\[\]=\s])*+", re.ASCII)
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_CALLED = re.compile(r"([A-Za-z_]\w*|[)\]])\s*\(", re.ASCII)


def evaluation(dataset: type) -> Evaluation | None:
    """Return how a data set's `score_answer`, or what it calls, evaluates text; None: it does not."""
    waiting: list[Any] = [inspect.unwrap(dataset.score_answer)]  # type: ignore[attr-defined]
    seen: set[Any] = set()
    found: set[Evaluation] = set()
    while waiting:
        function = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        for name in _names(function.__code__):
            target = function.__globals__.get(name, getattr(dataset, name, None))
            ours = _functions(target, dataset.__module__.partition(".")[0])
            waiting.extend(ours)
            if name in ("eval", "exec") and target in (None, getattr(builtins, name)):
                found.add("python")
            elif name in ("parse_expr", "sympify") and not ours:
                found.add("sympy")
    return "sympy" if "sympy" in found else "python" if found else None


def is_harmless(answer: str, how: Evaluation) -> bool:
    """Return whether evaluating the answer can do no more than arithmetic.

    Example:
        >>> is_harmless("2*x**3/3 + sin(x) + C", "sympy"), is_harmless("['1', '2']", "python")
        (True, True)
        >>> is_harmless("Integral(x, x)", "sympy"), is_harmless("x.real", "python")
        (False, False)
    """
    if len(answer) > MAX_FORMULA:
        return False
    # sympy evaluates the text of a string once more
    return is_formula(answer) or (how == "python" and _is_literal(answer))


def is_formula(text: str) -> bool:
    """Return whether a text is numbers, names, brackets, operators and calls of known functions."""
    return (
        _FORMULA.fullmatch(text) is not None
        and all(match[1] in FUNCTIONS for match in _CALLED.finditer(text))
        and not any(keyword.iskeyword(name) for name in _NAME.findall(text))
    )


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False
    return True


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _functions(target: Any, package: str) -> list[FunctionType]:
    """Return the package's functions that a name stands for: itself, or the methods of a class."""
    if not str(getattr(target, "__module__", "")).startswith(package):
        return []
    members = vars(target).values() if inspect.isclass(target) else [target]
    plain = [getattr(member, "__func__", member) for member in members]
    return [member for member in plain if isinstance(member, FunctionType)]
