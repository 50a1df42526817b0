"""Tests that are Python statements: what they call, which of them count, what they need.

Statements of the form `assert f(literals) == literal` become calls with expected values. The others
are judged by running them: the names of the program become proxies, and `check(candidate)` is taken
apart, so that each of its statements is a test of its own.
"""

import ast
import builtins
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_PREPARATIONS = (*_DEFINITIONS, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Pass, ast.Delete)
_CHECK = "check"


class Unusable(ValueError):
    """A row's tests cannot be read."""


@dataclass(frozen=True)
class CallCase:
    """One call and the values, any of which it may return."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    expected: tuple[Any, ...]
    like_json: bool = False


@dataclass(frozen=True)
class CallTests:
    """Calls of one function."""

    function: str
    setup: str
    cases: tuple[CallCase, ...]


@dataclass(frozen=True)
class JudgedTests:
    """Statements that run in a process of their own.

    Attributes:
        names: Expression in the program's namespace, by its name in the tests.
        statements: Source and whether it counts as a test, in order.
        setup: Code of the row that the program sees the definitions of.
    """

    names: Mapping[str, str]
    statements: tuple[tuple[str, bool], ...]
    setup: str = field(default="")


def read_statements(text: str, entry_point: str | None, setup: str) -> CallTests | JudgedTests:
    """Return the tests that a text of Python statements holds; raises Unusable."""
    statements, names = _program_imports(_parse(text, "tests"))
    statements, bound = _without_check(statements, entry_point)
    names |= bound
    if not any(_counts(statement) for statement in statements):
        statements += _calls_of_test_functions(statements)
    if not any(_counts(statement) for statement in statements):
        raise Unusable("the tests hold no statement that tests anything")
    before = [s for s in _parse(setup, "setup") if not _defines(s, entry_point)]
    free, modules = _free_names([*before, *statements], entry_point, names)
    names |= free
    names = names or _shadowed_builtin(statements)
    if (calls := _as_calls(statements, names, setup)) is not None:
        return calls
    sources = [(f"import {module}", False) for module in modules]
    sources += [(ast.unparse(s), False) for s in before]
    sources += [(ast.unparse(ast.fix_missing_locations(s)), _counts(s)) for s in statements]
    return JudgedTests(names, tuple(sources), setup)


def definitions_of(setup: str) -> str:
    """Return the part of a row's setup that the program may see: imports, functions and classes."""
    return "\n".join(ast.unparse(s) for s in _parse(setup, "setup") if isinstance(s, _DEFINITIONS))


def _parse(text: str, where: str) -> list[ast.stmt]:
    try:
        return ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Unusable(f"the {where} are no Python: {error}") from None


def _program_imports(statements: list[ast.stmt]) -> tuple[list[ast.stmt], dict[str, str]]:
    """Take out `from solution import f`; return the rest, and the names that the program gives."""
    rest: list[ast.stmt] = []
    names: dict[str, str] = {}
    for statement in statements:
        if isinstance(statement, ast.ImportFrom) and not _is_standard(statement.module):
            names |= {alias.asname or alias.name: alias.name for alias in statement.names}
            continue
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                if not _is_standard(alias.name):
                    raise Unusable(f"the tests import {alias.name}, which is no standard module")
        rest.append(statement)
    return rest, names


def _is_standard(module: str | None) -> bool:
    return (module or "").partition(".")[0] in sys.stdlib_module_names


def _without_check(
    statements: list[ast.stmt], entry_point: str | None
) -> tuple[list[ast.stmt], dict[str, str]]:
    """Put the statements of `def check(candidate)` in its place, with its argument bound."""
    checks = [s for s in statements if isinstance(s, ast.FunctionDef) and s.name == _CHECK]
    if len(checks) != 1 or len(checks[0].args.args) != 1:
        return statements, {"candidate": entry_point} if entry_point else {}
    calls = [s for s in statements if _is_check_call(s)]
    targets = [s.value.args[0] for s in calls]  # type: ignore[attr-defined]
    if not targets and entry_point:
        targets = _parse(entry_point, "entry point")  # type: ignore[assignment]
    if len(targets) != 1 or any(isinstance(n, ast.Return | ast.Yield) for n in ast.walk(checks[0])):
        return statements, {}
    rest: list[ast.stmt] = []
    for statement in statements:
        if statement is checks[0]:
            rest += checks[0].body
        elif statement not in calls:
            rest.append(statement)
    return rest, {checks[0].args.args[0].arg: ast.unparse(targets[0])}


