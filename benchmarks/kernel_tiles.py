"""Which tiles of the Triton kernels are fastest on this GPU: `python -m benchmarks.kernel_tiles [--sizes 896 3584]`.

Candidates are raced at every hidden size, and the winners printed as the table of `rlvr.kernels.launch`.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernel_check import compiled
from benchmarks.kernel_inputs import problem
from rlvr.kernels.linear import linear_logprob_entropy

ROUNDS = 5


def candidates() -> list[Any]:
    """Return tiles worth a try."""
    from rlvr.kernels.launch import Tile

    shapes = [(128, 128, 64, 4), (128, 128, 64, 8), (128, 256, 64, 8), (64, 256, 64, 8)]
    return [
        Tile(rows, columns, depth, warps=warps, stages=stages, variant=variant)
        for rows, columns, depth, warps in shapes
        for stages in (3, 4)
        for variant in ("plain", "descriptor")
    ]


def tiles(given: argparse.Namespace) -> int:
    """Race tiles at every hidden size, and print the winners as a table of `rlvr.kernels.launch`."""
    if not torch.cuda.is_available():
        print("FAIL  no CUDA device: PyTorch sees none, and tiles are raced on one")
        return 1
    if given.share:
        number, count = map(int, given.share.split("/"))
        for tile, size, has_bias in _entries(given.sizes)[number::count]:
            _tile_times(tile, _raced(size, has_bias, rows=256), rounds=1)
        return 0
    began = time.monotonic()
    _compile_all(given.sizes)
    print(f"compiled in {time.monotonic() - began:.0f} s", flush=True)
    best: dict[tuple[bool, int], Any] = {}
    found: list[dict[str, Any]] = []
    for has_bias, size in sorted({(bias, size) for _, size, bias in _entries(given.sizes)}):
        ranked = _race(size, has_bias, given.rows, found)
        if ranked:
            best[has_bias, size] = min(ranked)[-1]
    print("\n".join(_printed(best)))
    if given.json:
        Path(given.json).write_text(json.dumps({"tiles": found}))
    return int(not best)


def _compile_all(sizes: Sequence[int]) -> None:
    """Compile side by side: the race finds the kernels in Triton's cache."""
    workers = max(1, min(12, len(os.sched_getaffinity(0)) - 1))
    command = [sys.executable, "-m", "benchmarks.kernel_tiles", "--sizes"]
    command += [str(size) for size in sizes]
    running = [
        subprocess.Popen([*command, "--share", f"{number}/{workers}"]) for number in range(workers)
    ]
    for worker in running:
        worker.wait()


def _race(
    size: int, has_bias: bool, rows: int, found: list[dict[str, Any]]
) -> list[tuple[bool, float, int, Any]]:
    """Return tiles with what they are ranked by: whether registers spill, milliseconds; and note all in `found`."""
    inputs = _raced(size, has_bias, rows)
    tflop = 2e-9 * rows * len(inputs[1]) * size
    ranked: list[tuple[bool, float, int, Any]] = []
    for tile in candidates():
        times = _tile_times(tile, inputs, rounds=ROUNDS)
        if times is None:
            continue
        forward, backward, spills = times
        print(
            f"H {size}{' bias' * has_bias} {tile}: forward {forward:.2f} ms ({tflop / forward:.0f} TFLOP/s), "
            f"backward {backward:.2f} ms, spills {spills}",
            flush=True,
        )
        found.append(
            {
                "hidden_size": size,
                "has_extras": has_bias,
                "tile": vars(tile),
                "forward_ms": forward,
                "backward_ms": backward,
                "spills": spills,
            }
        )
        ranked.append((spills > 0, forward + backward, len(ranked), tile))
    return ranked


def _entries(sizes: Sequence[int]) -> list[tuple[Any, int, bool]]:
    own = [(tile, size, False) for size in sizes for tile in candidates()]
    return own + [(tile, sizes[-1], True) for tile in candidates()]


def _raced(size: int, has_bias: bool, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    made = problem(rows, size, 151936, dtype=torch.bfloat16, device=torch.device("cuda"))
    bias = torch.zeros(151936, dtype=torch.bfloat16, device="cuda") if has_bias else None
    return made.hidden, made.weight, made.targets, bias


def _tile_times(
    tile: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor | None], rounds: int
) -> tuple[float, float, int] | None:
    """Return milliseconds of forward and backward with a tile, and spills; None if it does not fit this GPU."""
    from rlvr.kernels import launch

    hidden, weight, targets, bias = inputs
    table, launch.TABLE = launch.TABLE, [launch._Entry(tile)]
    known = {kernel["hash"] for kernel in compiled()}
    upstream = torch.ones(len(targets), device=hidden.device) / len(targets)
    times = []
    try:
        for _ in range(rounds + 1):
            events = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
            events[0].record()
            result = linear_logprob_entropy(
                *(hidden, weight, targets), bias=bias, cache_bytes=0, impl="triton"
            )
            events[1].record()
            # the products that follow are the same for all tiles
            torch.autograd.grad(result.logprobs, hidden, upstream)
            events[2].record()
            torch.cuda.synchronize()
            times.append([a.elapsed_time(b) for a, b in itertools.pairwise(events)])
    except (
        Exception
    ) as error:  # too much shared memory, or a compiler that cannot: the others go on
        print(f"{tile} does not run: {str(error).splitlines()[0]}", flush=True)
        return None
    finally:
        launch.TABLE = table
    forward, backward = zip(*times[1:], strict=True)
    own = (kernel["spills"] or 0 for kernel in compiled() if kernel["hash"] not in known)
    return statistics.median(forward), statistics.median(backward), max(own, default=0)


def _printed(best: dict[tuple[bool, int], Any]) -> list[str]:
    """Return lines of the table: sizes with the same winner share one, and the largest has no bound."""
    major = torch.cuda.get_device_capability()[0]
    lines = []
    for has_extras in (False, True):
        own = [
            (size, tile) for (extras, size), tile in sorted(best.items()) if extras == has_extras
        ]
        for place, (size, tile) in enumerate(own):
            is_last = place == len(own) - 1
            if not is_last and own[place + 1][1] == tile:
                continue
            fields = f"warps={tile.warps}, stages={tile.stages}"
            if tile.variant != "plain":
                fields += f', variant="{tile.variant}"'
            bound = "" if is_last else f", most_hidden={size}"
            extras = "" if has_extras else ", has_extras=False"
            shape = f"{tile.rows}, {tile.columns}, {tile.depth}"
            lines.append(f"    _Entry(Tile({shape}, {fields}), capability={major}{bound}{extras}),")
    return lines


def main() -> None:
    """Race what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=[896, 1536, 3584])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--share", help="compile a share of the tiles, as 0/12, and nothing else")
    parser.add_argument("--json", metavar="FILE", help="also written to this file")
    sys.exit(tiles(parser.parse_args()))


if __name__ == "__main__":
    main()
