r"""What a model will see of the prompts, and what about that would spoil a run without an error.

- the chat template does not open the model's turn, or ends it with a token at which sampling does not stop
- the beginning-of-sequence token stands twice
- the template opens a thought that a verifier looks for in the completion, or the other way round
- nothing says in which form the answer is read

That `pad_token` is `eos_token` spoils nothing here: completions are lists that are cut at the first token that ends them,
and masks come from their lengths.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlvr.check.golds import reads, spread
from rlvr.data.length import prompt_lengths
from rlvr.recipe import NamedItem, Recipe
from rlvr.reward.wrapping import ASKED, ORDINARY
from rlvr.rewards import registry
from rlvr.rewards.plugin import is_reference

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOOKED_AT = 512
"""Prompts, spread over the data."""
SHOWN = 160
"""Characters of a prompt on the screen."""

_NO_THOUGHT = re.compile(r"<think>\s*</think>")
_ANSWER = "seventeen"
"""Stands for a completion in a rendered conversation."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One line for the screen."""

    label: str
    text: str

    def __str__(self) -> str:
        return f"{self.label:<10}{self.text}"


@dataclass(frozen=True)
class Seen:
    """A prompt as the model gets it."""

    text: str
    ids: list[int]
    opening: str = ""
    """Of a chat: what the template writes after the last message."""
    conversation: str | None = None
    """Of a chat: the prompt with an answer of the model after it; None where the template refuses that."""


def look(prompt: Any, tokenizer: "PreTrainedTokenizerBase", options: Mapping[str, Any]) -> Seen:
    """Return a prompt as the model gets it, tokenized as in a run.

    Args:
        prompt: Text or chat messages.
        tokenizer: With a chat template, for messages.
        options: Variables of the template (`training.chat_template_kwargs`).
    """
    if isinstance(prompt, str):
        return Seen(prompt, tokenizer(prompt)["input_ids"])

    def rendered(messages: Any, **more: Any) -> Any:
        return tokenizer.apply_chat_template(messages, **{"tokenize": False, **options, **more})

    text = rendered(prompt, add_generation_prompt=True)
    closed = rendered(prompt, add_generation_prompt=False)
    encoded = rendered(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)
    opening = text.removeprefix(closed) if text.startswith(closed) else text[-SHOWN:]
    try:
        whole = rendered([*prompt, {"role": "assistant", "content": _ANSWER}])
    except Exception:  # whatever a template raises: it is for other conversations
        whole = None
    return Seen(text, encoded["input_ids"], opening, whole)


def probe(
    recipe: Recipe,
    rows: Sequence[Row],
    tokenizer: "PreTrainedTokenizerBase",
    ends: frozenset[int],
) -> Iterator[Finding]:
    """Yield what a user should know of the prompts, as the model will see them.

    Args:
        recipe: Has passed its checks.
        rows: Of its training data, at least one; the tokenizer can render their prompts.
        tokenizer: The model's.
        ends: Tokens that end a completion.
    """
    options = (recipe.training.model_extra or {}).get("chat_template_kwargs") or {}
    options = options if isinstance(options, dict) else {}
    sample = spread(rows, LOOKED_AT)
    seen = look(rows[0]["prompt"], tokenizer, options)
    yield Finding("prompt", f"{shortened(seen.text)!r} ({len(seen.ids)} tokens)")
    lengths = sorted(prompt_lengths([dict(row) for row in sample], tokenizer))
    yield Finding(
        "prompts",
        f"median {lengths[len(lengths) // 2]} tokens, longest {lengths[-1]} of {len(lengths)} looked at",
    )
    yield from _beginning(seen, tokenizer)
    if isinstance(rows[0]["prompt"], list):
        yield from _turn(seen)
        yield from _end(seen, tokenizer, ends)
    yield from _thought(recipe, seen)
    texts = [look(row["prompt"], tokenizer, options).text for row in spread(rows)]
    yield from _form(recipe, rows, texts)


