"""A sampler that is not the policy is recognised by what it says of a few tokens, and what is wrong with it is said."""

from functools import partial

import pytest
import torch
from torch import Tensor

from rlvr.rollout.self_test import FOREIGN, NOISE, PROMPTS, check_sampler, compare, fault
from rlvr.trainer import Hooks
from tests.rollout.engine import installed
from tests.trainer import tiny

PLACES = 512
"""Tokens that a self-test of 8 prompts sees at most."""


def logits(sure: float, seed: int) -> Tensor:
    """Return logits of many contexts: at a share of them one token stands out, elsewhere several compete."""
    generator = torch.Generator().manual_seed(seed)
    noise = 1.5 * torch.randn(PLACES, 500, generator=generator)
    is_sure = torch.rand(PLACES, generator=generator) < sure
    height = torch.where(is_sure, 9.0, 4.0) + 4 * torch.rand(PLACES, generator=generator)
    best = torch.randint(0, 500, (PLACES,), generator=generator)
    return noise.scatter_add(1, best[:, None], height[:, None]).double()


def found(sampler: Tensor, trainer: Tensor, seed: int = 0):
    """Return the agreement on tokens that a sampler with these logits draws."""
    torch.manual_seed(seed)
    sampler, trainer = sampler.log_softmax(-1), trainer.log_softmax(-1)
    tokens = torch.multinomial(sampler.exp(), 1)
    entropies = -(trainer.exp() * trainer).sum(-1)
    return compare(
        sampler.gather(1, tokens).T,
        trainer.gather(1, tokens).T,
        entropies[None],
        torch.ones(1, PLACES, dtype=torch.bool),
    )


