"""Completions by transformers: each by its own seed, each prompt computed once for all its completions."""

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import DynamicLayer

from rlvr.rollout.draws import drawing
from rlvr.rollout.padding import exist, filled

Item = TypeVar("Item")


def distinct(items: Sequence[Item]) -> tuple[list[Item], list[int]]:
    """Return the objects among the items, each once, and which of them every item is; equal objects are still two.

    Example:
        >>> one, other = [1], [1]
        >>> distinct([one, one, other])
        ([[1], [1]], [0, 0, 1])
    """
    found = {id(item): item for item in items}
    place = {key: number for number, key in enumerate(found)}
    return list(found.values()), [place[id(item)] for item in items]


@torch.no_grad()
def generate(
    model: Any,
    prompts: Sequence[list[int]],
    *,
    seeds: Sequence[int] | None,
    config: GenerationConfig,
    ends: Collection[int],
    pad_token: int,
) -> list[list[int]]:
    """Return a completion of each prompt, its end token included.

    Args:
        model: A causal language model of transformers, in evaluation mode.
        prompts: Token ids; one list that is given several times is computed once.
        seeds: Of each completion; None: none are needed, decoding is greedy.
        config: Of `model.generate`; `max_new_tokens` bounds a completion.
        ends: Tokens that end a completion.
        pad_token: Id that fills up.
    """
    different, places = distinct(prompts)
    index = torch.tensor(places, device=model.device)
    mask = exist(different, left=True)
    ids = filled(different, mask, pad_token).to(model.device)
    mask = mask.to(model.device)
    known: dict[str, Any] = {}
    if shares_prompts(model, config) and ids.shape[1] > 1:
        cache = prefilled(model, ids[:, :-1], mask[:, :-1])
        cache.batch_select_indices(index)
        known["past_key_values"] = cache
    count = config.max_new_tokens
    assert count is not None  # of the recipe
    with nullcontext() if seeds is None else drawing(model, seeds, count):
        found = model.generate(
            input_ids=ids[index],
            attention_mask=mask[index].long(),
            generation_config=config,
            **known,
        )
    written = found[:, ids.shape[1] :].cpu()
    is_end = torch.isin(written, torch.tensor(sorted(ends), dtype=written.dtype))
    # everything up to the first end, and it
    lengths = (is_end.long().cumsum(-1) - is_end.long() == 0).sum(-1)
    return [row[:n] for row, n in zip(written.tolist(), lengths.tolist(), strict=True)]


def shares_prompts(model: Any, config: GenerationConfig) -> bool:
    """Return whether what a model knows of a prompt is nothing but keys and values of full attention, which rows may share."""
    if config.cache_implementation not in (None, "dynamic") or config.use_cache is False:
        return False
    if not model._supports_default_dynamic_cache():
        return False
    layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
    return all(type(layer) is DynamicLayer for layer in layers)


def prefilled(model: Any, ids: Int[Tensor, "B P"], mask: Bool[Tensor, "B P"]) -> DynamicCache:
    """Return the keys and values of prompts, padded on the left."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    attention = mask.long()
    model.base_model(
        input_ids=ids,
        attention_mask=attention,
        # as in generation: padding moves no token
        position_ids=(attention.cumsum(-1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    )
    return cache
