"""Adaptive entropy: coefficient and switch, update by update."""

from rlvr.entropy import adaptive_entropy
from tests.golden.golden import Golden


def check_adaptive_entropy(golden: Golden) -> None:
    options = golden.options
    config = adaptive_entropy.Config(
        target=options["target_ent"],
        delta=options["delta"],
        coef_init=options["init"],
        coef_min=options["min"],
        coef_max=options["max"],
        form="authors",
    )
    control = adaptive_entropy.build(config)
    assert control.step is not None
    state = control.init()
    trace = golden.outputs["trace"]
    assert [row["entropy"] for row in trace] == golden.inputs["entropies"]
    for number, row in enumerate(trace):
        applied = adaptive_entropy.coefficient(state)
        golden.check(applied, row["coef_applied_this_step"], f"coefficient of step {number}")
        # the entropy of the files is the one that the authors regulate
        state = control.step(state, {"entropy": float("nan"), "surprisal": row["entropy"]})
        golden.check(state["coef"], row["value_after"], f"value after step {number}")
        assert state["is_below"] == bool(row["enabled_after"])


CHECKS = {
    "skywork_entropy": check_adaptive_entropy,
}
