"""Time, memory and errors of the head's log-probs and entropies: `python -m benchmarks.kernel [--json] [--quick]`.

Every row is a problem: hidden size x tokens x vocabulary, dtype, which tokens have a gradient (`all`; `half`: whole sequences
are dead; `fifth`: only those of the largest entropy), and whether the loss has an entropy term. Forward and backward of every
implementation run in interleaved rounds, and a ratio is the median of the ratios of rounds: 2 is twice as fast. Peak memory is
what a call needs besides its inputs, gradients included: on a GPU by PyTorch's counter, on a CPU by the resident set of a
process of its own. Errors are against float64 on the same inputs, of gradients relative in the Frobenius norm.

Effective TFLOP/s are three matrix products (logits, dX, dW of all rows) over the time: who skips rows may be above the
chip's rate. The floor is the time of these three products alone, taken in the same rounds.
"""

import argparse
import fnmatch
import gc
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.kernel_inputs import Pattern, Problem, Truth, problem, truth
from benchmarks.kernel_peers import Contender, Outputs, contenders, versions

PATTERNS: tuple[Pattern, ...] = ("all", "half", "fifth")
FLOOR = "matmuls 3U"
ERROR_ROWS = 512
INPUTS = 2
"""Copies of the inputs that calls take turns with on a GPU: whose head, 270 MB at least, is then in no cache."""
RATIOS = ("naive", "TRL")
"""Peers whose ratios are columns of the printed table; all are in the JSON."""
MIB = 2**20


@dataclass(frozen=True)
class Row:
    """A problem."""

    hidden_size: int
    rows: int
    vocabulary: int
    dtype: str
    pattern: Pattern = "all"
    entropy_gradient: bool = False

    @property
    def name(self) -> str:
        """How `--rows` calls it."""
        sizes = f"{self.hidden_size}x{self.rows}x{self.vocabulary}"
        return f"{sizes}-{self.dtype}-{self.pattern}" + "+entropy" * self.entropy_gradient

    @property
    def tflop(self) -> float:
        """Of one matrix product."""
        return 2e-12 * self.hidden_size * self.rows * self.vocabulary

    def make(self, device: torch.device, most: int | None = None) -> Problem:
        """Return its inputs, `most` rows at most."""
        return problem(
            *(self.rows if most is None else min(most, self.rows), self.hidden_size),
            self.vocabulary,
            dtype=getattr(torch, self.dtype),
            device=device,
            pattern=self.pattern,
            entropy_gradient=self.entropy_gradient,
        )


def cpu_rows() -> list[Row]:
    """Return the table for a CPU."""
    found = [
        Row(512, 2048, 32000, "float32", pattern, entropy)
        for entropy in (False, True)
        for pattern in PATTERNS
    ]
    small_vocabulary = Row(512, 4096, 2000, "float32", "half", True)
    few_rows = Row(512, 32, 32000, "float32", "all", True)
    large_vocabulary = Row(512, 256, 151936, "float32", "half", True)
    return [*found, small_vocabulary, few_rows, large_vocabulary]


def gpu_rows() -> list[Row]:
    """Return the table for a GPU."""
    found = [
        Row(hidden_size, rows, 151936, "bfloat16", pattern, entropy)
        for rows in (16384, 4096, 65536)
        for hidden_size in (3584, 896, 1536, 5120)
        for entropy in (True, False)
        for pattern in PATTERNS
    ]
    return [*found, Row(3584, 16384, 151552, "bfloat16", "all", True)]


def quick_rows() -> list[Row]:
    """Return what is done in seconds."""
    return [Row(128, 256, 8192, "float32", "half", True)]


