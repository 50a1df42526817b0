"""TRL's arguments, optimizer and schedule of a recipe, made without a model: what they refuse is said before one loads."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rlvr.assemble import build_objective, trl_arguments
from rlvr.check.plan import BatchPlan
from rlvr.check.skeleton import check_skeleton
from rlvr.console import say
from rlvr.recipe import Recipe
from rlvr.recipe_error import RecipeError, refusal, refuse, show
from rlvr.suggest import did_you_mean

if TYPE_CHECKING:
    from trl import GRPOConfig

    from rlvr.loss import Objective

_MACHINE = ("tf32", "optim", "attention")
"""Fields that may work on a machine with a GPU where they do not here."""


def check_arguments(recipe: Recipe, plan: BatchPlan, updates: int) -> "GRPOConfig":
    """Return TRL's arguments of a recipe after making all that a trainer makes of them, apart from the model.

    Args:
        recipe: Has passed its checks.
        plan: Of its batches.
        updates: Of the run.

    Raises:
        RecipeError: If TRL, transformers or torch refuse a field under `training`.
    """
    arguments = _built(recipe, plan, updates)
    extra = recipe.training.model_extra or {}
    _check_options("generation_kwargs", extra, _generation_options())
    for name in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
        _check_options(name, extra, _checkpointing_options())
    _check_optimizer(arguments, extra, updates)
    return arguments


def try_out(recipe: Recipe, plan: BatchPlan, *, model: bool) -> None:
    """Raise RecipeError for what the libraries refuse; print it where it may be right on a machine with a GPU.

    Args:
        recipe: Has passed its checks.
        plan: Of its batches.
        model: Whether the model's configuration can be had.
    """
    import torch

    try:
        check_arguments(recipe, plan, recipe.training.updates or 1)
        if model:
            check_skeleton(recipe)
    except RecipeError as error:
        [problem] = error.problems
        is_here = recipe.training.device == "cpu" or torch.cuda.is_available()
        if is_here or problem.path[-1] not in _MACHINE:
            raise
        say(f"warning   {error}; there is no GPU here, where there is one it may be right")


def _built(recipe: Recipe, plan: BatchPlan, updates: int) -> "GRPOConfig":
    objective = build_objective(recipe)
    try:
        return trl_arguments(recipe, plan, objective, updates)
    except Exception as error:  # of whatever library a field is for
        name = _cause(recipe, plan, objective, updates)
        if name is None:
            raise refusal(("training",), f": TRL refuses these fields: {_reason(error)}") from error
        value = (recipe.training.model_extra or {})[name]
        text = f"is {show(value)}, which TRL refuses here: {_reason(error)}"
        raise refusal(("training", name), text) from error


def _cause(recipe: Recipe, plan: BatchPlan, objective: "Objective", updates: int) -> str | None:
    """Return the field of TRL's without which its arguments can be made."""
    training = recipe.training.model_dump()
    for name in recipe.training.model_extra or {}:
        others = {key: value for key, value in training.items() if key != name}
        rest = recipe.model_copy(update={"training": type(recipe.training)(**others)})
        try:
            trl_arguments(rest, plan, objective, updates)
        except Exception:  # then another field is the cause
            continue
        return name
    return None


def _check_options(name: str, extra: dict[str, Any], known: set[str]) -> None:
    for key in extra.get(name) or {}:
        if key not in known:
            refuse(("training", name, key), f"is no option of it.{did_you_mean(key, known)}")


def _generation_options() -> set[str]:
    from transformers import GenerationConfig

    return set(GenerationConfig().to_dict()) - {"transformers_version"}


def _checkpointing_options() -> set[str]:
    from torch.utils.checkpoint import checkpoint

    return {
        parameter.name
        for parameter in inspect.signature(checkpoint).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY or parameter.name == "use_reentrant"
    } | {"preserve_rng_state"}


def _check_optimizer(arguments: "GRPOConfig", extra: dict[str, Any], updates: int) -> None:
    """Make optimizer and schedule for one weight."""
    import torch
    from transformers import Trainer, get_scheduler

    with _said_of(extra, "optim_args", "optim"):
        kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    weight = torch.nn.Parameter(torch.zeros(1))
    if kind.__module__.startswith("torch."):
        with _said_of(extra, "optim_args", "optim"):
            kind([weight], **options)
    with _said_of(extra, "lr_scheduler_kwargs", "lr_scheduler_type"):
        get_scheduler(
            arguments.lr_scheduler_type,
            torch.optim.SGD([weight], lr=1.0),
            num_warmup_steps=arguments.get_warmup_steps(updates),
            num_training_steps=updates,
            scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,  # type: ignore[arg-type]
        )


@contextmanager
def _said_of(extra: dict[str, Any], *names: str) -> Iterator[None]:
    """Say of the first of the fields that is given what is raised inside."""
    try:
        yield
    except Exception as error:  # of whatever library a field is for
        given = (name for name in names if extra.get(name) is not None)
        # a package that is missing is no fault of the options
        name = names[-1] if isinstance(error, ImportError) else next(given, names[-1])
        refuse(
            ("training", name),
            f"is {show(extra.get(name))}, which does not work here: {_reason(error)}",
        )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
