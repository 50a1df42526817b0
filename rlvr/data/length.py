"""Leave out prompts that are too long for the model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_TEMPLATE = (
    ": the prompts are chat messages, but the tokenizer has no chat template; take the "
    "instruction-tuned model's tokenizer, or prompts that are text"
)


def drop_long_prompts(
    rows: Sequence[dict[str, Any]], tokenizer: "PreTrainedTokenizerBase", max_tokens: int
) -> tuple[list[dict[str, Any]], int]:
    """Return the rows whose prompt has at most `max_tokens` tokens, and how many were left out.

    Args:
        rows: With `prompt`: text, or chat messages, to which the chat template is applied.
        tokenizer: The model's.
        max_tokens: At least 1.

    Raises:
        ValueError: Where no row is left, with the quantiles of the lengths.
    """
    if max_tokens < 1:
        raise ValueError(
            f"max_prompt_length is {max_tokens}, so no prompt fits; lower "
            "rollout.max_completion_length, which shares the model's context with the prompt"
        )
    lengths = prompt_lengths(rows, tokenizer)
    kept = [row for row, length in zip(rows, lengths, strict=True) if length <= max_tokens]
    if rows and not kept:
        ordered = sorted(lengths)
        quantiles = ", ".join(
            f"{share}: {ordered[round((len(ordered) - 1) * position)]}"
            for share, position in (("shortest", 0), ("median", 0.5), ("90 %", 0.9), ("longest", 1))
        )
        raise ValueError(
            f"all {len(rows)} prompts are longer than {max_tokens} tokens ({quantiles}); raise "
            "max_prompt_length, lower rollout.max_completion_length, or take a model with a "
            "longer context"
        )
    return kept, len(rows) - len(kept)


def prompt_lengths(
    rows: Sequence[dict[str, Any]], tokenizer: "PreTrainedTokenizerBase"
) -> list[int]:
    """Return the number of tokens of each prompt as the model will see it."""
    is_chat = [isinstance(row["prompt"], list) for row in rows]
    if any(is_chat) and not tokenizer.chat_template:
        raise ValueError(f"the data{NO_TEMPLATE}")
    texts: list[str] = []
    for row, chat in zip(rows, is_chat, strict=True):
        prompt = row["prompt"]
        if chat:
            prompt = tokenizer.apply_chat_template(
                prompt, tokenize=False, add_generation_prompt=True
            )
        texts.append(prompt)
    lengths = [0] * len(rows)
    # a chat template writes the special tokens itself
    for chat in (True, False):
        places = [index for index, is_it in enumerate(is_chat) if is_it == chat]
        if places:
            encoded = tokenizer(
                [texts[index] for index in places], add_special_tokens=not chat, verbose=False
            )
            for index, ids in zip(places, encoded["input_ids"], strict=True):
                lengths[index] = len(ids)
    return lengths