def measure(
    row: Row,
    device: torch.device,
    entrants: Sequence[Contender],
    rounds: int,
    peaks: dict[str, dict[str, int]],
) -> dict[str, Any]:
    """Return the figures of a row.

    Args:
        row: Of the table.
        device: Where it runs.
        entrants: Those that cannot do it are left out.
        rounds: How often each runs.
        peaks: Bytes by contender and row, on a CPU.
    """
    first = row.make(device)
    problems = [first] + [first.copy() for _ in range(INPUTS - 1) if device.type == "cuda"]
    part = first if row.rows <= ERROR_ROWS else first.part(ERROR_ROWS)
    exact = truth(part)
    found: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}
    failed: list[str] = []
    running: list[Contender] = []
    for entrant in entrants:
        if not entrant.takes(first):
            continue
        _progress(f"  {entrant.name}: errors")
        try:
            notes = errors(entrant, part, exact)
            once(entrant, first, device)  # warm at this size
            own = peaks.get(entrant.name, {}).get(row.name)
            peak = peak_of(entrant, first) if device.type == "cuda" else own
            notes["peak_mib"] = None if peak is None else round(peak / MIB, 1)
        except torch.OutOfMemoryError:
            left_out[entrant.name] = "not enough memory"
            continue
        except Exception as error:  # one that does not run here is no end of the others; of ours the exit status tells
            said = (str(error).splitlines() or [""])[0]
            left_out[entrant.name] = f"{type(error).__name__}: {said[:160]}"
            failed += [entrant.name] * entrant.is_ours
            continue
        found[entrant.name] = notes
        running.append(entrant)
    del exact, part
    times = race(running, problems, device, rounds)
    for entrant in running:
        found[entrant.name] |= speed(row, times, entrant)
    return {
        "row": row.name,
        **vars(row),
        "contenders": found,
        "ratios": ratios(times, running),
        "left_out": left_out,
        "failed": failed,
    }


def once(entrant: Contender, given: Problem, device: torch.device) -> tuple[float, float]:
    """Return the milliseconds of a forward and a backward."""
    outputs: list[Outputs] = []
    steps: tuple[Callable[[], object], ...] = (
        lambda: outputs.append(entrant.forward(given)),
        lambda: entrant.backward(given, outputs[0]),
    )
    if device.type == "cuda":
        events = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
        torch.cuda.synchronize()
        events[0].record()
        for step, event in zip(steps, events[1:], strict=True):
            step()
            event.record()
        torch.cuda.synchronize()
        forward, backward = (a.elapsed_time(b) for a, b in itertools.pairwise(events))
        return forward, backward
    began = time.perf_counter()
    steps[0]()
    middle = time.perf_counter()
    steps[1]()
    return 1e3 * (middle - began), 1e3 * (time.perf_counter() - middle)


