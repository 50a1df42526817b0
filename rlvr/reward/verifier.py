"""A verifier as the commands are told it: a name or `file.py:function`, and its options."""

from collections.abc import Sequence
from typing import Any

from rlvr.recipe_yaml import parse_value

Options = dict[str, Any]


def parse_options(given: Sequence[str]) -> Options:
    """Return the options that a command line states: `KEY=VALUE` or a mapping, each over the last.

    Example:
        >>> parse_options(["tolerance=1e-3", '{"units": true}'])
        {'tolerance': 0.001, 'units': True}
    """
    options: Options = {}
    for text in given:
        key, equals, value = text.partition("=")
        is_mapping = text.lstrip().startswith("{")
        if not is_mapping and not (equals and key.strip()):
            raise ValueError(f"--options {text!r}: write KEY=VALUE or a mapping in JSON")
        try:
            found = parse_value(text) if is_mapping else {key.strip(): parse_value(value)}
        except ValueError as error:
            raise ValueError(f"--options {text!r} {error}") from None
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            raise ValueError(f"--options {text!r}: the keys must be names of options")
        options |= found
    return options
