"""Files that are there whole or not at all, also where a process is killed while it writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a name beside a file to write to; what is written there becomes the file when the block ends well.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "run.json"
        >>> with whole_file(path) as partial:
        ...     _ = partial.write_text("{}")
        >>> [item.name for item in path.parent.iterdir()]
        ['run.json']
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)  # leaves what room there is to others
        raise
