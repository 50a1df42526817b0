"""A user's own reward: `path/to/file.py:function` or `module:function`.

    def reward(sample) -> float | bool | Verdict              sample.completion, .answer, .row, ...
    def reward(completions, answer, **columns) -> list[float]     as TRL's reward functions

A number is the reward itself; True and False are correct and wrong. A function that raises, or
returns nan or no number, gives a crashed verdict with the reason, never a reward. The file is read
but not imported in the trainer's process; it runs in the workers.
"""

import ast
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.rewards.verdict import CORRECT, Outcome, Sample, Verdict, skipped, wrong
from rlvr.suggest import closest

_TRL_GIVEN = ("prompts", "completions", "log_extra", "log_metric")
_TRL_ABSENT = ("completion_ids", "completions_ids", "trainer_state", "environments")


@dataclass(frozen=True)
class Reference:
    """A user's function by name, found without importing it.

    Attributes:
        text: For a worker: absolute path, or module, and function.
        name: Of the function.
        columns: Row columns that a TRL-style function asks for by name.
    """

    text: str
    name: str
    columns: tuple[str, ...]


def is_reference(item: str) -> bool:
    """Return whether a verifier's name names a user's function."""
    return ":" in item or item.endswith(".py")


def find(item: str) -> Reference:
    """Return the reference after checking that the function exists.

    Raises:
        ValueError: Where the file, module or function is missing or cannot be a reward.
    """
    place, _, function = item.rpartition(":")
    if not place or not function.isidentifier():
        raise ValueError(f"reward {item!r} names no function; write path/to/file.py:function")
    path = Path(place).expanduser().resolve() if place.endswith(".py") else _module_file(place)
    if path is None:
        return Reference(item, function, ())  # not a source file: only a worker can tell
    if not path.is_file():
        raise ValueError(f"reward {item!r}: there is no file {path}")
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"reward {item!r}: {path} is not valid Python: {error}") from None
    defined = dict(_defined(tree.body))
    if function not in defined and "*" not in defined:
        functions = [name for name, node in defined.items() if node is not None]
        near = closest(function, functions)
        question = f" Did you mean '{near}'?" if near else ""
        listed = ", ".join(functions) or "none"
        raise ValueError(
            f"reward {item!r}: {path} has no function {function!r}.{question} Functions: {listed}."
        )
    node = defined.get(function)
    columns = () if node is None else _columns(item, node.args)
    return Reference(f"{path if place.endswith('.py') else place}:{function}", function, columns)


def load(reference: str) -> Callable[[Sample], Verdict]:
    """Import the user's function and return it as a verifier; raises what the import raises."""
    place, _, name = reference.rpartition(":")
    if place.endswith(".py"):
        sys.path.append(str(Path(place).parent))  # last: a neighbour must not hide a library
        spec = importlib.util.spec_from_file_location("rlvr_reward_" + Path(place).stem, place)
        if spec is None or spec.loader is None:
            raise ImportError(f"{place} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    function = getattr(module, name)
    parameters = inspect.signature(function).parameters
    if "completions" in parameters:
        return lambda sample: _one(function(**_trl_arguments(sample, parameters)))
    return lambda sample: verdict_of(function(sample))


def describe(error: BaseException) -> str:
    """Return an exception's type and message in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")


def verdict_of(result: Any) -> Verdict:
    """Return the verdict that a user's function means by what it returned.

    Example:
        >>> verdict_of(True).outcome.value, verdict_of(0.25).value
        ('correct', 0.25)
    """
    if isinstance(result, Verdict):
        return result
    if isinstance(result, bool) or type(result).__name__ == "bool":  # numpy's is no bool
        return CORRECT if result else wrong()
    if isinstance(result, str | bytes) or result is None:
        return _crashed(f"returned {result!r}, not a number")
    try:
        number = float(result)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return _crashed(f"returned a {type(result).__name__}, not a number")
    if not math.isfinite(number):
        return _crashed(f"returned {number}")
    if number >= 1.0:
        return Verdict(Outcome.CORRECT, value=number)
    if number <= 0.0:
        return Verdict(Outcome.WRONG, value=number)
    return Verdict(Outcome.PARTIAL, fraction=number, value=number)


def _one(results: Any) -> Verdict:
    try:
        (result,) = results
    except (TypeError, ValueError):
        return _crashed("must return a list with one number for each completion")
    # TRL: None says that the function does not apply to this row
    return skipped("the function does not apply") if result is None else verdict_of(result)


def _crashed(reason: str) -> Verdict:
    return Verdict(Outcome.CRASHED, reason=f"the reward function {reason}")


def _trl_arguments(sample: Sample, parameters: Any) -> dict[str, Any]:
    chat = not isinstance(sample.prompt, str)
    text = sample.completion
    given = {
        "prompts": [sample.prompt],
        "completions": [[{"role": "assistant", "content": text}] if chat else text],
        "log_extra": lambda *_: None,
        "log_metric": lambda *_: None,
    }
    columns = {"answer": [sample.answer]} | {name: [value] for name, value in sample.row.items()}
    everything = columns | given
    if any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters.values()):
        return everything
    return {name: value for name, value in everything.items() if name in parameters}


def _columns(item: str, arguments: ast.arguments) -> tuple[str, ...]:
    """Return the columns that the function asks for; ValueError if it cannot be a reward."""
    positional = [*arguments.posonlyargs, *arguments.args]
    required = [arg.arg for arg in positional[: len(positional) - len(arguments.defaults)]]
    keyword = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    required += [arg.arg for arg, default in keyword if default is None]
    if "completions" not in required:
        if len(required) == 1 or (not required and (positional or arguments.vararg)):
            return ()
        raise ValueError(
            f"reward {item!r} takes ({', '.join(required)}); it must take one argument, the "
            "sample, or `completions` and columns by name as TRL's reward functions do"
        )
    if absent := [name for name in required if name in _TRL_ABSENT]:
        raise ValueError(
            f"reward {item!r} needs {absent[0]!r}, which is not known where rewards are computed; "
            "give it a default or remove it"
        )
    return tuple(name for name in required if name not in _TRL_GIVEN)


def _defined(body: list[ast.stmt]) -> Iterator[tuple[str, ast.FunctionDef | None]]:
    """Yield the names that a module's statements bind; with the definition for a function."""
    for node in body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield (alias.asname or alias.name), None
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id, None
        elif isinstance(node, ast.If | ast.Try | ast.With):
            for part in ("body", "orelse", "finalbody"):
                yield from _defined(getattr(node, part, []))


def _module_file(module: str) -> Path | None:
    """Return a module's source file without importing it or its packages; None if it has none."""
    path = None
    spec = None
    parts = module.split(".")
    for depth in range(len(parts)):
        name = ".".join(parts[: depth + 1])
        found = (finder.find_spec(name, path) for finder in sys.meta_path)
        spec = next((item for item in found if item is not None), None)
        if spec is None:
            raise ValueError(
                f"reward module {module!r}: there is no module {name!r}; for a file write "
                "path/to/file.py:function"
            )
        path = list(spec.submodule_search_locations or [])
    origin = spec.origin if spec is not None else None
    return Path(origin) if origin and origin.endswith(".py") else None
