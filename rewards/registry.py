"""The built-in verifiers: the files of this folder that define `Config` and `build`.

Adding a file adds a verifier. A verifier file has

    COLUMNS: tuple[str, ...]     columns of the row that it needs
    BOUNDED: bool                pure and linear-time: may run in the trainer's process
    class Config                 frozen pydantic model of its options
    build(config)                returns the function from Sample to Verdict; where that is `async`,
                                 a worker waits for many samples at once

and, where it has a use for them,

    OPTIONAL_COLUMNS             columns that it is shown where the row has them; "prompt" too
    fault(sample, config)        why a row cannot be judged whatever the completion, or None; cheap
    shortcut(config)             a pure, linear-time function that settles the easy samples in the
                                 trainer's process and returns None for the others
    answer_text(sample, config)  the part of the completion that decides, as a completion: it gets
                                 the same verdict, so equal answers are asked once; linear-time
    DEADLINE                     seconds for a sample, or a function of the config, where
                                 `rewards.deadline` is not meant for it
    AT_ONCE                      samples in flight in one worker, where the verifier is `async`; or a
                                 function of the config
    ready(config)                raises ValueError where this machine cannot run it
    WHEN_CORRECT, NEEDS          default of `when_correct`; (package, extra to install)

In a worker a verifier sees these columns only, and neither the completion's length nor whether it
was cut: they differ between equal answers, which are asked once.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rlvr.catalog import methods
from rlvr.rewards.common import Common
from rlvr.rewards.verdict import Sample, Verdict
from rlvr.suggest import unknown_name

Model = TypeVar("Model", bound=BaseModel)


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
    for option in options:
        if option not in config_class.model_fields:
            known = (*config_class.model_fields, *Common.model_fields)
            raise ValueError(f"verifier {name}: {unknown_name('option', option, known)}")
    return validated(name, config_class, options)


def validated(name: str, model: type[Model], options: Mapping[str, Any]) -> Model:
    """Return a verifier's options as a model, or raise ValueError saying what is wrong."""
    try:
        return model(**options)
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
