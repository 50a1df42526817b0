"""One recipe from several sources: `extends`, overlays and `key=value`, with the origin of every value.

Later wins: parents, the recipe, overlays from left to right, the command line. Maps merge, lists replace; a
named choice (`surrogate: {sapo: {...}}`) merges only with the same name; updates and epochs, a data set and a
task replace each other. `name`, `output`, `source` and
`expect` describe one file and are not inherited.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from rlvr.recipe_error import Path as Keys
from rlvr.recipe_error import RecipeError, dotted, raise_problems, show
from rlvr.recipe_yaml import parse_value, read_yaml
from rlvr.suggest import did_you_mean

SHIPPED = Path(__file__).parent / "recipes"
OWN = ("name", "output", "source", "expect")
CHOICES = {("algorithm", "surrogate"), ("algorithm", "aggregate"), ("algorithm", "advantage")}
ALTERNATIVES: dict[Keys, Keys] = {
    ("training", "updates"): ("training", "epochs"),
    ("training", "epochs"): ("training", "updates"),
    ("data", "path"): ("data", "task"),
    ("data", "task"): ("data", "path"),
}
"""Of two that exclude each other, the one from the later source stands."""
NAMED_LISTS = {("entropy",), ("rewards", "verifiers"), ("evaluation", "sets")}
_OVERRIDE = re.compile(r"^[A-Za-z_][^\s=]*=")


@dataclass(frozen=True)
class Origins:
    """Where the values of a recipe were written."""

    recipe: str
    """The file (or name) the recipe was loaded from."""
    written: Mapping[Keys, str] = field(default_factory=dict)
    """`file:line` or `command line` of every value that was given; the others are defaults."""
    layers: Mapping[Keys, int] = field(default_factory=dict)
    """Rank of the source of a given value: the higher wins. -1: a resolved recipe, where nothing was chosen."""

    def of(self, path: Keys) -> str:
        """Return where the value at `path` was written, or `default`."""
        return self.written.get(path, "default")

    def near(self, path: Keys) -> str:
        """Return the origin of the value at `path`, else of the closest thing around it; "" if none."""
        ends = range(len(path), 0, -1)
        return next((self.written[path[:end]] for end in ends if path[:end] in self.written), "")

    def layer(self, path: Keys) -> int | None:
        """Return the layer of a value that was given; None for a default."""
        return self.layers.get(path)


@contextmanager
def placed(origins: Origins) -> Iterator[None]:
    """Add to problems that are met inside where their values were written."""
    try:
        yield
    except RecipeError as error:
        if not error.problems or any(problem.origin for problem in error.problems):
            raise
        problems = [replace(item, origin=origins.near(item.path)) for item in error.problems]
        raise_problems(problems, origins.recipe)


@dataclass
class Composition:
    """Values under way, with their origins."""

    values: dict[str, Any] = field(default_factory=dict)
    written: dict[Keys, str] = field(default_factory=dict)
    layers: dict[Keys, int] = field(default_factory=dict)
    layer: int = 0

    def add(self, values: dict[str, Any], lines: Mapping[Keys, int], file: str) -> None:
        """Merge a file over what is there."""
        self.layer += 1
        marker = values.pop("resolved", None)
        layer = -1 if marker is not None else self.layer
        self._merge(self.values, values, (), lambda path: f"{file}:{lines.get(path, 1)}", layer)

    def at(self, path: Keys) -> Any:
        """Return the value at `path`."""
        value: Any = self.values
        for part in path:
            value = value[part]
        return value

    def set(self, path: Keys, value: Any, layer: int) -> None:
        """Set one value from the command line; `path` leads through maps and lists that exist."""
        target = self.at(path[:-1])
        self._put(target, path[-1], value, path, lambda _: "command line", layer)

    def _merge(self, target: dict, values: Mapping, path: Keys, where: Any, layer: int) -> None:
        for key, value in values.items():
            self._put(target, key, value, (*path, key), where, layer)

    def _put(self, target: Any, key: Any, value: Any, path: Keys, where: Any, layer: int) -> None:
        before = target[key] if isinstance(target, list) else target.get(key)
        merges = isinstance(value, dict) and isinstance(before, dict) and bool(value)
        if merges and path in CHOICES:
            merges = value.keys() == before.keys()
        if merges and path != ("source",):
            self._note(path, where(path), layer)
            self._merge(before, value, path, where, layer)
            return
        self.forget(path)
        target[key] = value
        self._note_all(value, path, where, layer)
        other = ALTERNATIVES.get(path)
        if other and value is not None and self.layers.get(other, layer) < layer:
            self.forget(other)
            del target[other[-1]]

    def _note(self, path: Keys, text: str, layer: int) -> None:
        self.written[path], self.layers[path] = text, layer

    def _note_all(self, value: Any, path: Keys, where: Any, layer: int) -> None:
        self._note(path, where(path), layer)
        items: Any = ()
        if isinstance(value, dict):
            items = value.items()
        elif isinstance(value, list):
            items = enumerate(value)
        for key, item in items:
            self._note_all(item, (*path, key), where, layer)

    def forget(self, path: Keys) -> None:
        """Drop the origins of a value that is replaced."""
        for known in [known for known in self.written if known[: len(path)] == path]:
            del self.written[known], self.layers[known]


def compose(
    recipe: str | Path, overlays: Sequence[str | Path] = (), overrides: Sequence[str] = ()
) -> tuple[dict[str, Any], Origins]:
    """Return the merged values of a recipe, not yet checked against the schema, and their origins.

    Args:
        recipe: A file, or the name of a shipped recipe.
        overlays: Files merged over the recipe, from left to right.
        overrides: `key=value` items, from left to right.
    """
    path = find_recipe(recipe)
    composition = Composition()
    for values, lines, file in _chain(path):
        composition.add(values, lines, file)
    for overlay in overlays:
        values, lines, file = _read(find_recipe(overlay))
        if "extends" in values:
            raise RecipeError(
                f"{file}:{lines[('extends',)]}: an overlay cannot extend another recipe; "
                f"remove `extends`, or give `{overlay}` first to make it the recipe."
            )
        composition.add(values, lines, file)
    composition.layer += 1
    for override in overrides:
        _override(composition, override)
    composition.values.setdefault("name", path.stem)
    return composition.values, Origins(_shown(path), composition.written, composition.layers)


def find_recipe(given: str | Path, beside: Path | None = None) -> Path:
    """Return the file that `given` names: a path, or the name of a shipped recipe.

    Args:
        given: As the user wrote it.
        beside: Folder that a relative path is looked up in first; None: the working directory.
    """
    name = str(given)
    for path in ((beside or Path()) / name, SHIPPED / name, SHIPPED / f"{name}.yaml"):
        if path.is_file():
            return path
    if Path(name).is_dir():
        raise RecipeError(f"{name}: is a folder; give the recipe file in it.")
    raise RecipeError(
        f"{name}: there is no such file or shipped recipe.{did_you_mean(Path(name).stem, shipped_recipes())} "
        f"Shipped: {', '.join(shipped_recipes())}."
    )


def shipped_recipes() -> list[str]:
    """Return the names of the shipped recipes: `clip_cov`, `demo/grpo`."""
    files = [*SHIPPED.glob("*.yaml"), *SHIPPED.glob("demo/*.yaml")]
    return sorted(str(file.relative_to(SHIPPED).with_suffix("")) for file in files)


def is_override(argument: str) -> bool:
    """Return whether a command-line argument is `key=value` rather than a file."""
    return bool(_OVERRIDE.match(argument))


def _shown(path: Path) -> str:
    if path.is_relative_to(SHIPPED):
        return f"recipes/{path.relative_to(SHIPPED)}"
    return str(path)


def _read(path: Path) -> tuple[dict[str, Any], dict[Keys, int], str]:
    file = _shown(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file}: cannot be read as UTF-8 text: {error}") from error
    values, lines = read_yaml(text, file)
    _find_model(values, path.parent)
    return values, lines, file


def _find_model(values: dict[str, Any], folder: Path) -> None:
    """Make `model.path` lead to a folder beside the recipe, where there is one."""
    model = values.get("model")
    if isinstance(model, dict) and isinstance(name := model.get("path"), str):
        beside = folder / name
        if not Path(name).is_dir() and beside.is_dir():
            model["path"] = str(beside)


def _chain(path: Path) -> list[tuple[dict[str, Any], dict[Keys, int], str]]:
    """Return the recipe and its ancestors, the oldest first."""
    files: list[tuple[dict[str, Any], dict[Keys, int], str]] = []
    seen: list[Path] = []
    current: Path | None = path
    while current is not None:
        if current.resolve() in seen:
            names = [file for *_, file in files] + [_shown(current)]
            raise RecipeError(f"{names[0]}: extends itself: {' -> '.join(names)}")
        seen.append(current.resolve())
        values, lines, file = _read(current)
        where = f"{file}:{lines.get(('extends',), 1)}"
        if files:
            values = {key: value for key, value in values.items() if key not in OWN}
        parent = values.pop("extends", None)
        files.append((values, lines, file))
        if parent is None:
            break
        if not isinstance(parent, str):
            raise RecipeError(f"{where}: extends is {parent!r}; it names one file or recipe.")
        try:
            current = find_recipe(parent, beside=current.parent)
        except RecipeError as error:
            raise RecipeError(f"{where}: extends {error}") from None
    return files[::-1]


def _override(composition: Composition, override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise RecipeError(
            f"command line: '{override}' is not key=value; write for example training.seed=1."
        )
    try:
        value = parse_value(text)
    except ValueError as error:
        raise RecipeError(
            f"command line: {key}: {text!r} {error}; quote the value for the shell, "
            f"for example {key}='[a, b]'."
        ) from None
    path: Keys = ()
    target: Any = composition.values
    for part, following in pairwise(parts):
        path = _descend(path, target, part, following)
        target = composition.at(path)
    if not isinstance(target, list):
        path = (*path, parts[-1])
    elif parts[-1].isdigit() or path not in NAMED_LISTS or path[-1] == "sets":
        path = (*path, _position(path, target, parts[-1]))
    else:
        path = _item_options(path, target, _position(path, target, parts[-1]))
    composition.set(path, value, composition.layer)


def _descend(path: Keys, target: Any, part: str, following: str) -> Keys:
    """Return the path of the container that `part` leads to, making a map where there is nothing."""
    if isinstance(target, list):
        index = _position(path, target, part)
        if path in NAMED_LISTS and path[-1] != "sets":
            return _item_options(path, target, index)
        return (*path, index)
    here = (*path, part)
    value = target.get(part)
    if here in CHOICES and value == following:
        target[part] = {following: {}}
    elif here in CHOICES and value is not None and following not in value:
        chosen = value if isinstance(value, str) else ", ".join(map(str, value))
        raise RecipeError(
            f"command line: {dotted(here)} is {chosen}, not {following}; to choose {following}: "
            f"{dotted(here)}='{{{following}: {{...}}}}'."
        )
    elif here in NAMED_LISTS and not value:
        raise RecipeError(_no_item(here, [], following))
    elif value is None:
        target[part] = {}
    elif not isinstance(value, dict | list):
        raise RecipeError(
            f"command line: {dotted((*here, following))}: "
            f"{dotted(here)} is {show(value)} and holds no keys."
        )
    return here


def _position(path: Keys, items: list, part: str) -> int:
    """Return the place in a list that `part` names, by number or by the item's name."""
    names = [_item_name(path, item) for item in items]
    if path in NAMED_LISTS and part in names:
        return names.index(part)
    if part.isdigit() and int(part) < len(items):
        return int(part)
    raise RecipeError(_no_item(path, [name for name in names if name], part))


def _item_name(path: Keys, item: Any) -> str | None:
    if isinstance(item, str):
        return item
    if isinstance(item, dict) and path[-1] == "sets":
        return item.get("name")
    if isinstance(item, dict) and len(item) == 1:
        return str(next(iter(item)))
    return None


def _item_options(path: Keys, items: list, index: int) -> Keys:
    """Return the path to the options of a list item, turning NAME and {NAME: null} into {NAME: {}}."""
    name = _item_name(path, items[index])
    if name is None:
        raise RecipeError(
            f"command line: {dotted((*path, index))} is {show(items[index])}; "
            "an item is NAME or {NAME: {option: value}}."
        )
    if not isinstance(items[index], dict) or items[index][name] is None:
        items[index] = {name: {}}
    return (*path, index, name)


def _no_item(path: Keys, names: list[str], part: str) -> str:
    example = f"[{{name: {part}, ...}}]" if path[-1] == "sets" else f"[{{{part}: {{}}}}]"
    return (
        f"command line: {dotted(path)} has no item '{part}' (it has: {', '.join(names) or 'none'})."
        f"{did_you_mean(part, names)} To replace the list: {dotted(path)}='{example}'"
    )
