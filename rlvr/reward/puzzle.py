"""The puzzles of attack files as rows of the verifiers that judge them.

    {"name": "countdown", "numbers": [3, 5], "target": 8}         countdown
    {"name": "mini_sudoku", "clues": ["1 _ _ 4", ...]}            reasoning_gym, solved here
    {"name": "knights_knaves", "answer": {"Ann": "knight", ...}}  reasoning_gym
    {"name": "word_sort", "answer": "apple bear"}                 reasoning_gym
    {"name": ..., "answer": "noon"}                               exact

Puzzles that are described otherwise are an error.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import Any

from rlvr.reward.case import Fields

Grid = tuple[tuple[int, ...], ...]


def puzzle_row(fields: Fields) -> tuple[str, dict[str, Any]]:
    """Return the verifier and the row of a puzzle.

    Raises:
        ValueError: For a puzzle that none of the above describes.
    """
    task = fields.get("task", dict)
    if "numbers" in task and "target" in task:
        use_all = "at most once" not in str(task.get("rule", ""))
        numbers = {"numbers": task["numbers"], "target": task["target"]}
        return "countdown", numbers | {"use_all": use_all}
    if isinstance(task.get("clues"), list):
        return "reasoning_gym", {"entry": _sudoku(fields, task)}
    if isinstance(task.get("answer"), Mapping):
        return "reasoning_gym", {"entry": _knights(task)}
    if isinstance(task.get("answer"), str) and str(task.get("name")).startswith("word_sort"):
        return "reasoning_gym", {"entry": _words(task["answer"])}
    if isinstance(task.get("answer"), str | int | float):
        return "exact", {"answer": str(task["answer"])}
    raise fields.error(
        f"task {task.get('name')!r} has neither numbers and target, nor clues, nor an answer"
    )


def _knights(task: Mapping[str, Any]) -> dict[str, Any]:
    said = [f"{name} is a {role}" for name, role in task["answer"].items()]
    answer = ", and ".join((", ".join(said[:-1]), said[-1])) if len(said) > 1 else said[0]
    return _entry("knights_knaves", f"{answer}.", {"names": list(task["answer"])})


def _words(answer: str) -> dict[str, Any]:
    words = answer.replace(",", " ").split()
    return _entry("word_sorting", ", ".join(words), {"sorted_words": words})


def _sudoku(fields: Fields, task: Mapping[str, Any]) -> dict[str, Any]:
    clues = tuple(
        tuple(int(cell) if cell.isdigit() else 0 for cell in line.split()) for line in task["clues"]
    )
    if [len(line) for line in clues] != [4] * 4:
        raise fields.error("task.clues must be four lines of four cells, digits or _")
    solutions = list(solve(clues))
    if not solutions:
        raise fields.error("task.clues has no solution")
    stated = [int(digit) for digit in re.findall("[1-4]", fields.optional("completion"))]
    # where the clues allow several grids, each of them is right
    found = next((grid for grid in solutions if sum(grid, ()) == tuple(stated)), solutions[0])
    answer = "\n".join(" ".join(map(str, line)) for line in found)
    grids = {"puzzle": [list(line) for line in clues], "solution": [list(line) for line in found]}
    return _entry("mini_sudoku", answer, grids)


def solve(clues: Grid, above: Grid = ()) -> Iterator[Grid]:
    """Yield the 4 x 4 grids with these clues (0: open), each digit once a row, column and square.

    Args:
        clues: Four lines of four.
        above: Lines that are already chosen.

    Example:
        >>> list(solve(((1, 0, 0, 4), (0, 4, 1, 0), (2, 0, 0, 3), (0, 3, 2, 0))))
        [((1, 2, 3, 4), (3, 4, 1, 2), (2, 1, 4, 3), (4, 3, 2, 1))]
    """
    if len(above) == 4:
        yield above
        return
    for line in permutations((1, 2, 3, 4)):
        if all(clue in (0, cell) for clue, cell in zip(clues[len(above)], line, strict=True)):
            grid = (*above, line)
            if _is_legal(grid):
                yield from solve(clues, grid)


def _is_legal(grid: Grid) -> bool:
    columns = list(zip(*grid, strict=True))
    squares = [
        [cell for line in grid[top : top + 2] for cell in line[left : left + 2]]
        for top in (0, 2)
        for left in (0, 2)
    ]
    return all(len(set(cells)) == len(cells) for cells in (*columns, *squares))


def _entry(dataset: str, answer: str, metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        "question": "",
        "answer": answer,
        "metadata": metadata | {"source_dataset": dataset},
    }
