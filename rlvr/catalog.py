"""What there is to choose from, read from the source files without importing them.

A folder's methods are its files that define `Config` and `build`; a file's functions are its public functions
that no other function of the file calls, and their keyword-only arguments are their options. Adding a method
or a function adds it here.
"""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Method:
    """One file of a folder of methods."""

    name: str
    summary: str
    """First line of the file's docstring."""
    docstring: str

    @property
    def paper(self) -> str | None:
        """The first https address of the docstring, arXiv first."""
        addresses = [
            word.strip(".,;()") for word in self.docstring.split() if word.startswith("http")
        ]
        return next(
            (item for item in addresses if "arxiv.org" in item), next(iter(addresses), None)
        )


@dataclass(frozen=True)
class Option:
    """A keyword-only argument of a function."""

    annotation: str
    required: bool


@dataclass(frozen=True)
class Function:
    """A public function of a file of functions."""

    name: str
    summary: str
    options: dict[str, Option]
    reads: frozenset[str]
    """Attributes of `terms` that the function uses, itself or through functions of its file."""


@cache
def methods(folder: str) -> dict[str, Method]:
    """Return the methods in `rlvr/<folder>` by name: the files that define `Config` and `build`."""
    found = {}
    for path in sorted((PACKAGE / folder).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        defined = {
            node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)
        }
        if {"Config", "build"} <= defined:
            docstring = ast.get_docstring(tree) or ""
            found[path.stem] = Method(path.stem, docstring.partition("\n")[0], docstring)
    return found


@cache
def functions(module: str) -> dict[str, Function]:
    """Return the functions that `rlvr/<module>.py` offers to recipes, by name."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    nodes = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    calls = {name: _called(node) & nodes.keys() for name, node in nodes.items()}
    helpers = {callee for name, called in calls.items() for callee in called if callee != name}
    return {
        name: Function(
            name,
            (ast.get_docstring(node) or "").partition("\n")[0],
            _options(node),
            _reads(name, nodes, calls),
        )
        for name, node in nodes.items()
        if not name.startswith("_") and name not in helpers
    }


def _called(node: ast.FunctionDef) -> set[str]:
    return {
        item.func.id
        for item in ast.walk(node)
        if isinstance(item, ast.Call) and isinstance(item.func, ast.Name)
    }


def _reads(
    name: str, nodes: dict[str, ast.FunctionDef], calls: dict[str, set[str]]
) -> frozenset[str]:
    reached, waiting = set[str](), [name]
    while waiting:
        current = waiting.pop()
        if current not in reached:
            reached.add(current)
            waiting.extend(calls[current])
    return frozenset(
        item.attr
        for current in reached
        for item in ast.walk(nodes[current])
        if isinstance(item, ast.Attribute)
        and isinstance(item.value, ast.Name)
        and item.value.id == "terms"
    )


def _options(node: ast.FunctionDef) -> dict[str, Option]:
    arguments = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return {
        argument.arg: Option(ast.unparse(argument.annotation), required=default is None)
        for argument, default in arguments
        if argument.annotation is not None and plain_types(ast.unparse(argument.annotation))
    }


_PLAIN = {"int": int, "float": float, "bool": bool, "str": str, "None": type(None)}
_PLAIN |= {"dict": dict, "list": list}


def plain_types(annotation: str) -> tuple[type, ...]:
    """Return the types that an annotation such as `float | None` names; () when one is not plain.

    Example:
        >>> plain_types("int | None"), plain_types("torch.dtype")
        ((<class 'int'>, <class 'NoneType'>), ())
    """
    parts = [part.strip().partition("[")[0] for part in annotation.split("|")]
    if any(part not in _PLAIN for part in parts):
        return ()
    return tuple(_PLAIN[part] for part in parts)


def fits(value: Any, annotation: str) -> bool:
    """Return whether `value` is of a type that the annotation names; True when it cannot be told."""
    types = plain_types(annotation)
    if not types:
        return True
    if isinstance(value, bool):
        return bool in types
    return isinstance(value, types) or (isinstance(value, int) and float in types)


@cache
def trl_fields() -> dict[str, str]:
    """Return the annotation of every field of TRL's `GRPOConfig`, its bases included."""
    fields: dict[str, str] = {}
    for package, file in (
        ("transformers", "training_args.py"),
        ("trl", "trainer/base_config.py"),
        ("trl", "trainer/grpo_config.py"),
    ):
        fields |= _class_fields(_package_folder(package) / file)
    return fields


@cache
def enum_values(package: str, file: str, name: str) -> tuple[str, ...]:
    """Return the values of an enumeration of words in a package's file.

    Example:
        >>> enum_values("transformers", "trainer_utils.py", "SchedulerType")[:2]
        ('linear', 'cosine')
    """
    tree = ast.parse((_package_folder(package) / file).read_text(encoding="utf-8"))
    return tuple(
        item.value.value
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == name
        for item in node.body
        if isinstance(item, ast.Assign)
        and isinstance(item.value, ast.Constant)
        and isinstance(item.value.value, str)
    )


def _package_folder(package: str) -> Path:
    from importlib.util import find_spec

    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(f"the package {package} is not installed; run `pip install {package}`.")
    return Path(spec.origin).parent


def _class_fields(path: Path) -> dict[str, str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        item.target.id: ast.unparse(item.annotation)
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for item in node.body
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and not item.target.id.startswith("_")
        and not ast.unparse(item.annotation).startswith("ClassVar")
    }
