"""Examples in docstrings do what they say."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def examples():
    """Return (module, name of the documented thing, docstring with `>>>`) over the whole source."""
    found = []
    for folder in ("rlvr", "kernels", "rewards"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            module = ".".join(parts if folder == "rlvr" else ("rlvr", *parts))
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    docstring = ast.get_docstring(node) or ""
                    if ">>>" in docstring:
                        found.append((module, getattr(node, "name", "module"), docstring))
    return found


@pytest.mark.parametrize(
    ("module", "name", "docstring"), examples(), ids=lambda value: value[:40].split("\n")[0]
)
def test_an_example_does_what_it_says(module, name, docstring):
    try:
        names = dict(vars(importlib.import_module(module)))
    except ModuleNotFoundError as error:
        if str(error.name).startswith("rlvr"):
            raise
        pytest.skip(f"{error.name} is not installed")  # of an extra
    case = doctest.DocTestParser().get_doctest(docstring, names, f"{module}.{name}", None, 0)
    report: list[str] = []
    outcome = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(
        case, out=report.append
    )
    assert outcome.attempted > 0
    assert outcome.failed == 0, "".join(report)
