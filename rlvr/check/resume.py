"""A run goes on with the recipe it was started with; what may change on the way is listed here."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlvr.recipe import Recipe, load_recipe
from rlvr.recipe_error import show

MAY_CHANGE = (
    *("name", "output", "source", "expect", "monitor", "evaluation", "export"),
    *("training.updates", "training.epochs", "training.save_every", "training.keep_checkpoints"),
    *(
        "training.micro_batch_size",
        "training.tokens_per_micro_batch",
        "rollout.batch_size",
        "rewards.deadline",
        "rewards.batch_deadline",
        "rewards.workers",
        "rewards.memory_gib",
    ),
)
"""Keys that change what is recorded, how long or how fast, but no update."""


def changes(recipe: Recipe, resolved: Path) -> list[str]:
    """Return what a recipe changes of the run it goes on with, a line each.

    Args:
        recipe: As it was given to resume with.
        resolved: `resolved.yaml` of the run.

    Raises:
        ValueError: If it changes what the updates are.
    """
    if not resolved.exists():
        return []
    before, _ = load_recipe(resolved)
    old, new = (dict(_leaves(each.model_dump(mode="json"))) for each in (before, recipe))
    differing = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    lines = {key: f"{key}: {show(old.get(key))} -> {show(new.get(key))}" for key in differing}
    refused = [lines[key] for key in differing if not _may_change(key)]
    if refused:
        raise ValueError(
            "--resume: the recipe is not the run's, so the run would go on as another one:\n  "
            + "\n  ".join(refused)
            + f"\nGo on with its own (rlvr train {resolved} --resume), or start a new run with output=."
        )
    quiet = ("name", "output", "source", "expect")
    return [line for key, line in lines.items() if key.split(".")[0] not in quiet]


def _may_change(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in MAY_CHANGE)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values; lists and empty maps are values."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