def _is_check_call(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(call := statement.value, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == _CHECK
        and len(call.args) == 1
    )


def _counts(statement: ast.stmt) -> bool:
    """Return whether a statement tests: preparations do not, nor do `assert True` and texts."""
    if isinstance(statement, _PREPARATIONS):
        return False
    if isinstance(statement, ast.Assert):
        return any(isinstance(node, ast.Name) for node in ast.walk(statement.test))
    if isinstance(statement, ast.Expr):
        call = statement.value
        return isinstance(call, ast.Call) and not (
            isinstance(call.func, ast.Name) and call.func.id == "print"
        )
    return True


def _calls_of_test_functions(statements: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Return calls of the functions that pytest would call."""
    return [
        ast.parse(f"{s.name}()").body[0]
        for s in statements
        if isinstance(s, ast.FunctionDef)
        and s.name.startswith("test")
        and len(s.args.args) == len(s.args.defaults)
    ]


def _defines(statement: ast.stmt, entry_point: str | None) -> bool:
    # a prompt that is used as setup may hold the head of the function that the program defines
    return isinstance(
        statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    ) and statement.name == _head(entry_point)


def _free_names(
    statements: Sequence[ast.stmt], entry_point: str | None, taken: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Return what the tests use and do not define: names of the program, and standard modules.

    A name that is only used as `name.attribute` is a module: the program must not be asked what
    `math.isclose` says.
    """
    bound: set[str] = set(dir(builtins)) | set(taken)
    used: set[str] = set()
    direct: set[str] = set()
    for statement in statements:
        attributes = {
            id(node.value) for node in ast.walk(statement) if isinstance(node, ast.Attribute)
        }
        for node in ast.walk(statement):
            bound.update(_bindings(node))
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                used.add(node.id)
                if id(node) not in attributes:
                    direct.add(node.id)
    head = _head(entry_point)
    free = used - bound | used & {head}
    modules = sorted((free - direct) & sys.stdlib_module_names - {head})
    if unknown := sorted(free - direct - {head, *modules}):
        raise Unusable(f"the tests use {unknown[0]}, which they do not define or import")
    return {name: name for name in sorted(free - {*modules})}, modules


def _head(entry_point: str | None) -> str:
    """Return the name that `Solution().solve` begins with."""
    return (entry_point or "").partition("(")[0].partition(".")[0]


def _shadowed_builtin(statements: Sequence[ast.stmt]) -> dict[str, str]:
    """Return the one function that all tests call, where it has the name of a builtin."""
    calls = [_as_call(s) for s in statements if _counts(s)]
    called = {call[0] for call in calls if call is not None}
    return {name: name for name in called} if len(called) == 1 and None not in calls else {}


def _bindings(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.alias):
        yield (node.asname or node.name).partition(".")[0]
    elif isinstance(node, ast.ExceptHandler) and node.name:
        yield node.name


def _as_calls(
    statements: Sequence[ast.stmt], names: Mapping[str, str], setup: str
) -> CallTests | None:
    """Return the tests as calls of one function; None where one of them is not that simple."""
    functions: set[str] = set()
    cases: list[CallCase] = []
    for statement in statements:
        if not _counts(statement):
            if isinstance(statement, _DEFINITIONS) or not _uses(statement, names):
                continue
            return None
        call = _as_call(statement)
        if call is None or call[0] not in names:
            return None
        functions.add(call[0])
        cases.append(call[1])
    if len(functions) != 1:
        return None
    return CallTests(names[functions.pop()], setup, tuple(cases))


def _uses(statement: ast.stmt, names: Mapping[str, str]) -> bool:
    return any(isinstance(node, ast.Name) and node.id in names for node in ast.walk(statement))


def _as_call(statement: ast.stmt) -> tuple[str, CallCase] | None:
    """Return the function's name and the case of `assert f(literals) == literal`."""
    if not isinstance(statement, ast.Assert) or not isinstance(statement.test, ast.Compare):
        return None
    compare = statement.test
    if len(compare.ops) != 1 or not isinstance(compare.ops[0], ast.Eq):
        return None
    call, expected = compare.left, compare.comparators[0]
    if not isinstance(call, ast.Call):
        call, expected = expected, call
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        return None
    if any(keyword.arg is None for keyword in call.keywords):
        return None
    try:
        args = tuple(ast.literal_eval(arg) for arg in call.args)
        kwargs = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        return call.func.id, CallCase(args, kwargs, (ast.literal_eval(expected),))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
