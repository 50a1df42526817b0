"""rlvr beside `trl.GRPOTrainer`: `python -m benchmarks.trainer updates|training|reward [--rounds N] [--json FILE]`.

    updates    seconds of an update with its rollout, tokens/s and peak memory, of the demo and of a larger random policy
    training   the same without rollouts: both train on given ones, of whose groups a share has no advantage. Before the
               clock starts both compute their gradient; if they differ by more than 1e-5, that is an error.
    reward     seconds until a moving mean of held-out pass@1 reaches a level, on the demo, from its base policy

Both sides have the same model, prompts in the same order, seed, completions, updates per rollout, optimizer, dtype and
threads. TRL runs as `trainer_peer.py` says, at the recipe's micro-batch size, and, if another is faster, also at that. Every
run is a process of its own; rounds take turns in who begins, and a ratio is the median of the ratios of rounds, with its range:
2 is twice as fast as TRL.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.kernel import machine
from benchmarks.trainer_cases import Case, Job, demo, random_policy
from rlvr.recipe import load_recipe

ROOT = Path(__file__).resolve().parent.parent
IDLE = (0.0, 0.5, 0.8)
"""Shares of groups without advantage."""
LEVELS = (0.40, 0.44, 0.48, 0.50, 0.52)
"""Of held-out pass@1; the demo's base policy has 0.33."""
TRIAL = 2
"""Rollouts by which TRL's micro-batch size is chosen, after one that is not measured."""
WINDOW = 3
"""Looks at held-out problems in a moving mean."""
OFFERS = ("rollout.dynamic_sampling={max_refills: 3, keep_leftovers: true}",)
"""What a user of rlvr may add to the recipe to learn more from an update."""
DIFFERENCE = 1e-5
"""Of gradients, relative in the Frobenius norm, at most: float32 rounds in other places."""


@dataclass(frozen=True)
class Line:
    """What is run in every round."""

    name: str
    job: Job


