"""A frozen rollout: the sampled and scored rows of one generation, in a file.

It holds what only sampling gives, tokens, rewards and log-probs of the policy that sampled and of the initial one. Other
statistics of the policy are computed when it is replayed: its weights are needed then anyway.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rlvr.batch import Origin, RolloutBatch
from rlvr.check.plan import BatchPlan
from rlvr.entropy.control import Rehearsal, RolloutPlan, chain
from rlvr.loss import Objective
from rlvr.recipe import Recipe
from rlvr.replay.place import INITIAL
from rlvr.replay.weights import Weights
from rlvr.rollout.generation import REHEARSAL
from rlvr.rollout.rehearsal import load_buffer
from rlvr.rollout.stream import prompt_stream
from rlvr.trainer import Trainer
from rlvr.whole_file import whole_file

FORMAT = 1
_SAMPLING = {
    "model": None,
    "data": None,
    "rewards": ("verifiers", "scores"),
    "rollout": (
        *("prompts_per_rollout", "group_size", "max_completion_length"),
        *("temperature", "top_p", "top_k", "min_p"),
    ),
    "training": ("seed",),
}
"""Sections of a recipe that decide what is sampled, and which of their keys; None: all."""
_DRIFT = 0.02
"""Mean difference of log-probs, nats, above which the weights are not those that sampled."""


@dataclass(frozen=True)
class Frozen:
    """What was sampled, before any control has acted."""

    run: str
    """Run folder, where it was then."""
    weights: str
    """What sampled: `initial`, or a folder in the run folder, such as `final`."""
    sampling: dict[str, Any]
    """What the recipe said of sampling."""
    rows: RolloutBatch
    tempered: dict[str, RolloutBatch]
    """Key of a plan's temperature -> rows of the first prompts."""
    rehearsal: dict[str, RolloutBatch]
    """Key of a plan -> right completions of the initial policy."""


def sampling_of(recipe: Recipe) -> dict[str, Any]:
    """Return dotted keys and values that decide what a recipe samples."""
    values = recipe.model_dump(mode="json")
    return {
        f"{section}.{key}": value
        for section, keys in _SAMPLING.items()
        for key, value in values[section].items()
        if keys is None or key in keys
    }


def freeze(
    trainer: Trainer,
    recipe: Recipe,
    plan: BatchPlan,
    objective: Objective,
    wanted: Sequence[RolloutPlan],
    run: Path,
    weights: str,
) -> Frozen:
    """Sample one generation with what the controls want besides.

    Args:
        trainer: Holds the initial policy; afterwards the one that sampled.
        recipe: Of the run.
        plan: Its plan.
        objective: Its loss.
        wanted: What the controls that will be replayed want sampled.
        run: Run folder.
        weights: `initial`, or the folder in it of the policy that samples.
    """
    initial = Weights(trainer.model)
    rehearsal = {}
    for item in dict.fromkeys(part.rehearsal for part in wanted if part.rehearsal is not None):
        buffer = None if item.buffer else _rehearse(trainer, plan, item, run)
        if buffer is not None:
            rehearsal[rehearsal_key(item)] = buffer
    if weights != INITIAL:
        trainer.load_weights(run / weights)
    # no KL: log-probs of the initial policy are computed with its weights, not with a second model
    trainer.use(replace(objective, chain=chain(), kl_coef=0.0), {})
    roller = trainer.roller
    order = prompt_stream(len(roller.rows), plan.prompts_per_rollout, roller.seed)
    seed = roller.seed * 1_000_003
    requests = roller.sampler.each(order)
    rows = roller.sampler.sample(
        requests, seed, origin=Origin.POLICY, first_group=0, statistics=True
    ).rows
    tempered = {
        tempered_key(temperature): roller.sampler.sample(
            requests[: prompts * plan.group_size],
            seed + 1,
            origin=Origin.TEMPERED,
            first_group=plan.prompts_per_rollout,
            temperature=temperature,
            statistics=True,
        ).rows
        for temperature, prompts in _tempered(wanted, plan).items()
    }
    sampler = Weights(trainer.model)
    initial.restore()
    rows = replace(rows, ref_logprobs=trainer.look(rows).logprobs)
    tempered = {
        key: replace(part, ref_logprobs=trainer.look(part).logprobs)
        for key, part in tempered.items()
    }
    sampler.restore()
    return Frozen(str(run.resolve()), weights, sampling_of(recipe), rows, tempered, rehearsal)


