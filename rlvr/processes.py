"""What processes tell each other: rows of a generation, sums, records."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from rlvr.batch import RolloutBatch
from rlvr.watch.heartbeat import NO_HEARTBEAT, Heartbeat
from rlvr.watch.record import WAITING

_LEFT_PADDED = ("prompt_ids", "prompt_mask")


class Processes:
    """The processes of a run; with one, every method returns what it was given.

    Args:
        accelerator: What they talk through.
        heartbeat: Of this process.
    """

    def __init__(self, accelerator: Accelerator, heartbeat: Heartbeat = NO_HEARTBEAT) -> None:
        self._accelerator = accelerator
        self.heartbeat = heartbeat
        self.count = accelerator.num_processes
        self.rank = accelerator.process_index
        self.is_first = accelerator.is_main_process

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self._accelerator.device

    def share(self, total: int) -> list[int]:
        """Return this process's positions of `total`, as many on every process: beyond `total` they are fillers."""
        size = -(-total // self.count)
        return list(range(self.rank * size, (self.rank + 1) * size))

    def gather(self, value: Tensor, *, left_padded: bool = False) -> Tensor:
        """Return the rows of all processes, in their order, padded to a common width."""
        if self.count == 1:
            return value
        kind = value.dtype
        value = value.to(torch.uint8) if kind == torch.bool else value
        with self._together():
            if value.dim() > 1:
                value = self._accelerator.pad_across_processes(value, dim=1, pad_first=left_padded)
            return self._accelerator.gather(value.contiguous()).to(kind)

    def gather_batch(self, batch: RolloutBatch, places: Tensor) -> RolloutBatch:
        """Return the rows of all processes ordered by place, fillers (place -1) left out."""
        gathered = batch.map(
            lambda name, value: self.gather(value, left_padded=name in _LEFT_PADDED)
        )
        places = self.gather(places)
        order = places.argsort(stable=True)
        return gathered.rows(order[places[order] >= 0])

    def gather_list(self, items: list[Any]) -> list[Any]:
        """Return the items of all processes."""
        with self._together():
            return gather_object(items)

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum over processes."""
        with self._together():
            return self._accelerator.reduce(value.to(self.device), reduction="sum")

    def wait(self) -> None:
        """Return when every process has come here."""
        with self._together():
            self._accelerator.wait_for_everyone()

    def _together(self) -> AbstractContextManager[None]:
        """Say that this process waits for the others, where there are any."""
        return nullcontext() if self.count == 1 else self.heartbeat.phase(WAITING)
