"""The numbers of the authors' own code, met by the whole path: control, surrogate, aggregate, gradient.

`RLVR_GOLDEN_DIR=<dir> pytest tests/golden` runs the same tests over another folder of files of this schema.
"""

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvr import aggregate, surrogate
from rlvr.batch import Origin, RolloutBatch, TokenBatch
from rlvr.entropy import aepo, clip_cov, dph, kl_cov, steer
from rlvr.entropy.control import Chain, EntropyControl, chain
from rlvr.loss import Decision, Objective

FOLDER = Path(os.environ.get("RLVR_GOLDEN_DIR", Path(__file__).parent))
FILES = sorted(FOLDER.glob("*.json"))

AGGREGATES: dict[str, Callable[..., Tensor]] = {
    "token-mean": aggregate.token_mean,
    "seq-mean-token-mean": aggregate.sequence_mean,
    "seq-mean-token-sum": partial(aggregate.sequence_sum, length=1, count_empty=False),
    # the schema: the total over T, not divided by rows
    "seq-mean-token-sum-norm": lambda mask, rows: aggregate.token_budget(
        mask, rows, tokens=mask.shape[1]
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
    """One file: its numbers as tensors, and comparisons at the precision of its dtype."""

    def __init__(self, path: Path) -> None:
        content = json.loads(path.read_text())
        self.method: str = content["method"]
        self.case: str = content["case"]
        self.options: dict[str, Any] = content["hyperparameters"]
        self.inputs: dict[str, Any] = content["inputs"]
        self.outputs: dict[str, Any] = content["outputs"]
        self.dtype = getattr(torch, content["dtype"])
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


def check_verl_vanilla(golden: Golden) -> None:
    golden.check_loss(golden.objective())


def check_gspo(golden: Golden) -> None:
    golden.check_loss(golden.objective(surrogate=surrogate.gspo))


def check_cispo(golden: Golden) -> None:
    golden.check_loss(golden.objective(surrogate=surrogate.cispo))


def check_sapo(golden: Golden) -> None:
    def sapo(terms: Any, batch: TokenBatch) -> Tensor:
        return surrogate.sapo(
            terms,
            batch,
            tau_positive=golden.options["tau_pos"],
            tau_negative=golden.options["tau_neg"],
        )

    golden.check_loss(golden.objective(surrogate=sapo))


def check_gmpo(golden: Golden) -> None:
    over_all_rows = partial(aggregate.sequence_mean, count_empty=True)
    golden.check_loss(golden.objective(surrogate=surrogate.gmpo, aggregate=over_all_rows))


def check_gpg(golden: Golden) -> None:
    golden.check_loss(golden.objective(surrogate=surrogate.gpg))


def check_gppo(golden: Golden) -> None:
    golden.check_loss(golden.objective(surrogate=surrogate.gppo))


def check_clip_cov(golden: Golden) -> None:
    options, outputs = golden.options, golden.outputs
    config = clip_cov.Config(
        fraction=options["clip_cov_ratio"],
        covariance_low=options["clip_cov_lb"],
        covariance_high=options["clip_cov_ub"],
        clip_low=options["clip_ratio_low"],
        clip_high=options["clip_ratio_high"],
    )
    objective = golden.objective(clip_cov.build(config))
    candidate = tensor(outputs["candidate_mask"], golden.dtype) > 0

    def choose(selected: Tensor) -> Callable[[Decision], Decision]:
        def change(decided: Decision) -> Decision:
            assert (decided.marks["clip_cov"]["candidate"] == candidate).all()
            detached = decided.marks["clip_cov"]["detached"]
            assert int(detached.sum()) == outputs["num_selected"]
            assert not (detached & ~candidate).any()
            marks = {"clip_cov": {"candidate": candidate, "detached": selected}}
            return replace(decided, marks=marks)

        return change

    first = outputs["identity_permutation"]
    chosen = tensor(first["selected_mask"], golden.dtype) > 0
    golden.check_loss(
        objective, loss=first["loss"], grad=first["grad_log_prob"], decision=choose(chosen)
    )
    for seeded in outputs["seeded"].values():
        chosen = torch.zeros_like(candidate)
        for row, column in seeded["selected"]:
            chosen[row, column] = True
        golden.check_loss(
            objective, loss=seeded["loss"], grad=seeded["grad_log_prob"], decision=choose(chosen)
        )


def check_kl_cov(golden: Golden) -> None:
    options, outputs = golden.options, golden.outputs
    config = kl_cov.Config(
        fraction=options["kl_cov_ratio"], kl_coef=options["ppo_kl_coef"], when_all_equal="select"
    )
    theirs = tensor(outputs["selected_mask"], golden.dtype) > 0

    def check_selection(decided: Decision) -> Decision:
        ours = decided.marks["kl_cov"]["selected"]
        assert int(ours.sum()) == outputs["num_selected"]
        if outputs["selection_is_unique"]:
            assert (ours == theirs).all()
        # a tie at the last place is theirs to break
        return replace(decided, marks={"kl_cov": {"selected": theirs}})

    batch = golden.batch(golden.input("log_prob"))
    ours = clip_cov.covariance(batch.logprobs, batch.advantages, batch.mask)
    golden.check(ours, outputs["covariance"], "covariance")
    golden.check_loss(golden.objective(kl_cov.build(config)), decision=check_selection)


def check_steer(golden: Golden) -> None:
    options, outputs = golden.options, golden.outputs
    config = steer.Config(
        mapping="linear" if options["linear"] else "exponential",
        weight_min=options["token_weight_min"],
        weight_max=options["token_weight_max"],
    )
    batch = golden.batch(golden.input("log_prob"))
    valid = golden.mask
    golden.check(
        steer.entropy_change(batch)[valid],
        tensor(outputs["omega_signed"], golden.dtype)[valid].tolist(),
        "omega",
    )
    decided = golden.check_loss(golden.objective(steer.build(config)))
    golden.check(decided.marks["steer"]["weights"], outputs["token_weights"], "weights")


def rehearsal(golden: Golden) -> Callable[[Tensor], TokenBatch]:
    initial = golden.input("init_log_prob")

    def make(logprobs: Tensor) -> TokenBatch:
        return TokenBatch(
            logprobs=logprobs,
            old_logprobs=logprobs.detach(),
            advantages=torch.zeros_like(initial),
            mask=torch.zeros_like(golden.mask),
            rehearsal_mask=golden.mask,
            origin=torch.full((len(initial),), Origin.REHEARSAL),
            initial_logprobs=initial,
        ).zero_padding()

    return make


def check_dph(golden: Golden) -> None:
    options = golden.options
    names = {"forward": "forward", "js_low_var": "js", "alpha": "alpha", "js": "js_mixture"}
    config = dph.Config(
        divergence=names[options["sft_loss_mode"]],  # type: ignore[arg-type]
        coef=options["sft_loss_coeff"],
        alpha=options.get("alpha_coeff", 0.2),
        on_policy_fraction=0.0,
        form="authors",
    )
    make = rehearsal(golden)
    batch = make(golden.input("log_prob"))
    assert batch.initial_logprobs is not None
    per_token = dph.rehearsal_divergence(batch.logprobs, batch.initial_logprobs, config)
    valid = golden.mask
    expected = tensor(golden.outputs["per_token"], golden.dtype)
    golden.check(per_token[valid], expected[valid].tolist(), "per token")
    golden.check_loss(golden.objective(dph.build(config)), make)


def check_dph_on_policy(golden: Golden) -> None:
    options = golden.options
    is_drawn = options["random_draw_1_to_10"] <= options["js_ratio"]
    config = dph.Config(
        divergence="js_mixture",
        coef=options["sft_loss_coeff"],
        on_policy_fraction=1.0,
        form="authors",
    )
    control = dph.build(config) if is_drawn else None
    golden.check_loss(golden.objective(control), loss=golden.outputs["loss_term"])


def check_aepo(golden: Golden) -> None:
    options, inputs, outputs = golden.options, golden.inputs, golden.outputs
    config = aepo.Config(
        target=options["entropy_base"],
        temperature_high=options["temperature_high"],
        temperature_low=options["temperature_low"],
        rows=options["reinforce_sample_num"],
        advantage_threshold=options["advantage_threshold"],
        form="authors",
    )
    control = aepo.build(config)
    state = {"entropy": inputs["previous_step_entropy"]}
    assert control.plan is not None
    assert control.shape is not None
    tempered = control.plan(state).tempered
    assert tempered is not None
    assert tempered.temperature == outputs["temperature"]
    assert (
        int(tempered.prompt_fraction * inputs["num_prompts"])
        == outputs["num_prompts_second_rollout"]
    )

    parts = [(inputs["main"], Origin.POLICY, 0), (inputs["second_rollout"], Origin.TEMPERED, 1000)]
    rows = []
    for part, origin, first_id in parts:
        mask = tensor(part["response_mask"], golden.dtype) > 0
        count = len(mask)
        ids = (first_id + torch.arange(count)).unsqueeze(-1)
        rows.append(
            RolloutBatch(
                prompt_ids=ids,
                prompt_mask=torch.ones_like(ids, dtype=torch.bool),
                completion_ids=torch.zeros_like(mask, dtype=torch.long),
                completion_mask=mask,
                mask=mask,
                advantages=tensor(part["grpo_advantages"], golden.dtype),
                rewards=tensor(part["token_level_scores"], golden.dtype).sum(-1),
                group_ids=torch.zeros(count, dtype=torch.long),
                origin=torch.full((count,), origin),
            )
        )
    rollout = rows[0].join(rows[1])
    shaped, _, _ = control.shape(rollout, state)
    positives = aepo.is_positive(rollout, config.advantage_threshold)
    assert int(positives.sum()) == outputs["num_positive"]
    assert int((shaped.origin == Origin.TEMPERED).sum()) == outputs["num_used"]
    assert shaped.prompt_ids.squeeze(-1).tolist() == outputs["final_row_id"]
    golden.check(shaped.advantages, outputs["final_advantages"], "advantages")


CHECKS: dict[str, Callable[[Golden], None]] = {
    "verl_vanilla": check_verl_vanilla,
    "gspo": check_gspo,
    "cispo": check_cispo,
    "sapo": check_sapo,
    "gmpo": check_gmpo,
    "gpg": check_gpg,
    "gppo": check_gppo,
    "clip_cov": check_clip_cov,
    "kl_cov": check_kl_cov,
    "steer": check_steer,
    "dph_forward": check_dph,
    "dph_js_low_var": check_dph,
    "dph_alpha": check_dph,
    "dph_js": check_dph,
    "dph_js_onpolicy": check_dph_on_policy,
    "aepo": check_aepo,
}


def test_the_folder_has_golden_files() -> None:
    assert FILES, f"no golden files in {FOLDER}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_numbers_are_those_of_the_authors_code(path: Path) -> None:
    method = json.loads(path.read_text())["method"]
    if method not in CHECKS:
        pytest.skip(f"no method {method!r} in rlvr")
    CHECKS[method](Golden(path))
