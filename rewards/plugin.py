"""A user's own reward: `path/to/file.py:function` or `module:function`.

    def reward(sample) -> float | bool | Verdict              sample.completion, .answer, .row, ...
    async def reward(sample) -> float | bool | Verdict        many are waited for together
    def reward(samples) -> list                               some completions in one call
    def reward(group) -> list                                 all completions of one prompt
    def reward(completions, answer, **columns) -> list[float]     as TRL's reward functions

The file is read here, but not imported: it runs in the workers (rewards/plugin_call.py).
"""

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvr.rewards.calling import ASYNC, LISTS, SAMPLE, TRL, Form
from rlvr.suggest import closest

_TRL_GIVEN = ("prompts", "completions", "log_extra", "log_metric")
_TRL_ABSENT = ("completion_ids", "trainer_state", "environments")
_IMPORTS = 5  # that are followed to find where a function is written

Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Reference:
    """A user's function by name, found without importing it.

    Attributes:
        text: For a worker: absolute path, or module, and function.
        name: Of the function.
        columns: Row columns that the function needs: its parameters where it is TRL-style, what it
            reads as `sample.row["name"]`, and what the file lists as COLUMNS.
        form: How many samples one call takes; one, where only a worker can tell.
    """

    text: str
    name: str
    columns: tuple[str, ...]
    form: Form


def is_reference(item: str) -> bool:
    """Return whether a verifier's name names a user's function."""
    return ":" in item or item.endswith(".py")


def find(item: str) -> Reference:
    """Return the reference after checking that the function exists.

    Raises:
        ValueError: Where the file, module or function is missing or cannot be a reward.
    """
    place, _, function = item.rpartition(":")
    if not place or not function.isidentifier():
        raise ValueError(f"reward {item!r} names no function; write path/to/file.py:function")
    is_file = place.endswith(".py")
    path = Path(place).expanduser().resolve() if is_file else _module_file(place)
    if path is None:
        return Reference(item, function, (), SAMPLE)  # not a source file: only a worker can tell
    if not path.is_file():
        raise ValueError(f"reward {item!r}: there is no file {path}")
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"reward {item!r}: {path} is not valid Python: {error}") from None
    bound = dict(_bound(tree.body))
    if function not in bound and "*" not in bound:
        functions = [name for name, node in bound.items() if isinstance(node, Definition)]
        near = closest(function, functions)
        question = f" Did you mean '{near}'?" if near else ""
        listed = ", ".join(functions) or "none"
        raise ValueError(
            f"reward {item!r}: {path} has no function {function!r}.{question} Functions: {listed}."
        )
    text = f"{path if is_file else place}:{function}"
    columns = _listed_columns(item, tree)
    node = _definition(path, bound.get(function), function)
    if node is None:
        return Reference(text, function, columns, SAMPLE)
    form, named = declared(item, *_signature(node), awaited=isinstance(node, ast.AsyncFunctionDef))
    columns = tuple(dict.fromkeys((*columns, *named, *_read_columns(node))))
    return Reference(text, function, columns, form)


def declared(
    item: str, required: Sequence[str], optional: Sequence[str], *, awaited: bool
) -> tuple[Form, tuple[str, ...]]:
    """Return the form that a function's parameters declare, and the columns that they name.

    Args:
        item: Name of the function, for messages.
        required: Parameters without a default.
        optional: Other positional parameters; `*args` is one without a name.
        awaited: Whether the function is `async`.

    Raises:
        ValueError: Where it cannot be a reward.

    Example:
        >>> form, columns = declared("f", ["completions", "level"], [], awaited=False)
        >>> form.name, columns
        ('trl', ('level',))
    """
    for name in required:
        if name in _TRL_ABSENT:
            raise ValueError(
                f"reward {item!r} needs {name!r}, which is not known where rewards are computed; "
                "give it a default, or write a function of `sample`, which has `length` in tokens"
            )
    if "completions" in required or "prompts" in required:
        return TRL, tuple(name for name in required if name not in _TRL_GIVEN)
    if len(required) == 1 or (not required and optional):
        return LISTS.get((*required, *optional)[0], ASYNC if awaited else SAMPLE), ()
    raise ValueError(
        f"reward {item!r} takes ({', '.join(required)}); it must take one argument (a sample, or "
        "named `samples` or `group` a list of them), or `completions` and columns by name as "
        "TRL's reward functions do"
    )