def shortened(text: str, limit: int = SHOWN) -> str:
    """Return a text with its middle left out where it is longer than the limit.

    Example:
        >>> shortened("one two three four", 9)
        'one ... four'
    """
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2].rstrip()} ... {text[-(limit // 2) :].lstrip()}"


def _beginning(seen: Seen, tokenizer: "PreTrainedTokenizerBase") -> Iterator[Finding]:
    begin = tokenizer.bos_token_id
    if begin is not None and seen.ids[:2] == [begin, begin]:
        yield Finding(
            "warning",
            f"prompts begin with {tokenizer.bos_token!r} twice: the tokenizer adds one, and the text has one already; leave "
            "it out of the data, or give messages instead of text that a chat template wrote (data.columns.prompt)",
        )


def _turn(seen: Seen) -> Iterator[Finding]:
    """Yield a warning if the model's words would not stand where the template puts an answer."""
    if seen.conversation is None or _ANSWER not in seen.conversation:
        return
    before, prompt = seen.conversation.rpartition(_ANSWER)[0], seen.text
    if "<think>" in seen.opening:
        # of earlier turns templates leave the thought out
        prompt = prompt[: prompt.rindex("<think>")]
    prompt = prompt.rstrip()
    rest = before.removeprefix(prompt).strip()
    if before.startswith(prompt) and (not rest or _NO_THOUGHT.fullmatch(rest)):
        return
    same = zip(before, prompt, strict=False)
    place = next((i for i, (a, b) in enumerate(same) if a != b), min(len(before), len(prompt)))
    shown = [text[place:].strip()[-60:] or "nothing" for text in (before, prompt)]
    yield Finding(
        "warning",
        f"the chat template does not open the model's turn: before an answer it writes {shown[0]!r}, at the end of a "
        f"prompt {shown[1]!r}; take a tokenizer whose template heeds add_generation_prompt",
    )


def _end(
    seen: Seen, tokenizer: "PreTrainedTokenizerBase", ends: frozenset[int]
) -> Iterator[Finding]:
    """Yield a warning if sampling does not stop where the template ends a turn."""
    if seen.conversation is None or _ANSWER not in seen.conversation:
        return
    after = seen.conversation.rpartition(_ANSWER)[2].strip()
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    end = next((token for token in ids if token in special), None)
    stops = " or ".join(repr(tokenizer.decode([token])) for token in sorted(ends))
    if end is None:
        yield Finding(
            "note",
            f"the chat template ends the model's turn with no token of its own; sampling stops at {stops}",
        )
    elif end not in ends:
        name = tokenizer.decode([end])
        yield Finding(
            "warning",
            f"the chat template ends the model's turn with {name!r}, but sampling stops at {stops}: a model that was tuned "
            f'with it goes on to the length limit. Set "eos_token_id": {sorted({*ends, end})} in generation_config.json of '
            "a copy of the model, and model.path to it",
        )


def _thought(recipe: Recipe, seen: Seen) -> Iterator[Finding]:
    """Yield a warning where the prompt opens a thought and a verifier expects another opening."""
    end = seen.opening or seen.text[-SHOWN:]
    opens = end.rfind("<think>") > end.rfind("</think>")
    for index, item in enumerate(recipe.rewards.verifiers):
        if (
            is_reference(item.name)
            or "think_in_prompt" not in registry.load(item.name).Config.model_fields
        ):
            continue
        if bool(item.options.get("think_in_prompt")) != opens:
            said = "ends with <think>" if opens else "does not end with <think>"
            where = f"rewards.verifiers[{index}].{item.name}.think_in_prompt"
            yield Finding(
                "warning",
                f"the prompt {said}: no completion has the form that is asked for; set {where}={str(opens).lower()}",
            )


def _form(recipe: Recipe, rows: Sequence[Row], texts: Sequence[str]) -> Iterator[Finding]:
    """Yield a warning if no prompt says how an answer is to be stated that a verifier has to find."""
    item = recipe.rewards.verifiers[0]
    usual = ORDINARY.get(item.name, "box")
    if usual == "bare" or not _looks_for_answer(item):
        return
    asked = [wrap for wrap in ASKED if _share(texts, ASKED[wrap]) >= 0.5]
    if usual in asked or any(reads(item, wrap, rows, recipe.rewards.workers) for wrap in asked):
        return
    wanted = ASKED[usual][0]
    yield Finding(
        "warning",
        f"{item.name} looks for the final answer, but most prompts do not say how to state it ({wanted}): say so in "
        r"data.system, or in data.template, as '{prompt}\n\nPut your final answer within \\boxed{{}}.'",
    )


def _looks_for_answer(item: NamedItem) -> bool:
    return not is_reference(item.name) and "answer" in registry.load(item.name).COLUMNS


def _share(texts: Sequence[str], words: Sequence[str]) -> float:
    return sum(any(word in text.lower() for word in words) for text in texts) / max(len(texts), 1)
