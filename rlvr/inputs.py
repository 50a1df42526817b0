"""What a run needs before a model is loaded: verifiers, tokenizer, prompts, held-out sets.

Everything a user can have got wrong here costs seconds, not a GPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlvr.reach import cache_if_unreachable
from rlvr.recipe import NamedItem, Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
    scorer.start()
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
        ValueError: If there is none, or no token ends a completion.
    """
    from transformers import AutoTokenizer

    model = recipe.model
    try:
        with cache_if_unreachable(model.path):
            tokenizer = AutoTokenizer.from_pretrained(
                model.path,
                revision=model.revision,
                trust_remote_code=model.trust_remote_code,
                padding_side="left",
            )
    except OSError as error:
        raise ValueError(
            f"model.path: no tokenizer at {model.path!r} ({_first_line(error)}); give a folder with a model, or a hub "
            "id that can be reached. Without network: download it elsewhere (hf download NAME --local-dir DIR) and set "
            "model.path to DIR"
        ) from None
    if tokenizer.eos_token is None:
        raise ValueError(
            f"model.path: the tokenizer of {model.path!r} has no end-of-sequence token, so no completion would end"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def prompt_limit(recipe: Recipe) -> int | None:
    """Return how many tokens of the model's context the completion leaves to the prompt."""
    from transformers import AutoConfig

    model, completion = recipe.model, recipe.rollout.max_completion_length
    try:
        with cache_if_unreachable(model.path):
            config = AutoConfig.from_pretrained(
                model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
            )
    except OSError as error:
        raise ValueError(f"model.path: no model at {model.path!r} ({_first_line(error)})") from None
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if context is None:
        return None
    if completion >= context:
        raise ValueError(
            f"rollout.max_completion_length is {completion}, but the context of {model.path} is {context} tokens, "
            "prompt included; lower it"
        )
    return context - completion


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
    where = f"evaluation.sets[{index}] ({item.name})"
    wanted = item.max_prompt_length or limit
    own = scorer if item.verifiers is None else make_scorer(recipe, item.verifiers)
    loaded = load_rows(
        item, name=where, tokenizer=tokenizer, max_prompt_length=wanted, needed=own.columns
    )
    rows, more = prepare_rows(item.name, loaded, own.fault)
    notes += more
    return HeldOut(item.name, rows, len(loaded) - len(rows), own)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
