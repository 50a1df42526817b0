"""The pure modules run with the shapes and types of their signatures and records checked."""

import os
from pathlib import Path
from typing import Any, Self

from beartype import BeartypeConf, FrozenDict, beartype
from jaxtyping import install_import_hook

# tensors here are tiny: with two threads the tests of the losses took four times the processor time
os.environ.setdefault("OMP_NUM_THREADS", "1")

check = beartype(
    conf=BeartypeConf(
        # methods are checked one by one, and there beartype refuses `Self`
        hint_overrides=FrozenDict({Self: Any}),
        # an int is a float, as in Python's type system
        is_pep484_tower=True,
    )
)

KERNELS = [
    path.stem
    for path in sorted((Path(__file__).parents[1] / "kernels").glob("*.py"))
    if not path.stem.endswith("_kernel")
]

install_import_hook(
    [
        "rlvr.advantage",
        "rlvr.aggregate",
        "rlvr.batch",
        "rlvr.divergence",
        "rlvr.entropy",
        # not those of Triton: it reads their source, and cannot call what the hook puts around functions
        *(f"rlvr.kernels.{name}" for name in KERNELS),
        "rlvr.logprobs",
        "rlvr.loss",
        "rlvr.surrogate",
    ],
    "tests.conftest.check",
)
