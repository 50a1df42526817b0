"""pydantic's findings in the words of a recipe: dotted key, what was given, what is allowed, what to do."""

import copy
import types
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from rlvr.catalog import trl_fields
from rlvr.check.other_names import OTHER_NAMES
from rlvr.check.trl_names import owner
from rlvr.recipe_error import Path, Problem, dotted, show
from rlvr.suggest import candidates, did_you_mean, misspelt, question

_MOST_KEYS = 16
_MOST_PLACES = 3
_MEANT = {
    "gpu": "cuda",
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "fp32": "float32",
    "hf": "transformers",
}
"""What words that are used elsewhere are called here."""
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def schema_problems(
    error: ValidationError, values: dict[str, Any], schema: type[BaseModel], at: Path = ()
) -> list[Problem]:
    """Return one problem for each wrong value, in the order of the recipe.

    Args:
        error: What validating `values` against `schema` raised.
        values: As the recipe was written.
        schema: The model validated against.
        at: Path of `values` in the recipe.
    """
    problems: dict[Path, Problem] = {}
    for item in error.errors(include_url=False):
        kind, context = item["type"], item.get("ctx", {})
        if kind == "combination":
            return list(context["problems"])
        if kind == "default_factory_not_called":
            continue
        path = _place(item["loc"], values, missing=kind == "missing")
        text = _text(kind, path, item, schema, at)
        problems.setdefault(path, Problem((*at, *path), text))
    # a list with a wrong item is also said to be too short
    return [
        problem
        for path, problem in problems.items()
        if not any(other != path and other[: len(path)] == path for other in problems)
    ]


def prune(
    values: dict[str, Any], problems: list[Problem], schema: type[BaseModel]
) -> dict[str, Any]:
    """Return `values` without what the problems are about; what is required stands in as a placeholder."""
    pruned = copy.deepcopy(values)
    for problem in sorted(problems, key=lambda item: str(item.path), reverse=True):
        parent: Any = pruned
        try:
            for part in problem.path[:-1]:
                parent = parent[part]
        except (LookupError, TypeError):  # gone with what held it
            continue
        last = problem.path[-1] if problem.path else None
        field = _fields_at(schema, problem.path[:-1]).get(str(last))
        if field is not None and field.is_required():
            parent[last] = "x" if field.annotation is str else _placeholder(field.annotation)
        elif isinstance(parent, list):
            # a place in a list is kept, so that the other paths stay right
            parent[:] = []
        else:
            parent.pop(last, None)
    return pruned


