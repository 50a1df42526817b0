"""A golden file: its numbers as tensors, and comparisons at the precision of its dtype."""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlvr import aggregate, surrogate
from rlvr.batch import Origin, TokenBatch
from rlvr.entropy.control import Chain, EntropyControl, chain
from rlvr.loss import Decision, Objective

AGGREGATES: dict[str, Callable[..., Tensor]] = {
    "token-mean": aggregate.token_mean,
    "seq-mean-token-mean": aggregate.sequence_mean,
    "seq-mean-token-sum": partial(aggregate.sequence_sum, length=1, count_empty=False),
    # the schema: the total over T, not divided by rows
    "seq-mean-token-sum-norm": lambda mask, rows: aggregate.token_budget(
        mask, rows, tokens=mask.shape[1], cut=False
    ),
}


def tensor(values: Any, dtype: torch.dtype) -> Tensor:
    special = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}

    def number(value: Any) -> Any:
        if isinstance(value, list):
            return [number(item) for item in value]
        return special.get(value, value) if isinstance(value, str) else value

    return torch.tensor(number(values), dtype=dtype)


class Golden:
    """One file."""

    def __init__(self, path: Path) -> None:
        content = json.loads(path.read_text())
        self.method: str = content["method"]
        self.case: str = content["case"]
        self.options: dict[str, Any] = content["hyperparameters"]
        self.inputs: dict[str, Any] = content["inputs"]
        self.outputs: dict[str, Any] = content["outputs"]
        self.dtype = getattr(torch, content["dtype"].split()[0])  # "float32 inside numpy"
        self.rtol = 1e-6 if self.dtype == torch.float64 else 1e-4
        # verl adds 1e-8 to denominators: that much of a loss is left where the parts cancel
        self.atol = 1e-9 if self.dtype == torch.float64 else 1e-5

    def input(self, name: str) -> Tensor:
        return tensor(self.inputs[name], self.dtype)

    def check(self, ours: Tensor | float, theirs: Any, what: str) -> None:
        ours = torch.as_tensor(ours).detach().to(self.dtype)
        expected = tensor(theirs, self.dtype)
        torch.testing.assert_close(
            ours, expected, rtol=self.rtol, atol=self.atol, msg=lambda text: f"{what}: {text}"
        )

    @property
    def mask(self) -> Tensor:
        return self.input("response_mask") > 0

    def batch(self, logprobs: Tensor) -> TokenBatch:
        """Return the file's tokens as policy rows."""
        empty = torch.zeros_like(logprobs)
        inputs = self.inputs
        return TokenBatch(
            logprobs=logprobs,
            old_logprobs=self.input("old_log_prob")
            if "old_log_prob" in inputs
            else logprobs.detach(),
            advantages=self.input("advantages") if "advantages" in inputs else empty,
            mask=self.mask,
            rehearsal_mask=torch.zeros_like(self.mask),
            origin=torch.full((len(logprobs),), Origin.POLICY),
            old_entropies=self.input("old_entropy") if "old_entropy" in inputs else None,
            ref_logprobs=self.input("ref_log_prob") if "ref_log_prob" in inputs else None,
        ).zero_padding()

    def check_loss(
        self,
        objective: Objective,
        batch: Callable[[Tensor], TokenBatch] | None = None,
        *,
        loss: Any = None,
        grad: Any = None,
        decision: Callable[[Decision], Decision] = lambda decision: decision,
    ) -> Decision:
        """Compare loss and gradient of the objective with the file's."""
        make = batch or self.batch
        logprobs = self.input("log_prob").requires_grad_()
        tokens = make(logprobs)
        population = make(logprobs.detach())
        everything = [torch.arange(len(population))]
        decided = decision(objective.decide(population, everything, objective.chain.init(), 0))
        value, _ = objective.loss(tokens, decided)
        value.backward()
        assert logprobs.grad is not None
        self.check(value, self.outputs["loss"] if loss is None else loss, "loss")
        expected = tensor(self.outputs["grad_log_prob"] if grad is None else grad, self.dtype)
        valid = self.mask
        self.check(logprobs.grad[valid], expected[valid].tolist(), "gradient")
        return decided

    def objective(self, control: EntropyControl | None = None, **changes: Any) -> Objective:
        options = self.options
        parts: dict[str, Any] = {
            "surrogate": surrogate.clipped,
            "aggregate": AGGREGATES[options.get("loss_agg_mode", "token-mean")],
            "chain": Chain() if control is None else chain(control),
            "clip_low": options.get("clip_ratio_low", options.get("cliprange_low", 0.2)),
            "clip_high": options.get("clip_ratio_high", options.get("cliprange_high", 0.2)),
            "dual_clip": options.get("clip_ratio_c"),
        }
        return Objective(**(parts | changes))
