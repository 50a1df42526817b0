"""Read a data set as a list of dicts: a hub id, a local file, or a folder of local files."""

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlvr.data.layout import Misfit
from rlvr.suggest import closest

SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
"""Known file types; a text file may be compressed (`.jsonl.gz`)."""

_SPLIT_WORDS = {
    "train": {"train", "training"},
    "test": {"test"},
    "validation": {"validation", "valid", "val", "dev", "eval"},
}


def read(
    path: str, *, split: str = "train", revision: str | None = None, subset: str | None = None
) -> list[dict[str, Any]]:
    """Return the rows of a data set as they are stored.

    Args:
        path: Local file or folder if there is one of this name, else a hub id.
        split: Of a hub data set; in a folder, chooses among files that have a split in their name.
        revision: Branch, tag or commit on the hub.
        subset: Configuration of a hub data set.

    Raises:
        ValueError: Where it cannot be read; the message says what to do.
    """
    local = Path(path).expanduser()
    if not local.exists():
        if not is_hub_id(path):
            raise ValueError(f"{path}: no such file or folder.{_neighbours(local)}")
        return _read_hub(path, split=split, revision=revision, subset=subset)
    for option, value in (("revision", revision), ("subset", subset)):
        if value is not None:
            raise Misfit((option,), f"is {value!r}, but a local path has none ({path}); remove it")
    files = [local] if local.is_file() else _files(local, split)
    return [row for file in files for row in _read_file(file)]


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def is_hub_id(path: str) -> bool:
    """Return whether a path that does not exist here may be a data set of the hub.

    Example:
        >>> is_hub_id("openai/gsm8k"), is_hub_id("./gsm8k"), is_hub_id("data/gsm8k.jsonl")
        (True, False, False)
    """
    is_id = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) is not None
    return is_id and not path.startswith(".") and _suffix(Path(path)) not in SUFFIXES


def _neighbours(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f" There is no folder {folder} either; the path is relative to {Path.cwd()}."
    names = [entry.name for entry in folder.iterdir()]
    near = closest(path.name, names)
    return f" Did you mean {folder / near}?" if near else f" Looked in {folder.resolve()}."


def _files(folder: Path, split: str) -> list[Path]:
    found = sorted(file for file in folder.iterdir() if _suffix(file) in SUFFIXES)
    if not found:
        raise ValueError(f"{folder}: no data files in it; known types: {', '.join(SUFFIXES)}")
    chosen = [file for file in found if _file_split(file) in (None, split)]
    if not chosen:
        names = ", ".join(file.name for file in found)
        text = (
            f"is {split!r}, of which {folder} has no file; set another, or path to one of {names}"
        )
        raise Misfit(("split",), text)
    return chosen


def _file_split(file: Path) -> str | None:
    words = set(re.split(r"[^a-z]+", file.name.lower()))
    return next((split for split, names in _SPLIT_WORDS.items() if words & names), None)


def _read_file(file: Path) -> list[dict[str, Any]]:
    suffix = _suffix(file)
    if suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            # ParquetFile: a folder named key=value above the file must not become a column
            return pyarrow.parquet.ParquetFile(file).read().to_pylist()
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"{file}: not a parquet file: {error}") from None
    if suffix not in SUFFIXES:
        raise ValueError(f"{file}: unknown file type; known: {', '.join(SUFFIXES)}")
    content = file.read_bytes()
    try:
        text = (gzip.decompress(content) if file.suffix == ".gz" else content).decode("utf-8-sig")
    except (UnicodeDecodeError, OSError, EOFError) as error:
        raise ValueError(f"{file}: not UTF-8 text, or a broken archive: {error}") from None
    if suffix == ".csv":
        return list(_csv_rows(file, text))
    if suffix == ".json":
        rows = _json_rows(file, text)
        if rows is not None:
            return rows
    return list(_jsonl_rows(file, text))


def _csv_rows(file: Path, text: str) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    csv.field_size_limit(2**31 - 1)  # the default refuses cells above 128 KiB
    for row in reader:
        if None in row:
            raise ValueError(
                f"{file}, line {reader.line_num}: more cells than the header has; "
                "put text with commas in quotes"
            )
        yield {str(name): value for name, value in row.items()}


def _json_rows(file: Path, text: str) -> list[dict[str, Any]] | None:
    """Return the rows of a list of objects, or None where the file holds one object a line."""
    try:
        value = json.loads(text)
    except ValueError:
        if text.lstrip().startswith("{"):
            return None
        raise ValueError(
            f"{file}: not JSON; a list of objects or one object a line is read"
        ) from None
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list)]
        value = lists[0] if len(lists) == 1 else [value]
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise ValueError(f"{file}: a list of objects is read, one object a row")
    return value


def _jsonl_rows(file: Path, text: str) -> Iterator[dict[str, Any]]:
    # not splitlines: it also splits at U+2028, which JSON strings may hold
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise ValueError(f'{file}, line {number}: an object is needed, as in {{"prompt": ...}}')
        yield row


def _read_hub(
    path: str, *, split: str, revision: str | None, subset: str | None
) -> list[dict[str, Any]]:
    import datasets
    from huggingface_hub.errors import HTTPError  # of whichever client the hub's library uses

    from rlvr.reach import cache_if_unreachable

    try:
        with cache_if_unreachable(path):
            loaded = datasets.load_dataset(path, name=subset, split=split, revision=revision)
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(
            f"{path}: could not be loaded from the hub (split {split!r}, subset {subset!r}, "
            f"revision {revision!r}): {reason}\n"
            "There is no local file or folder of this name either. Without network: download it "
            f"elsewhere (hf download {path} --repo-type dataset --local-dir DIR), then set path "
            "to DIR or to a .jsonl, .json, .parquet or .csv file."
        ) from None
    return loaded.to_list()
