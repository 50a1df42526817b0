"""The built-in verifiers: the files of this folder that define `Config` and `build`.

Adding a file adds a verifier. A verifier file has

    COLUMNS: tuple[str, ...]     columns of the row that it needs
    BOUNDED: bool                pure and linear-time: may run in the trainer's process
    class Config                 frozen pydantic model of its options
    build(config)                returns the function from Sample to Verdict
    check_gold(answer)           optional: why a gold answer is unusable, or None
    shortcut(config)             optional: a pure, linear-time function that settles the easy
                                 samples in the trainer's process and returns None for the others
    WHEN_CORRECT, NEEDS          optional: default of `when_correct`; (package, extra to install)
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ValidationError

from rlvr.catalog import methods
from rlvr.rewards.verdict import Sample, Verdict
from rlvr.suggest import closest, unknown_name


def names() -> tuple[str, ...]:
    """Return the names of the built-in verifiers."""
    return tuple(methods("rewards"))


def load(name: str) -> ModuleType:
    """Return the file of a built-in verifier.

    Raises:
        ValueError: For an unknown name, or where the verifier needs a package that is not installed.
    """
    if name not in names():
        raise ValueError(
            unknown_name("verifier", name, names())
            + " Your own function is written path/to/file.py:function."
        )
    module = importlib.import_module(f"rlvr.rewards.{name}")
    package, extra = getattr(module, "NEEDS", (None, None))
    if package is not None and importlib.util.find_spec(package) is None:
        raise ValueError(
            f"verifier {name}: the package {package} is not installed; pip install 'rlvr[{extra}]'"
        )
    return module


def configure(name: str, options: Mapping[str, Any]) -> BaseModel:
    """Return the verifier's Config for these options, or raise ValueError saying what is wrong."""
    config_class = load(name).Config
    known = tuple(config_class.model_fields)
    for option in options:
        if option not in known:
            near = closest(option, (*known, "weight", "when_correct"))
            question = f" Did you mean '{near}'?" if near else ""
            listed = ", ".join((*known, "weight", "when_correct"))
            raise ValueError(
                f"verifier {name} has no option {option!r}.{question} Known: {listed}."
            )
    try:
        return config_class(**options)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, item['loc']))} is {item['input']!r}: "
            + item["msg"].removeprefix("Value error, ")
            for item in error.errors()
        ]
        raise ValueError(f"verifier {name}: {'; '.join(faults)}") from None


def build(name: str, options: Mapping[str, Any]) -> Callable[[Sample], Verdict]:
    """Return the verifier with these options."""
    return load(name).build(configure(name, options))
