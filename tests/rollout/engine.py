"""A stand-in for TRL's VLLMGeneration: it samples with a model of its own, token by token, and reports log-probs.

What vLLM does on a GPU is not tested by it: only that a trainer and whatever stands in its place agree, or do not.
"""

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from rlvr.trainer import Trainer
from tests.trainer import tiny


class Engine:
    """Has the attributes of a `VLLMGeneration` that are read and changed, and its faults, if wanted.

    Args:
        trainer: Whose weights it takes when they are synchronized.
        hidden_temperature: Multiplied to the temperature that is asked for.
        reports: `processed` log-probs, or `raw` ones, before temperature and cuts.
        hidden_top_p: Cuts in any case.
        is_stale: Weights are never synchronized.
        shuffles: Completions come back in another order than the log-probs.
    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        hidden_temperature: float = 1.0,
        reports: str = "processed",
        hidden_top_p: float = 1.0,
        is_stale: bool = False,
        shuffles: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.temperature, self.top_p, self.top_k, self.min_p = trainer.temperature, 1.0, 0, None
        self.repetition_penalty = 1.0
        self.max_completion_length = trainer.max_completion_length
        self.structured_outputs_regex: str | None = None
        self.generation_kwargs: dict[str, Any] = {}
        self.asked: list[dict[str, Any]] = []
        self.synchronized = 0
        self._dtype = dtype or trainer.model.dtype
        self.model = AutoModelForCausalLM.from_pretrained(tiny.BASE, dtype=self._dtype).eval()
        self._trainer = trainer
        self._hidden_temperature, self._hidden_top_p = hidden_temperature, hidden_top_p
        self._reports, self._is_stale, self._shuffles = reports, is_stale, shuffles

    def sync_weights(self) -> None:
        self.synchronized += 1
        if not self._is_stale:
            self.model.load_state_dict(self._trainer.model.state_dict())

    @torch.no_grad()
    def generate(
        self, prompts: list[list[int]], images: Any, num_generations: int, profiler: Any
    ) -> tuple[Any, ...]:
        assert images is None
        assert num_generations == 1
        assert profiler is not None
        self.asked.append({**vars(self), "prompts": prompts})
        found = [self._complete(prompt) for prompt in prompts]
        ids, logprobs = [item[0] for item in found], [item[1] for item in found]
        if self._shuffles:
            logprobs = [
                (logprobs[place - 1] * len(own))[: len(own)] for place, own in enumerate(ids)
            ]
        return prompts, ids, [[[value] for value in own] for own in logprobs], None

    def _complete(self, prompt: list[int]) -> tuple[list[int], list[float]]:
        ids: list[int] = []
        logprobs: list[float] = []
        ends = self._trainer.eos_token_ids
        while len(ids) < self.max_completion_length and not (ids and ids[-1] in ends):
            raw = self.model(torch.tensor([prompt + ids])).logits[0, -1].float()
            scores = cut(raw / (self.temperature * self._hidden_temperature), self._hidden_top_p)
            scores = cut(scores, self.top_p)
            token = int(torch.multinomial(scores.softmax(-1), 1))
            reported = raw if self._reports == "raw" else scores
            ids.append(token)
            logprobs.append(reported.log_softmax(-1)[token].item())
        return ids, logprobs


def cut(scores: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return the scores of the likeliest tokens whose probabilities reach `top_p`; -inf for the others."""
    ordered, places = scores.softmax(-1).sort(descending=True)
    is_cut = ordered.cumsum(-1) - ordered >= top_p
    return scores.masked_fill(torch.zeros_like(is_cut).scatter(0, places, is_cut), -torch.inf)


def installed(trainer: Trainer, **faults: Any) -> Engine:
    """Return an engine in the place of vLLM."""
    engine = Engine(trainer, **faults)
    trainer.use_vllm = True
    trainer.vllm_generation = engine
    trainer._last_loaded_step = -1
    return engine
