"""The run folder: what a training run measured, written so that a crash loses nothing.

`metrics.jsonl` has one JSON object per update, each written in one call and flushed, so a run
killed at any moment leaves at most one torn last line, which reading tolerates and resuming cuts
off. `completions/update_00001.parquet` holds the completions of an update, written beside its
place and renamed. A disk that takes nothing (it is full, or gone) stops no run: rows wait in memory
until it does, completions are left out. Metric names and units: `rlvr/monitor/metrics.py`.
"""

import json
import logging
import math
import os
import tempfile
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from rlvr.whole_file import whole_file

METRICS_FILE = "metrics.jsonl"
COMPLETIONS_FOLDER = "completions"
RECIPE_FILE = "resolved.yaml"
SET_ASIDE = "set_aside"
WAITING = 10_000
"""Rows that wait for a disk at most, some 30 MB; beyond, the oldest are lost."""

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]

_COMPLETION_TYPES: dict[str, str] = {
    "update": "int64",
    "generation": "int64",
    "prompt": "string",
    "completion": "string",
    "answer": "string",
    "task": "string",
    "reward": "float64",
    "verdict": "string",
    "reason": "string",
    "advantage": "float64",
    "length": "int64",
    "truncated": "bool",
    "entropy": "float64",
}


class RunWriter:
    """Appends metrics and completions to a run folder. Used by one process (rank 0).

    Args:
        folder: The run folder; made if it is missing.
        resume_from: None starts a run and refuses a folder that already has metrics. A number
            continues after that update: rows and completions of later updates, which will be
            computed again, move to `set_aside/`, and `notes` says so.
    """

    def __init__(self, folder: str | os.PathLike[str], *, resume_from: int | None = None) -> None:
        self.folder = Path(folder)
        self.notes: list[str] = []
        path = self.folder / METRICS_FILE
        self.folder.mkdir(parents=True, exist_ok=True)
        if resume_from is not None:
            self._rewind(resume_from)
        elif path.exists() and path.stat().st_size:
            raise ValueError(
                f"{self.folder} holds another run ({METRICS_FILE} is not empty); nothing was "
                "changed. Choose another folder with output=..., continue it with --resume, or "
                "remove it."
            )
        # unbuffered: what a full disk has not taken must not be written twice
        self._file = path.open("ab", buffering=0)
        self._waiting: deque[bytes] = deque(maxlen=WAITING)
        self._completions_fail = False

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append one row, after those that wait.

        Args:
            metrics: Name to number (Python, NumPy or a 0-d tensor), None or string; `update` is
                required. NaN and infinities are written as null.
        """
        if not isinstance(metrics.get("update"), int | np.integer):
            raise ValueError(f"a metrics row needs an integer 'update'; got {sorted(metrics)}")
        row = plain_row(metrics)
        have_waited = len(self._waiting)
        self._waiting.append((json.dumps(row, allow_nan=False) + "\n").encode())
        error = self._write_waiting()
        if error is None and have_waited:
            logger.info("%s: %d rows that had waited are written", self.folder, have_waited)
        elif error is not None and not have_waited:
            logger.warning(
                "%s/%s cannot be written (%s): training goes on, and its rows wait in memory until it can; make room",
                self.folder,
                METRICS_FILE,
                error.strerror,
            )

    def _write_waiting(self) -> OSError | None:
        """Append rows until none waits; return what kept it from that."""
        while self._waiting:
            try:
                _append(self._file.fileno(), self._waiting[0])
            except OSError as error:
                return error
            self._waiting.popleft()
        return None

    def completions(self, update: int, rows: Sequence[Mapping[str, Any]]) -> Path | None:
        """Write the completions of one update; returns the file, or None if the disk does not take it.

        Args:
            update: The update that trains on them.
            rows: Keys as in docs/metrics.md; missing ones become null. `rewards` (or `parts`), a
                mapping from verifier to score, becomes one column each. Other keys are kept
                as they are if they are numbers or strings, and as JSON otherwise.
        """
        import pyarrow.parquet

        path = completions_path(self.folder, update)
        table = _table(update, rows)
        try:
            path.parent.mkdir(exist_ok=True)
            with whole_file(path) as partial:
                pyarrow.parquet.write_table(table, partial, compression="zstd")
        except OSError as error:
            if not self._completions_fail:
                logger.warning(
                    "%s cannot be written (%s): training goes on, completions are left out until it can",
                    path,
                    error.strerror or error,
                )
            self._completions_fail = True
            return None
        self._completions_fail = False
        return path

    def close(self) -> str | None:
        """Close the metrics file; further calls do nothing.

        Returns:
            None, or, if rows still wait, what the file lacks and where that was saved instead.
        """
        if self._file.closed:
            return None
        error = self._write_waiting()
        self._file.close()
        if error is None:
            return None
        return (
            f"{self.folder}/{METRICS_FILE} cannot be written ({error.strerror}) and lacks the last "
            f"{len(self._waiting)} rows. {_rescued(self._waiting, self.folder)}"
        )

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rewind(self, update: int) -> None:
        path = self.folder / METRICS_FILE
        kept: list[str] = []
        later: list[str] = []
        for line, row in _lines(path):
            (later if row["update"] > update else kept).append(line)
        aside = self.folder / SET_ASIDE
        files = [p for n, p in _completion_files(self.folder) if n > update]
        torn = path.exists() and not _ends_with_newline(path)
        if later or files:
            aside = free_folder(aside / f"after_update_{update:05d}")
            aside.mkdir(parents=True)
            if later:
                (aside / METRICS_FILE).write_text("".join(x + "\n" for x in later), "utf-8")
            for file in files:
                file.replace(aside / file.name)
            self.notes.append(
                f"resumed after update {update}: {len(later)} rows of metrics and {len(files)} "
                f"files of completions of later updates moved to {aside}; these updates are "
                "computed again"
            )
        if later or torn:
            with whole_file(path) as partial:
                partial.write_text("".join(x + "\n" for x in kept), "utf-8")
        if torn:
            self.notes.append(f"{path}: the torn last line of the interrupted run was cut off")


@dataclass(frozen=True)
class Run:
    """A run as it was read: metrics as columns over `update`."""

    folder: Path
    name: str
    columns: dict[str, FloatArray] = field(repr=False)
    """Metric name to values, one per row; NaN where the row lacks the metric. All same length."""
    recipe: dict[str, Any] = field(default_factory=dict, repr=False)
    """`resolved.yaml` as plain data; empty if the folder has none."""

    @property
    def updates(self) -> FloatArray:
        """The update of each row, ascending."""
        return self.columns["update"]

    def series(self, name: str) -> tuple[FloatArray, FloatArray]:
        """Return (updates, values) of a metric where it was measured; empty if it never was."""
        values = self.columns.get(name)
        if values is None:
            return np.empty(0), np.empty(0)
        known = ~np.isnan(values)
        return self.updates[known], values[known]

    def first(self, name: str) -> float:
        """Return the first measured value of a metric, NaN if there is none."""
        values = self.series(name)[1]
        return float(values[0]) if len(values) else math.nan

    def last(self, name: str) -> float:
        """Return the last measured value of a metric, NaN if there is none."""
        values = self.series(name)[1]
        return float(values[-1]) if len(values) else math.nan


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Read a run folder.

    Raises:
        ValueError: There is no such folder, no metrics in it, or a damaged line that is not the
            last one.
    """
    folder = Path(folder)
    rows = read_rows(folder)
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {
        name: np.array([_number(row.get(name)) for row in rows], dtype=np.float64)
        for name in names
        if any(isinstance(row.get(name), int | float) for row in rows)
    }
    recipe = _read_recipe(folder / RECIPE_FILE)
    name = recipe.get("name") or folder.resolve().name
    return Run(folder=folder, name=str(name), columns=columns, recipe=recipe)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics of a run folder, one row per update.

    Raises:
        ValueError: As `read_run`.
    """
    path = folder / METRICS_FILE
    if not path.is_file():
        raise ValueError(f"{folder} has no {METRICS_FILE}; give the folder of a run")
    merged: dict[int, dict[str, Any]] = {}
    for _, row in _lines(path):
        merged.setdefault(row["update"], {}).update(row)
    if not merged:
        raise ValueError(f"{path} has no rows yet; wait for the first update")
    return [merged[update] for update in sorted(merged)]


def read_completions(folder: str | os.PathLike[str], update: int) -> list[dict[str, Any]]:
    """Return the completions of one update as rows.

    Raises:
        ValueError: The run has none for this update.
    """
    import pyarrow.parquet

    path = completions_path(Path(folder), update)
    if not path.exists():
        there = [n for n, _ in _completion_files(Path(folder))]
        known = (
            f"there are some for updates {there[0]} to {there[-1]}" if there else "there are none"
        )
        raise ValueError(f"{path} does not exist: no completions of update {update}; {known}")
    return pyarrow.parquet.read_table(path).to_pylist()


def completions_path(folder: Path, update: int) -> Path:
    """Return the file of the completions of an update."""
    return folder / COMPLETIONS_FOLDER / f"update_{update:05d}.parquet"


def _append(file: int, data: bytes) -> None:
    """Append to an open file all or nothing.

    Raises:
        OSError: If it does not take all; it is as it was.
    """
    end = os.lseek(file, 0, os.SEEK_END)
    written = 0
    try:
        while written < len(data):
            written += os.write(file, data[written:])
    except OSError:
        if written:
            os.ftruncate(file, end)
        raise


def _rescued(rows: Iterable[bytes], folder: Path) -> str:
    """Save rows where this machine keeps temporary files; return a sentence that says so."""
    try:
        with tempfile.NamedTemporaryFile(
            prefix=f"{folder.resolve().name}-", suffix=f"-{METRICS_FILE}", delete=False
        ) as file:
            file.writelines(rows)
    except OSError as error:
        return f"They could not be saved in {tempfile.gettempdir()} either ({error.strerror})."
    return f"They are in {file.name}: append them when there is room."


def _completion_files(folder: Path) -> list[tuple[int, Path]]:
    files = (folder / COMPLETIONS_FOLDER).glob("update_*.parquet")
    return sorted((int(p.stem.removeprefix("update_")), p) for p in files)


def _lines(path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield each line and its row; a torn last line is left out."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row["update"], int):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            if number == len(lines):  # no newline after it: the writer was killed while writing
                return
            raise ValueError(
                f"{path}, line {number} is not a metrics row: {line[:80]!r}. Repair or remove the line."
            ) from None
        yield line, row


def _ends_with_newline(path: Path) -> bool:
    data = path.read_bytes()
    return not data or data.endswith(b"\n")


def free_folder(path: Path) -> Path:
    """Return `path`, or the first of `path_2`, `path_3` ... that does not exist."""
    count, free = 1, path
    while free.exists():
        count += 1
        free = path.with_name(f"{path.name}_{count}")
    return free


def plain_row(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics as a row of the run folder has them."""
    return {name: _plain(name, value) for name, value in metrics.items()}


