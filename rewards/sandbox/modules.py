"""What sandboxed programs may import: the standard library, and named packages.

Standard library only: it is loaded by the process that forks the executions. Modules are read
through descriptors of the folders that hold them, opened before the user id changes: an interpreter
under a closed home folder (/root/.pyenv) works for an unprivileged user too. Nothing else is
importable, and nothing is written.
"""

import importlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    BuiltinImporter,
    ExtensionFileLoader,
    FrozenImporter,
    ModuleSpec,
    SourceFileLoader,
)
from types import ModuleType
from typing import Any

# what programs commonly use: imported once, and then there for every execution
_COMMON = """abc array ast bisect calendar cmath collections collections.abc contextlib copy
copyreg datetime decimal enum fractions functools gc hashlib heapq inspect io itertools json keyword
locale math numbers operator os pprint queue random re reprlib secrets signal statistics string
struct sys textwrap threading time timeit traceback types typing unicodedata uuid warnings weakref
zlib"""
_NEVER = ("site-packages", "dist-packages", "__pycache__")


class Finder:
    """Finds modules below open folders.

    Args:
        roots: Folder, and the top-level names that it may serve (None: all of them).
    """

    def __init__(self, roots: Iterable[tuple[str, frozenset[str] | None]]) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._roots = [
            (path, os.open(path, flags), names) for path, names in roots if os.path.isdir(path)
        ]

    def descriptors(self) -> list[int]:
        """Return the descriptors that must stay open."""
        return [descriptor for _, descriptor, _ in self._roots]

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where a module is; part of the import protocol."""
        del path, target
        top = name.partition(".")[0]
        inside = name.replace(".", "/")
        for root, descriptor, names in self._roots:
            if top in _NEVER or (names is not None and top not in names):
                continue
            for file in _candidates(inside):
                if _is_file(file, descriptor):
                    return _spec(name, root, file, descriptor)
        return None


def _candidates(inside: str) -> Iterator[str]:
    yield f"{inside}/__init__.py"
    yield from (f"{inside}{suffix}" for suffix in EXTENSION_SUFFIXES)
    yield f"{inside}.py"


def _is_file(file: str, descriptor: int) -> bool:
    try:
        os.stat(file, dir_fd=descriptor)
    except (OSError, ValueError):
        return False
    return True


def _spec(name: str, root: str, file: str, descriptor: int) -> ModuleSpec:
    path = f"{root}/{file}"
    loader: SourceFileLoader | ExtensionFileLoader
    if file.endswith(".py"):
        loader = _Source(name, path, root, descriptor)
    else:
        loader = _Extension(name, path, root, descriptor)
    spec = ModuleSpec(name, loader, origin=path, is_package=file.endswith("/__init__.py"))
    spec.has_location = True
    if spec.submodule_search_locations is not None:
        spec.submodule_search_locations.append(os.path.dirname(path))
    return spec


class _Source(SourceFileLoader):
    def __init__(self, name: str, path: str, root: str, descriptor: int) -> None:
        super().__init__(name, path)
        self._root, self._descriptor = root, descriptor

    def _open(self, path: str) -> int:
        inside = os.path.relpath(path, self._root)
        return os.open(inside, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._descriptor)

    def get_data(self, path: str) -> bytes:
        with open(self._open(path), "rb") as file:
            return file.read()

    def path_stats(self, path: str) -> dict[str, float]:
        descriptor = self._open(path)
        try:
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        return {"mtime": found.st_mtime, "size": found.st_size}

    def set_data(self, path: str, data: Any, *, _mode: int = 0) -> None:
        """Nothing is written."""


class _Extension(ExtensionFileLoader):
    def __init__(self, name: str, path: str, root: str, descriptor: int) -> None:
        super().__init__(name, path)
        self._root, self._descriptor = root, descriptor

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        # the dynamic loader takes a path only: one from the open folder
        here = os.open(".", os.O_PATH | os.O_CLOEXEC)
        given = self.path
        try:
            os.fchdir(self._descriptor)
            self.path = "./" + os.path.relpath(given, self._root)
            spec.origin = self.path
            return super().create_module(spec)
        finally:
            spec.origin = self.path = given
            os.fchdir(here)
            os.close(here)


def prepare(packages: Sequence[str], search: Sequence[str]) -> Finder:
    """Import what programs commonly use, and these packages; return the finder of the rest.

    Args:
        packages: Top-level packages that programs may import besides the standard library.
        search: Folders in which the packages are looked for, with what they need themselves.
    """
    for name in _COMMON.split():
        importlib.import_module(name)
    roots: list[tuple[str, frozenset[str] | None]] = [(folder, None) for folder in sys.path]
    if packages:
        before = set(sys.modules)
        sys.path.extend(search)
        for name in packages:
            importlib.import_module(name)
        del sys.path[len(sys.path) - len(search) :]
        roots += _homes(set(sys.modules) - before, search)
    finder = Finder(roots)
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter, finder]  # type: ignore[list-item]
    sys.path_importer_cache.clear()
    return finder


def readable(finder: Finder) -> list[str | int]:
    """Return the places that code must be able to read so that its imports work."""
    places: list[str | int] = []
    for root, descriptor, names in finder._roots:
        for entry in os.listdir(descriptor):
            top = entry.partition(".")[0]
            if entry not in _NEVER and (names is None or top in names):
                places.append(f"{root}/{entry}")
    return places


def _homes(modules: Iterable[str], search: Sequence[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield the search folders that hold the imported modules, with the names found in each."""
    tops = {name.partition(".")[0] for name in modules}
    for folder in search:
        entries = (
            {entry.partition(".")[0] for entry in os.listdir(folder)}
            if os.path.isdir(folder)
            else set()
        )
        if found := frozenset(tops & entries):
            yield folder, found
