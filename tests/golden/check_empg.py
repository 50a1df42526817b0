"""EMPG against a reconstruction from the paper."""

import torch

from rlvr.batch import Origin, RolloutBatch
from rlvr.entropy import empg
from tests.golden.golden import Golden


def check_empg(golden: Golden) -> None:
    options, outputs = golden.options, golden.outputs
    config = empg.Config(
        k=options["k"], k_future=options["k_f"], zeta=options["zeta"], uniform_groups="shape"
    )
    mask = golden.mask
    segments = torch.full(mask.shape, -1)
    for row, start, end in golden.inputs["segments"]:
        segments[row, start:end] = segments[row].max() + 1
    inside = mask & (segments >= 0)
    # the file's segment_mask
    assert inside.double().tolist() == outputs["segment_mask"]

    steps = empg.find_steps(segments, mask)
    entropies = steps.means(golden.input("old_entropy"))
    golden.check(entropies, outputs["step_entropy"], "step entropy")
    relative = empg.relative(entropies)
    golden.check(relative, outputs["step_entropy_norm"], "relative entropy")
    golden.check(empg.certainty_scale(relative, config.k), outputs["g"], "g")
    everyone = torch.ones_like(steps.has_next)
    future = empg.future_certainty(relative, everyone, config.k_future).roll(1)
    golden.check(future, outputs["f"], "f")

    rows = torch.arange(len(mask))
    rollout = RolloutBatch(
        prompt_ids=rows.unsqueeze(-1),
        prompt_mask=torch.ones(len(mask), 1, dtype=torch.bool),
        completion_ids=torch.zeros_like(segments),
        completion_mask=mask,
        mask=mask,
        advantages=golden.input("advantages"),
        rewards=torch.zeros(len(mask)),
        group_ids=torch.zeros_like(rows),
        origin=torch.full_like(rows, Origin.POLICY),
        old_entropies=golden.input("old_entropy"),
        segment_ids=segments,
    )
    control = empg.build(config)
    assert control.shape is not None
    shaped, _, _ = control.shape(rollout, control.init())
    expected = torch.tensor(outputs["advantages_everywhere"], dtype=golden.dtype)
    golden.check(shaped.advantages[inside], expected[inside].tolist(), "advantages")


CHECKS = {"empg": check_empg}
