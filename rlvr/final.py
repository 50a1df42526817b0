"""The model that a run ends with: whole in `final/`, or not there and said to be missing."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from rlvr import checkpoint
from rlvr.console import say
from rlvr.zero import make_whole

if TYPE_CHECKING:
    from rlvr.trainer import Trainer

FINAL = "final"
CHECKPOINTS = "checkpoints"

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
        nothing: Callable[[], Any] = lambda: None
        steps = (
            partial(checkpoint.place, run) if processes.is_first else nothing,
            partial(trainer.save_model, str(run / checkpoint.WRITING / FINAL)),
            partial(_publish, run) if processes.is_first else nothing,
        )
        for step in steps:
            # each begins when all have ended the one before
            problems = processes.gather_list([_tried(step)])
            problem = next(filter(None, problems), None)
            if problem is not None:
                if processes.is_first:
                    checkpoint.remains(run)
                return problem
        return None


def without_final(run: Path) -> str:
    """Return in a sentence where the weights of a run are that has no final model."""
    whole = filter(checkpoint.is_whole, checkpoint.checkpoints(run / CHECKPOINTS))
    newest = next(whole, None)
    if newest is None:
        return f"There is no {FINAL}/, and no checkpoint either."
    update = checkpoint.update_of(newest)
    return f"There is no {FINAL}/, but a checkpoint of update {update}: rlvr export {run} --to FOLDER --checkpoint {update}"


def _publish(run: Path) -> None:
    make_whole(run / checkpoint.WRITING / FINAL)
    checkpoint.publish(run, FINAL, None)


def _tried(step: Callable[[], Any]) -> str | None:
    """Take a step of saving; return why it failed, in a line."""
    try:
        step()
    except OSError as error:
        return error.strerror or str(error)
    # of safetensors, of torch.save, of parts that are elsewhere
    except (SafetensorError, RuntimeError, ValueError) as error:
        return str(error).strip().partition("\n")[0]
    return None
