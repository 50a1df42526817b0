"""What a recipe names, checked against the code it names: options of methods, tasks, installed packages.

Imports the methods (and so torch), but loads no model and no data.
"""

import importlib
import importlib.util
import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from rlvr import catalog
from rlvr.check.combination import (
    is_chosen,
    sources,
    verifier_lists,
)
from rlvr.check.schema import schema_problems
from rlvr.compose import Origins
from rlvr.console import process_count
from rlvr.kernels.statistics import carries_gradient
from rlvr.recipe import NamedItem, Recipe
from rlvr.recipe_error import Path, Problem, raise_problems, show
from rlvr.suggest import did_you_mean

if TYPE_CHECKING:
    from rlvr.entropy.control import Chain


def check_methods(recipe: Recipe, origins: Origins | None = None) -> None:
    """Raise one RecipeError for all that is wrong with the methods a recipe names.

    Args:
        recipe: Has passed the schema.
        origins: Of its values; None: messages name only the key.
    """
    problems = [
        *_control_problems(recipe, origins),
        *_function_problems(recipe),
        *_verifier_problems(recipe),
        *_task_problems(recipe),
        *_package_problems(recipe),
    ]
    placed = [
        Problem(item.path, item.text, origins.near(item.path) if origins else "")
        for item in problems
    ]
    raise_problems(placed, origins.recipe if origins else recipe.name)


def check_device(recipe: Recipe) -> None:
    """Raise RecipeError if this process cannot do what the recipe wants: there is no GPU."""
    import torch

    if recipe.training.device == "cuda" and not torch.cuda.is_available():
        text = "is cuda, but this process sees no GPU; set training.device=cpu, or auto."
        raise_problems([Problem(("training", "device"), text)], recipe.name)
    if recipe.kernel.impl == "triton" and not torch.cuda.is_available():
        text = "is triton, but this process sees no GPU; set kernel.impl=auto."
        raise_problems([Problem(("kernel", "impl"), text)], recipe.name)
    _check_quantization(recipe)
    parallel = (recipe.training.model_extra or {}).get("vllm_tensor_parallel_size", 1)
    if recipe.rollout.engine == "vllm" and (parallel < 1 or process_count() % parallel):
        text = f"is {parallel}, which is no divisor of {process_count()}, the processes of the run; set it to one."
        raise_problems([Problem(("training", "vllm_tensor_parallel_size"), text)], recipe.name)
    if recipe.rollout.engine == "vllm" and not torch.cuda.is_available():
        text = "is vllm, but this process sees no GPU; set rollout.engine=transformers."
        raise_problems([Problem(("rollout", "engine"), text)], recipe.name)


def _check_quantization(recipe: Recipe) -> None:
    from rlvr.quantization import refusal

    kind = recipe.model.quantization
    text = refusal(kind) if kind else None
    if text:
        raise_problems([Problem(("model", "quantization"), text)], recipe.name)


def _control_problems(recipe: Recipe, origins: Origins | None) -> Iterator[Problem]:
    from rlvr.controls import options_of

    problems: list[Problem] = []
    for index, item in enumerate(recipe.entropy):
        config = importlib.import_module(f"rlvr.entropy.{item.name}").Config
        whole = NamedItem(name=item.name, options=options_of(item, recipe))
        problems += _option_problems(whole, config, ("entropy", index, item.name))
    yield from problems
    if not problems:
        yield from _chain_problems(recipe, origins)


def _option_problems(item: NamedItem, config: type[BaseModel], at: Path) -> list[Problem]:
    infinite = [
        Problem((*at, name), f"is {value}; it must be a finite number.")
        for name, value in item.options.items()
        if isinstance(value, float) and not math.isfinite(value)
        if math.isnan(value) or not _may_be_infinite(config, name)
    ]
    if infinite:
        return infinite
    try:
        # as strict as the recipe itself, but a list stands for a tuple: as in JSON
        config.model_validate_json(json.dumps(item.options), strict=True)
        config(**item.options)
    except ValidationError as error:
        return schema_problems(error, item.options, config, at)
    return []


def _may_be_infinite(config: type[BaseModel], name: str) -> bool:
    field = config.model_fields.get(name)
    return field is None or any(getattr(m, "allow_inf_nan", False) for m in field.metadata)


def _chain_problems(recipe: Recipe, origins: Origins | None) -> Iterator[Problem]:
    from rlvr.controls import build_chain

    try:
        composed = build_chain(recipe)
        composed.plan(composed.init())
    except ValueError as error:
        yield Problem(("entropy",), f"cannot be combined: {error}.")
        return
    yield from _kernel_problems(composed, recipe.kernel.tolerance)
    rollout = recipe.rollout
    on_policy = rollout.prompts_per_rollout == rollout.prompts_per_update and rollout.passes == 1
    reads = catalog.functions("surrogate")[recipe.algorithm.surrogate.name].reads
    for index, control in enumerate(composed.controls):
        if control.idle:
            text = f"has no effect: {control.idle}; change that, or remove it."
            yield Problem(("entropy", index, control.name), text)
        if control.replaces_clip and control.measure is None and "clip_high" not in reads:
            text = (
                f"has no effect: it only sets the clip, which the surrogate {recipe.algorithm.surrogate} does not "
                "use; remove it, or choose another surrogate."
            )
            yield Problem(("entropy", index, control.name), text)
        if on_policy and control.idle_on_policy:
            text = (
                f"has no effect: one update per rollout (prompts_per_rollout = prompts_per_update = "
                f"{rollout.prompts_per_update}, passes 1), and {control.idle_on_policy}; lower "
                "prompts_per_update, or raise passes."
            )
            yield Problem(("entropy", index, control.name), text)
        for key in ("clip_low", "clip_high", "dual_clip"):
            path = ("algorithm", key)
            value = getattr(recipe.algorithm, key)
            default = type(recipe.algorithm).model_fields[key].default
            if key in control.replaces_clip and origins and value != default:
                if not is_chosen(origins, path, ("entropy",)):
                    continue
                text = f"is {show(value)}, but {control.name} replaces the clip; remove it."
                yield Problem(path, text)