def _tempered(wanted: Sequence[RolloutPlan], plan: BatchPlan) -> dict[float, int]:
    """Return the temperatures that are wanted, with the prompts at each."""
    found: dict[float, int] = {}
    for part in wanted:
        if part.tempered is not None:
            prompts = part.tempered.prompts(plan.prompts_per_rollout)
            found[part.tempered.temperature] = max(prompts, found.get(part.tempered.temperature, 0))
    return {temperature: prompts for temperature, prompts in found.items() if prompts}


def _rehearse(
    trainer: Trainer, plan: BatchPlan, wanted: Rehearsal, run: Path
) -> RolloutBatch | None:
    """Return the rows of the run's buffer, or as many new ones as a replay draws; None: nothing is mastered."""
    buffer = run / REHEARSAL
    if buffer.is_file():
        return load_buffer(buffer)
    most = min(wanted.buffer_rows, wanted.rows_per_update * plan.updates_per_pass)
    return trainer.roller.mastered(wanted, most)


def tempered_key(temperature: float) -> str:
    """Return the name under which tempered rows are kept."""
    return f"{temperature:g}"


def rehearsal_key(wanted: Rehearsal) -> str:
    """Return the name under which rehearsal rows are kept."""
    return f"{wanted.samples} samples, {wanted.min_pass_rate:g} right"


def save(frozen: Frozen, path: Path) -> None:
    """Write a frozen rollout beside its place and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "run": frozen.run,
        "weights": frozen.weights,
        "sampling": frozen.sampling,
        "rows": vars(frozen.rows.to("cpu")),
        "tempered": {key: vars(part.to("cpu")) for key, part in frozen.tempered.items()},
        "rehearsal": {key: vars(part.to("cpu")) for key, part in frozen.rehearsal.items()},
    }
    with whole_file(path) as partial:
        torch.save(content, partial)


def load(path: Path) -> Frozen:
    """Read a frozen rollout.

    Raises:
        ValueError: If the file is not one, or of another version.
    """
    try:
        content = torch.load(path, weights_only=True)
        version = content["format"]
    except Exception as error:  # torch raises whatever pickle does
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path} is no frozen rollout ({reason}); give a run folder") from None
    if version != FORMAT:
        raise ValueError(
            f"{path} has format {version}, this version reads {FORMAT}; freeze again: --fresh"
        )
    return Frozen(
        run=content["run"],
        weights=content["weights"],
        sampling=content["sampling"],
        rows=RolloutBatch(**content["rows"]),
        tempered={key: RolloutBatch(**part) for key, part in content["tempered"].items()},
        rehearsal={key: RolloutBatch(**part) for key, part in content["rehearsal"].items()},
    )


def check_same(frozen: Frozen, recipe: Recipe, weights: str, path: Path) -> None:
    """Raise ValueError if a frozen rollout was sampled otherwise than is asked for now."""
    now = sampling_of(recipe) | {"weights": weights}
    then = frozen.sampling | {"weights": frozen.weights}
    differing = [
        f"  {key}: {then.get(key)} -> {now.get(key)}"
        for key in sorted(now.keys() | then.keys())
        if now.get(key) != then.get(key)
    ]
    if differing:
        raise ValueError(
            f"{path} was frozen with other values:\n"
            + "\n".join(differing)
            + "\nFreeze a new one over it with --fresh, or beside it with --to FOLDER."
        )


def check_weights(frozen: Frozen, trainer: Trainer, path: Path) -> None:
    """Raise ValueError if the trainer's weights are not those that sampled the rows."""
    few = frozen.rows.rows(torch.arange(min(len(frozen.rows), 8))).to(trainer.processes.device)
    assert few.old_logprobs is not None  # freeze computes them
    difference = (trainer.look(few).logprobs - few.old_logprobs)[few.completion_mask].abs()
    if len(difference) and difference.mean() > _DRIFT:
        raise ValueError(
            f"the {frozen.weights} weights are not those that sampled {path}: log-probs differ by "
            f"{difference.mean():.2g} nats on average; freeze again with --fresh"
        )
