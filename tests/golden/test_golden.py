"""The numbers of the authors' own code, met by the whole path: control, surrogate, aggregate, gradient.

Files `check_*.py` beside this one say how a method's files are read: `CHECKS`, method -> check.
`RLVR_GOLDEN_DIR=<dir> pytest tests/golden` runs the same tests over another folder of files of this schema.
"""

import importlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.golden.golden import Golden

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("RLVR_GOLDEN_DIR", HERE))
FILES = sorted(FOLDER.glob("*.json"))
CHECKS: dict[str, Callable[[Golden], None]] = {
    method: check
    for path in sorted(HERE.glob("check_*.py"))
    for method, check in importlib.import_module(f"tests.golden.{path.stem}").CHECKS.items()
}


def test_the_folder_has_golden_files() -> None:
    assert FILES, f"no golden files in {FOLDER}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_numbers_are_those_of_the_authors_code(path: Path) -> None:
    golden = Golden(path)
    assert golden.method in CHECKS, f"no check of {golden.method} in {HERE}"
    CHECKS[golden.method](golden)
