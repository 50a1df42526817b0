"""What counts as the same answer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


class Undecided(Exception):
    """Arithmetic of rationals does not settle it."""


@dataclass(frozen=True)
class Rules:
    """What counts as the same.

    Attributes:
        units: Whether a unit may be missing, must be there where the gold has one, or is not read.
        percent: Whether 25% is both 25 and 0.25, or 0.25 alone.
        rounding: Significant digits from which a decimal may stand for an exact value; 0: never.
        algebra: Equality of two texts that the parser cannot read; None: they differ.
        exact_only: Raise Undecided where more than rational arithmetic is needed.
    """

    units: Literal["optional", "required", "ignored"] = "optional"
    percent: Literal["either", "value"] = "either"
    rounding: int = 6
    algebra: Callable[[str, str], bool] | None = None
    exact_only: bool = False

    def need_algebra(self) -> None:
        """Raise Undecided where rational arithmetic is all that is allowed."""
        if self.exact_only:
            raise Undecided
