"""Surrogates against verl and Klear-Reasoner."""

from functools import partial
from typing import Any

from torch import Tensor

from rlvr import aggregate, surrogate
from rlvr.batch import TokenBatch
from tests.golden.golden import Golden


def check_verl_vanilla(golden: Golden) -> None:
    golden.check_loss(golden.objective())


def check_gspo(golden: Golden) -> None:
    golden.check_loss(golden.objective(surrogate=surrogate.gspo))


def check_cispo(golden: Golden) -> None:
    golden.check_loss(golden.objective(surrogate=surrogate.cispo))


def check_sapo(golden: Golden) -> None:
    def sapo(terms: Any, batch: TokenBatch) -> Tensor:
        return surrogate.sapo(
            terms,
            batch,
            tau_positive=golden.options["tau_pos"],
            tau_negative=golden.options["tau_neg"],
        )

    golden.check_loss(golden.objective(surrogate=sapo))


def check_gmpo(golden: Golden) -> None:
    over_all_rows = partial(aggregate.sequence_mean, count_empty=True)
    golden.check_loss(golden.objective(surrogate=surrogate.gmpo, aggregate=over_all_rows))


def check_gpg(golden: Golden) -> None:
    golden.check_loss(golden.objective(surrogate=surrogate.gpg))


def check_gppo(golden: Golden) -> None:
    golden.check_loss(golden.objective(surrogate=surrogate.gppo))


CHECKS = {
    "verl_vanilla": check_verl_vanilla,
    "gspo": check_gspo,
    "cispo": check_cispo,
    "sapo": check_sapo,
    "gmpo": check_gmpo,
    "gpg": check_gpg,
    "gppo": check_gppo,
}
