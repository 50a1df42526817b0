"""Procedural tasks by name: the files of `rlvr/data/tasks/`, and `reasoning_gym/<name>`.

A task file holds a docstring, a frozen pydantic `Config` with a field `split`, and
`generate(config, size, seed) -> rows`. Adding a file adds the task; nothing else is edited.
"""

import importlib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from pydantic import ValidationError

from rlvr.data.split import Split, problem_split
from rlvr.suggest import closest, unknown_name

GYM_PREFIX = "reasoning_gym/"


def task_names() -> list[str]:
    """Return the names of the built-in tasks.

    Example:
        >>> "countdown" in task_names()
        True
    """
    folder = Path(__file__).parent / "tasks"
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def check_task(name: str, options: Mapping[str, Any], *, split: str = "train") -> None:
    """Raise ValueError where a task's name, options or split are wrong; generates nothing.

    For `reasoning_gym/<name>` only the installation and the split are checked: its options are
    known by the task itself, which is slow to import.
    """
    if split not in get_args(Split):
        raise ValueError(f"task {name}: split is {split!r}; procedural tasks have train and test")
    if name.startswith(GYM_PREFIX):
        if importlib.util.find_spec("reasoning_gym") is None:
            raise ValueError(
                f"task {name}: the package reasoning_gym is not installed; "
                "pip install 'rlvr[tasks]'"
            )
        return
    _configure(name, options, split)


def generate_task(
    name: str, options: Mapping[str, Any], *, size: int, seed: int, split: str = "train"
) -> list[dict[str, Any]]:
    """Return `size` different problems of a task, the same ones for the same arguments.

    Args:
        name: A built-in task, or `reasoning_gym/<name>`.
        options: Fields of the task's Config (built-in) or of the reasoning-gym task.
        size: Number of rows, at least 1.
        seed: Any integer.
        split: `train` or `test`; no problem is in both.

    Returns:
        Rows with `prompt`, `answer`, `task` and what the task's verifier needs.
    """
    check_task(name, options, split=split)
    if size < 1:
        raise ValueError(f"task {name}: size is {size}; it must be at least 1")
    if name.startswith(GYM_PREFIX):
        rows = _generate_gym(name, options, size=size, seed=seed, split=split)
    else:
        module, config = _configure(name, options, split)
        rows = module.generate(config, size, seed)
    return [row | {"task": name} for row in rows]


def _configure(name: str, options: Mapping[str, Any], split: str) -> tuple[ModuleType, Any]:
    known = task_names()
    if name not in known:
        raise ValueError(unknown_name("task", name, [*known, f"{GYM_PREFIX}<name>"]))
    module = importlib.import_module(f"rlvr.data.tasks.{name}")
    fields = [field for field in module.Config.model_fields if field != "split"]
    for option in options:
        if option == "split":
            raise ValueError(f"task {name}: set split beside task, not among task_options")
        if option not in fields:
            raise ValueError(f"task {name}: {unknown_name('option', option, fields)}")
    try:
        return module, module.Config(**options, split=split)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            place = ".".join(["task_options", *map(str, item["loc"])])
            given = f" is {item['input']!r}" if item["loc"] else ""
            problems.append(f"{place}{given}: {item['msg'].removeprefix('Value error, ')}")
        raise ValueError(f"task {name}: " + "; ".join(problems)) from None


def _generate_gym(
    name: str, options: Mapping[str, Any], *, size: int, seed: int, split: str
) -> list[dict[str, Any]]:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    task = name.removeprefix(GYM_PREFIX)
    if task not in DATASETS or task == "composite":
        known = closest(task, DATASETS)
        raise ValueError(
            f"reasoning_gym has no single task {task!r}. "
            + (f"Did you mean {known!r}? " if known else "")
            + f"There are {len(DATASETS)}; list them with: "
            'python -c "from reasoning_gym.factory import DATASETS; print(*DATASETS)"'
        )
    draws = 200 + 30 * size  # one draw in ten is a test problem; simple tasks repeat themselves
    try:
        # seed and index are added there: far apart, so that neighbouring seeds share no problems
        dataset = reasoning_gym.create_dataset(task, size=draws, seed=seed * 10_000_019, **options)
    except (TypeError, AssertionError, ValueError) as error:
        raise ValueError(f"task {name}: task_options {dict(options)}: {error}") from None
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for index in range(draws):
        entry = dataset[index]
        question = str(entry["question"])
        if question in seen or problem_split(name, question) != split:
            continue
        seen.add(question)
        # as one string: the metadata of different problems have different shapes
        row = {"prompt": question, "answer": entry["answer"], "entry": json.dumps(entry)}
        rows.append(row)
        if len(rows) == size:
            return rows
    raise ValueError(
        f"task {name}: only {len(rows)} different problems of split {split!r} were found, "
        f"{size} were asked for; lower size, or widen the task's options"
    )
