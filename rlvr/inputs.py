"""What a run needs before a model is loaded: verifiers, tokenizer, prompts, held-out sets.

Everything a user can have got wrong here costs seconds, not a GPU.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.check import shape
from rlvr.data.read import is_hub_id
from rlvr.reach import cache_if_unreachable
from rlvr.recipe import NamedItem, Recipe
from rlvr.recipe_error import refuse

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from rlvr.rewards.scorer import Scorer

Row = Mapping[str, Any]


@dataclass(frozen=True)
class HeldOut:
    """One held-out set: its rows and what judges them."""

    name: str
    rows: list[dict[str, Any]]
    left_out: int
    """Rows that cannot be judged or came twice."""
    scorer: "Scorer"


@dataclass(frozen=True)
class Inputs:
    """What a run works on."""

    tokenizer: "PreTrainedTokenizerBase"
    rows: Sequence[Row]
    scorer: "Scorer"
    sets: list[HeldOut]
    notes: list[str]
    """What a user should know of the data."""

    def close(self) -> None:
        """End the verifiers' processes."""
        for scorer in {
            id(item): item for item in (self.scorer, *(s.scorer for s in self.sets))
        }.values():
            scorer.close()


def load_inputs(recipe: Recipe) -> Inputs:
    """Return tokenizer, prompts, verifiers and held-out sets of a recipe.

    Raises:
        ValueError: For what is missing or does not fit, naming the place in the recipe.
    """
    scorer = make_scorer(recipe, recipe.rewards.verifiers)
    try:
        scorer.start()
    except ValueError as error:
        refuse(("rewards", "verifiers"), f": {error}")
    tokenizer = load_tokenizer(recipe)
    limit = prompt_limit(recipe)
    rows = _rows(recipe, tokenizer, limit, scorer)
    sets, notes = load_held_out(recipe, tokenizer, limit, scorer)
    return Inputs(tokenizer, rows, scorer, sets, notes)


def load_held_out(
    recipe: Recipe, tokenizer: "PreTrainedTokenizerBase", limit: int | None, scorer: "Scorer"
) -> tuple[list[HeldOut], list[str]]:
    """Return the held-out sets of a recipe, and what a user should know of them.

    Args:
        recipe: Has passed its checks.
        tokenizer: The model's.
        limit: Tokens of a prompt at most; None: any.
        scorer: For sets without verifiers of their own.
    """
    notes: list[str] = []
    places = range(len(recipe.evaluation.sets))
    return [_held_out(recipe, i, tokenizer, limit, scorer, notes) for i in places], notes


def make_scorer(recipe: Recipe, verifiers: Sequence[NamedItem]) -> "Scorer":
    """Return what judges completions."""
    from rlvr.rewards.scorer import Scorer

    rewards = recipe.rewards
    return Scorer(
        [{item.name: item.options} for item in verifiers],
        deadline=rewards.deadline,
        batch_deadline=rewards.batch_deadline,
        workers=rewards.workers,
        scores=rewards.scores.model_dump(),
        memory_gib=rewards.memory_gib,
    )


def load_tokenizer(recipe: Recipe) -> "PreTrainedTokenizerBase":
    """Return the model's tokenizer, padding on the left.

    Raises:
        RecipeError: If there is none, or no token ends a completion.
    """
    from transformers import AutoTokenizer

    with _loadable(recipe, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            recipe.model.path,
            revision=recipe.model.revision,
            trust_remote_code=recipe.model.trust_remote_code,
            padding_side="left",
        )
    if tokenizer.eos_token is None:
        text = f": the tokenizer of {recipe.model.path!r} has no end-of-sequence token, so no completion would end"
        refuse(("model", "path"), text)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def prompt_limit(recipe: Recipe) -> int | None:
    """Return how many tokens of the model's context the completion leaves to the prompt."""
    model, completion = recipe.model, recipe.rollout.max_completion_length
    context = getattr(load_config(recipe).get_text_config(), "max_position_embeddings", None)
    if context is None:
        return None
    if completion >= context:
        text = f"is {completion}, but the context of {model.path} is {context} tokens, prompt included; lower it"
        refuse(("rollout", "max_completion_length"), text)
    return context - completion


def load_config(recipe: Recipe) -> "PretrainedConfig":
    """Return the model's configuration."""
    with _loadable(recipe, "model"):
        return shape.load_config(recipe.model)


def end_tokens(recipe: Recipe, tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """Return the tokens that end a completion: those of the model's generation settings, and the tokenizer's."""
    from transformers import GenerationConfig

    path = recipe.model.path
    try:
        with cache_if_unreachable(path):
            settings = GenerationConfig.from_pretrained(
                path, revision=recipe.model.revision or "main"
            )
    except OSError:  # without a file of its own a model takes them from its configuration
        settings = GenerationConfig.from_model_config(load_config(recipe))
    declared: Any = settings.eos_token_id
    declared = declared if isinstance(declared, list) else [declared]
    return frozenset(t for t in (*declared, tokenizer.eos_token_id) if t is not None)


@contextmanager
def _loadable(recipe: Recipe, what: str) -> Iterator[None]:
    """Load something of the model inside; whatever goes wrong, it is the model's path that a user has to mend."""
    path = recipe.model.path
    if Path(path).exists():
        if recipe.model.revision is not None:
            text = f"is {recipe.model.revision!r}, but {path} is a folder here, which has none; remove it"
            refuse(("model", "revision"), text)
    elif not is_hub_id(path):
        refuse(
            ("model", "path"),
            f"is {path!r}, and there is no such folder; give a folder with a model, or a hub id",
        )
    try:
        with cache_if_unreachable(path):
            yield
    except Exception as error:  # the readers of tokenizers raise that class itself
        reason = _first_line(error) or type(error).__name__
        text = (
            f": no {what} at {path!r} ({reason}); give a folder with a model, or a hub id that can be reached. Without "
            "network: download it elsewhere (hf download NAME --local-dir DIR) and set model.path to DIR"
        )
        refuse(("model", "path"), text)


def _rows(
    recipe: Recipe, tokenizer: "PreTrainedTokenizerBase", limit: int | None, scorer: "Scorer"
) -> Sequence[Row]:
    from rlvr.data.source import load_rows

    wanted = recipe.data.max_prompt_length or limit
    return load_rows(
        recipe.data,
        tokenizer=tokenizer,
        max_prompt_length=wanted,
        needed=scorer.columns,
        fault=scorer.fault,
        leave_out=recipe.rewards.unusable_rows == "leave_out",
    )


def _held_out(
    recipe: Recipe,
    index: int,
    tokenizer: "PreTrainedTokenizerBase",
    limit: int | None,
    scorer: "Scorer",
    notes: list[str],
) -> HeldOut:
    from rlvr.data.source import load_rows
    from rlvr.evaluate.suite import prepare_rows

    item = recipe.evaluation.sets[index]
    wanted = item.max_prompt_length or limit
    own = scorer if item.verifiers is None else make_scorer(recipe, item.verifiers)
    loaded = load_rows(
        item,
        at=("evaluation", "sets", index),
        tokenizer=tokenizer,
        max_prompt_length=wanted,
        needed=own.columns,
    )
    rows, more = prepare_rows(item.name, loaded, own.fault)
    notes += more
    return HeldOut(item.name, rows, len(loaded) - len(rows), own)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
