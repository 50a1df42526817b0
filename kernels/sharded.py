"""Parameters that DeepSpeed's ZeRO-3 has cut: whole while they are read."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor


def belongs_to_zero3(parameter: Tensor | None) -> bool:
    """Return whether ZeRO-3 takes this parameter apart between uses."""
    return hasattr(parameter, "ds_status")


def is_sharded(parameter: Tensor | None) -> bool:
    """Return whether this is a parameter of which a process has only a part at hand, under ZeRO-3."""
    status = getattr(parameter, "ds_status", None)
    return status is not None and status.name != "AVAILABLE"


def gathered(*parameters: Tensor | None) -> AbstractContextManager[Any]:
    """Return a context in which these parameters are whole; one gather for all of them.

    Parameters that are whole already, such as a tied head's, are left alone.
    """
    cut = [parameter for parameter in parameters if is_sharded(parameter)]
    if not cut:
        return nullcontext()
    from deepspeed.zero import GatheredParameters

    return GatheredParameters(cut)


def local(parameter: Tensor | None) -> Tensor | None:
    """Return a parameter of FSDP2 as a whole, with gradient; others as they are."""
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
