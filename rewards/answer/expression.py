r"""Expressions as trees, and what can be asked of them without computing.

A tree is a tuple: ("number", Fraction), ("variable", name), ("constant", name),
("add" | "multiply" | "divide" | "power", a, b), ("negate", a), ("call", name, *arguments),
("apply", name, *arguments) for an unknown function.
"""

from typing import Any

Expression = tuple[Any, ...]

INFINITY: Expression = ("constant", "infinity")
MINUS_INFINITY: Expression = ("negate", INFINITY)


def variables(tree: Expression) -> set[str]:
    """Return the names of the tree's variables."""
    if tree[0] == "variable":
        return {tree[1]}
    return {name for part in tree[1:] if isinstance(part, tuple) for name in variables(part)}


def replaced(tree: Expression, name: str, other: Expression) -> Expression:
    """Return the tree with a variable replaced."""
    if tree == ("variable", name):
        return other
    return tuple(replaced(p, name, other) if isinstance(p, tuple) else p for p in tree)


def difference(first: Expression, second: Expression) -> Expression:
    """Return first - second."""
    return ("add", first, ("negate", second))


def product(tree: Expression, factor: Any) -> Expression:
    """Return the tree times a number."""
    return ("multiply", tree, ("number", factor))
