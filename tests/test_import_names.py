"""The folders `kernels/`, `rewards/` and `recipes/` are part of the package without taking their bare names.

Hugging Face publishes a package `kernels`, which transformers imports: a regular package of that name in the
repository root would hide it, and `from trl import GRPOTrainer` would fail.
"""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKED = ("kernels", "rewards", "recipes")
HEAVY = (
    "accelerate",
    "datasets",
    "deepspeed",
    "matplotlib",
    "math_verify",
    "numpy",
    "peft",
    "plotly",
    "pyarrow",
    "torch",
    "transformers",
    "trl",
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def python(code, **environment):
    """Return what a fresh interpreter in the repository root prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported_heavily(statement):
    return python(f"import sys\n{statement}\nprint(*sorted(set({HEAVY}) & set(sys.modules)))")


@pytest.mark.parametrize("name", LINKED)
def test_a_top_level_folder_is_linked_into_the_package(name):
    link = ROOT / "rlvr" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"


@pytest.mark.parametrize("name", LINKED)
def test_a_top_level_folder_is_no_regular_package(name):
    assert list((ROOT / name).rglob("__init__.py")) == []


def test_trl_and_the_linked_folders_import_with_the_repository_root_first_on_the_path():
    code = """
import sys
from trl import GRPOTrainer
import rlvr.kernels.naive, rlvr.rewards.verdict
print(sys.path[1], {"kernels.naive", "rewards", "rewards.verdict"} & set(sys.modules))
"""
    assert python(code).split("\n")[-2] == f"{ROOT} set()"


@pytest.mark.parametrize(
    "statement",
    [
        "import rlvr",
        "import rlvr.cli",
        "import rlvr.recipe",
        "import rlvr.rewards.scorer",
        "from contextlib import suppress\nwith suppress(SystemExit): __import__('rlvr.cli').cli.main(['--help'])",
    ],
    ids=["rlvr", "cli", "recipe", "scorer", "help"],
)
def test_nothing_heavy_is_imported_for(statement):
    assert imported_heavily(statement).split("\n")[-2] == ""


@pytest.mark.parametrize("arguments", ["-c,import rlvr", "-m,rlvr,--help"], ids=["import", "help"])
def test_half_a_second_of_processor_time_is_enough_for(arguments):
    import resource

    def seconds():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    spent = []
    for _ in range(3):  # the first run may have to write bytecode
        before = seconds()
        subprocess.run(
            [sys.executable, *arguments.split(",")], cwd=ROOT, capture_output=True, check=True
        )
        spent.append(seconds() - before)
    assert min(spent) < 0.5


def test_no_file_imports_the_bare_names():
    found = []
    for folder in ("rlvr", "kernels", "rewards", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [node.module or ""]
                found += [(path, name) for name in names if name.split(".")[0] in LINKED]
    assert found == []


def test_the_linter_refuses_the_bare_names():
    lint = PROJECT["tool"]["ruff"]["lint"]
    assert "TID251" in lint["select"]
    assert {"kernels", "rewards"} <= lint["flake8-tidy-imports"]["banned-api"].keys()


def test_the_wheel_lists_every_folder_that_holds_python_files():
    inside = {path.parent.relative_to(ROOT) for path in (ROOT / "rlvr").rglob("*.py")}
    inside |= {
        Path("rlvr") / path.parent.relative_to(ROOT)
        for name in LINKED
        for path in (ROOT / name).rglob("*.py")
    }
    code = {".".join(path.parts) for path in inside}
    listed = set(SETUPTOOLS["packages"])
    assert code - listed == set()
    assert {name for name in listed - code if not name.startswith("rlvr.recipes")} == set()


def test_the_wheel_takes_every_data_file():
    taken, present = set(), set()
    for package in SETUPTOOLS["packages"]:
        folder = ROOT / Path(*package.split("."))
        for pattern in SETUPTOOLS["package-data"].get(package, []):
            taken |= {path.resolve() for path in folder.glob(pattern) if path.is_file()}
    for folder in ("rlvr", "kernels", "rewards", "recipes"):
        present |= {
            path.resolve()
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and path.suffix not in (".py", ".pyc")
        }
    assert present - taken == set()