def _kernel_problems(composed: "Chain", tolerance: float | None) -> Iterator[Problem]:
    for index, control in enumerate(composed.controls):
        names = sorted(filter(carries_gradient, control.statistics))
        if names and tolerance is not None:
            text = (
                f"learns through {', '.join(names)}, whose gradient kernel.tolerance ({tolerance:g}) does not bound; "
                "remove one of them."
            )
            yield Problem(("entropy", index, control.name), text)


def _function_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield what the functions that a recipe names say of their options, on an example."""
    import torch

    from rlvr import advantage, aggregate, surrogate
    from rlvr.batch import Origin, TokenBatch, initial_terms

    size = recipe.rollout.group_size
    # one completion far better than the others: on both sides of any threshold
    rewards = torch.full((size,), -1e6, dtype=torch.float64)
    rewards[:1] = 1e6
    tokens = torch.ones(1, 1, dtype=torch.bool)
    examples = {
        "advantage": (advantage, (rewards, torch.zeros(size, dtype=torch.long))),
        "aggregate": (aggregate, (tokens, tokens[0])),
    }
    for key, (module, example) in examples.items():
        item: NamedItem = getattr(recipe.algorithm, key)
        try:
            values = getattr(module, item.name)(*example, **item.options)
        except ValueError as error:
            yield Problem(("algorithm", key, item.name), f": {error}.")
            continue
        if (values == 0).all():
            text = (
                f"is 0 in every group of {size} completions (rollout.group_size) with these options, so nothing is "
                "learned; change one of them."
            )
            yield Problem(("algorithm", key, item.name), text)
    item = recipe.algorithm.surrogate
    half = torch.tensor([[0.5], [-0.5]])
    batch = TokenBatch(
        logprobs=half - 1.0,
        old_logprobs=torch.full((2, 1), -1.0),
        advantages=half,
        mask=torch.ones(2, 1, dtype=torch.bool),
        rehearsal_mask=torch.zeros(2, 1, dtype=torch.bool),
        origin=torch.full((2,), int(Origin.POLICY)),
    )
    path = ("algorithm", "surrogate", item.name)
    try:
        losses = getattr(surrogate, item.name)(initial_terms(batch), batch, **item.options)
    except ValueError as error:
        yield Problem(path, f": {error}.")
        return
    if not losses.isfinite().all():
        yield Problem(
            path, "gives a loss that is no number with these options; change one of them."
        )


def _verifier_problems(recipe: Recipe) -> Iterator[Problem]:
    from rlvr.rewards.common import Common, split_options

    for path, items in verifier_lists(recipe):
        for index, item in enumerate(items):
            here: Path = (*path, index)
            common, own = split_options(item.options)
            yield from _option_problems(
                NamedItem(name=item.name, options=common), Common, (*here, item.name)
            )
            if index == 0 and item.options.get("when_correct"):
                text = "is true for the first verifier, whose verdict opens the gate; remove it."
                yield Problem((*here, item.name, "when_correct"), text)
            try:
                yield from _own_problems(item.name, own, here)
            except ValueError as error:
                yield Problem(here, f": {error}")


def _own_problems(name: str, options: dict[str, Any], here: Path) -> Iterator[Problem]:
    from rlvr.rewards import plugin, registry
    from rlvr.rewards.common import Common

    if plugin.is_reference(name):
        plugin.find(name)
        for key in options:
            text = f"is not an option; a function of yours takes {', '.join(Common.model_fields)}."
            yield Problem((*here, name, key), text)
        return
    module = registry.load(name)
    taken = [*module.Config.model_fields, *Common.model_fields]
    problems = [
        Problem(
            (*here, name, key),
            f"is not a key.{did_you_mean(key, taken)} {name} takes: {', '.join(taken)}.",
        )
        for key in options
        if key not in taken
    ]
    problems += [
        problem
        for problem in _option_problems(
            NamedItem(name=name, options=options), module.Config, (*here, name)
        )
        if problem.path[-1] not in options or problem.path[-1] in taken
    ]
    yield from problems
    if not problems and hasattr(module, "ready"):
        module.ready(module.Config(**options))


def _task_problems(recipe: Recipe) -> Iterator[Problem]:
    from rlvr.data.task import check_task, task_names

    for path, source in sources(recipe):
        if source.task is not None:
            if source.task in task_names():
                config = importlib.import_module(f"rlvr.data.tasks.{source.task}").Config
                whole = NamedItem(name=source.task, options=source.task_options)
                if problems := _option_problems(whole, config, (*path, "task_options")):
                    yield from problems
                    continue
            try:
                check_task(source.task, source.task_options, split=source.split)
            except ValueError as error:
                yield Problem((*path, "task"), f": {error}")


def _package_problems(recipe: Recipe) -> Iterator[Problem]:
    wanted: list[tuple[Path, str, str]] = [
        (("monitor", "report_to"), package, "tracking") for package in recipe.monitor.report_to
    ]
    if recipe.rollout.engine == "vllm":
        wanted.append((("rollout", "engine"), "vllm", "vllm"))
    if recipe.model.quantization is not None:
        wanted.append((("model", "quantization"), "bitsandbytes", "qlora"))
    for path, package, extra in wanted:
        if importlib.util.find_spec(package) is None:
            text = f"asks for {package}, which is not installed: pip install 'rlvr[{extra}]'."
            yield Problem(path, text)
