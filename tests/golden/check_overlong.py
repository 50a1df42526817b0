"""DAPO's soft overlong punishment against verl's expression."""

import torch

from rlvr.entropy import overlong
from tests.golden.golden import Golden


def check_overlong(golden: Golden) -> None:
    for row in golden.outputs["rows"]:
        options = {
            "max_completion_length": row["max_resp_len"],
            "buffer": row["buffer"],
            "factor": row["factor"],
        }
        length = torch.tensor([row["length"]])
        authors = overlong.penalty(length, overlong.Config(**options, form="authors"))
        golden.check(authors, [row["penalty"]], f"length {row['length']}")
        # the paper's is bounded
        bounded = max(row["penalty"], -row["factor"])
        golden.check(overlong.penalty(length, overlong.Config(**options)), [bounded], "sound")


CHECKS = {"dapo_overlong": check_overlong}
