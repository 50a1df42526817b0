"""Runs of the demo's recipe at a size of seconds, started as a user starts them."""

import io
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlvr import cli

ROOT = Path(__file__).parents[2]
BASE = ROOT / "recipes" / "demo" / "base"

# 8 prompts x 4 completions a rollout, 4 updates on it
SMALL = (
    f"model.path={BASE}",
    "data.size=64",
    "rewards.workers=1",
    "rollout.prompts_per_rollout=8",
    "rollout.prompts_per_update=2",
    "rollout.group_size=4",
    "training.updates=4",
    "training.micro_batch_size=8",
    "monitor.completions_every=1",
    "evaluation.samples=2",
    "evaluation.k=[1, 2]",
    "evaluation.sets.countdown.size=8",
)
UNEVALUATED = ("evaluation.sets=[]", "evaluation.at_start=false")

# what a clock, a folder or a machine decides
MEASURED_TIMES = ("time/",)


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


def command(*args: object) -> Result:
    """Run the `rlvr` command in this process."""
    # kernels this small lose by threads, above all where tests share the cores
    torch.set_num_threads(1)
    code, out, err = 0, io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main([str(item) for item in args])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


def train(output: Path, *args: object) -> Result:
    """Run `rlvr train demo` at the small size; it must succeed."""
    result = command("train", "demo", *SMALL, f"output={output}", *args)
    assert result.code == 0, result.err
    return result


def environment(**extra: str) -> dict[str, str]:
    """Return the environment of a run in a process of its own."""
    inherited = {name: value for name, value in os.environ.items() if name != "RLVR_TRACEBACK"}
    return inherited | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | extra


def train_apart(output: Path, *args: object, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m rlvr.train demo` in a process of its own."""
    return subprocess.run(
        apart(output, *args),
        cwd=ROOT,
        env=environment(**extra),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def apart(output: Path, *args: object) -> list[str]:
    """Return the command line of `train_apart`."""
    arguments = ["demo", *SMALL, f"output={output}", *args]
    return [sys.executable, "-m", "rlvr.train", *map(str, arguments)]


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl, those of one update merged."""
    merged: dict[int, dict[str, Any]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        merged.setdefault(row["update"], {}).update(row)
    return [merged[update] for update in sorted(merged)]


def numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a row says apart from times."""
    return {name: value for name, value in row.items() if not name.startswith(MEASURED_TIMES)}


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def without_weights(folder: Path) -> Path:
    """Return a copy of the base policy whose weights are missing: loading it as a model fails."""
    return Path(shutil.copytree(BASE, folder, ignore=shutil.ignore_patterns("*.safetensors")))
