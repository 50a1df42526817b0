"""Are the goals of the head's kernels met: `python -m benchmarks.kernel_gates [FILE...]`.

Files are what `benchmarks.kernel_check --json` and `benchmarks.kernel --json` wrote. A goal whose numbers are missing is
OWED, not met.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Gate:
    """A goal: every number found for it is at least, or at most, a bound."""

    name: str
    claim: str
    bound: float
    numbers: list[tuple[float, str]]
    """With where each is from."""
    is_floor: bool = True

    def judged(self) -> tuple[str, str]:
        """Return PASS, FAIL or OWED, and the number next to the bound."""
        if not self.numbers:
            return "OWED", "not measured"
        pick = min if self.is_floor else max
        value, where = pick(self.numbers)
        holds = value >= self.bound if self.is_floor else value <= self.bound
        return ("PASS" if holds else "FAIL"), f"{value:.4g} at {where}"


def gates(given: argparse.Namespace) -> int:
    """Hold measurements against the goals; 1 if one is not met."""
    rows: list[dict[str, Any]] = []
    kernels: list[dict[str, Any]] = []
    on_cpu = False
    for path in given.files:
        found = json.loads(Path(path).read_text())
        rows += found.get("rows", [])
        kernels += found.get("kernels", [])
        on_cpu |= "machine" in found and found["machine"]["gpu"] is None
    judged = [
        (gate, *gate.judged()) for gate in (cpu_gates if on_cpu else gpu_gates)(rows, kernels)
    ]
    for gate, verdict, number in judged:
        sign = ">=" if gate.is_floor else "<="
        print(f"{verdict}  {gate.name}: {gate.claim} {sign} {gate.bound:g}: {number}")
    if given.json:
        own = [{"gate": g.name, "verdict": verdict, "number": said} for g, verdict, said in judged]
        Path(given.json).write_text(json.dumps({"gates": own}))
    return int(any(verdict != "PASS" for _, verdict, _ in judged))


def _speedups(
    rows: Sequence[dict[str, Any]], ours: str, theirs: str = "TRL", part: str = "total"
) -> list[tuple[float, str]]:
    return [
        (row["ratios"][ours][theirs][part], f"{row['row']} {ours}")
        for row in rows
        if theirs in row["ratios"].get(ours, {})
    ]


def _peaks(rows: Sequence[dict[str, Any]], *names: str) -> list[tuple[float, str]]:
    """Return peak memory over TRL's."""
    found = []
    for row, name in itertools.product(rows, names):
        own, trl = (row["contenders"].get(each, {}).get("peak_mib") for each in (name, "TRL"))
        if own is not None and trl:
            found.append((own / trl, f"{row['row']} {name}"))
    return found


def cpu_gates(rows: Sequence[dict[str, Any]], _: Sequence[dict[str, Any]]) -> list[Gate]:
    """Return the goals on a CPU."""
    main = [row for row in rows if (row["hidden_size"], row["rows"]) == (512, 2048)]
    half = [row for row in main if row["pattern"] == "half"]
    whole = [row for row in main if row["pattern"] == "all"]
    return [
        Gate("C1", "half of the rows dead, speed over TRL's", 2.2, _speedups(half, "auto")),
        Gate("C2", "half of the rows dead, memory over TRL's", 0.1, _peaks(half, "auto"), False),
        Gate("C3", "all rows live, speed over TRL's", 1.4, _speedups(whole, "auto")),
        Gate("C4", "any case, speed over naive's", 1.0, _speedups(rows, "auto", "naive")),
    ]


def gpu_gates(rows: Sequence[dict[str, Any]], kernels: Sequence[dict[str, Any]]) -> list[Gate]:
    """Return the goals on an H200."""
    large = [row for row in rows if row["hidden_size"] >= 3584 and row["rows"] >= 4096]
    narrow = [row for row in rows if row["hidden_size"] <= 1536]
    whole = [row for row in rows if row["pattern"] == "all"]
    half = [row for row in rows if row["pattern"] == "half"]
    recompute, cached, certain = "triton recompute", "triton cached", "triton certified"
    rates = [
        (row["contenders"][recompute]["forward_tflops"], row["row"])
        for row in large
        if recompute in row["contenders"]
    ]
    errors = [
        (own[certain][name] / own[recompute][name], f"{row['row']} {name}")
        for row in whole
        for own in [row["contenders"]]
        for name in ("hidden_gradient", "weight_gradient")
        if certain in own and recompute in own
    ]
    spills = [(float(k["spills"] or 0), k["kernel"]) for k in kernels]
    uses = ((k["on_tensor_cores"], k["kernel"]) for k in kernels)
    cores = [(float(use), name) for use, name in uses if use is not None]
    forward = _speedups(narrow, recompute, part="forward")
    return [
        Gate("G1", "forward TFLOP/s, H >= 3584", 650, rates),
        Gate("G2", "forward over TRL's, H <= 1536", 1.1, forward),
        Gate("G3", "recompute over TRL's, all live", 0.95, _speedups(whole, recompute)),
        Gate("G4", "cached over TRL's, all live", 1.3, _speedups(whole, cached)),
        Gate("G5", "recompute over TRL's, half dead", 1.6, _speedups(half, recompute)),
        Gate("G5", "cached over TRL's, half dead", 2.0, _speedups(half, cached)),
        Gate("G6", "certified over TRL's, all live", 2.2, _speedups(whole, certain)),
        Gate("G6", "certified's error over the exact one's", 1.0, errors, False),
        Gate("G7", "peak memory over TRL's", 1.0, _peaks(rows, recompute, certain), False),
        Gate("G8", "registers spilled", 0, spills, False),
        Gate("G8", "kernels in half precision on tensor cores", 1, cores),
    ]


def main() -> None:
    """Judge the files that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*")
    parser.add_argument("--json", metavar="FILE", help="also written to this file")
    sys.exit(gates(parser.parse_args()))


if __name__ == "__main__":
    main()
