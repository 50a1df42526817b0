"""What a run is on: a GPU's memory and speed, and how processes share the states of a model.

The numbers of a GPU are those of its data sheet, without sparsity; its memory is what PyTorch reports of it.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.compose import SHIPPED
from rlvr.recipe_yaml import read_yaml
from rlvr.suggest import closest, unknown_name

GIB = 2**30
USUAL = "h100"
"""Taken where no GPU is named and none is there."""


@dataclass(frozen=True)
class Gpu:
    """What one process has. Of speeds that are None no time is estimated."""

    name: str
    gib: float
    """Memory, GiB."""
    teraflops: float | None = None
    """Dense products in bfloat16, TFLOP/s."""
    bandwidth: float | None = None
    """Of its memory, GB/s."""
    link: float | None = None
    """To the other GPUs of its machine, GB/s in one direction."""
    is_chosen: bool = True
    """Whether it is there or was named; an assumed one cannot be too small."""


GPUS = {
    "b200": Gpu("b200", 178.3, 2250, 8000, 900),
    "h200": Gpu("h200", 139.8, 989, 4800, 450),
    "h100": Gpu("h100", 79.1, 989, 3350, 450),
    "h100-pcie": Gpu("h100-pcie", 79.1, 756, 2000, 64),
    "a100": Gpu("a100", 79.1, 312, 2039, 300),
    "a100-40": Gpu("a100-40", 39.4, 312, 1555, 300),
    "l40s": Gpu("l40s", 44.4, 362, 864, 32),
    "l4": Gpu("l4", 22.0, 121, 300, 32),
    "a10": Gpu("a10", 22.0, 125, 600, 32),
    "a6000": Gpu("a6000", 47.5, 155, 768, 32),
    "rtx5090": Gpu("rtx5090", 31.3, 210, 1792, 64),
    "rtx4090": Gpu("rtx4090", 23.5, 165, 1008, 32),
    "rtx3090": Gpu("rtx3090", 23.5, 71, 936, 32),
}
"""The SXM variants where nothing else is said."""


@dataclass(frozen=True)
class Layout:
    """How the states of a model are divided among processes, one for each GPU."""

    processes: int = 1
    """W, over all machines."""
    stage: int = 0
    """Of DeepSpeed's ZeRO, 1 to 3; 0: without DeepSpeed, each process has everything."""
    offload_optimizer: bool = False
    """Whether optimizer states and gradients are in the host's memory."""
    offload_weights: bool = False
    """Whether weights are too, with ZeRO-3."""

    @property
    def is_deepspeed(self) -> bool:
        """Whether DeepSpeed trains: the weights are then in the computing dtype, float32 copies in the optimizer."""
        return self.stage > 0

    @property
    def name(self) -> str:
        """In words."""
        if not self.is_deepspeed:
            return "one process" if self.processes == 1 else "data parallel"
        moved = ["optimizer"] * self.offload_optimizer + ["weights"] * self.offload_weights
        return f"ZeRO-{self.stage}" + (f", {' and '.join(moved)} offloaded" if moved else "")


def find_gpu(name: str | None = None, device: str = "auto", processes: int = 1) -> Gpu:
    """Return the GPU of this name, else the one that is there, else a usual one; for a CPU its share of the memory.

    Args:
        name: A key of `GPUS`; None: look.
        device: `training.device` of a recipe.
        processes: That share this machine's memory, where there is no GPU to use.

    Raises:
        ValueError: If no GPU has this name.
    """
    if name is not None:
        if name.lower() not in GPUS:
            raise ValueError(f"--gpu: {unknown_name('GPU', name, GPUS)}")
        return GPUS[name.lower()]
    if device == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Gpu("cpu", memory / GIB / processes)
    import torch

    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        return recognise(found.name, found.total_memory / GIB)
    usual = GPUS[USUAL]
    return Gpu(USUAL, usual.gib, usual.teraflops, usual.bandwidth, usual.link, is_chosen=False)


