"""What a number of a run depends on besides its recipe: `run.json`."""

import datetime
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rlvr.console import process_count
from rlvr.whole_file import whole_file

FILE = "run.json"
_PACKAGES = ("rlvr", "torch", "trl", "transformers", "accelerate", "peft", "deepspeed", "vllm")
_DECISIVE = ("python", "platform", "processes", "threads", "cpu", "gpu")


def provenance() -> dict[str, Any]:
    """Return when and how this process was started, on what, with which versions."""
    import torch

    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processes": process_count(),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions,
    }


def write_provenance(folder: Path) -> None:
    """Write `run.json`; that of a run that goes on is left as it is."""
    path = folder / FILE
    if not path.exists():
        with whole_file(path) as partial:
            partial.write_text(json.dumps(provenance(), indent=1) + "\n")


def moved(folder: Path) -> list[str]:
    """Return what is not as it was when a run began, a line each; none if that is not known."""
    path = folder / FILE
    if not path.is_file():
        return []
    before, now = json.loads(path.read_text()), provenance()
    pairs = {name: (before[name], now[name]) for name in _DECISIVE if name in before}
    pairs |= {name: (old, now["versions"].get(name)) for name, old in before["versions"].items()}
    return [f"{name}: {old} -> {new}" for name, (old, new) in pairs.items() if old != new]
