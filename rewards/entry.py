"""One item of a recipe's list of verifiers, checked before anything starts."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.rewards import plugin, registry
from rlvr.rewards.verdict import Sample, Verdict


@dataclass(frozen=True)
class Entry:
    """One verifier of the list."""

    name: str
    weight: float
    when_correct: bool
    columns: tuple[str, ...]
    sent_columns: tuple[str, ...] | None
    """Columns that a worker gets; None sends the whole row."""
    inline: Callable[[Sample], Verdict | None] | None
    """Runs in this process; None leaves the sample to the pool."""
    builtin: tuple[str, dict[str, Any]] | None = None
    plugin: str | None = None


def parse_entries(verifiers: Sequence[str | Mapping[str, Any]]) -> list[Entry]:
    """Return the entries of a recipe's list, or raise ValueError saying what is wrong."""
    if isinstance(verifiers, str | Mapping) or not verifiers:
        raise ValueError(
            "rewards.verifiers must be a list of at least one verifier, such as [math]"
        )
    entries: list[Entry] = []
    for item in verifiers:
        entries.append(_entry(item, [entry.name for entry in entries]))
    return entries


def _entry(item: str | Mapping[str, Any], taken: list[str]) -> Entry:
    if isinstance(item, str):
        item = {item: {}}
    if not isinstance(item, Mapping) or len(item) != 1:
        raise ValueError(
            f"rewards.verifiers: {item!r} is not a verifier; write a name, or one name with its "
            "options such as {math: {weight: 2}}"
        )
    ((name, options),) = item.items()
    if not isinstance(name, str) or not isinstance(options or {}, Mapping):
        raise ValueError(f"rewards.verifiers: the options of {name!r} must be a mapping")
    options = dict(options or {})
    weight, when_correct = options.pop("weight", 1.0), options.pop("when_correct", None)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise ValueError(f"verifier {name}: weight is {weight!r}; it must be a number")
    if when_correct not in (None, True, False):
        raise ValueError(f"verifier {name}: when_correct is {when_correct!r}; use true or false")
    if when_correct and not taken:
        raise ValueError(
            f"verifier {name}: when_correct is true, but it is the first verifier, whose verdict "
            "opens the gate; put another one before it, or remove when_correct"
        )
    make = _plugin_entry if plugin.is_reference(name) else _builtin_entry
    return make(name, options, float(weight), when_correct, taken)


def _plugin_entry(
    name: str, options: dict[str, Any], weight: float, when_correct: bool | None, taken: list[str]
) -> Entry:
    if options:
        raise ValueError(
            f"reward {name}: unknown option {next(iter(options))!r}; a function of yours has the "
            "options weight and when_correct"
        )
    found = plugin.find(name)
    return Entry(
        _unique(found.name, taken),
        weight,
        bool(when_correct),
        found.columns,
        None,
        None,
        plugin=found.text,
    )


def _builtin_entry(
    name: str, options: dict[str, Any], weight: float, when_correct: bool | None, taken: list[str]
) -> Entry:
    module = registry.load(name)
    config = registry.configure(name, options)
    if when_correct is None:
        when_correct = bool(taken) and getattr(module, "WHEN_CORRECT", False)
    if module.BOUNDED:
        inline = module.build(config)
    else:
        inline = module.shortcut(config) if hasattr(module, "shortcut") else None
    return Entry(
        _unique(name, taken),
        weight,
        when_correct,
        module.COLUMNS,
        module.COLUMNS,
        inline,
        builtin=None if module.BOUNDED else (name, config.model_dump(mode="json")),
    )


def _unique(name: str, taken: list[str]) -> str:
    count = 2
    unique = name
    while unique in taken:
        unique, count = f"{name}_{count}", count + 1
    return unique
