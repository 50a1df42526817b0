"""Instructions: the response follows the row's verifiable instructions, as IFEval defines them.

    instruction_id_list  ["punctuation:no_comma", "length_constraints:number_words"]
    kwargs               [{}, {"relation": "at least", "num_words": 300}]

All 25 types of IFEval, by its names, with or without M-IFEval's prefix `en:`. What is read is the
text after the last closed think block. A response is refused where the reference is satisfied by
nothing: no letter or digit at all, marks around nothing, words that no reader sees, forbidden words
in disguise, two contradicting answers. Three types ask for the language of the text: rows with
these need a package, pip install 'rlvr[instructions]', and are judged in a worker.

Paper: Instruction-Following Evaluation for Large Language Models https://arxiv.org/abs/2311.07911
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rlvr.rewards.extraction import after_thought
from rlvr.rewards.instruction import (
    case,
    format,
    keywords,
    language,
    length,
    whole,
)
from rlvr.rewards.instruction.kind import Kind
from rlvr.rewards.instruction.text import has_content, loose_readings, visible
from rlvr.rewards.verdict import Sample, Verdict, partial, skipped, unparsable, wrong
from rlvr.suggest import unknown_name

COLUMNS = ("instruction_id_list", "kwargs")
BOUNDED = False  # language detection takes milliseconds a response; `shortcut` settles the rest

KINDS: dict[str, type[Kind]] = (
    length.KINDS | keywords.KINDS | format.KINDS | whole.KINDS | case.KINDS
)


class Config(BaseModel):
    """Options of the instructions verifier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["strict", "loose"] = "strict"
    """loose: an instruction also counts where it holds without the first line, without the last
    line, without both, or without asterisks (IFEval's loose accuracy)."""
    score: Literal["all", "fraction"] = "all"
    """all: correct only where every instruction is followed. fraction: partial by their share."""


def build(config: Config) -> Callable[[Sample], Verdict]:
    """Return the verifier."""

    def verify(sample: Sample) -> Verdict:
        if reason := fault(sample, config):
            return skipped(reason)
        return _judge(_instructions(sample), sample.completion, config)

    return verify


def shortcut(config: Config) -> Callable[[Sample], Verdict | None]:
    """Return the verifier of rows that ask for no language; None leaves a row to the worker."""

    def verify(sample: Sample) -> Verdict | None:
        if reason := fault(sample, config):
            return skipped(reason)
        instructions = _instructions(sample)
        if any(kind.needs_language() for _, kind in instructions):
            return None
        return _judge(instructions, sample.completion, config)

    return verify


def fault(sample: Sample, config: Config) -> str | None:  # noqa: ARG001 - every verifier takes one
    """Return why the row's instructions cannot be judged; None if they can."""
    try:
        instructions = _instructions(sample)
    except ValueError as error:
        return str(error)
    for name, kind in instructions:
        if kind.needs_language() and not language.installed():
            return (
                f"{name} needs the package langdetect, which is not installed; "
                "pip install 'rlvr[instructions]'"
            )
    return None


def _judge(instructions: Sequence[tuple[str, Kind]], completion: str, config: Config) -> Verdict:
    text = after_thought(completion)
    if text is None:
        return unparsable("the think block is not closed")
    if not has_content(text):
        return unparsable("there is no letter or digit")
    readings = [text] if config.mode == "strict" else loose_readings(text)
    readings = [reading for reading in readings if has_content(reading)]
    broken = [
        name
        for name, kind in instructions
        if not any(_follows(kind, reading) for reading in readings)
    ]
    if config.score == "all" and broken:
        return wrong(f"not followed: {', '.join(broken)}")
    return partial(1 - len(broken) / len(instructions), f"not followed: {', '.join(broken)}")


def _follows(kind: Kind, text: str) -> bool:
    return all(kind.holds(view) for view in dict.fromkeys((text, visible(text))))


def _instructions(sample: Sample) -> tuple[tuple[str, Kind], ...]:
    names, arguments = (_list(sample.row.get(column), column) for column in COLUMNS)
    if not names:
        raise ValueError("instruction_id_list is empty")
    if len(names) != len(arguments):
        raise ValueError(
            f"instruction_id_list has {len(names)} items and kwargs {len(arguments)}; "
            "each instruction needs its arguments, {} where it has none"
        )
    return _parsed(json.dumps(list(zip(names, arguments, strict=True)), default=str))


@lru_cache(maxsize=4096)  # the completions of a group share their row
def _parsed(text: str) -> tuple[tuple[str, Kind], ...]:
    return tuple(_instruction(name, arguments) for name, arguments in json.loads(text))


def _list(value: Any, column: str) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(
                f"{column} is {value[:60]!r}; it must be a list, or one as JSON"
            ) from None
    if isinstance(value, str | Mapping) or not hasattr(value, "__iter__"):
        raise ValueError(f"{column} is {str(value)[:60]!r}; it must be a list")
    return list(value)


def _instruction(name: Any, arguments: Any) -> tuple[str, Kind]:
    """Return an instruction's name and itself; arguments that are null count as not given."""
    name = str(name).removeprefix("en:")
    if name not in KINDS:
        raise ValueError(unknown_name("instruction", name, KINDS))
    if not isinstance(arguments or {}, Mapping):
        raise ValueError(f"{name}: its kwargs are {str(arguments)[:60]!r}; they must be a mapping")
    given = {key: value for key, value in (arguments or {}).items() if value is not None}
    fields = KINDS[name].model_fields
    for key in given:
        if key not in fields:
            raise ValueError(f"{name}: {unknown_name('argument', key, fields)}")
    try:
        return name, KINDS[name](**given)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise ValueError(f"{name}: {'; '.join(faults)}") from None
