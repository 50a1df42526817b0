"""YAML as recipes read and write it: YAML 1.2 scalars, line numbers, comments at the end of lines.

PyYAML follows YAML 1.1, where `1e-5` is a string, `no` is false, `1:30` is 90 and `012` is 10.
"""

import re
from collections.abc import Callable
from typing import Any

import yaml

from rlvr.recipe_error import Path, RecipeError, dotted

_INT = re.compile(r"^[-+]?[0-9]+$")
_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.inf$|^\.nan$")

_DEEPEST = 32
"""Levels of a recipe, at most: an alias that holds itself has no end."""
_MOST_VALUES = 100_000
"""In one file, aliases counted as what they stand for."""
_MOST_DIGITS = 400
"""Of a number: more are no float."""

_PLAIN = re.compile(r"^[A-Za-z_/](?:[A-Za-z0-9_./@+() \-]|:(?=[^ ,]))*(?<! )$")


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


_TAG = "tag:yaml.org,2002:"
_SCALARS = {
    f"{_TAG}str": None,
    f"{_TAG}null": re.compile("^(null|~|)$"),
    f"{_TAG}bool": re.compile("^(true|false)$"),
    f"{_TAG}int": _INT,
    f"{_TAG}float": _FLOAT,
}
"""What may be written by each tag; None: anything."""
_CONTAINERS: dict[type[yaml.Node], str] = {
    yaml.MappingNode: f"{_TAG}map",
    yaml.SequenceNode: f"{_TAG}seq",
}

_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^(null|~|)$"), ["n", "~", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile("^<<$"), ["<"])
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what either version of YAML would not read as a string."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse_value(text: str) -> Any:
    """Return the value that `text` stands for in a recipe.

    Example:
        >>> parse_value("1e-5"), parse_value("no"), parse_value("[1, true, null]")
        (1e-05, 'no', [1, True, None])
    """
    try:
        return _read(text, "")[0]
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except yaml.YAMLError as error:
        reason = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise ValueError(f"is not YAML ({reason})") from error
    except RecipeError as error:
        raise ValueError(f"is not a value ({error})") from error


def read_yaml(text: str, file: str) -> tuple[dict[str, Any], dict[Path, int]]:
    """Return the mapping in `text` and the line of each of its values.

    Args:
        text: A YAML document.
        file: Its name, for messages.
    """
    try:
        values, lines = _read(text, file)
    except RecursionError:
        raise RecipeError(
            f"{file}: is nested too deeply for a recipe; check its brackets."
        ) from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(
            f"{file}{line}: not YAML: {error.problem or error.context}. "
            "Check the indentation, quotes and brackets of this line and the one before."
        ) from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise RecipeError(
            f"{file}: holds a {type(values).__name__}; a recipe is a mapping of sections "
            "(model, data, rewards, rollout, algorithm, entropy, training, ...)."
        )
    return values, lines


def _read(text: str, file: str) -> tuple[Any, dict[Path, int]]:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines: dict[Path, int] = {}
        if node is None:
            return None, lines
        _note_lines(node, (), lines, file)
        return loader.construct_document(node), lines
    finally:
        loader.dispose()


def _note_lines(node: yaml.Node, path: Path, lines: dict[Path, int], file: str) -> None:
    lines[path] = node.start_mark.line + 1
    if fault := _fault(node, path, lines):
        # of one that holds itself the beginning tells most
        raise _error(file, lines[path], f"{dotted(path[:3])} {fault}".strip())
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_lines(item, (*path, index), lines, file)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            if key.tag == f"{_TAG}merge":
                _note_lines(value, (*path, "<<"), {}, file)
                continue
            if key.tag != f"{_TAG}str":
                text = f"the key {name or 'here'} is not a string; put it in quotes."
                raise _error(file, line, text)
            if (*path, name) in lines:
                first = lines[(*path, name)]
                text = f"{dotted((*path, name))} is given twice (first in line {first}); keep one."
                raise _error(file, line, text)
            _note_lines(value, (*path, name), lines, file)
            lines[(*path, name)] = line


def _error(file: str, line: int, text: str) -> RecipeError:
    return RecipeError(f"{file}:{line}: {text}" if file else text)


def _fault(node: yaml.Node, path: Path, lines: dict[Path, int]) -> str | None:
    """Return what is wrong with a value that YAML would read."""
    if len(path) > _DEEPEST:
        return f"is nested more than {_DEEPEST} levels deep; does an alias (*name) hold itself?"
    if len(lines) > _MOST_VALUES:
        return f"is value {_MOST_VALUES + 1} of this file; do aliases (*name) of aliases multiply?"
    if isinstance(node, yaml.ScalarNode):
        if node.tag not in _SCALARS:
            return _no_tag(node)
        pattern = _SCALARS[node.tag]
        if pattern is not None and not pattern.match(node.value):
            return (
                f"is {node.value!r:.60}, which is no {node.tag.removeprefix(_TAG)}; remove the tag."
            )
        if node.tag == f"{_TAG}int" and len(node.value) > _MOST_DIGITS:
            return f"is a number of {len(node.value)} digits."
        return None
    return None if node.tag == _CONTAINERS[type(node)] else _no_tag(node)


def _no_tag(node: yaml.Node) -> str:
    return f"has the tag {node.tag.replace(_TAG, '!!')}, which recipes do not know; remove it."


def dump_scalar(value: Any) -> str:
    r"""Return a scalar, or an empty or flat list, as YAML on one line.

    Example:
        >>> dump_scalar(1e-5), dump_scalar("no"), dump_scalar((1, 8)), dump_scalar("a\nb")
        ('1.0e-05', "'no'", '[1, 8]', '"a\\nb"')
    """
    if isinstance(value, tuple | list):
        return f"[{', '.join(dump_scalar(item) for item in value)}]"
    if value == {}:
        return "{}"
    style = '"' if isinstance(value, str) and not _PLAIN.fullmatch(value) else None
    text = yaml.dump(
        value,
        Dumper=_Dumper,
        default_style=style,
        default_flow_style=True,
        width=2**31,
        allow_unicode=True,
    )
    return text.removesuffix("\n").removesuffix("\n...").removesuffix("\n")


def dump_yaml(values: dict[str, Any], comment: Callable[[Path], str]) -> str:
    """Return `values` as YAML with `comment(path)` at the end of each value's line."""
    lines: list[str] = []
    _dump(values, (), comment, lines)
    return "\n".join(lines) + "\n"


def _dump(value: Any, path: Path, comment: Callable[[Path], str], lines: list[str]) -> None:
    indent = "  " * (len(path))
    pairs: list[tuple[str | int, Any]] = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    )
    for key, item in pairs:
        here = (*path, key)
        head = f"{indent}-" if isinstance(key, int) else f"{indent}{dump_scalar(key)}:"
        if _is_nested(item):
            lines.append(head)
            first = len(lines)
            _dump(item, here, comment, lines)
            if isinstance(key, int):  # the first key of an item stands beside its dash
                lines[first - 1 : first + 1] = [f"{head} {lines[first].lstrip()}"]
        else:
            note = comment(here)
            lines.append(f"{head} {dump_scalar(item)}" + (f"  # {note}" if note else ""))


def _is_nested(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value)
    return isinstance(value, list | tuple) and any(
        isinstance(item, dict | list | tuple) for item in value
    )
