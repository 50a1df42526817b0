"""What updates on given generations give on the processes this is started with; `python updates.py OUT` writes it.

Every case is computed by every process; the first writes the gradients averaged over processes, the statistics
summed over processes, and the weights after training.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # torchrun starts this file by its path

from rlvr import aggregate, surrogate
from rlvr.entropy.control import build_control, chain, control_names
from rlvr.loss import Objective
from tests.entropy.settings import REACHES
from tests.trainer import tiny


@dataclass(frozen=True)
class Case:
    """A loss and a generation."""

    controls: tuple[str, ...] = ()
    surrogate: Callable[..., Any] = surrogate.clipped
    aggregate: Callable[..., Any] = aggregate.token_mean
    options: dict[str, dict[str, Any]] = field(default_factory=lambda: REACHES)
    left_out: int = 0
    """Rows that the last group of the generation lacks."""
    idle: bool = False
    """Whether every second group has no advantage, and is not computed."""


CASES = {
    "plain": Case(),
    **{name: Case((name,)) for name in control_names()},
    # the anchor of siren is not given, but measured on the generation
    "measured anchor": Case(("siren",), options={"siren": {"coef": 0.1}}),
    "steer+dph": Case(("steer", "dph")),
    "gspo, sequence_mean": Case((), surrogate.gspo, aggregate.sequence_mean),
    "gmpo, sequence_sum": Case((), surrogate.gmpo, aggregate.sequence_sum),
    "kl_cov of 7 rows": Case(("kl_cov",), left_out=1),
    "sequence_mean of 5 rows": Case((), aggregate=aggregate.sequence_mean, left_out=3),
    "half of the groups idle": Case(("clip_cov",), idle=True),
    "micro_batch scope": Case(("steer",), options={"steer": {"scope": "micro_batch"}}),
}
TRAINED = (
    *("plain", "kl_cov", "dph", "aepo", "sequence_mean of 5 rows", "half of the groups idle"),
    *("adaptive_entropy", "ares", "dcpo", "entropy_budget", "measured anchor"),
)
"""Cases that are trained; those with a state are among them."""
CUTS = {
    "8 rows": {"micro_batch_size": 8},
    "3 rows": {"micro_batch_size": 3},
    "1 row": {"micro_batch_size": 1},
    "60 tokens": {"micro_batch_size": 8, "tokens_per_micro_batch": 60},
}
"""Of micro-batches. An update has 5 to 10 rows, a row up to 18 tokens; with 1 row a process of two is idle at times."""


def build(folder: Path, case: Case, cut: str, processes: int, **arguments: Any) -> Any:
    """Return a trainer of a case. What an update lacks or has beyond 8 rows changes the sizes of micro-batches."""
    controls = chain(*(build_control(name, case.options.get(name, {})) for name in case.controls))
    reduce = case.aggregate
    if reduce is aggregate.sequence_sum:
        reduce = lambda mask, rows: aggregate.sequence_sum(mask, rows, length=8)
    objective = Objective(case.surrogate, reduce, controls, clip_high=0.28)
    plan = tiny.plan(processes=processes, **CUTS[cut])
    return tiny.trainer(folder, objective, plan, dtype=torch.float64, **arguments)


def generation(case: Case, made: Any) -> Any:
    """Return the rows that a case trains on, as the trainer's controls make them; their states go on."""
    rows = tiny.rollout(rehearsal="dph" in case.controls)
    chain, state = made._objective.chain, made.control_state
    rows, state, _ = chain.reward(rows, state)
    rows, made.control_state, _ = chain.shape(rows, state)
    if case.idle:
        is_idle = (rows.group_ids % 2 == 0).unsqueeze(-1)
        rows = replace(rows, advantages=rows.advantages.masked_fill(is_idle, 0.0))
    kept = [i for i in range(len(rows)) if not 16 - case.left_out <= i < 16]
    return rows.rows(torch.tensor(kept))


def gradients(folder: Path, processes: int) -> dict[str, Any]:
    """Return gradient and statistics of every case, cut and update."""
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        for cut in CUTS:
            made = build(folder, case, cut, processes)
            rows = generation(case, made)
            for update in (0, 1):
                flat = tiny.gradient(made, rows, update)
                flat = made.accelerator.reduce(flat, reduction="mean")
                means = made.means()
                found[f"{name}, {cut}, update {update}"] = (flat, means)
    return found


def given(made: Any, case: Case, update: int) -> None:
    """Take a generation that was made up in place of a sampled one."""
    made._take_rollout(generation(case, made))


def trained(folder: Path, processes: int) -> dict[str, Any]:
    """Return what two updates by `train` on a given generation end with: weights, metrics, control state."""
    found: dict[str, Any] = {}
    for name in TRAINED:
        for cut in CUTS:
            made = build(
                folder,
                CASES[name],
                cut,
                processes,
                optim="sgd",
                max_grad_norm=0.5,
                learning_rate=0.1,
                ddp_find_unused_parameters=False,
            )
            made._roll_out = partial(given, made, CASES[name])
            made.train()
            assert made.state.global_step == 2
            flat = torch.cat([p.detach().flatten() for p in made.model.parameters()])
            found[f"{name}, {cut}"] = (flat, made._row, made.control_state)
    return found


def main(out: str) -> None:
    """Write what all processes found."""
    processes = int(torch.distributed.get_world_size()) if torch.distributed.is_initialized() else 1
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "gradients": gradients(Path(folder), processes),
            "trained": trained(Path(folder), processes),
        }
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    torch.save(found, f"{out}.{rank}")


if __name__ == "__main__":
    import os

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        torch.distributed.init_process_group("gloo")
    main(sys.argv[1])
