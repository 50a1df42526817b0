"""Clip_B and Clip_V against the authors' code: advantages, discriminators, tokens taken out, shares."""

from collections import Counter

import torch
from torch import Tensor

from rlvr.advantage import group_zscore
from rlvr.batch import Origin, RolloutBatch
from rlvr.entropy import clip_b, clip_v
from rlvr.entropy.control import EntropyControl, quotient
from rlvr.entropy_change import discriminator, expected_discriminator
from rlvr.kernels.naive import logprob_entropy
from rlvr.kernels.statistics import of_logits
from tests.golden.golden import Golden, tensor


def rollout_of(golden: Golden, statistics: dict[str, Tensor] | None = None) -> RolloutBatch:
    """Return the file's generation, with the advantages of our own baseline compared on the way."""
    uid = golden.inputs["uid"]
    groups = torch.tensor([sorted(set(uid)).index(name) for name in uid])
    rewards = golden.input("token_level_rewards").sum(-1)
    mask = golden.mask
    advantages = tensor(golden.outputs["advantages"], golden.dtype)
    # a completion alone in its group: the authors give it its reward, group_zscore 0
    has_peers = torch.tensor([Counter(uid)[name] > 1 for name in uid])
    ours = group_zscore(rewards, groups, eps=golden.options["epsilon"])
    ours = torch.where(mask, ours.unsqueeze(-1), 0.0)
    golden.check(ours[has_peers], advantages[has_peers].tolist(), "advantages")
    ids = torch.zeros_like(mask, dtype=torch.long)
    return RolloutBatch(
        prompt_ids=ids[:, :1],
        prompt_mask=torch.ones_like(mask[:, :1]),
        completion_ids=ids,
        completion_mask=mask,
        mask=mask,
        advantages=advantages,
        rewards=rewards,
        group_ids=groups,
        origin=torch.full((len(ids),), Origin.POLICY),
        old_logprobs=golden.input("log_prob"),
        old_entropies=golden.input("entropy"),
        old_statistics=statistics or {},
    )


def check_shaped(
    golden: Golden, control: EntropyControl, rollout: RolloutBatch
) -> dict[str, Tensor]:
    outputs, mask = golden.outputs, golden.mask
    assert rollout.old_logprobs is not None
    assert rollout.old_entropies is not None
    s = discriminator(rollout.old_logprobs.double(), rollout.old_entropies.double())
    golden.check(s[mask], tensor(outputs["S"], golden.dtype)[mask].tolist(), "S")
    assert control.shape is not None
    shaped, _, stats = control.shape(rollout, {})
    kept = tensor(outputs["clipped_response_mask"], golden.dtype) > 0
    assert (shaped.mask == kept).all()
    assert (shaped.completion_mask == mask).all()
    assert (shaped.advantages == rollout.advantages).all()
    metrics = outputs["metrics"]
    golden.check(quotient(stats["dropped_fraction"]), metrics["frac_clipped"], "share dropped")
    if ((rollout.advantages < 0) & mask).any():  # without one the authors say 1
        share = quotient(stats["dropped_negative_fraction"])
        golden.check(share, metrics["frac_clipped_neg"], "share of negatives dropped")
    return stats


def check_clip_b(golden: Golden) -> None:
    control = clip_b.build(clip_b.Config(mu=golden.options["mu"]))
    stats = check_shaped(golden, control, rollout_of(golden))
    metrics = golden.outputs["metrics"]
    golden.check(quotient(stats["discriminator"]), metrics["ES"], "mean S")
    golden.check(quotient(stats["discriminator_std"]) ** 2, metrics["varS"], "variance of S")


def check_clip_v(golden: Golden) -> None:
    options = golden.options
    logits, mask = golden.input("logits"), golden.mask
    names = ["sum_p2", "sum_p2_logp"]
    flat = logits.flatten(0, 1)
    found = of_logits(flat, torch.zeros(len(flat), dtype=torch.long), names)
    statistics = {name: value.view_as(mask) for name, value in found.items()}
    _, entropies = logprob_entropy(logits, torch.zeros_like(mask, dtype=torch.long))
    golden.check(entropies[mask], golden.input("entropy")[mask].tolist(), "entropy of the logits")
    n = expected_discriminator(
        golden.input("entropy"), statistics["sum_p2"], statistics["sum_p2_logp"]
    )
    golden.check(n[mask], tensor(golden.outputs["nec"], golden.dtype)[mask].tolist(), "N")
    rollout = rollout_of(golden, statistics)
    config = clip_v.Config(mu=options["mu"], max_fraction=options["max_frac"], form="authors")
    stats = check_shaped(golden, clip_v.build(config), rollout)
    deviation = quotient(stats["discriminator_gap_std"])
    golden.check(deviation, golden.outputs["metrics"]["stdD"], "deviation of D")
    check_sound_form_agrees_on_negative_tokens(golden, config, rollout)


def check_sound_form_agrees_on_negative_tokens(
    golden: Golden, config: clip_v.Config, rollout: RolloutBatch
) -> None:
    sound = clip_v.build(config.model_copy(update={"form": "sound"}))
    assert sound.shape is not None
    shaped, _, _ = sound.shape(rollout, {})
    theirs = tensor(golden.outputs["clipped_response_mask"], golden.dtype) > 0
    moves = rollout.advantages != 0
    assert (shaped.mask[moves] == theirs[moves]).all()
    assert (shaped.mask[~moves] == golden.mask[~moves]).all()


CHECKS = {"clip_b": check_clip_b, "clip_v": check_clip_v}
