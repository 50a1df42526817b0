"""What a rollout says about each verifier: its part of the reward, its time, how often it fails."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rlvr.rewards.scorer import Scored
from rlvr.rewards.verdict import Outcome

_FAILED = (Outcome.TIMEOUT, Outcome.CRASHED)


def measurements(
    scored: Sequence[Scored | None], names: Sequence[str]
) -> Float[Tensor, "B V three"]:
    """Return part of the reward, seconds and failure (0 or 1) of each verifier on each completion.

    Args:
        scored: Of each completion; None: it does not count.
        names: Of the verifiers.

    Returns:
        nan where a verifier did not run, and for a part that is dropped.
    """
    nothing = (torch.nan,) * 3
    rows = []
    for item in scored:
        row = []
        for name in names:
            verdict = None if item is None else item.verdicts.get(name)
            part = torch.nan if item is None else item.parts[name]
            ran = nothing[1:] if verdict is None else (verdict.seconds, verdict.outcome in _FAILED)
            row.append((part, *ran))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64).view(len(rows), len(names), 3)


def verifier_metrics(
    measured: Float[Tensor, "B V three"], names: Sequence[str]
) -> dict[str, float]:
    """Return the metrics of each verifier; nan where it did not run.

    Args:
        measured: `measurements` of all processes.
        names: Of the verifiers.
    """
    metrics = {}
    for name, of_one in zip(names, measured.unbind(1), strict=True):
        part, seconds, failed = of_one.unbind(1)
        metrics[f"rewards/{name}"] = part.nanmean().item()
        metrics[f"time/verifier/{name}/mean"] = seconds.nanmean().item()
        metrics[f"time/verifier/{name}/p99"] = seconds.nanquantile(0.99).item()
        metrics[f"verifier/{name}/failed_fraction"] = failed.nanmean().item()
    return metrics
