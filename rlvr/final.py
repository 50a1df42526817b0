"""The model that a run ends with: whole in `final/`, or not there and said to be missing."""

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr import checkpoint
from rlvr.console import say
from rlvr.zero import make_whole

if TYPE_CHECKING:
    from rlvr.trainer import Trainer

FINAL = "final"

logger = logging.getLogger(__name__)


class Final:
    """The final model of a run.

    Args:
        run: The run folder.
    """

    def __init__(self, run: Path) -> None:
        self.folder = run / FINAL
        self.problem: str | None = None
        """Why it could not be saved; the same on every process."""

    def save(self, trainer: "Trainer") -> None:
        """Save the policy whole or not at all, and say which; called on every process."""
        with trainer.processes.heartbeat.phase("saving"):
            self.problem = self._saved(trainer)
        if self.problem is None:
            say(f"saved     {self.folder}")
        else:
            logger.warning("%s could not be saved (%s); make room", self.folder, self.problem)

    def missing(self) -> str | None:
        """Return in a sentence what the run lacks, and where the weights are; None: nothing."""
        if self.problem is None:
            return None
        return f"{self.folder} could not be saved ({self.problem}). {without_final(self.folder.parent)}"

    def _saved(self, trainer: "Trainer") -> str | None:
        run, processes = self.folder.parent, trainer.processes
        problem = checkpoint.in_steps(
            processes,
            partial(checkpoint.place, run) if processes.is_first else None,
            partial(trainer.save_model, str(run / checkpoint.WRITING / FINAL)),
            partial(_publish, run) if processes.is_first else None,
        )
        if problem is not None and processes.is_first:
            checkpoint.remains(run)
        return problem


def without_final(run: Path) -> str:
    """Return in a sentence where the weights of a run are that has no final model."""
    whole = filter(checkpoint.is_whole, checkpoint.checkpoints(run / checkpoint.CHECKPOINTS))
    newest = next(whole, None)
    if newest is None:
        return f"There is no {FINAL}/, and no checkpoint either."
    update = checkpoint.update_of(newest)
    return f"There is no {FINAL}/, but a checkpoint of update {update}: rlvr export {run} --to FOLDER --checkpoint {update}"


def _publish(run: Path) -> None:
    make_whole(run / checkpoint.WRITING / FINAL)
    checkpoint.publish(run, FINAL, None)
