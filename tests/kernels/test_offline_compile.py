"""The Triton kernels compile for a Hopper GPU, which need not be here, with no register spilled and on its tensor cores.

What is compiled is what the launchers launch: they run on tensors without data, and the kernels note their arguments.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch

from rlvr.kernels.chunked import Kept, Upstream, Wanted
from rlvr.kernels.partials import SQUARES
from rlvr.kernels.projection import Projection

triton = pytest.importorskip("triton")
# they import triton, which only Linux has
fused, launch = map(pytest.importorskip, ("rlvr.kernels.fused", "rlvr.kernels.launch"))

KERNELS = (
    *("forward_plain", "forward_descriptor"),
    *("gradient_plain", "gradient_descriptor", "gradient_from_cache"),
)
ROWS, VOCABULARY = 4096, 151936
TYPES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.int64: "i64",
}
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")


class Launch(NamedTuple):
    """A kernel and what it was launched with."""

    name: str
    kernel: Any
    arguments: dict[str, Any]


class Usage(NamedTuple):
    """Of a compiled kernel."""

    registers: int
    stack: int
    """Bytes a thread spills."""
    instructions: set[str]
    """Those of the tensor cores."""


class Recorder:
    """Stands for a kernel, and notes its launches."""

    def __init__(self, name: str, to: list[Launch]) -> None:
        self.name, self.kernel, self.to = name, getattr(fused, name), to

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launched(*arguments: Any, **constants: Any) -> None:
            names = self.kernel.arg_names
            own = dict(zip(names, arguments, strict=False)) | constants
            self.to.append(Launch(self.name, self.kernel, own))

        return launched


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """Return where launches are noted, as on a Hopper GPU."""
    if triton.knobs.runtime.interpret:
        pytest.skip("TRITON_INTERPRET is set: kernels are not compiled")
    try:
        tools = triton.knobs.nvidia.ptxas, triton.knobs.nvidia.cuobjdump
    except RuntimeError as error:
        pytest.skip(f"this triton cannot compile for NVIDIA: {error}")
    assert all(tools)
    found: list[Launch] = []
    for name in KERNELS:
        monkeypatch.setattr(fused, name, Recorder(name, found))
    monkeypatch.setattr(launch, "_capability", {torch.device("meta"): 9}.__getitem__)
    monkeypatch.setattr(launch, "programs", lambda *_: 132)
    return found


def projection(hidden: int, dtype: torch.dtype, *, extras: bool) -> Projection:
    def made(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    head = Projection(made(ROWS, hidden), made(VOCABULARY, hidden), operand_dtype=dtype)
    if not extras:
        return head
    return replace(
        head,
        bias=made(VOCABULARY),
        low_hidden=made(ROWS, 16),
        low_weight=made(VOCABULARY, 16),
        softcap=30.0,
    )


def both_directions(
    head: Projection, *, cached: int = 0, entropy: bool = True, extras: bool = False
) -> None:
    """Run forward, of which the first rows are kept, and backward."""
    targets = torch.zeros(ROWS, dtype=torch.int64, device="meta")
    row = torch.empty(ROWS, device="meta")
    found = fused.forward(head, targets, statistics=SQUARES if extras else (), cached=cached)
    upstream = Upstream(
        *(targets, found.logprobs, found.merged.entropies, found.merged.log_z),
        of_logprobs=row,
        of_entropies=row if entropy else None,
        of_statistics={},
        residue=row,
    )
    kept = Kept(found.cache, targets[:cached], found.partials.m)
    fused.backward(head, upstream, Wanted(True, True, extras, extras, extras), kept=kept)


def compiled(one: Launch) -> Any:
    """Return a launched kernel as the compiler makes it for Hopper."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.tools.tensor_descriptor import TensorDescriptor

    signature, constants, attributes = {}, {}, {}
    for place, name in enumerate(one.kernel.arg_names):
        value = one.arguments[name]
        parameter = one.kernel.params[place]
        if parameter.is_constexpr or value is None:
            signature[name], constants[(place,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = f"*{TYPES[value.dtype]}"
            attributes[(place,)] = [["tt.divisibility", 16]]
        elif isinstance(value, TensorDescriptor):
            box = ", ".join(map(str, value.block_shape))
            signature[name] = f"tensordesc<{TYPES[value.base.dtype]}[{box}]>"
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32"
            if value % 16 == 0 and not parameter.do_not_specialize:
                attributes[(place,)] = [["tt.divisibility", 16]]
    options = {name: one.arguments[name] for name in OPTIONS if name in one.arguments}
    source = ASTSource(one.kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def usage(one: Launch) -> Usage:
    made = compiled(one)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        told = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        )
    numbers = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", told.stdout + told.stderr))
    instructions = set(re.findall(r"wgmma\.mma_async\.\S+\.(m\d+n\d+k\d+)", made.asm["ptx"]))
    return Usage(int(numbers["REG"]), int(numbers["STACK"]) + int(numbers["LOCAL"]), instructions)


def assert_clean(launches: list[Launch], *, low_precision: bool = True) -> None:
    """Assert it of every kernel once."""
    by_name = {one.name: one for one in launches}
    assert {name.split("_")[0] for name in by_name} == {"forward", "gradient"}
    for name, one in by_name.items():
        found = usage(one)
        assert found.stack == 0, f"{name} spills: {found}"
        multiplies = name != "gradient_from_cache"
        assert bool(found.instructions) == (multiplies and low_precision), f"{name}: {found}"


def test_a_large_head_compiles_without_spills(launches: list[Launch]) -> None:
    both_directions(projection(3584, torch.bfloat16, extras=False))
    assert {one.name for one in launches} == {"forward_plain", "gradient_plain"}
    assert_clean(launches)


DTYPES = pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32], ids=["bf16", "fp16", "fp32"]
)
SIZES = pytest.mark.parametrize("hidden", [896, 3584])
OPTIONAL = pytest.mark.parametrize(
    "options",
    [
        pytest.param({"entropy": False}, id="logprobs"),
        pytest.param({"cached": ROWS // 2}, id="cached"),
        pytest.param({"cached": ROWS // 2, "extras": True}, id="extras"),
    ],
)


@pytest.mark.slow
@DTYPES
@OPTIONAL
@SIZES
def test_every_tile_of_the_table_compiles_without_spills(
    launches: list[Launch], hidden: int, options: dict[str, Any], dtype: torch.dtype
) -> None:
    both_directions(projection(hidden, dtype, extras="extras" in options), **options)
    assert_clean(launches, low_precision=dtype != torch.float32)


@pytest.mark.slow
@OPTIONAL
@SIZES
def test_descriptors_compile_without_spills(
    launches: list[Launch],
    hidden: int,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    described = [
        entry._replace(tile=replace(entry.tile, variant="descriptor")) for entry in launch.TABLE
    ]
    monkeypatch.setattr(launch, "TABLE", described)
    both_directions(projection(hidden, torch.bfloat16, extras="extras" in options), **options)
    assert {"forward_descriptor", "gradient_descriptor"} <= {one.name for one in launches}
    assert_clean(launches)
