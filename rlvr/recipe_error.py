"""Problems of a recipe, and the one error that reports them together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

Path = tuple[str | int, ...]
"""Keys and list positions from the root of a recipe to a value."""

_SHOWN = 10


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe."""

    path: Path
    text: str
    """A sentence that continues the dotted key: "is 2.0; it must be ..."."""
    origin: str = ""
    """Where the value was written: `recipes/a.yaml:7`, `command line`."""
    also: tuple[Path, ...] = ()
    """Other values that the problem is about."""

    def __str__(self) -> str:
        where = f"{self.origin}: " if self.origin else ""
        gap = "" if self.text.startswith(":") else " "
        return f"{where}{dotted(self.path)}{gap}{self.text}".strip()


class RecipeError(ValueError):
    """A recipe that cannot be run; the message says where, what, what is allowed and what to do."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)
        """Of which the message tells, where they can be told apart."""


def dotted(path: Path) -> str:
    """Return a path as it is written in messages.

    Example:
        >>> dotted(("entropy", 0, "clip_cov", "fraction"))
        'entropy[0].clip_cov.fraction'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def raise_problems(problems: Sequence[Problem], recipe: str) -> None:
    """Raise one RecipeError for all `problems`; do nothing when there are none.

    Args:
        problems: In the order to be shown.
        recipe: Named in the headline and where a problem has no origin of its own; "" names nothing.
    """
    if not problems:
        return
    if len(problems) == 1:
        [problem] = problems
        is_placed = problem.origin or not recipe
        raise RecipeError(str(problem) if is_placed else f"{recipe}: {problem}", problems)
    lines = [f"{recipe} has {len(problems)} problems:"]
    lines += [f"  {problem}" for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"  and {len(problems) - _SHOWN} more")
    raise RecipeError("\n".join(lines), problems)


def refuse(path: Path, text: str) -> NoReturn:
    """Raise a RecipeError about one value, not yet with its origin: who knows that adds it.

    Args:
        path: Of the value.
        text: A sentence that continues its dotted key.
    """
    raise refusal(path, text)


def refusal(path: Path, text: str) -> RecipeError:
    """Return what `refuse` raises."""
    return RecipeError(str(Problem(path, text)), [Problem(path, text)])


def show(value: Any) -> str:
    """Return a value as a message shows it: YAML's words, at most 60 characters.

    Example:
        >>> show(None), show(True), show("abc"), show([1, 2])
        ('null', 'true', "'abc'", '[1, 2]')
    """
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