def recognise(name: str, gib: float) -> Gpu:
    """Return the GPU that the driver calls so; where it is unknown, without speeds.

    Example:
        >>> recognise("NVIDIA A100-SXM4-40GB", 39.4).bandwidth, recognise("NVIDIA RTX A6000", 47.5).name
        (1555, 'a6000')
    """
    squeezed = name.lower().replace(" ", "").replace("-", "")
    # the longest name first: rtx4090 is no l4, an h100 of PCIe has a name of its own
    for key in sorted(GPUS, key=len, reverse=True):
        words = key.split("-")
        gpu = GPUS[key]
        is_size = abs(gpu.gib - gib) < 0.1 * gpu.gib
        if all(word in squeezed for word in words) and is_size:
            return Gpu(key, gib, gpu.teraflops, gpu.bandwidth, gpu.link)
    return Gpu(name, gib)


def layout_of(zero: int | None, profile: str | None, processes: int | None) -> Layout:
    """Return the layout that options of the command line describe.

    Args:
        zero: Stage of ZeRO; None: that of the profile, else without DeepSpeed.
        profile: As `read_profile` takes it.
        processes: None: the profile's, else 1.

    Raises:
        ValueError: If both a stage and a profile are given.
    """
    if profile is None:
        return Layout(processes or 1, stage=zero or 0)
    if zero is not None:
        raise ValueError(
            f"--zero is {zero} and --accelerate-config is {profile}, which has a stage of its own; give one of the two"
        )
    return read_profile(profile, processes)


def read_profile(given: str, processes: int | None = None) -> Layout:
    """Return the layout of an accelerate configuration.

    Args:
        given: A file, or the name of a shipped profile such as `zero3`.
        processes: In place of the profile's.

    Raises:
        ValueError: If there is no such file, or it is for something that is not estimated.
    """
    path = _profile(given)
    values, _ = read_yaml(path.read_text(encoding="utf-8"), str(path))
    count = processes or int(values.get("num_processes") or 1)
    kind = str(values.get("distributed_type", "NO")).upper()
    if kind in ("NO", "MULTI_GPU", "MULTI_CPU"):
        return Layout(count)
    if kind != "DEEPSPEED":
        raise ValueError(
            f"--accelerate-config: {path} has distributed_type {kind}, of which no memory is estimated; give one with "
            "MULTI_GPU or DEEPSPEED"
        )
    config = values.get("deepspeed_config") or {}
    if "deepspeed_config_file" in config:
        return _of_deepspeed(path, Path(config["deepspeed_config_file"]), count)
    return Layout(
        count,
        stage=int(config.get("zero_stage", 2)),
        offload_optimizer=_is_on(config.get("offload_optimizer_device")),
        offload_weights=_is_on(config.get("offload_param_device")),
    )


def _of_deepspeed(profile: Path, path: Path, processes: int) -> Layout:
    if not path.is_file():
        raise ValueError(f"--accelerate-config: {profile} names {path}, which is not there")
    zero = json.loads(path.read_text(encoding="utf-8")).get("zero_optimization", {})
    moved: dict[str, Mapping[str, Any]] = {
        key: zero.get(key) or {} for key in ("offload_optimizer", "offload_param")
    }
    return Layout(
        processes,
        stage=int(zero.get("stage", 0)),
        offload_optimizer=_is_on(moved["offload_optimizer"].get("device")),
        offload_weights=_is_on(moved["offload_param"].get("device")),
    )


def _is_on(device: Any) -> bool:
    return device not in (None, "none")


def _profile(given: str) -> Path:
    shipped = SHIPPED / "accelerate"
    for path in (Path(given), shipped / f"{given}.yaml"):
        if path.is_file():
            return path
    names = sorted(path.stem for path in shipped.glob("*.yaml"))
    suggestion = closest(Path(given).stem, names)
    question = f" Did you mean '{suggestion}'?" if suggestion else ""
    raise ValueError(
        f"--accelerate-config: there is no file {given}.{question} Shipped: {', '.join(names)}."
    )
