"""The kernels of a certified backward pass compile for a Hopper GPU, which need not be here, without spills.

What is compiled is what the launcher launches for one tile; the kernels note their arguments.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.kernels.policy import asked
from tests.kernels.test_offline_compile import TYPES, Launch, usage

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the kernels are interpreted"
)

KERNELS = ("tile_gradients_kernel", "add_rows_kernel", "columns_kernel", "bias_kernel")


def launched(monkeypatch: pytest.MonkeyPatch, **of: Any) -> list[Launch]:
    """Return what is launched for a head like this."""
    from rlvr.kernels import sparse

    found: list[Launch] = []

    def recorded(name: str) -> Any:
        kernel = getattr(sparse, name)

        def note(*arguments: Any, **constants: Any) -> None:
            named = dict(zip(kernel.arg_names, arguments, strict=False)) | constants
            found.append(Launch(name, kernel, named))

        class Recorder:
            def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
                return note

        return Recorder()

    for name in KERNELS:
        monkeypatch.setattr(sparse, name, recorded(name))
    monkeypatch.setattr(sparse, "_capability", lambda _: 9)
    monkeypatch.setitem(TYPES, torch.int32, "i32")
    asked(128, 128, **of).backward(1e-9, implementation=sparse)
    return found


@pytest.mark.parametrize("width", [3584, 896])
def test_tiles_of_a_large_head_compile_without_spills(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = launched(monkeypatch, width=width, dtype=torch.bfloat16, entropy_gradient=True)
    assert [one.name for one in found] == list(KERNELS[:3])
    for one in found:
        used = usage(one)
        assert used.stack == 0, f"{one.name} spills: {used}"
        assert used.instructions, f"{one.name} is not on the tensor cores: {used}"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=TYPES.get)
@pytest.mark.parametrize("width", [960, 1536, 900])
def test_tiles_of_every_kind_of_head_compile_without_spills(
    width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = {"bias": True, "rank": 16, "softcap": 30.0, "entropy_gradient": True}
    found = launched(monkeypatch, width=width, dtype=dtype, **kind)
    assert {one.name for one in found} == set(KERNELS)
    for one in found:
        used = usage(one)
        assert used.stack == 0, f"{one.name} spills: {used}"
