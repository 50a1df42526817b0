"""What a recipe works on and with, before a run: data, gold answers, prompts as the model will see them, libraries.

Data sets on the hub are not read: what is here answers in seconds.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.check.arguments import try_out
from rlvr.check.combination import sources
from rlvr.check.golds import check_golds
from rlvr.check.plan import BatchPlan
from rlvr.check.probe import Finding, probe
from rlvr.console import say
from rlvr.data.read import is_hub_id
from rlvr.data.source import load_rows
from rlvr.inputs import end_tokens, load_tokenizer, make_scorer, prompt_limit
from rlvr.recipe import Recipe
from rlvr.recipe_error import RecipeError, dotted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = Mapping[str, Any]


def check_inputs(recipe: Recipe, plan: BatchPlan) -> int | None:
    """Print what the data are to the model and to the verifiers, and try out what the libraries are given.

    Args:
        recipe: Has passed its checks.
        plan: Says how many prompts are needed.

    Returns:
        Prompts to train on; None: not read.

    Raises:
        RecipeError: For data, a tokenizer or a field of TRL's that cannot be trained with.
    """
    tokenizer = _tokenizer(recipe)
    limit = prompt_limit(recipe) if tokenizer is not None else None
    prompts = None
    for path, source in sources(recipe):
        name = getattr(source, "name", dotted(path))
        if (
            source.path is not None
            and not Path(source.path).expanduser().exists()
            and is_hub_id(source.path)
        ):
            say(f"data      {name}: {source.path} (not a local file: on the hub, not read)")
            continue
        verifiers = getattr(source, "verifiers", None) or recipe.rewards.verifiers
        strict = source is recipe.data and recipe.rewards.unusable_rows == "error"
        with make_scorer(recipe, verifiers) as scorer:
            rows = load_rows(
                source,
                at=path,
                tokenizer=tokenizer,
                max_prompt_length=source.max_prompt_length or limit,
                needed=scorer.columns,
                fault=scorer.fault,
                leave_out=not strict,
            )
        say(f"data      {name}: {len(rows)} rows")
        for finding in _golds(recipe, verifiers, rows):
            say(str(finding))
        if source is recipe.data:
            plan.check_rows(len(rows))
            prompts = len(rows)
            if tokenizer is not None:
                for finding in probe(recipe, rows, tokenizer, end_tokens(recipe, tokenizer)):
                    say(str(finding))
    try_out(recipe, plan, model=tokenizer is not None)
    return prompts


def _tokenizer(recipe: Recipe) -> "PreTrainedTokenizerBase | None":
    """Return the model's tokenizer; None where the hub has to be asked for it and cannot be."""
    try:
        return load_tokenizer(recipe)
    except RecipeError:
        path = recipe.model.path
        if Path(path).exists() or not is_hub_id(path):
            raise
    say(
        f"note      the tokenizer of {path} cannot be had here: chat template and lengths of prompts are not looked at"
    )
    return None


def _golds(recipe: Recipe, verifiers: Sequence[Any], rows: Sequence[Row]) -> Iterator[Finding]:
    for index, item in enumerate(verifiers):
        found = check_golds(item, rows, recipe.rewards.workers)
        if found is None:
            continue
        is_first = index == 0
        if found.problems and is_first:
            yield Finding(
                "warning",
                f"{found.describe()}; all of them: rlvr reward audit DATA --verifier {item.name}",
            )
        elif is_first or found.problems:
            yield Finding("golds" if not found.problems else "note", found.describe())
