"""The fit of R = -a exp(H) + b."""

import re

from rlvr.monitor import law
from tests.golden.golden import Golden


def check_entropy_law(golden: Golden) -> None:
    for row in golden.outputs["rows"]:
        for name, expected in row.items():
            part = re.fullmatch(r"fit_(?:all|first_(\d+))", name)
            if part is None:
                continue
            count = int(part[1] or len(row["H"]))
            found = law.fit(row["H"][:count], row["R"][:count])
            golden.check(found.a, expected["a"], f"{name} a")
            golden.check(found.b, expected["b"], f"{name} b")
            golden.check(found.ceiling, expected["ceiling"], f"{name} ceiling")
            if "prediction_last" in expected:
                last = found.predict(row["H"][-1])
                golden.check(last, expected["prediction_last"], f"{name} prediction")


CHECKS = {
    "entropy_law": check_entropy_law,
}
