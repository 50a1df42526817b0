"""The report of a stall: which rank is in which phase for how long, and who waits for whom."""

import time
from collections.abc import Mapping, Sequence

from rlvr.watch.beat import STOPPED, Beat, describe, ranges
from rlvr.watch.record import WAITING


def blame(beats: Mapping[int, Beat], processes: int, now: float) -> str:
    """Return who waits for whom, a sentence.

    Ranks in a collective wait for those that are not in it: that is where to look.

    Args:
        beats: By rank; a rank that has none was not heard of.
        processes: Of the run.
        now: Seconds since 1970.
    """
    missing = [rank for rank in range(processes) if rank not in beats]
    gone = [r for r, beat in beats.items() if beat.is_over or beat.is_silent(now)]
    there = {rank: beat for rank, beat in beats.items() if rank not in gone}
    waiting = [rank for rank, beat in there.items() if beat.doing == WAITING]
    others = {rank: beat for rank, beat in there.items() if rank not in waiting}
    causes = [_doing(others)] if others else []
    if gone:
        causes.append(f"{_ranks(gone)} (gone)")
    if missing:
        causes.append(f"{_ranks(missing)} (no heartbeat file: is the run folder shared?)")
    if waiting and causes:
        return (
            f"{_ranks(waiting)} {'waits' if len(waiting) == 1 else 'wait'} for {'; '.join(causes)}"
        )
    if waiting:
        return "every rank waits for the others: they have come to different collectives"
    if len({beat.doing for beat in beats.values()}) == 1 and not gone and not missing:
        return "every rank is in it: a collective inside it does not end, or it is slow"
    return f"no rank waits for others: {'; '.join(causes)}"


def report(
    beats: Sequence[Beat],
    stacks: Mapping[int, str],
    processes: int,
    *,
    patience: float,
    now: float,
) -> tuple[str, str]:
    """Return the report of a stall, and the line that announces it.

    Args:
        beats: The last of each rank that has one.
        stacks: Of the training process, by rank.
        processes: Of the run.
        patience: Seconds after which a collective ends the run.
        now: Seconds since 1970.
    """
    by_rank = {beat.rank: beat for beat in beats}
    present = [beat for beat in beats if not (beat.is_over or beat.is_silent(now))]
    longest = max(present or beats, key=lambda beat: (beat.doing != WAITING, beat.seconds))
    head = describe(longest, now)
    if processes > 1:
        head += f"; {blame(by_rank, processes, now)}"
    lines = [f"stall at {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now))}: {head}"]
    if processes > 1:
        lines.append(
            f"a process that waits {patience:.0f} s in a collective ends the run (training.ddp_timeout)"
        )
    lines += ["", *(_row(beat, now) for beat in beats)]
    # those that others wait for first
    for beat in sorted(beats, key=lambda beat: (beat.doing == WAITING, beat.rank)):
        stack = stacks.get(beat.rank, "no stack came")
        lines += ["", f"rank {beat.rank}, {beat.host}, process {beat.pid}", stack.rstrip()]
    return "\n".join(lines) + "\n", head


def _row(beat: Beat, now: float) -> str:
    return (
        f"{describe(beat, now)} ({beat.phase}; update {beat.update}; {beat.state}, {beat.cores:.2f} cores; "
        f"{beat.host}, process {beat.pid})"
    )


def _doing(beats: Mapping[int, Beat]) -> str:
    """Return what ranks do, those that do the same together, the fewest first.

    Example:
        >>> beat = Beat(0, 3, "a", 1, "sleeping", "training", 9.0, 0, 0.0, 0.0, 0.0, 5.0)
        >>> other = Beat(1, 3, "a", 1, "stopped", "rollout/scoring", 9.0, 0, 0.0, 0.0, 0.0, 5.0)
        >>> _doing({0: beat, 1: other, 2: beat})
        'rank 1 (scoring, stopped by a signal), ranks 0, 2 (training)'
    """
    same: dict[str, list[int]] = {}
    for rank, beat in beats.items():
        stopped = ", stopped by a signal" if beat.state == STOPPED else ""
        same.setdefault(beat.doing + stopped, []).append(rank)
    groups = sorted(same.items(), key=lambda item: (len(item[1]), item[1]))
    return ", ".join(f"{_ranks(ranks)} ({what})" for what, ranks in groups)


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'' if len(ranks) == 1 else 's'} {ranges(sorted(ranks))}"
