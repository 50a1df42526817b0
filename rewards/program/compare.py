"""Whether what a program printed or returned is what was expected."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Comparison:
    """How values are compared.

    Attributes:
        tolerance: Relative or absolute difference that is allowed of numbers with a fraction.
        strict_types: Types must be the same at every level: True is not 1, a tuple no list.
        like_json: The expected value comes from JSON, which has no tuple and no key but text.
    """

    tolerance: float = 0.0
    strict_types: bool = False
    like_json: bool = False

    def equal(self, got: Any, expected: Any) -> bool:
        """Return whether a returned value, plain data, is the expected one."""
        try:
            if not self.strict_types and (not self.like_json or got == expected):
                if bool(got == expected):
                    return True
                if not self.tolerance:
                    return False
            return self._same(got, expected)
        except (TypeError, ValueError, OverflowError, RecursionError):
            return False

    def _same(self, got: Any, expected: Any) -> bool:
        if isinstance(got, list | tuple) and isinstance(expected, list | tuple):
            kinds = type(got) is type(expected) or (self.like_json and not self.strict_types)
            return (
                kinds
                and len(got) == len(expected)
                and all(self._same(a, b) for a, b in zip(got, expected, strict=True))
            )
        if isinstance(got, dict) and isinstance(expected, dict):
            return self._same_mapping(got, expected)
        if self.strict_types and type(got) is not type(expected):
            return False
        if isinstance(got, float) or isinstance(expected, float):
            return got == expected or self.close(got, expected)
        return bool(got == expected)

    def _same_mapping(self, got: Mapping[Any, Any], expected: Mapping[Any, Any]) -> bool:
        if self.like_json and not self.strict_types and all(isinstance(k, str) for k in expected):
            got = {key if isinstance(key, str) else str(key): value for key, value in got.items()}
        return len(got) == len(expected) and all(
            key in got and self._same(got[key], value) for key, value in expected.items()
        )

    def close(self, got: float, expected: float) -> bool:
        """Return whether two numbers differ by no more than the tolerance."""
        limit = self.tolerance
        return limit > 0 and math.isclose(got, expected, rel_tol=limit, abs_tol=limit)

    def same_output(self, printed: str, expected: str) -> bool:
        r"""Return whether the printed lines are the expected ones; blanks at line ends do not count.

        Example:
            >>> Comparison().same_output("1 \n2\n\n", "1\n2"), Comparison().same_output("1", "1\n2")
            (True, False)
        """
        got, wanted = _lines(printed), _lines(expected)
        if got == wanted:
            return True
        if not self.tolerance or len(got) != len(wanted):
            return False
        return all(self._same_words(a.split(), b.split()) for a, b in zip(got, wanted, strict=True))

    def _same_words(self, got: Sequence[str], expected: Sequence[str]) -> bool:
        return len(got) == len(expected) and all(
            a == b or self._close_words(a, b) for a, b in zip(got, expected, strict=True)
        )

    def _close_words(self, got: str, expected: str) -> bool:
        if not any(char in ".eE" for char in expected) or max(len(got), len(expected)) > 100:
            return False  # whole numbers are exact
        try:
            return self.close(float(got), float(expected))
        except ValueError:
            return False


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines
