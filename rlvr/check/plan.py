"""From prompts, groups and updates to the numbers of a trainer, for any number of processes.

With P prompts a rollout, M prompts an update, G completions a prompt and W processes, a process has
M G / W completions of each update, in micro-batches of at most b completions or of at most so many tokens. A plan exists
when W divides M G.
"""

import math
from dataclasses import dataclass

from rlvr.check.combination import divisors, nearest
from rlvr.recipe import Recipe
from rlvr.recipe_error import Problem, raise_problems

LARGEST_DEFAULT = 16
"""Completions of a micro-batch when the recipe leaves its size open, at most."""


@dataclass(frozen=True)
class BatchPlan:
    """How the completions of a rollout are cut into updates, processes and micro-batches."""

    processes: int
    """W, over all machines."""
    prompts_per_rollout: int
    """P."""
    prompts_per_update: int
    """M."""
    group_size: int
    """G."""
    passes: int
    """Passes over each rollout."""
    micro_batch_size: int
    """b: completions of one forward and backward pass of one process, at most."""
    tokens_per_micro_batch: int | None = None
    """Tokens of one such pass, padding counted, at most; None: as many as b completions have."""

    @property
    def completions_per_rollout(self) -> int:
        """P G, over all processes."""
        return self.prompts_per_rollout * self.group_size

    @property
    def completions_per_update(self) -> int:
        """M G, over all processes."""
        return self.prompts_per_update * self.group_size

    @property
    def completions_per_process(self) -> int:
        """P G / W: completions of a rollout on one process."""
        return self.completions_per_rollout // self.processes

    @property
    def share(self) -> int:
        """M G / W: completions of an update on one process."""
        return self.completions_per_update // self.processes

    @property
    def micro_batches(self) -> int:
        """Micro-batches of an update on one process where all its completions teach, cut by completions."""
        return -(-self.share // self.micro_batch_size)

    @property
    def updates_per_rollout(self) -> int:
        """Optimizer steps on each rollout: P / M times the passes."""
        return self.updates_per_pass * self.passes

    def rollouts(self, updates: int) -> int:
        """Return the number of rollouts that `updates` need; the last may be used in part."""
        return -(-updates // self.updates_per_rollout)

    @property
    def updates_per_pass(self) -> int:
        """Updates that use every prompt of a rollout once."""
        return self.prompts_per_rollout // self.prompts_per_update

    def updates(self, rows: int, epochs: float) -> int:
        """Return the updates of `epochs` passes over `rows` prompts, whole rollouts only.

        Raises:
            RecipeError: As `check_rows`.
        """
        self.check_rows(rows)
        return max(1, round(rows // self.prompts_per_rollout * epochs)) * self.updates_per_rollout

    def check_rows(self, rows: int) -> None:
        """Raise RecipeError if the data has fewer prompts than one rollout needs."""
        if rows >= self.prompts_per_rollout:
            return
        part = self.prompts_per_update
        fits = nearest(rows, range(part, rows + 1, part))
        advice = (
            f"set it to {fits}, or less"
            if fits
            else f"lower prompts_per_update, which is {part}, and it to {rows} or less"
        )
        text = f"is {self.prompts_per_rollout}, but the data has {rows} prompts; {advice}, or add data."
        raise_problems([Problem(("rollout", "prompts_per_rollout"), text)], "recipe")

    def trl_arguments(self) -> dict[str, int]:
        """Return TRL's names for the plan: arguments of `GRPOConfig`.

        A step of TRL's is a whole update: its micro-batches, whose number may differ from update to update, are ours.
        """
        return {
            "num_generations": self.group_size,
            "per_device_train_batch_size": self.share,
            "gradient_accumulation_steps": 1,
            "steps_per_generation": self.updates_per_pass,
            "num_iterations": self.passes,
        }

    def describe(self) -> str:
        """Return the plan in a few lines of plain text."""
        updates = self.updates_per_rollout
        processes = f"{self.processes} process{'es' if self.processes > 1 else ''}"
        lines = [
            f"rollout   {self.prompts_per_rollout} prompts x {self.group_size} completions = "
            f"{self.completions_per_rollout} completions, {self.completions_per_process} on each of "
            f"{processes}",
            f"update    {self.prompts_per_update} prompts = {self.completions_per_update} completions; "
            f"{updates} update{'s' if updates > 1 else ''} per rollout"
            + (f" in {self.passes} passes" if self.passes > 1 else ""),
            f"process   {self.share} completions an update, in {self._micro_batches()}",
        ]
        if updates == 1:
            lines.append(
                "note      one update per rollout: the ratio is 1, so clipping and all that acts on the "
                "ratio does nothing"
            )
        return "\n".join(lines)

    def _micro_batches(self) -> str:
        if self.tokens_per_micro_batch is not None:
            return f"micro-batches of up to {self.tokens_per_micro_batch:,} tokens"
        count = self.micro_batches
        upto = "" if count * self.micro_batch_size == self.share else "up to "
        return f"{count} micro-batch{'es' if count > 1 else ''} of {upto}{self.micro_batch_size}"


def check_difficulty(recipe: Recipe, plan: BatchPlan, rows: int, updates: int) -> None:
    """Raise RecipeError if a filter of prompts never acts: none of them comes twice, and nothing is known of them.

    Args:
        recipe: Has passed the schema.
        plan: Its plan.
        rows: Of the data.
        updates: Of the run.
    """
    options, refills = recipe.rollout.difficulty, recipe.rollout.dynamic_sampling
    most = plan.rollouts(updates) * plan.prompts_per_rollout
    most *= 1 if refills is None else 1 + refills.max_refills
    if options is None or not options.filters or options.start is not None or most > rows:
        return
    text = (
        f"has no effect: the run samples {most} prompts at most and the data has {rows}, so none comes twice and is "
        "left out for what it was; give rollout.difficulty.start (the folder of an earlier run, or of rlvr data "
        "split), train longer, or remove it."
    )
    key = "max_pass_rate" if options.max_pass_rate < 1 else "min_pass_rate"
    raise_problems([Problem(("rollout", "difficulty", key), text)], recipe.name)


def plan_batches(recipe: Recipe, processes: int = 1) -> BatchPlan:
    """Return the plan of a recipe on a number of processes.

    Args:
        recipe: Has passed the schema.
        processes: Over all machines, at least 1.

    Raises:
        RecipeError: If the completions of an update cannot be cut evenly, with the nearest numbers that can.
    """
    if processes < 1:
        raise ValueError(f"processes is {processes}; it must be at least 1")
    rollout, asked = recipe.rollout, recipe.training.micro_batch_size
    tokens = recipe.training.tokens_per_micro_batch
    total = rollout.prompts_per_update * rollout.group_size
    if total % processes:
        step = processes // math.gcd(processes, rollout.group_size)
        prompts = nearest(
            rollout.prompts_per_update, range(step, rollout.prompts_per_update + step + 1, step)
        )
        text = (
            f"is {rollout.prompts_per_update}: {rollout.prompts_per_update} prompts x group_size "
            f"{rollout.group_size} = {total} completions an update do not divide over {processes} "
            f"processes; run on {nearest(processes, divisors(total))} processes, or set "
            f"prompts_per_update to {prompts} (and prompts_per_rollout to a multiple of it)."
        )
        raise_problems([Problem(("rollout", "prompts_per_update"), text)], recipe.name)
    share = total // processes
    size = asked or LARGEST_DEFAULT
    if tokens is not None:  # which alone decide
        size = share
    return BatchPlan(
        processes=processes,
        prompts_per_rollout=rollout.prompts_per_rollout,
        prompts_per_update=rollout.prompts_per_update,
        group_size=rollout.group_size,
        passes=rollout.passes,
        micro_batch_size=min(size, share),
        tokens_per_micro_batch=tokens,
    )
