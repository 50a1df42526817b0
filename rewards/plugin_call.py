"""A user's function in a worker: imported, called in its form, what it returns made verdicts.

A number is the reward itself; True and False are correct and wrong. A function that raises, or
returns nan, no number or the wrong count of them, gives crashed verdicts with the reason, never a
reward.
"""

import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvr.rewards.calling import LISTS, TRL, Form, Judge, Waiting, at_once, each
from rlvr.rewards.plugin import declared
from rlvr.rewards.verdict import CORRECT, Outcome, Sample, Verdict, crashed, skipped, wrong

Parameters = Mapping[str, inspect.Parameter]

_NO_COLUMNS = ("prompt", "completion", "completion_ids")  # that TRL passes on


def load(reference: str, deadline: float, form: str) -> Judge:
    """Import the user's function and return it as a judge; raises what the import raises.

    Args:
        reference: `Reference.text`.
        deadline: Seconds for one sample of an async function.
        form: Name of the form in which it will be called.
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
    function = getattr(module, name)
    parameters = inspect.signature(function).parameters
    called = getattr(function, "__call__", None)  # noqa: B004 - an object's own may be async
    awaited = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)
    found, _ = declared(reference, *_signature(parameters), awaited=awaited)
    if found.name != form and (form != "sample" or not found.separable):
        raise ValueError(
            f"it takes ({', '.join(parameters)}), the form {found.name}, but its file reads as if "
            f"it were {form}; define it there with def, and let decorators use functools.wraps"
        )
    return _judge(function, found, parameters, deadline if awaited else None)


def verdict_of(result: Any) -> Verdict:
    """Return the verdict that a user's function means by what it returned.

    Example:
        >>> verdict_of(True).outcome.value, verdict_of(0.25).value
        ('correct', 0.25)
    """
    if isinstance(result, Verdict):
        return _checked(result)
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


def _signature(parameters: Parameters) -> tuple[list[str], list[str]]:
    """Return the parameters without a default, and the other positional ones."""
    required, optional = [], []
    for name, item in parameters.items():
        if item.kind is item.VAR_POSITIONAL:
            optional.append("")
        elif item.kind is item.VAR_KEYWORD:
            continue
        elif item.default is item.empty:
            required.append(name)
        elif item.kind is not item.KEYWORD_ONLY:
            optional.append(name)
    return required, optional


def _judge(
    function: Callable[..., Any], form: Form, parameters: Parameters, awaited: float | None
) -> Judge:
    """Return the function as a judge.

    Args:
        function: The user's.
        form: What its parameters declare.
        parameters: Its own.
        awaited: Seconds for one sample where the function is `async`, else None.
    """
    if form not in LISTS.values():
        if awaited is None:
            return each(lambda sample: verdict_of(function(sample)))

        async def verify(sample: Sample) -> Verdict:
            return verdict_of(await function(sample))

        return at_once(verify, awaited)
    wait = Waiting()

    def judge(samples: Sequence[Sample]) -> list[Verdict]:
        if form == TRL:
            result = function(**_trl_arguments(samples, parameters))
        else:
            result = function(list(samples))
        result = result if awaited is None else wait.run(result)
        return _verdicts(result, len(samples), none_is_skipped=form == TRL)

    return judge


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


def _checked(verdict: Verdict) -> Verdict:
    """Return a verdict of the right types, whatever the user's function put into it."""
    try:
        return Verdict(
            Outcome(verdict.outcome),
            float(verdict.fraction),
            " ".join(str(verdict.reason).split()),
            value=None if verdict.value is None else float(verdict.value),
        )
    except (TypeError, ValueError) as error:
        return _no_reward(f"returned a bad Verdict: {error}")


def _no_reward(reason: str) -> Verdict:
    return crashed(f"the reward function {reason}")


def _trl_arguments(samples: Sequence[Sample], parameters: Parameters) -> dict[str, Any]:
    names = dict.fromkeys(name for sample in samples for name in sample.row)
    given = {name: [sample.row.get(name) for sample in samples] for name in names} | {
        "answer": [sample.answer for sample in samples],
        "prompts": [sample.prompt for sample in samples],
        "completions": [_trl_completion(sample) for sample in samples],
        "log_extra": lambda *_, **__: None,
        "log_metric": lambda *_, **__: None,
    }
    takes_any = any(item.kind is item.VAR_KEYWORD for item in parameters.values())
    return {
        name: value
        for name, value in given.items()
        if name in parameters or (takes_any and name not in _NO_COLUMNS)
    }


def _trl_completion(sample: Sample) -> str | list[dict[str, str]]:
    chat = not isinstance(sample.prompt, str)
    return [{"role": "assistant", "content": sample.completion}] if chat else sample.completion
