"""`rlvr demo`: the main job, small. GRPO and GRPO under an entropy control, measured side by side on a CPU.

A policy of 29 thousand parameters learns countdown by verifiable rewards. Everything printed is measured in the two
runs; the recipe is `recipes/demo.yaml`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr.console import say

if TYPE_CHECKING:
    from rlvr.monitor.store import Run

CONTROL = "entropy=[{kl_cov: {fraction: 0.1, kl_coef: 1.0}}]"
SET = "countdown"
FIRST, LAST = 4, 20
"""Updates over which the reward is averaged, at the start (one rollout) and at the end."""


@dataclass(frozen=True)
class Line:
    """One line of the table: a policy, and what was measured of it."""

    name: str
    reward: float
    """Mean over training completions."""
    entropy: float
    """Nats, on held-out problems."""
    pass_1: float
    pass_16: float
    distinct: float
    """Different correct solutions among 16 samples, mean over problems."""


def main(output: Path) -> None:
    """Train twice, compare, draw.

    Args:
        output: Folder of the runs; if it is taken, a number is added.
    """
    import torch

    # a policy this small does not gain from threads, and on a busy machine they wait for each other
    torch.set_num_threads(1)
    from rlvr.monitor.store import free_folder

    folder = free_folder(output)
    say(
        "A tiny policy learns countdown, `3,5,7=16:` -> `3*7-5`, by verifiable rewards: twice with the same data,"
    )
    say(
        "seeds and updates per rollout, once as plain GRPO and once with an entropy control (KL-Cov)."
    )
    runs = [_train(folder / "grpo", []), _train(folder / "kl_cov", [CONTROL])]
    from rlvr.monitor.figure import draw

    png, html = draw(runs, folder / "curves", title="GRPO with and without KL-Cov")
    _print_table(lines(runs))
    say(f"figure    {png} and {html}")
    say(
        "next      rlvr train demo output=runs/mine 'entropy=[{steer: {weight_min: 0.2}}]'   another control"
    )
    say(
        f"          rlvr monitor {folder / 'grpo'} {folder / 'kl_cov'} runs/mine   its curves beside these"
    )


def lines(runs: "Sequence[Run]") -> list[Line]:
    """Return what the runs measured: the policy they started from, then each at its end."""
    plain, controlled = runs
    return [
        _line("start", plain, first=True),
        _line("GRPO", plain),
        _line("GRPO + KL-Cov", controlled),
    ]


def _line(name: str, run: "Run", *, first: bool = False) -> Line:
    import numpy as np

    def measured(metric: str) -> float:
        values = run.columns[f"eval/{SET}/{metric}"]
        values = values[~np.isnan(values)]
        return float(values[0] if first else values[-1])

    rewards = run.columns["reward"]
    rewards = rewards[~np.isnan(rewards)]
    return Line(
        name,
        reward=float((rewards[:FIRST] if first else rewards[-LAST:]).mean()),
        entropy=measured("entropy"),
        pass_1=measured("pass@1"),
        pass_16=measured("pass@16"),
        distinct=measured("distinct_correct"),
    )


def _train(folder: Path, overrides: list[str]) -> "Run":
    from rlvr.monitor.store import read_run
    from rlvr.recipe import load_recipe
    from rlvr.train import run

    say()
    say(f"run       rlvr train demo {' '.join(repr(item) for item in overrides)}".rstrip())
    recipe, origins = load_recipe(
        "demo", overrides=[*overrides, f"name={folder.name}", f"output={folder}"]
    )
    run(recipe, origins)
    return read_run(folder)


def _print_table(rows: Sequence[Line]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="What was measured (200 held-out problems, 16 samples each)")
    for heading in ("", "reward", "entropy, nats", "pass@1", "pass@16", "distinct correct"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in rows:
        table.add_row(
            row.name,
            *(f"{value:.3f}" for value in (row.reward, row.entropy, row.pass_1, row.pass_16)),
            f"{row.distinct:.2f}",
        )
    say()
    Console().print(table)
