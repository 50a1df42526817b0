"""A user's own reward: `path/to/file.py:function` or `module:function`.

    def reward(sample) -> float | bool | Verdict              sample.completion, .answer, .row, ...
    async def reward(sample) -> float | bool | Verdict        many are waited for together
    def reward(samples) -> list                               some completions in one call
    def reward(group) -> list                                 all completions of one prompt
    def reward(completions, answer, **columns) -> list[float]     as TRL's reward functions

A number is the reward itself; True and False are correct and wrong. A function that raises, or
returns nan, no number or the wrong count of them, gives crashed verdicts with the reason, never a
reward. The file is read but not imported in the trainer's process; it runs in the workers.
"""

import ast
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.rewards.calling import (
    ASYNC,
    NAMES,
    SAMPLE,
    TRL,
    Form,
    Judge,
    Waiting,
    at_once,
    each,
)
from rlvr.rewards.verdict import CORRECT, Outcome, Sample, Verdict, crashed, skipped, wrong
from rlvr.suggest import closest

_TRL_GIVEN = ("prompts", "completions", "log_extra", "log_metric")
_TRL_ABSENT = ("completion_ids", "completions_ids", "trainer_state", "environments")


@dataclass(frozen=True)
class Reference:
    """A user's function by name, found without importing it.

    Attributes:
        text: For a worker: absolute path, or module, and function.
        name: Of the function.
        columns: Row columns that the function needs: its parameters where it is TRL-style, what it
            reads as `sample.row["name"]`, and what the file lists as COLUMNS.
        form: How many samples one call takes.
    """

    text: str
    name: str
    columns: tuple[str, ...]
    form: Form


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
        return Reference(item, function, (), SAMPLE)  # not a source file: only a worker can tell
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
    text = f"{path if place.endswith('.py') else place}:{function}"
    asked = _listed_columns(item, tree)
    if node is None:
        return Reference(text, function, asked, SAMPLE)
    named, form = _signature(item, node)
    columns = dict.fromkeys((*asked, *named, *_read_columns(node)))
    return Reference(text, function, tuple(columns), form)


def load(reference: str, deadline: float) -> Judge:
    """Import the user's function and return it as a judge; raises what the import raises.

    Args:
        reference: `Reference.text`.
        deadline: Seconds for one sample of an async function.
    """
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
    return _judge(getattr(module, name), deadline)


def _judge(function: Callable[..., Any], deadline: float) -> Judge:
    parameters = inspect.signature(function).parameters
    awaited = inspect.iscoroutinefunction(function)
    form = next((name for name in NAMES if name in parameters), None)
    if form is None and awaited:

        async def verify(sample: Sample) -> Verdict:
            return verdict_of(await function(sample))

        return at_once(verify, deadline)
    if form is None:
        return each(lambda sample: verdict_of(function(sample)))
    wait = Waiting()

    def judge(samples: Sequence[Sample]) -> list[Verdict]:
        if form == "completions":
            result = function(**_trl_arguments(samples, parameters))
        else:
            result = function(list(samples))
        result = wait.run(result) if awaited else result
        return _verdicts(result, len(samples), none_is_skipped=form == "completions")

    return judge


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
        return _no_reward(f"returned {result!r}, not a number")
    try:
        number = float(result)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return _no_reward(f"returned a {type(result).__name__}, not a number")
    if not math.isfinite(number):
        return _no_reward(f"returned {number}")
    if number >= 1.0:
        return Verdict(Outcome.CORRECT, value=number)
    if number <= 0.0:
        return Verdict(Outcome.WRONG, value=number)
    return Verdict(Outcome.PARTIAL, fraction=number, value=number)


def _verdicts(results: Any, count: int, *, none_is_skipped: bool) -> list[Verdict]:
    try:
        found = list(results)
    except TypeError:
        found = None
    if found is None or isinstance(results, str | bytes | dict) or len(found) != count:
        given = type(results).__name__ if found is None else f"{len(found)} values"
        reason = f"returned {given} for {count} completions; it must return a list, one for each"
        return [_no_reward(reason)] * count
    # TRL: None says that the function does not apply to this row
    return [
        skipped("the function does not apply")
        if item is None and none_is_skipped
        else verdict_of(item)
        for item in found
    ]


def _no_reward(reason: str) -> Verdict:
    return crashed(f"the reward function {reason}")


def _trl_arguments(samples: Sequence[Sample], parameters: Any) -> dict[str, Any]:
    columns = {"answer": [sample.answer for sample in samples]}
    for name in dict.fromkeys(name for sample in samples for name in sample.row):
        columns[name] = [sample.row.get(name) for sample in samples]
    given = {
        "prompts": [sample.prompt for sample in samples],
        "completions": [_trl_completion(sample) for sample in samples],
        "log_extra": lambda *_: None,
        "log_metric": lambda *_: None,
    }
    everything = columns | given
    if any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters.values()):
        return everything
    return {name: value for name, value in everything.items() if name in parameters}


def _trl_completion(sample: Sample) -> str | list[dict[str, str]]:
    chat = not isinstance(sample.prompt, str)
    return [{"role": "assistant", "content": sample.completion}] if chat else sample.completion


def _signature(
    item: str, node: ast.FunctionDef | ast.AsyncFunctionDef
) -> tuple[tuple[str, ...], Form]:
    """Return the columns and the form of a function; ValueError if it cannot be a reward."""
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    required = [arg.arg for arg in positional[: len(positional) - len(arguments.defaults)]]
    keyword = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    required += [arg.arg for arg, default in keyword if default is None]
    if "completions" in required:
        if absent := [name for name in required if name in _TRL_ABSENT]:
            raise ValueError(
                f"reward {item!r} needs {absent[0]!r}, which is not known where rewards are "
                "computed; give it a default or remove it"
            )
        return tuple(name for name in required if name not in _TRL_GIVEN), TRL
    if len(required) == 1 or (not required and (positional or arguments.vararg)):
        first = (required or [arg.arg for arg in positional] or [""])[0]
        one = ASYNC if isinstance(node, ast.AsyncFunctionDef) else SAMPLE
        return (), NAMES.get(first, one)
    raise ValueError(
        f"reward {item!r} takes ({', '.join(required)}); it must take one argument (a sample, or "
        "named `samples` or `group` a list of them), or `completions` and columns by name as "
        "TRL's reward functions do"
    )


def _read_columns(node: ast.AST) -> list[str]:
    """Return what is read as `.row["name"]`, unless the function looks whether a name is there."""
    found = []
    for item in ast.walk(node):
        if isinstance(item, ast.Compare) and any(map(_is_row, item.comparators)):
            return []
        if isinstance(item, ast.Subscript) and _is_row(item.value):
            key = item.slice
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                found.append(key.value)
    return found


def _is_row(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "row"


def _listed_columns(item: str, tree: ast.Module) -> tuple[str, ...]:
    """Return what the file's `COLUMNS = ("answer", ...)` lists; () where it has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "COLUMNS" for target in node.targets
        ):
            try:
                columns = ast.literal_eval(node.value)
            except ValueError:
                columns = None
            if isinstance(columns, tuple | list) and all(isinstance(c, str) for c in columns):
                return tuple(columns)
            raise ValueError(
                f"reward {item!r}: COLUMNS must be a tuple of names, such as ('answer', 'level')"
            )
    return ()


def _defined(
    body: list[ast.stmt],
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | None]]:
    """Yield the names that a module's statements bind; with the definition for a function."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
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