def _plain(name: str, value: Any) -> Any:
    """Return what JSON can hold: number, string, bool or None."""
    if value is None or isinstance(value, str | bool):
        return value
    if hasattr(value, "item"):  # NumPy scalar, 0-d array or tensor
        value = value.item()
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    raise TypeError(
        f"metric {name!r} is a {type(value).__name__}; it must be a number, string or None"
    )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _table(update: int, rows: Sequence[Mapping[str, Any]]) -> Any:
    import pyarrow as pa

    flat = [_flatten({"update": update, **row}) for row in rows]
    extra = sorted({name for row in flat for name in row} - set(_COMPLETION_TYPES))
    arrays = {}
    for name, kind in _COMPLETION_TYPES.items():
        values = [row.get(name) for row in flat]
        if kind == "string":
            values = [None if v is None else _text(v) for v in values]
        arrays[name] = pa.array(values, type=kind if kind != "bool" else pa.bool_())
    for name in extra:
        values = [row.get(name) for row in flat]
        kinds = {type(v) for v in values if v is not None}
        if kinds and kinds <= {int, float}:
            arrays[name] = pa.array(values, type="float64")
        else:
            arrays[name] = pa.array(
                [None if v is None else _text(v) for v in values], type="string"
            )
    return pa.table(arrays)


def _flatten(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name in ("rewards", "parts") and isinstance(value, Mapping):
            flat |= {f"rewards/{verifier}": _finite(score) for verifier, score in value.items()}
        else:
            flat[name] = _finite(value)
    return flat


def _finite(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: Any) -> str:
    return (
        str(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    )


def _read_recipe(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    return recipe if isinstance(recipe, dict) else {}
