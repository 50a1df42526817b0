"""`rlvr train`, which also says after each update how many parameters are whole on this process."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # accelerate starts this file by its path

from rlvr.cli import main
from rlvr.trainer import Trainer

after_update = Trainer.after_update


def after_update_and_say(self: Trainer) -> None:
    """Go on, then print."""
    after_update(self)
    live = sum(parameter.numel() for parameter in self.model.parameters())
    print(f"live parameters: {live}", flush=True)  # noqa: T201


Trainer.after_update = after_update_and_say  # type: ignore[method-assign]

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
