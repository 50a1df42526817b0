"""How many bytes of tensors a piece of real computation keeps and has at its fullest."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make, while they live; those of `known` tensors count as nothing."""

    def __init__(self, known: Iterator[torch.Tensor]) -> None:
        super().__init__()
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}
        self.now = self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


@contextmanager
def counted(model: torch.nn.Module) -> Iterator[LiveBytes]:
    """Count what is made inside, without the weights and gradients of a model."""
    parts = [*model.parameters(), *model.buffers()]
    for item in model.parameters():
        if item.requires_grad:
            item.grad = torch.zeros_like(item)
            parts.append(item.grad)
    with LiveBytes(iter(parts)) as live:
        yield live