def _signature(node: Definition) -> tuple[list[str], list[str]]:
    """Return the parameters without a default, and the other positional ones."""
    arguments = node.args
    positional = [arg.arg for arg in (*arguments.posonlyargs, *arguments.args)]
    required = positional[: len(positional) - len(arguments.defaults)]
    optional = positional[len(required) :] + ([""] if arguments.vararg else [])
    keyword = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return required + [arg.arg for arg, default in keyword if default is None], optional


def _read_columns(node: ast.AST) -> list[str]:
    """Return what is read as `.row["name"]`, unless the function can do without."""
    found = []
    for item in ast.walk(node):
        looks = isinstance(item, ast.Compare) and any(map(_is_row, item.comparators))
        if looks or isinstance(item, ast.Try):
            return []
        if isinstance(item, ast.Subscript) and _is_row(item.value):
            key = item.slice
            is_read = isinstance(item.ctx, ast.Load)
            if is_read and isinstance(key, ast.Constant) and isinstance(key.value, str):
                found.append(key.value)
    return found


def _is_row(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "row"


def _listed_columns(item: str, tree: ast.Module) -> tuple[str, ...]:
    """Return what the file's `COLUMNS = ("answer", ...)` lists; () where it has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "COLUMNS" for target in node.targets
        ):
            try:
                columns = ast.literal_eval(node.value)
            except ValueError:
                columns = None
            if isinstance(columns, tuple | list) and all(isinstance(c, str) for c in columns):
                return tuple(columns)
            raise ValueError(
                f"reward {item!r}: COLUMNS must be a tuple of names, such as ('answer', 'level')"
            )
    return ()


def _bound(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Yield the names that a module's statements bind, with the statement."""
    for node in body:
        if isinstance(node, Definition):
            yield node.name, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield (alias.asname or alias.name), node
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id, node
        elif isinstance(node, ast.If | ast.Try | ast.With):
            for part in ("body", "orelse", "finalbody"):
                yield from _bound(getattr(node, part, []))


def _definition(path: Path, node: ast.stmt | None, name: str) -> Definition | None:
    """Return where a function is written, following imports; None where that is not seen."""
    for _ in range(_IMPORTS):
        if isinstance(node, Definition):
            return node
        if not isinstance(node, ast.ImportFrom):
            return None
        name = next((a.name for a in node.names if (a.asname or a.name) == name), name)
        source = _imported_file(path, node)
        try:
            body = ast.parse(source.read_bytes()).body if source else []
        except (OSError, SyntaxError, ValueError):
            return None
        path, node = source or path, dict(_bound(body)).get(name)
    return None


def _imported_file(path: Path, node: ast.ImportFrom) -> Path | None:
    """Return the source file of the module from which a file imports."""
    parts = (node.module or "").split(".") if node.module else []
    base = path.parents[max(node.level - 1, 0)].joinpath(*parts)
    near = (base.with_name(base.name + ".py"), base / "__init__.py")
    found = next((file for file in near if file.is_file()), None)
    if node.level:
        return found
    try:  # a neighbour must not hide a library
        return _module_file(".".join(parts))
    except ValueError:
        return found


def _module_file(module: str) -> Path | None:
    """Return a module's source file without importing it or its packages; None if it has none."""
    path = None
    spec = None
    parts = module.split(".")
    for depth in range(len(parts)):
        name = ".".join(parts[: depth + 1])
        found = (finder.find_spec(name, path) for finder in sys.meta_path)
        spec = next((item for item in found if item is not None), None)
        if spec is None:
            raise ValueError(
                f"reward module {module!r}: there is no module {name!r}; for a file write "
                "path/to/file.py:function"
            )
        path = list(spec.submodule_search_locations or [])
    origin = spec.origin if spec is not None else None
    return Path(origin) if origin and origin.endswith(".py") else None
