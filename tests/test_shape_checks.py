"""The test run checks shapes, so that a broadcast nobody meant cannot pass."""

import pytest
import torch

from rlvr.batch import LossTerms


def test_a_record_refuses_a_tensor_that_would_broadcast():
    whole, column = torch.ones(2, 3), torch.ones(2, 1)
    with pytest.raises(TypeError, match="weights"):
        LossTerms(advantages=whole, weights=column, penalty=whole, clip_low=0.2, clip_high=0.2)