def shaken(scores: Tensor, size: float, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scores + size * torch.randn(scores.shape, generator=generator, dtype=scores.dtype)


cases = pytest.mark.parametrize(("sure", "seed"), [(0.5, 0), (0.8, 1), (0.95, 2)])


@cases
def test_the_noise_of_bfloat16_passes_without_a_word(sure, seed):
    scores = logits(sure, seed)
    rounded = shaken(scores.bfloat16().double(), 0.05)
    agreement = found(scores, rounded, seed)
    assert fault(agreement, 1.0) is None
    assert agreement.mean < NOISE
    assert agreement.weight == pytest.approx(1, abs=0.02)


@cases
def test_a_sampler_that_is_a_little_off_is_said_and_not_refused(sure, seed):
    scores = logits(sure, seed)
    agreement = found(scores, shaken(scores, 0.2), seed)
    assert fault(agreement, 1.0) is None
    assert 0.02 < agreement.mean < FOREIGN


@cases
@pytest.mark.parametrize("temperature", [0.6, 0.7, 0.8, 0.9, 1.1, 1.2, 1.5])
def test_another_temperature_is_recognised_through_the_noise(sure, seed, temperature):
    scores = logits(sure, seed)
    agreement = found(scores / temperature, shaken(scores, 0.05), seed)
    assert "those of a temperature near" in fault(agreement, 1.0)
    assert (agreement.temperature > 1) == (temperature > 1)
    if abs(temperature - 1) < 0.15:  # to first order
        assert agreement.temperature == pytest.approx(temperature, abs=0.02)


@cases
def test_log_probs_before_the_temperature_are_recognised_as_those_of_temperature_1(sure, seed):
    scores = logits(sure, seed)
    torch.manual_seed(seed)
    tokens = torch.multinomial((scores / 0.8).softmax(-1), 1)
    raw, own = scores.log_softmax(-1), (scores / 0.8).log_softmax(-1)
    agreement = compare(
        raw.gather(1, tokens).T,
        own.gather(1, tokens).T,
        -(own.exp() * own).sum(-1)[None],
        torch.ones(1, PLACES, dtype=torch.bool),
    )
    assert 0.8 * agreement.temperature == pytest.approx(1, abs=0.1)
    assert "rollout.temperature is 0.8" in fault(agreement, 0.8)


@cases
@pytest.mark.parametrize("top_p", [0.8, 0.9, 0.95])
def test_log_probs_of_a_cut_distribution_are_recognised_with_the_mass_that_was_kept(
    sure, seed, top_p
):
    scores = logits(sure, seed)
    ordered, places = scores.softmax(-1).sort(descending=True)
    is_cut = ordered.cumsum(-1) - ordered >= top_p
    kept = scores.masked_fill(torch.zeros_like(is_cut).scatter(1, places, is_cut), -torch.inf)
    agreement = found(kept, shaken(scores, 0.01), seed)
    mass = scores.softmax(-1).masked_fill(kept.isinf(), 0.0).sum(-1).mean().item()
    assert agreement.weight == pytest.approx(mass, abs=0.01)
    assert f"those of the {agreement.weight:.0%} that is kept" in fault(agreement, 1.0)


@cases
def test_other_weights_and_other_rows_are_refused(sure, seed):
    scores = logits(sure, seed)
    assert "weights that did not arrive" in fault(found(scores, shaken(scores, 2.0), seed), 1.0)
    elsewhere = scores[torch.randperm(PLACES, generator=torch.Generator().manual_seed(2))]
    assert "another tokenizer" in fault(found(scores, elsewhere, seed), 1.0)


def test_masked_tokens_never_matter():
    sampler, trainer = -torch.rand(2, 5), -torch.rand(2, 5)
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    plain = compare(sampler, trainer, -trainer, mask)
    for filling in (torch.nan, 1e6):
        assert (
            compare(sampler.where(mask, filling), trainer.where(mask, filling), -trainer, mask)
            == plain
        )


def test_log_probs_that_are_not_numbers_are_a_fault():
    values = torch.tensor([[-1.0, torch.nan]])
    agreement = compare(values, -torch.ones(1, 2), torch.ones(1, 2), torch.ones(1, 2).bool())
    assert fault(agreement, 1.0) is not None


# ---------------------------------------------------------------------- a policy, and an engine in the place of vLLM

PROMPT = [row["prompt"] for row in tiny.ROWS]


def test_an_engine_with_the_policys_weights_agrees_whatever_the_recipe_cuts(tmp_path):
    made = tiny.trainer(tmp_path, temperature=0.8)
    engine = installed(made)
    engine.top_p, engine.min_p, engine.repetition_penalty = 0.5, 0.1, 1.3
    line = check_sampler(made, PROMPT)
    assert line.startswith("vllm, log-probs agree: mean |Δ| ")
    assert float(line.split()[5]) < 1e-5
    [asked] = engine.asked
    assert (asked["top_p"], asked["min_p"], asked["repetition_penalty"]) == (1.0, 0.0, 1.0)
    assert asked["temperature"] == 0.8
    assert (engine.top_p, engine.min_p, engine.repetition_penalty) == (0.5, 0.1, 1.3)
    assert engine.synchronized == 1


FAULTS = {
    "another temperature": ({"hidden_temperature": 1.4}, "those of a temperature near"),
    "raw log-probs": ({"reports": "raw"}, "--logprobs-mode processed_logprobs"),
    "cut": ({"hidden_top_p": 0.7}, "tokens are cut off"),
    "shuffled": ({"shuffles": True}, "does not sample the policy that is trained"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_engine_is_refused_before_the_first_update(tmp_path, name):
    torch.manual_seed(3)
    options, message = FAULTS[name]
    made = tiny.trainer(tmp_path, temperature=0.7)
    installed(made, **options)
    made.hooks = Hooks(before=partial(check_sampler, prompts=PROMPT))
    with pytest.raises(ValueError, match=message):
        made.train()
    assert made.state.global_step == 0


def test_weights_that_did_not_arrive_are_refused(tmp_path):
    torch.manual_seed(0)
    made = tiny.trainer(tmp_path)
    installed(made, is_stale=True)
    with torch.no_grad():
        for weight in made.model.parameters():
            weight += weight.std() * torch.randn_like(weight)
    with pytest.raises(ValueError, match="does not sample the policy that is trained"):
        check_sampler(made, PROMPT)


def test_an_engine_in_bfloat16_passes(tmp_path):
    made = tiny.trainer(tmp_path)
    installed(made, dtype=torch.bfloat16)
    line = check_sampler(made, PROMPT)
    assert 1e-4 < float(line.split()[5]) < NOISE


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda values: [None, *values[1:]], "not numbers"),
        (lambda values: values[1:], "log-probs of a completion of"),
    ],
)
def test_log_probs_that_are_missing_are_refused(tmp_path, damage, message):
    made = tiny.trainer(tmp_path)
    engine = installed(made)
    complete = engine._complete

    def damaged(prompt):
        ids, logprobs = complete(prompt)
        return ids, damage(logprobs)

    engine._complete = damaged
    with pytest.raises(ValueError, match=message):
        check_sampler(made, PROMPT)


def test_a_sampler_without_log_probs_is_refused(tmp_path):
    made = tiny.trainer(tmp_path)  # generates with transformers
    with pytest.raises(ValueError, match="reports no log-probs"):
        check_sampler(made, PROMPT)


def test_a_run_whose_engine_agrees_is_trained(tmp_path):
    made = tiny.trainer(tmp_path)
    engine = installed(made)
    lines = []
    made.hooks = Hooks(before=lambda trainer: lines.append(check_sampler(trainer, PROMPT)))
    made.train()
    assert len(lines) == 1
    assert made.state.global_step == 2
    assert len(engine.asked) == 2  # the self-test, and the rollout that two updates use
    assert len(engine.asked[0]["prompts"]) == PROMPTS