def _placeholder(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {
            name: "x" if field.annotation is str else _placeholder(field.annotation)
            for name, field in annotation.model_fields.items()
            if field.is_required()
        }
    return 1


def _place(loc: tuple[int | str, ...], values: Any, *, missing: bool) -> Path:
    """Return the part of pydantic's location that exists in the recipe as it was written."""
    path: Path = ()
    for number, part in enumerate(loc):
        inside = (isinstance(values, dict) and part in values) or (
            isinstance(values, list) and isinstance(part, int) and part < len(values)
        )
        if inside:
            path, values = (*path, part), values[part]
        elif missing and number == len(loc) - 1 and isinstance(values, dict):
            return (*path, part)
        else:
            break
    return path


def _text(kind: str, path: Path, item: Any, schema: type[BaseModel], at: Path) -> str:
    given, message = item["input"], item["msg"]
    if kind == "extra_forbidden":
        return _unknown_key(str(path[-1]), path[:-1], schema, at)
    fields = _fields_at(schema, path[:-1])
    field = fields.get(str(path[-1])) if path else None
    if kind == "missing" and isinstance(
        item["loc"][-1], str
    ):  # a list that is too short lacks a number
        meaning = f": {field.description}" if field and field.description else "."
        return f"is missing{meaning}"
    if kind in ("item_options", "item_indent"):
        return f"is {show(given)}; {message}."
    if kind == "value_error":
        return f"is wrong: {message.removeprefix('Value error, ')}."
    annotation, metadata = _type_at(schema, path)
    allowed = describe(annotation, metadata)
    choices = _choices(annotation)
    if isinstance(given, str) and choices:
        meant = [_MEANT[given]] if _MEANT.get(given) in choices else candidates(given, choices)
        return f"is {show(given)}; it must be {allowed}.{question(meant)}"
    if kind == "string_pattern_mismatch":
        allowed = "letters, digits, dot, dash and underscore, and begin with a letter or digit"
    return f"is {show(given)}; it must be {allowed}."


def _unknown_key(key: str, parent: Path, schema: type[BaseModel], at: Path) -> str:
    known = list(_fields_at(schema, parent))
    listed = (
        ", ".join(known) if len(known) <= _MOST_KEYS else ", ".join(known[:_MOST_KEYS]) + ", ..."
    )
    allowed = f"{dotted((*at, *parent)) or 'A recipe'} takes: {listed}."
    if not (key in OTHER_NAMES and not at) and (near := misspelt(key, known)):
        return f"is not a key.{question(near)} {allowed}"
    if "." in key and not at:
        section, _, rest = key.partition(".")
        return f"is not a key: in a file the keys of a section stand below it. Write {section}: {{{rest}: ...}}."
    if not at and (instead := elsewhere(key, all_keys(schema))):
        return instead
    return f"is not a key.{did_you_mean(key, known) or _farther(key, schema)} {allowed}"


def elsewhere(key: str, places: Sequence[Path]) -> str:
    """Return a sentence about a key that exists in another place, or in another library; "" if in none.

    Args:
        key: The last part of what was written.
        places: All keys of the schema.
    """
    ours = [dotted(path) for path in places if path[-1] == key]
    if not ours and key in OTHER_NAMES:
        return f"is another library's name; set {OTHER_NAMES[key]} instead."
    if not ours and owner(key):
        return f"is TRL's name; set {owner(key)} instead."
    if not ours and key in trl_fields():
        ours = [f"training.{key}"]
    return f"is not a key here.{question(ours[:_MOST_PLACES])}" if ours else ""


def _farther(key: str, schema: type[BaseModel]) -> str:
    """Return a question after a key of another place that is spelt almost so."""
    places = {str(path[-1]): dotted(path) for path in reversed(all_keys(schema))}
    return question([places[near] for near in misspelt(key, places)])


def all_keys(schema: type[BaseModel], at: Path = ()) -> list[Path]:
    """Return the keys of a schema and of its sections, those with few parts first."""
    keys: list[Path] = []
    for name, field in schema.model_fields.items():
        keys.append((*at, name))
        inner = _model_of(field.annotation)
        if inner is not None and at == ():
            keys += all_keys(inner, (name,))
    return sorted(keys, key=len)


def _fields_at(schema: type[BaseModel], path: Path) -> dict[str, FieldInfo]:
    annotation, _ = _type_at(schema, path)
    model = _model_of(annotation)
    return dict(model.model_fields) if model else {}


def _type_at(schema: type[BaseModel], path: Path) -> tuple[Any, list[Any]]:
    """Return the annotation and its constraints at a path."""
    annotation: Any = schema
    metadata: list[Any] = []
    for part in path:
        model = _model_of(annotation)
        if isinstance(part, str) and model is not None:
            field = model.model_fields.get(part)
            if field is None:
                return None, []
            annotation, metadata = field.annotation, list(field.metadata)
        else:
            annotation, metadata = _element(annotation, part)
    return annotation, metadata


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        found = [_model_of(part) for part in get_args(annotation)]
        return next((model for model in found if model), None)
    return None


def _element(annotation: Any, place: int | str = 0) -> tuple[Any, list[Any]]:
    """Return the type of the values in a list or mapping; in a list of fixed length, of the one at `place`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        [annotation, *_] = [part for part in arguments if get_origin(part) is not None] or [None]
        return _element(annotation, place)
    if origin is Annotated and get_origin(arguments[0]) in (tuple, dict):
        return _element(arguments[0], place)
    inner = arguments[0] if origin is tuple else arguments[1] if origin is dict else None
    if origin is tuple and Ellipsis not in arguments and isinstance(place, int):
        inner = arguments[place] if place < len(arguments) else None
    if get_origin(inner) is Annotated:
        return get_args(inner)[0], _flat(get_args(inner)[1:])
    return inner, []


def _flat(metadata: tuple[Any, ...]) -> list[Any]:
    return [part for item in metadata for part in (getattr(item, "metadata", None) or [item])]


_WORDS = {
    int: "an integer",
    float: "a number",
    str: "a string",
    bool: "true or false",
    FilePath: "a path",
    type(None): "null",
    Any: "a value",
}


def describe(annotation: Any, metadata: list[Any]) -> str:
    """Return in words what a field takes.

    Example:
        >>> import annotated_types
        >>> describe(float | None, [annotated_types.Gt(0), annotated_types.Le(1)])
        'a number above 0 and at most 1, or null'
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    bounds = " and ".join(
        f"{word} {_limit(getattr(item, name))}"
        for item in metadata
        for name, word in _BOUNDS.items()
        if getattr(item, name, None) is not None
    )
    if origin in (Union, types.UnionType):
        return ", or ".join(describe(part, metadata) for part in arguments)
    if origin is Annotated:
        return describe(arguments[0], _flat(arguments[1:]))
    if origin is Literal:
        return _one_of(arguments)
    if origin is tuple and Ellipsis not in arguments:
        parts = ", ".join(describe(part, []) for part in arguments)
        return f"a list of {len(arguments)}: {parts}"
    if origin is tuple:
        inner, constraints = _element(annotation)
        least = [item.min_length for item in metadata if hasattr(item, "min_length")]
        count = f" of at least {least[0]}" if least and least[0] else ""
        return f"a list{count}, each item {describe(inner, constraints)}"
    model = _model_of(annotation)
    if model is not None and model.__name__ == "NamedItem":
        return "NAME or {NAME: {option: value}}"
    if model is not None:
        return f"a section with the keys {', '.join(model.model_fields)}"
    if origin is dict:
        return "a mapping"
    if annotation is str and any(getattr(item, "min_length", 0) for item in metadata):
        return "a string that is not empty"
    word = _WORDS.get(annotation, "something else")
    return f"{word} {bounds}" if bounds and annotation in (int, float) else word


def _limit(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _choices(annotation: Any) -> list[str]:
    """Return the words that a field takes."""
    if get_origin(annotation) is Literal:
        return [choice for choice in get_args(annotation) if isinstance(choice, str)]
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return [word for part in get_args(annotation) for word in _choices(part)]
    return []


def _one_of(choices: tuple[Any, ...]) -> str:
    words = [str(choice) for choice in choices]
    return words[0] if len(words) == 1 else f"one of {', '.join(words)}"