def updates(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return rows of whole updates, one for each case."""
    rows = []
    for case in _cases(given, folder):
        lines = _lines(given, case, _job("updates", given, case))
        found = _race(lines, given.rounds, folder)
        rows.append({"case": case.name, "idle": None, "lines": found})
    return {"rows": rows}


def training(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return rows of updates on given rollouts, one for each case and share of idle groups."""
    rows = []
    for case in _cases(given, folder):
        rollout = str(folder / f"{case.name}.pt")
        job = replace(_job("training", given, case), given=rollout)
        _run(replace(job, part="sample", side="TRL"), folder, f"{case.name}: a rollout for all")
        for idle in given.idle:
            lines = _lines(given, case, replace(job, idle=idle))
            difference = _difference(lines, folder)
            found = _race(lines, given.rounds, folder)
            row = {"case": case.name, "idle": idle, "lines": found, "difference": difference}
            rows.append(row)
    return {"rows": rows}


def reward(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the held-out curves of the demo, a round for each seed."""
    case = demo(quick=given.quick)
    count = given.updates or (8 if given.quick else 400)
    every = 4 if given.quick else 20
    job = replace(_job("reward", given, case), updates=count, warm=0, every=every)
    lines = _lines(given, case, job)
    lines.append(_with_offers(lines[0], given.add))
    found = _race(lines, given.rounds, folder, seeds=True)
    return {"rows": [{"case": case.name, "idle": None, "lines": found}], "levels": given.levels}


def _cases(given: argparse.Namespace, folder: Path) -> list[Case]:
    made = {
        "demo": lambda: demo(quick=given.quick),
        "random": lambda: random_policy(folder, quick=given.quick),
    }
    return [make() for name, make in made.items() if name in given.cases]


def _job(part: Any, given: argparse.Namespace, case: Case) -> Job:
    """Return rlvr's job; the first rollout is not measured."""
    job = Job(
        part=part,
        side="rlvr",
        recipe=case.recipe,
        options=case.options,
        reward=case.reward,
        folder="",
        updates=1,
        device=given.device,
        threads=given.threads,
    )
    rollout = load_recipe(job.recipe, overrides=job.options)[0].rollout
    per_rollout = rollout.prompts_per_rollout // rollout.prompts_per_update
    wanted = given.updates or case.updates
    return replace(job, warm=per_rollout, updates=max(wanted // per_rollout, 1) * per_rollout)


def _lines(given: argparse.Namespace, case: Case, job: Job) -> list[Line]:
    """Return rlvr, TRL, and TRL at another micro-batch size if that is faster."""
    theirs = replace(job, side="TRL")
    found = [Line("rlvr", job), Line("TRL", theirs)]
    recipe = load_recipe(job.recipe, overrides=job.options)[0]
    completions = recipe.rollout.prompts_per_update * recipe.rollout.group_size
    own = recipe.training.micro_batch_size
    assert own is not None  # every case says it
    others = sorted({n for n in (own // 2, 2 * own, completions) if n and completions % n == 0})
    if given.quick or others == [own]:
        return found
    part: Any = "training" if job.given else "updates"
    one = recipe.rollout.prompts_per_rollout // recipe.rollout.prompts_per_update
    short = replace(theirs, part=part, every=0, warm=one, updates=TRIAL * one)
    seconds = {}
    for size in {own, *others}:
        with _folder() as folder:
            note = f"{case.name}: TRL with micro-batches of {size}"
            seconds[size] = _run(replace(short, micro_batch_size=size), folder, note)["seconds"]
    best = min(seconds, key=lambda size: seconds[size])
    if best != own:
        found.append(Line(f"TRL, micro-batches of {best}", replace(theirs, micro_batch_size=best)))
    return found


def _with_offers(line: Line, options: Sequence[str]) -> Line:
    job = replace(line.job, options=(*line.job.options, *options))
    return Line("rlvr + " + ", ".join(item.partition("=")[0] for item in options), job)


def _race(
    lines: Sequence[Line],
    rounds: int,
    folder: Path,
    *,
    seeds: bool = False,
) -> dict[str, list[dict[str, Any]]]:
    """Return what every line found in every round; who begins changes."""
    found: dict[str, list[dict[str, Any]]] = {line.name: [] for line in lines}
    for number in range(rounds):
        turn = number % len(lines)
        last = {}
        for line in (*lines[turn:], *lines[:turn]):
            job = replace(line.job, seed=number + 1) if seeds else line.job
            note = f"round {number + 1} of {rounds}: {Path(job.recipe).stem}, {line.name}"
            last[line.name] = _run(job, folder, note)
        for name, values in last.items():
            found[name].append(values)
    return found


def _run(job: Job, folder: Path, note: str) -> dict[str, Any]:
    """Do a job in a process of its own."""
    print(note, file=sys.stderr, flush=True)
    own = Path(tempfile.mkdtemp(dir=folder))
    wanted, result = own / "job.json", own / "result.json"
    wanted.write_text(json.dumps(asdict(replace(job, folder=str(own)))))
    command = [sys.executable, "-m", "benchmarks.trainer_side", str(wanted), str(result)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": str(job.threads),
        "MKL_NUM_THREADS": str(job.threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{note}: ended with {done.returncode}\n{done.stderr[-3000:]}")
    return json.loads(result.read_text())


def _difference(lines: Sequence[Line], folder: Path) -> float:
    """Return by how much the gradients of rlvr and TRL differ at most on the given rollout, relative to TRL's.

    Raises:
        SystemExit: If it is more than rounding.
    """
    flat = {}
    for line in lines:
        found = _run(replace(line.job, part="gradient"), folder, f"{line.name}: its gradient")
        flat[line.name] = torch.load(found["gradient"], weights_only=True)
    ours = flat.pop("rlvr")
    worst = max(float((ours - theirs).norm() / theirs.norm()) for theirs in flat.values())
    if not worst <= DIFFERENCE:
        raise SystemExit(
            f"the gradients of rlvr and TRL on the same rollout differ by {worst:.1e}, more than {DIFFERENCE:.0e}"
        )
    return worst


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="benchmark") as folder:
        yield Path(folder)


# ---------------------------------------------------------------------- tables


def show(found: dict[str, Any]) -> None:
    """Print what was measured, in Markdown."""
    made = found["machine"]
    where = f"{made['cpu']}, {made['cores']} cores" + (f", {made['gpu']}" if made["gpu"] else "")
    packages = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    threads = f"{made['threads']} thread{'s' if made['threads'] > 1 else ''}"
    print(
        f"`{found['command']}`\n\n{where}; {threads} a process; Python {made['python']}, {packages}.\n"
    )
    (reward_table if found["part"] == "reward" else update_table)(found)


def update_table(found: dict[str, Any]) -> None:
    """Print seconds of an update; ratios are those of the phase that is measured."""
    print(f"Seconds of an update, medians of {found['rounds']} rounds; ratios with their range.\n")
    peers = sorted({name for row in found["rows"] for name in row["lines"] if name != "rlvr"})
    heads = ["case", "no advantage", "", "seconds", "CPU seconds", "rollout", "scoring", "training"]
    heads += ["tokens/s", "peak MiB", "of it training", *(f"{name} / this" for name in peers)]
    _print_row(heads)
    _print_row(["---", "---", "---", *["---:"] * (len(heads) - 3)])
    for row in found["rows"]:
        idle = "as it comes" if row["idle"] is None else f"{row['idle']:.0%}"
        for name, rounds in row["lines"].items():
            columns = ("seconds", "cpu_seconds", "rollout_seconds", "scoring_seconds")
            cells = [_number(_median(rounds, key)) for key in (*columns, "training_seconds")]
            cells.append(_number(_median(rounds, "tokens_per_second")))
            cells += [_number(value) for value in _memory(rounds)]
            against = [row["lines"].get(peer) for peer in peers]
            cells += [
                _ratio(rounds, peer) if peer not in (None, rounds) else "" for peer in against
            ]
            _print_row([row["case"], idle, name, *cells])
    differences = [row["difference"] for row in found["rows"] if "difference" in row]
    if differences:
        print(f"\nGradients on the given rollouts differ by {max(differences):.1e} at most.")


def reward_table(found: dict[str, Any]) -> None:
    """Print seconds until held-out pass@1 reaches each level."""
    (row,) = found["rows"]
    print(
        f"Seconds of training until the mean of {WINDOW} looks at held-out pass@1 reaches a level, evaluations not counted; "
        f"medians of {found['rounds']} seeds.\n"
    )
    _print_row(
        ["pass@1", "", "seconds", "updates", "seconds of an update", "TRL / this", "reached"]
    )
    _print_row(["---", "---", *["---:"] * 5])
    for level in found["levels"]:
        reached = {
            name: [first_reach(values["held_out"], level) for values in rounds]
            for name, rounds in row["lines"].items()
        }
        for name, places in reached.items():
            there = [place for place in places if place]
            pairs = zip(reached["TRL"], places, strict=True)
            ratios = [theirs[1] / own[1] for theirs, own in pairs if theirs and own]
            cells = [
                _number(statistics.median(place[1] for place in there)) if there else "",
                _number(statistics.median(place[0] for place in there)) if there else "",
                _number(_median(row["lines"][name], "seconds")),
                _spread(ratios) if ratios and name != "TRL" else "",
                f"{len(there)} of {len(places)}",
            ]
            _print_row([f"{level:.2f}", name, *cells])


def first_reach(curve: Sequence[Sequence[float]], level: float) -> tuple[float, float] | None:
    """Return update and second at which the moving mean of a curve first reaches a level; None: never.

    Between two looks it is a straight line.

    Example:
        >>> first_reach([[0, 0.0, 0.3], [10, 1.0, 0.3], [20, 2.0, 0.6], [30, 3.0, 0.6]], level=0.45)
        (25.0, 2.5)
    """
    means = [
        (update, second, statistics.fmean(look[2] for look in curve[end - WINDOW : end]))
        for end, (update, second, _) in enumerate(curve, 1)
        if end >= WINDOW
    ]
    if means and means[0][2] >= level:
        return means[0][:2]
    for (update, second, low), (next_update, next_second, high) in itertools.pairwise(means):
        if low < level <= high:
            share = (level - low) / (high - low)
            return update + share * (next_update - update), second + share * (next_second - second)
    return None


def _memory(rounds: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Return the peak in all, and beyond what was there before the first update; on a GPU, of its memory."""
    if rounds[0]["device_mib"] is not None:
        return _median(rounds, "device_mib"), _median(rounds, "device_mib") - _median(
            rounds, "held_mib"
        )
    return _median(rounds, "peak_mib"), _median(rounds, "training_mib")


def _ratio(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> str:
    pairs = zip(theirs, ours, strict=True)
    return _spread([their["seconds"] / own["seconds"] for their, own in pairs])


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _median(rounds: Sequence[dict[str, Any]], key: str) -> float:
    return statistics.median(values[key] for values in rounds)


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _print_row(cells: Sequence[str]) -> None:
    print(f"| {' | '.join(cells)} |")


PARTS = {"updates": updates, "training": training, "reward": reward}


def main() -> None:
    """Measure one part, print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=PARTS)
    parser.add_argument("--rounds", type=int, help="default: 5, of `reward` 3 (seeds)")
    parser.add_argument("--updates", type=int, help="measured in a run, rounded to whole rollouts")
    parser.add_argument(
        "--cases", nargs="+", choices=("demo", "random"), default=["demo", "random"]
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--idle", nargs="+", type=float, default=IDLE, help="shares, for `training`"
    )
    parser.add_argument("--levels", nargs="+", type=float, default=LEVELS, help="for `reward`")
    parser.add_argument(
        "--add",
        nargs="+",
        default=OFFERS,
        metavar="KEY=VALUE",
        help="for `reward`: rlvr's second line",
    )
    parser.add_argument("--quick", action="store_true", help="sizes of seconds, which show nothing")
    parser.add_argument("--json", type=Path, help="where the numbers are written")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print the table of such a file")
    given = parser.parse_args()
    if given.show:
        show(json.loads(given.show.read_text()))
        return
    if given.part is None:
        parser.error(f"give a part: {', '.join(PARTS)}")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no CUDA device")
    given.rounds = given.rounds or (1 if given.quick else 3 if given.part == "reward" else 5)
    torch.set_num_threads(given.threads)
    found: dict[str, Any] = {
        "part": given.part,
        "command": "python -m benchmarks.trainer " + " ".join(sys.argv[1:]),
        "machine": machine(torch.device(given.device)),
        "versions": {
            name: version(name) for name in ("rlvr", "torch", "trl", "transformers", "accelerate")
        },
        "rounds": given.rounds,
    }
    with _folder() as folder:
        found |= PARTS[given.part](given, folder)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))
    show(found)


if __name__ == "__main__":
    main()
