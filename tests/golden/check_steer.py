"""STEER against the authors' code."""

from rlvr.entropy import steer
from tests.golden.golden import Golden, tensor


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


CHECKS = {
    "steer": check_steer,
}
