"""What DeepSpeed's ZeRO writes in parts, one for each process: states to go on from, and weights to make whole again.

Weights are in parts where stage 3 runs without `zero3_save_16bit_model` (`stage3_gather_16bit_weights_on_model_save`).
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

_LATEST = "latest"
"""By DeepSpeed: the name of the folder that has the parts."""
_COPIED = (".json", ".jinja", ".model", ".txt", ".py")
_SCRIPTS = ("zero_to_fp32.py", "zero_to_torch.py")


def zero_stage() -> int:
    """Return the ZeRO stage with which this process was launched; 0: none."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") != "true":
        return 0
    path = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if path == "none":
        return int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    return int(config.get("zero_optimization", {}).get("stage", 0))


def check_layout(checkpoint: Path, processes: int) -> None:
    """Raise if a run on so many processes, launched as this one, cannot go on from a checkpoint.

    Without DeepSpeed any number of processes can.

    Raises:
        ValueError: If DeepSpeed's parts are those of another launch.
    """
    stage, latest = zero_stage(), checkpoint / _LATEST
    if not latest.is_file():
        if stage:
            raise ValueError(
                f"{checkpoint} was made without DeepSpeed, whose states it lacks; go on without it: torchrun, or "
                "recipes/accelerate/ddp.yaml"
            )
        return
    folder = checkpoint / latest.read_text().strip()
    parts = len(list(folder.glob("*_optim_states.pt")))
    is_third = any(folder.glob("zero_*_model_states.pt"))
    if parts != processes or is_third != (stage == 3) or not stage:
        made = "ZeRO-3" if is_third else "ZeRO-1 or ZeRO-2"
        raise ValueError(
            f"{checkpoint} was made with {made} on {parts} processes, and this is {_described(stage)} on {processes}: "
            "DeepSpeed's states fit only what they were made with; launch it as before, or start a new run from the "
            f"weights: rlvr export {checkpoint} --to FOLDER, then model.path=FOLDER"
        )


def _described(stage: int) -> str:
    return f"ZeRO-{stage}" if stage else "a run without DeepSpeed"


def is_divided(folder: Path) -> bool:
    """Return whether a saved model is there in parts only."""
    return (folder / _LATEST).is_file() and not any(folder.glob("*.safetensors"))


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """Give a folder with the same model in whole: a temporary one beside it if it is there in parts only.

    Args:
        folder: Of a saved model.

    Raises:
        ValueError: If parts are missing, or DeepSpeed is.
    """
    if not is_divided(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix=".whole-", dir=folder.parent) as made:
        for path in folder.iterdir():
            if path.suffix in _COPIED and path.name not in _SCRIPTS:
                shutil.copyfile(path, Path(made) / path.name)
        _gather(folder, Path(made))
        yield Path(made)


def make_whole(folder: Path) -> None:
    """Replace the parts of a saved model, if it is in parts, by the whole.

    Raises:
        ValueError: As `whole`.
    """
    if not is_divided(folder):
        return
    _gather(folder, folder)
    shutil.rmtree(folder / (folder / _LATEST).read_text().strip())
    for name in (_LATEST, *_SCRIPTS):
        (folder / name).unlink(missing_ok=True)


def _gather(source: Path, folder: Path) -> None:
    """Write the weights whose parts are in `source` to `folder`, in float32."""
    from huggingface_hub import save_torch_state_dict

    try:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    except ImportError:
        raise ValueError(
            f"{source} has its weights in parts by DeepSpeed, which is not installed here: pip install 'rlvr[deepspeed]'"
        ) from None
    try:
        # it tells of every file
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            weights = get_fp32_state_dict_from_zero_checkpoint(str(source))
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{source}: its weights are in parts that cannot be read ({reason}); are those of all processes here?"
        ) from None
    save_torch_state_dict(weights, folder)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    content = json.dumps(config | {"dtype": "float32"}, indent=2)
    (folder / "config.json").write_text(content + "\n", encoding="utf-8")
