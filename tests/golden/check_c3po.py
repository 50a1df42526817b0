"""C3PO's selection of tokens against the report of Ring-lite."""

import torch

from rlvr.aggregate import token_budget
from tests.golden.golden import Golden


def check_c3po(golden: Golden) -> None:
    for row in golden.outputs["rows"]:
        lengths, budget = torch.tensor(row["lengths"]), row["budget"]
        mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)
        weights = token_budget(mask, torch.ones(len(lengths), dtype=torch.bool), tokens=budget)
        kept = weights > 0
        assert (weights[kept] == 1 / budget).all(), row["name"]
        assert int(kept.sum()) == row["kept_tokens"], row["name"]
        # responses join until the budget is reached; without that all do
        reached = int(kept.sum()) >= budget
        selected = int(kept.any(-1).nonzero().max()) + 1 if reached else len(lengths)
        assert selected == row["num_selected"], row["name"]
        assert int(lengths[:selected].sum()) == row["selected_tokens"], row["name"]
        last = int(lengths[selected - 1] - kept[selected - 1].sum())
        assert last == row["truncated_from_last"], row["name"]
        assert (kept[: selected - 1] == mask[: selected - 1]).all(), row["name"]
        # of a sequence that is cut the beginning stays
        assert (kept == (torch.arange(mask.shape[1]) < kept.sum(-1, keepdim=True))).all()


CHECKS = {"c3po": check_c3po}
