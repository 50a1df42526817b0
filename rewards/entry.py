"""One item of a recipe's list of verifiers, checked before anything starts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from rlvr.rewards import plugin, registry
from rlvr.rewards.calling import SAMPLE, Form
from rlvr.rewards.common import Common, split_options
from rlvr.rewards.verdict import Sample, Verdict


@dataclass(frozen=True)
class Entry:
    """One verifier of the list."""

    name: str
    weight: float
    when_correct: bool
    normalize: bool
    deadline: float
    """Seconds for one sample."""
    form: Form
    columns: tuple[str, ...]
    sent_columns: tuple[str, ...] | None = None
    """Columns that a worker gets; None sends the whole row."""
    inline: Callable[[Sample], Verdict | None] | None = None
    """Runs in this process; None leaves the sample to the pool."""
    fault: Callable[[Sample], str | None] | None = None
    """Why a row cannot be judged, or None."""
    answer_text: Callable[[Sample], str] | None = None
    builtin: tuple[str, dict[str, Any]] | None = None
    plugin: str | None = None


def parse_entries(verifiers: Sequence[str | Mapping[str, Any]], *, deadline: float) -> list[Entry]:
    """Return the entries of a recipe's list, or raise ValueError saying what is wrong.

    Args:
        verifiers: Names, or mappings from one name to options.
        deadline: Seconds for one sample, where neither the list nor the verifier says more.
    """
    if isinstance(verifiers, str | Mapping) or not verifiers:
        raise ValueError(
            "rewards.verifiers must be a list of at least one verifier, such as [math]"
        )
    entries: list[Entry] = []
    for item in verifiers:
        entries.append(_entry(item, [entry.name for entry in entries], deadline))
    return entries


def _entry(item: str | Mapping[str, Any], taken: list[str], deadline: float) -> Entry:
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
    given, own = split_options(options or {})
    common = registry.validated(name, Common, given)
    if common.when_correct and not taken:
        raise ValueError(
            f"verifier {name}: when_correct is true, but it is the first verifier, whose verdict "
            "opens the gate; put another one before it, or remove when_correct"
        )
    make = _plugin_entry if plugin.is_reference(name) else _builtin_entry
    return make(name, own, common, taken, deadline)


def _plugin_entry(
    name: str, options: dict[str, Any], common: Common, taken: list[str], deadline: float
) -> Entry:
    if options:
        raise ValueError(
            f"reward {name}: unknown option {next(iter(options))!r}; a function of yours has the "
            f"options {', '.join(Common.model_fields)}"
        )
    found = plugin.find(name)
    return Entry(
        _unique(found.name, taken),
        common.weight,
        bool(common.when_correct),
        common.normalize is not None,
        common.deadline or deadline,
        found.form,
        found.columns,
        plugin=found.text,
    )


def _builtin_entry(
    name: str, options: dict[str, Any], common: Common, taken: list[str], deadline: float
) -> Entry:
    module = registry.load(name)
    config = registry.configure(name, options)
    if hasattr(module, "ready"):
        module.ready(config)
    when_correct = common.when_correct
    if when_correct is None:
        when_correct = bool(taken) and getattr(module, "WHEN_CORRECT", False)
    if module.BOUNDED:
        inline = module.build(config)
    else:
        inline = module.shortcut(config) if hasattr(module, "shortcut") else None
    own = _setting(module, "DEADLINE", config, deadline)
    at_once = _setting(module, "AT_ONCE", config, None)
    return Entry(
        _unique(name, taken),
        common.weight,
        when_correct,
        common.normalize is not None,
        common.deadline or own,
        SAMPLE if at_once is None else Form("async", at_once, at_once=True),
        module.COLUMNS,
        (*module.COLUMNS, *getattr(module, "OPTIONAL_COLUMNS", ())),
        inline,
        _with(config, getattr(module, "fault", None)),
        _with(config, getattr(module, "answer_text", None)),
        builtin=None if module.BOUNDED else (name, config.model_dump(mode="json")),
    )


def _setting(module: ModuleType, name: str, config: BaseModel, default: Any) -> Any:
    """Return what a verifier's file sets, by itself or as a function of the options."""
    found = getattr(module, name, default)
    return found(config) if callable(found) else found


def _with(config: Any, function: Callable[..., Any] | None) -> Callable[[Sample], Any] | None:
    return None if function is None else lambda sample: function(sample, config)


def _unique(name: str, taken: list[str]) -> str:
    count = 2
    unique = name
    while unique in taken:
        unique, count = f"{name}_{count}", count + 1
    return unique
