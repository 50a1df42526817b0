"""What a run says on the screen: short lines, from the first process, without the chatter of other libraries."""

import logging
import os
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def is_first_process() -> bool:
    """Whether this process speaks for the run."""
    return os.environ.get("RANK", "0") == "0"


def process_rank() -> int:
    """Return which of the run's processes this is."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """Return how many processes the launcher started, over all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def say(text: str = "") -> None:
    """Print a line, once for all processes."""
    if is_first_process():
        _print(text)


def _print(text: str) -> None:
    # a log on a full disk, a terminal that is gone: a run does not end by it
    with suppress(OSError):
        print(text, flush=True)  # noqa: T201


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    Example:
        >>> plural(1, "rollout"), plural(2, "rollout")
        ('1 rollout', '2 rollouts')
    """
    return f"{count} {noun}" + ("" if count == 1 else "s")


def plain_table(*headings: str, gap: int = 2) -> "Table":
    """Return a table without lines, its columns `gap` blanks apart."""
    from rich.table import Table

    return Table(*headings, box=None, pad_edge=False, padding=(0, gap, 0, 0))


def console_for_tables(width: int) -> "Console":
    """Return standard output for tables: as wide as the terminal, or this wide in a file, which has no width."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=width)


def set_up() -> None:
    """Show what this package logs; keep libraries to what a user can act on."""
    logger = logging.getLogger("rlvr")
    if not any(isinstance(handler, _Screen) for handler in logger.handlers):
        logger.addHandler(_Screen())
        logger.propagate = False
    logger.setLevel(logging.INFO if is_first_process() else logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # TRL sets arguments that transformers renames in its next major version: nothing a user can change
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    # deepspeed sets its logger's level when it is imported; a filter stays
    logging.getLogger("DeepSpeed").addFilter(_is_worth_saying)


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """Return whether a line of deepspeed tells something: that it sees no GPU comes up on every CPU."""
    return "Setting accelerator to CPU" not in record.getMessage()


class _Screen(logging.Handler):
    """Prints what the package logs as lines among those of `say`."""

    def emit(self, record: logging.LogRecord) -> None:
        kind = "warning" if record.levelno >= logging.WARNING else "note"
        _print(f"{kind:<10}{record.getMessage()}")
