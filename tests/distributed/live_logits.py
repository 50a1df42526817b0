"""`rlvr train`, which also writes what the model that is in training says of some tokens: `live_logits.py OUT RECIPE ...`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # accelerate starts this file by its path

import torch

from rlvr.cli import main
from rlvr.trainer import Trainer

TOKENS = [[5, 9, 3, 12, 7, 4, 20, 6]]

after_update = Trainer.after_update


def after_update_and_write(self: Trainer) -> None:
    """Go on, then write the logits, and how many parameters are whole on this process between updates."""
    after_update(self)
    live = sum(parameter.numel() for parameter in self.model.parameters())
    with torch.no_grad():
        logits = self.model(torch.tensor(TOKENS)).logits
    if self.processes.is_first:
        found = {"logits": logits, "live": live, "update": self.state.global_step}
        torch.save(found, sys.argv[1])


if __name__ == "__main__":
    Trainer.after_update = after_update_and_write  # type: ignore[method-assign]
    main(["train", *sys.argv[2:]])