def race(
    entrants: Sequence[Contender], problems: Sequence[Problem], device: torch.device, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Return forward and backward of every round; who begins a round changes."""
    found: dict[str, list[tuple[float, float]]] = {entrant.name: [] for entrant in entrants}
    for number in range(rounds):
        _progress(f"  round {number + 1} of {rounds}")
        turn = number % len(entrants)
        for place, entrant in enumerate((*entrants[turn:], *entrants[:turn])):
            given = problems[(number + place) % len(problems)]
            found[entrant.name].append(once(entrant, given, device))
    return found


def speed(
    row: Row, times: dict[str, list[tuple[float, float]]], entrant: Contender
) -> dict[str, Any]:
    """Return medians of milliseconds, rates and the share of the floor."""
    own = times[entrant.name]
    forward, backward = (statistics.median(each) for each in zip(*own, strict=True))
    total = statistics.median(sum(each) for each in own)
    gemms = entrant.gemms or 3
    found = {
        "rounds_ms": [[_rounded(each) for each in pair] for pair in own],
        "forward_ms": _rounded(forward),
        "backward_ms": _rounded(backward),
        "total_ms": _rounded(total),
        "forward_tflops": _rounded(1e3 * row.tflop / forward),
        "effective_tflops": _rounded(1e3 * gemms * row.tflop / total),
    }
    if FLOOR in times:
        floor = [sum(each) for each in times[FLOOR]]
        found["share_of_floor"] = _rounded(
            statistics.median(f / sum(each) for f, each in zip(floor, own, strict=True))
        )
    return found


def ratios(
    times: dict[str, list[tuple[float, float]]], entrants: Sequence[Contender]
) -> dict[str, dict[str, dict[str, float]]]:
    """Return by our and the other's name how many times faster ours is, paired by rounds."""

    def median(ours: Iterable[float], theirs: Iterable[float]) -> float:
        return _rounded(statistics.median(b / a for a, b in zip(ours, theirs, strict=True)))

    def of(ours: str, theirs: str) -> dict[str, float]:
        a, b = times[ours], times[theirs]
        forward = median((x[0] for x in a), (x[0] for x in b))
        backward = median((x[1] for x in a), (x[1] for x in b))
        total = median((sum(x) for x in a), (sum(x) for x in b))
        return {"forward": forward, "backward": backward, "total": total}

    others = [entrant.name for entrant in entrants if not entrant.is_ours]
    return {
        entrant.name: {other: of(entrant.name, other) for other in others}
        for entrant in entrants
        if entrant.is_ours
    }


def errors(entrant: Contender, given: Problem, exact: Truth) -> dict[str, Any]:
    """Return the errors against float64, and what a contender reports of itself."""
    outputs = entrant.forward(given)
    gradients = entrant.backward(given, outputs)
    found: dict[str, Any] = {}
    if outputs.logprobs is not None:
        off = outputs.logprobs.detach().double() - exact.logprobs
        found["logprob_max"] = float(f"{off.abs().max():.2e}")
        found["logprob_rms"] = float(f"{off.square().mean().sqrt():.2e}")
    if outputs.entropies is not None:
        worst = (outputs.entropies.detach().double() - exact.entropies).abs().max()
        found["entropy_max"] = float(f"{worst:.2e}")
    if gradients is not None:
        own = zip(gradients, (exact.of_hidden, exact.of_weight), strict=True)
        names = ("hidden_gradient", "weight_gradient")
        for name, (mine, right) in zip(names, own, strict=True):
            found[name] = float(f"{(mine.double() - right).norm() / right.norm():.2e}")
    return found | outputs.notes()


def peak_of(entrant: Contender, given: Problem) -> int:
    """Return the bytes that a forward and a backward need at most besides the inputs, on a GPU."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    outputs = entrant.forward(given)
    kept = entrant.backward(given, outputs)
    torch.cuda.synchronize()
    del kept
    return torch.cuda.max_memory_allocated() - before


def peaks_apart(entrant: Contender, rows: Sequence[Row]) -> dict[str, int]:
    """Return the same on a CPU, of every row, from a process of its own."""
    root = Path(__file__).resolve().parent.parent
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    # glibc keeps freed memory for later, unless it was mapped
    environment = os.environ | {"PYTHONPATH": path, "MALLOC_MMAP_THRESHOLD_": "65536"}
    sizes = [vars(row) for row in rows]
    code = f"from benchmarks.kernel import print_peaks; print_peaks({entrant.name!r}, {sizes!r})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        _progress(f"  its process for memory ended with {done.returncode}: {done.stderr[-300:]}")
    values = (int(line) for line in done.stdout.split())
    return dict(zip((row.name for row in rows), values, strict=False))


def print_peaks(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print the bytes by which the resident set grows at most over a call, a line for every row; Linux."""
    device = torch.device("cpu")
    (entrant,) = (one for one in contenders(device, [name])[0] if one.name == name)
    for sizes in rows:
        row = Row(**sizes)
        # more logits than `auto` leaves to plain PyTorch: the first call of an operator imports 100 MiB
        warm = Row(64, 1024, 2048, row.dtype, row.pattern, row.entropy_gradient)
        once(entrant, warm.make(device), device)
        given = row.make(device)
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        before = _resident("VmRSS")
        outputs = entrant.forward(given)
        gradients = entrant.backward(given, outputs)
        print(_resident("VmHWM") - before, flush=True)
        del outputs, gradients


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the numbers were taken on."""
    found: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "gpu": None,
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
    return found


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def benchmark(given: argparse.Namespace) -> dict[str, Any]:
    """Return all figures."""
    device = _device(given.device)
    rows = _chosen_rows(given, device)
    entrants, left_out = contenders(device, given.only)
    if given.only:
        wanted = {*given.only, FLOOR}
        unknown = wanted - {one.name for one in entrants} - left_out.keys()
        if unknown:
            names = ", ".join(one.name for one in entrants)
            raise SystemExit(f"--only {unknown.pop()}: there is none here; there are: {names}")
        entrants = [one for one in entrants if one.name in wanted]
    rounds = given.rounds or (2 if given.quick else 20 if device.type == "cuda" else 5)
    found: dict[str, Any] = {
        "machine": machine(device),
        "versions": versions(),
        "command": "python -m benchmarks.kernel " + " ".join(sys.argv[1:]),
        "rounds": rounds,
        "left_out": left_out,
        "rows": [],
    }
    peaks: dict[str, dict[str, int]] = {}
    for entrant in entrants if device.type == "cpu" and not given.no_memory else ():
        _progress(f"memory of {entrant.name}")
        own = [row for row in rows if entrant.gives_entropy or not row.entropy_gradient]
        peaks[entrant.name] = peaks_apart(entrant, own)
    began = time.monotonic()
    for row in rows:
        if given.seconds and time.monotonic() - began > given.seconds:
            _progress(f"{given.seconds:.0f} s are over: {row.name} and what follows is left out")
            break
        _progress(row.name)
        found["rows"].append(measure(row, device, entrants, rounds, peaks))
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return found


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: PyTorch sees no CUDA device; use --device cpu")
    return torch.device(name)


def _chosen_rows(given: argparse.Namespace, device: torch.device) -> list[Row]:
    rows = quick_rows() if given.quick else gpu_rows() if device.type == "cuda" else cpu_rows()
    if not given.rows:
        return rows
    chosen = {
        row.name: row for glob in given.rows for row in rows if fnmatch.fnmatch(row.name, glob)
    }
    if not chosen:
        names = "\n  ".join(row.name for row in rows)
        raise SystemExit(f"--rows {' '.join(given.rows)}: no such row; there are:\n  {names}")
    return list(chosen.values())


HEADINGS = (
    *("", "forward ms", "backward ms", "total ms", *(f"{name} / this" for name in RATIOS)),
    *("TFLOP/s", "of floor", "MiB", "log-prob max", "rms", "entropy max", "dX", "dW"),
)
WIDTH = 190


def show(found: dict[str, Any]) -> None:
    """Print the figures as tables."""
    facts = found["machine"] | {k: v for k, v in found["versions"].items() if v}
    print("machine: " + ", ".join(f"{name} {value}" for name, value in facts.items() if value))
    for name, reason in found["left_out"].items():
        print(f"left out: {name} ({reason})")
    for figures in found["rows"]:
        print(f"\n{figures['row']}, median of {found['rounds']} rounds")
        _table([_cells(name, figures) for name in figures["contenders"]])
        for name, reason in figures["left_out"].items():
            print(f"left out: {name} ({reason})")
        for name, values in figures["contenders"].items():
            if "tiles" in values:
                made = values["tiles_made"] / max(values["tiles"], 1)
                print(f"{name}: {made:.1%} of tiles made, at most {values['bound']:.2e} left out")


def _cells(name: str, figures: dict[str, Any]) -> list[str]:
    values = figures["contenders"][name]
    own = figures["ratios"].get(name, {})
    faster = [f"{own[peer]['total']:.2f}x" if peer in own else "" for peer in RATIOS]
    times = [_number(values.get(f"{key}_ms")) for key in ("forward", "backward", "total")]
    share = values.get("share_of_floor")
    errors = ("logprob_max", "logprob_rms", "entropy_max", "hidden_gradient", "weight_gradient")
    return [
        *(name, *times, *faster, _number(values.get("effective_tflops"))),
        *("" if share is None else f"{share:.0%}", _number(values.get("peak_mib"))),
        *("" if values.get(key) is None else f"{values[key]:.1e}" for key in errors),
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _table(lines: list[list[str]]) -> None:
    try:
        from rlvr.console import console_for_tables, plain_table

        table = plain_table(*HEADINGS)
        for column in table.columns[1:]:
            column.justify = "right"
        for line in lines:
            table.add_row(*line)
        console_for_tables(WIDTH).print(table)
    except ImportError:  # rich is not part of every machine with a GPU
        widths = [max(map(len, cells)) for cells in zip(HEADINGS, *lines, strict=True)]
        for line in ([*HEADINGS], *lines):
            print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def main() -> None:
    """Measure, print tables or one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--rows", nargs="+", metavar="GLOB", help="rows by name, as '512x*-half*'")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these implementations")
    parser.add_argument("--rounds", type=int, help="default: 20 on a GPU, 5 on a CPU")
    parser.add_argument("--seconds", type=float, help="begin no further row after so long")
    parser.add_argument(
        "--no-memory",
        action="store_true",
        help="on a CPU: leave out peak memory, which takes a process of its own for each",
    )
    parser.add_argument("--quick", action="store_true", help="one small row, two rounds")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--show", metavar="FILE", help="print the tables of a JSON object")
    given = parser.parse_args()
    found = json.loads(Path(given.show).read_text()) if given.show else benchmark(given)
    if given.json:
        print(json.dumps(found))
    else:
        show(found)
    sys.exit(any(row["failed"] for row in found["rows"]))


if __name__ == "__main__":
    main()
