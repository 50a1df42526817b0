"""The top-entropy selection against the authors' mask."""

from dataclasses import replace

from torch import Tensor

from rlvr.batch import TokenBatch
from rlvr.entropy import top_entropy
from tests.golden.golden import Golden, tensor


def check_top_entropy(golden: Golden) -> None:
    control = top_entropy.build(top_entropy.Config(fraction=golden.options["entropy_top_ratio"]))

    def batch(logprobs: Tensor) -> TokenBatch:
        return replace(golden.batch(logprobs), entropies=golden.input("entropy")).zero_padding()

    decided = golden.check_loss(golden.objective(control), batch)
    ours = decided.marks["top_entropy"]["selected"]
    assert int(ours.sum()) == golden.outputs["num_selected"]
    assert (ours == (tensor(golden.outputs["entropy_top_mask"], golden.dtype) > 0)).all()


CHECKS = {"top_entropy_8020": check_top_entropy}
