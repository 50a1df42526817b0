"""Dashboards that a run sends its metrics to (`monitor.report_to`), kept from costing it anything.

Each is transformers' callback for it, called in a thread of its own: a tracker that cannot be reached, raises or hangs
is said once, and training goes on. `metrics.jsonl` has every row in any case, and `send` sends them later.
"""

import logging
import os
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from rlvr.console import is_first_process, plural, say
from rlvr.monitor.store import METRICS_FILE, Run, read_rows, read_run
from rlvr.suggest import unknown_name

START = 30.0
"""Seconds for which a run waits until a tracker is set up; then it goes on, and the rows wait."""
END = 120.0
"""Seconds for which a run waits at its end until a tracker has taken all rows."""
NAMES = ("tensorboard", "trackio", "wandb")
PROJECT = "rlvr"
"""On a tracker, where the recipe says no other (`training.project`)."""

logger = logging.getLogger(__name__)


class Tracker(TrainerCallback):
    """One tracker, called in a thread of its own.

    Args:
        name: As in `monitor.report_to`.
        make: Returns the callback that speaks to it; called in the thread too.
        later: The command that sends what it missed.
        start: Seconds to wait for its set-up.
        end: Seconds to wait at the end.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], TrainerCallback],
        *,
        later: str,
        start: float,
        end: float,
    ) -> None:
        self.failure: Exception | None = None
        """What it raised; it is not called any more."""
        self._name, self._make = name, make
        self._advice = f"{METRICS_FILE} has every row; to send them later: {later}"
        self._start, self._end = start, end
        self._calls: SimpleQueue[tuple[Callable[[TrainerCallback], Any], threading.Event]]
        self._calls = SimpleQueue()
        # a daemon: one that hangs does not keep the process alive
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the tracker up, and wait a little for it."""
        self._thread.start()
        taken = self._send("on_train_begin", args, state, control, kwargs)
        if not taken.wait(self._start):
            logger.warning(
                "the tracker %s is not set up after %g s; training goes on, and the rows wait for it",
                self._name,
                self._start,
            )

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Send a row, without waiting."""
        self._send("on_log", args, state, control, kwargs)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell of a checkpoint, without waiting."""
        self._send("on_save", args, state, control, kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the tracker, and wait until it has taken everything, but not for ever."""
        taken = self._send("on_train_end", args, state, control, kwargs)
        if not taken.wait(self._end):
            logger.warning(
                "the tracker %s has not taken all rows after another %g s and is left behind; %s",
                self._name,
                self._end,
                self._advice,
            )

    def _send(
        self, event: str, args: Any, state: Any, control: Any, more: Mapping[str, Any]
    ) -> threading.Event:
        """Have the thread call an event with what is true now; what is returned is set when it has."""
        # the loop goes on changing these
        state, logs = copy(state), copy(more.get("logs"))
        given = {**more, "logs": logs} if "logs" in more else more
        taken = threading.Event()
        call = lambda callback: getattr(callback, event)(args, state, copy(control), **given)
        self._calls.put((call, taken))
        return taken

    def _work(self) -> None:
        callback: TrainerCallback | None = None
        while True:
            call, taken = self._calls.get()
            try:
                if self.failure is None:
                    callback = callback or self._make()
                    call(callback)
            except Exception as error:  # whatever it is, it is not the run's
                self.failure = error
                logger.warning(
                    "the tracker %s failed and is not called again (%s); %s",
                    self._name,
                    _reason(error),
                    self._advice,
                )
            taken.set()


def trackers(names: Sequence[str], run: Path) -> list[TrainerCallback]:
    """Return what sends a run's metrics to trackers, on the first process; nothing on the others.

    Args:
        names: As in `monitor.report_to`.
        run: Its folder.
    """
    if not is_first_process():
        return []
    _say_where(run)
    return [
        Tracker(
            name,
            _maker(name),
            later=f"rlvr monitor {shlex.quote(str(run))} --report-to {name}",
            start=START,
            end=END,
        )
        for name in names
    ]


def send(run: Path, names: Sequence[str]) -> None:
    """Send the rows that a run has written to trackers.

    Args:
        run: Its folder.
        names: As in `monitor.report_to`.

    Raises:
        ValueError: If the folder has no rows, there is no such tracker, or it does not take them.
    """
    for name in names:
        if name not in NAMES:
            raise ValueError(unknown_name("tracker", name, NAMES))
    record, rows = read_run(run), read_rows(run)
    _say_where(run)
    for name in names:
        try:
            _send_all(_maker(name)(), record, rows)
        except Exception as error:
            raise ValueError(
                f"the tracker {name} did not take the rows of {run}: {_reason(error)}"
            ) from error
        say(f"sent      {plural(len(rows), 'update')} of {run} to {name}")


def _send_all(callback: TrainerCallback, record: Run, rows: Sequence[Mapping[str, Any]]) -> None:
    training = record.recipe.get("training") or {}
    said = {
        key: value
        for key, value in training.items()
        if key == "project" or key.startswith("trackio_")
    }
    args = TrainingArguments(
        output_dir=str(record.folder),
        run_name=record.name,
        use_cpu=True,
        report_to=[],
        **{"project": PROJECT, **said},
    )
    state, control = TrainerState(is_world_process_zero=True), TrainerControl()
    callback.on_train_begin(args, state, control, model=None)
    for row in rows:
        state.global_step = row["update"]
        logs = {key: value for key, value in row.items() if value is not None and key != "update"}
        callback.on_log(args, state, control, model=None, logs=logs)
    callback.on_train_end(args, state, control, model=None)


def _maker(name: str) -> Callable[[], TrainerCallback]:
    [kind] = get_reporting_integration_callbacks([name])
    return kind


def _say_where(run: Path) -> None:
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run / "tensorboard")


def _reason(error: Exception) -> str:
    """Return an error's kind and first line."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
