"""What each entropy control does on the demo task, over several seeds: `python -m benchmarks.controls`.

Trains the demo policy (recipes/demo.yaml, or a part of its updates) once for each configuration and seed, in
processes of one thread, and prints a table of means with the spread over seeds. A configuration that is already measured
in the output folder is not run again.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# sampling this far from the policy, and this much of it, is what holds a policy of 29 thousand parameters
_HOT = {"temperature_high": 2.0, "prompt_fraction": 1.0, "rows": 256}
CONFIGURATIONS: dict[str, list[dict[str, Any] | str]] = {
    "GRPO": [],
    "clip_cov": [{"clip_cov": {"fraction": 0.1, "covariance_low": 0.2, "covariance_high": 50.0}}],
    "kl_cov": [{"kl_cov": {"fraction": 0.1, "kl_coef": 1.0}}],
    "steer": [{"steer": {"weight_min": 0.05}}],
    "siren": [{"siren": {"coef": 0.5}}],
    "dph forward": [{"dph": {"coef": 0.2, "rows_per_update": 32}}],
    "dph js": [{"dph": {"divergence": "js", "coef": 0.5, "rows_per_update": 32}}],
    "aepo 0.25": [{"aepo": {"target": 0.25, **_HOT}}],
    "aepo 0.35": [{"aepo": {"target": 0.35, **_HOT}}],
    "top_entropy": [{"top_entropy": {"denominator": "all"}}],
    "lp_reg": [{"lp_reg": {"fraction": 0.1, "clip_low": None, "clip_high": None}}],
    "clip_b": [{"clip_b": {"mu": 2.0}}],
    "clip_v": [{"clip_v": {"mu": 2.0, "max_fraction": 0.01}}],
    "clip_higher": [{"clip_higher": {"clip_high": 0.6}}],
    "entropy_bonus": [{"entropy_bonus": {"coef": 0.03}}],
    "adaptive_entropy 0.35": [
        {"adaptive_entropy": {"target": 0.35, "delta": 0.005, "coef_max": 0.5}}
    ],
    "targeted_entropy 0.35": [{"targeted_entropy": {"target": 0.35, "coef": 0.1}}],
    "entropy_advantage": ["entropy_advantage"],
    "dcpo 0.35": [{"dcpo": {"target": 0.35, "temperature_high": 2.0, "gap_max": 0.5}}],
    "entropy_budget 0.35": [{"entropy_budget": {"target": 0.35}}],
    "entropy_budget 0.5": [{"entropy_budget": {"target": 0.5}}],
}
"""Name -> `entropy:` of the recipe."""

COLUMNS = {
    "reward": "reward",
    "entropy": "entropy",
    "held-out entropy": "eval/countdown/entropy",
    "pass@1": "eval/countdown/pass@1",
    "pass@16": "eval/countdown/pass@16",
    "distinct": "eval/countdown/distinct_correct",
}
SETTLED = 0.5
"""Share of the updates after which `entropy` is averaged."""


def train(name: str, entropy: list[Any], seed: int, folder: Path, options: list[str]) -> Path:
    """Train one configuration, unless it has been, and return its run folder."""
    output = folder / name.replace(" ", "_") / str(seed)
    if (output / "done").exists():
        return output
    command = [sys.executable, "-m", "rlvr", "train", "demo", f"entropy={json.dumps(entropy)}"]
    command += [f"training.seed={seed}", f"output={output}", *options]
    done = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    (output / "done").touch()
    return output


def measured(output: Path) -> dict[str, float]:
    """Return what a run ended with.

    `entropy` is the mean over the settled updates, `lowest` and `highest` are of means over 20 updates there.
    """
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    found = {}
    for name, key in COLUMNS.items():
        values = [row[key] for row in rows if row.get(key) is not None]
        found[name] = values[-1]
        if name == "reward":
            found[name] = statistics.mean(values[-20:])
        if name == "entropy":
            settled = values[int(SETTLED * len(values)) :]
            found[name] = statistics.mean(settled)
            windows = [statistics.mean(settled[i : i + 20]) for i in range(len(settled) - 19)]
            found["lowest"], found["highest"] = min(windows), max(windows)
            found["last"] = statistics.mean(values[-20:])
    return found


def line(name: str, seeds: list[dict[str, float]]) -> str:
    """Return a table row: mean and standard deviation over seeds."""
    cells = []
    for key in ("entropy", "lowest", "highest", "reward", "pass@1", "pass@16", "distinct"):
        values = [seed[key] for seed in seeds]
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        cells.append(f"{statistics.mean(values):.3f} ± {spread:.3f}")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, default=Path("runs/controls"))
    parser.add_argument("--only", nargs="*", default=None, help="names of configurations")
    parser.add_argument("--json", type=Path, default=None, help="where the numbers are written")
    parser.add_argument("options", nargs="*", help="key=value of the recipe, for all runs")
    given = parser.parse_args()
    chosen = {k: v for k, v in CONFIGURATIONS.items() if given.only is None or k in given.only}
    jobs = [(name, seed) for seed in range(1, given.seeds + 1) for name in chosen]
    with ThreadPoolExecutor(given.workers) as pool:
        folders = pool.map(
            lambda job: train(job[0], chosen[job[0]], job[1], given.folder, given.options), jobs
        )
        found: dict[str, list[dict[str, float]]] = {}
        for (name, seed), output in zip(jobs, folders, strict=True):
            found.setdefault(name, []).append(measured(output))
            print(f"{name}, seed {seed}: {found[name][-1]}", file=sys.stderr, flush=True)
    print("| control | entropy | lowest | highest | reward | pass@1 | pass@16 | distinct |")
    print("|---|---|---|---|---|---|---|---|")
    for name, seeds in found.items():
        print(line(name, seeds))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
