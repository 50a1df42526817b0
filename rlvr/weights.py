"""The weights of a run as a plain Hugging Face folder, with proof.

Adapters are merged, every tensor is looked at, and the logits of the folder are compared with those of what was
trained.
"""

import json
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.reach import cache_if_unreachable

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADAPTER = "adapter_config.json"
CHECK_TOKENS = 64
"""Tokens of a text on which logits are compared."""

# largest difference of logits, as a share of the largest logit: what rounding the weights once to this type moves,
# with room for deeper models (24 layers of random weights: bfloat16 6e-3, float16 8e-4)
_TOLERANCE = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 3e-2}
_COPIED = ("*.safetensors", "model.safetensors.index.json", "config.json", "generation_config.json")


@dataclass(frozen=True)
class Verified:
    """What was found out about exported weights."""

    tensors: int
    parameters: int
    dtype: str
    merged: bool
    """Whether an adapter was merged into its base."""
    difference: float
    """Largest difference of a logit from the trained model's."""
    scale: float
    """Largest logit of the trained model."""


def export_weights(
    source: Path,
    folder: Path,
    texts: Sequence[str],
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    offline: bool = False,
) -> Verified:
    """Write model and tokenizer of `source` to `folder`, open them again and compare.

    Runs on the CPU in float32. Whole models are copied byte for byte; an adapter is merged in float32 and
    rounded once, to the types of its base.

    Args:
        source: Folder of a whole model or of an adapter, with a tokenizer.
        folder: Exists; gets weights, configuration and tokenizer.
        texts: On which logits are compared.
        revision: Of an adapter's base on the hub.
        trust_remote_code: Whether the model's own code may run.
        offline: An adapter's base is taken from the cache, never from the network.

    Raises:
        ValueError: For weights that are damaged, not finite, incomplete, or not those that were trained.
    """
    is_adapter = (source / ADAPTER).is_file()
    check_tensors(source)
    with _quietly():
        tokenizer = _open_tokenizer(source, trust_remote_code)
        prompts = [_token_ids(tokenizer, text) for text in texts]
        if is_adapter:
            model, dtypes = _open_adapter(source, revision, trust_remote_code, offline)
        else:
            model = _open_model(source, trust_remote_code).float()
        trained = [_logits(model, ids) for ids in prompts]
        if is_adapter:
            _untie(model)
            model = model.merge_and_unload()
            # before rounding, where the bound is tight enough to see a small adapter
            compare_logits(trained, [_logits(model, ids) for ids in prompts], "float32")
            _round(model, dtypes)
            model.save_pretrained(folder)
        else:
            _copy(source, folder)
        del model
        tokenizer.save_pretrained(folder)
        tensors, parameters = check_tensors(folder)
        exported = _open_model(folder, trust_remote_code)
        dtype = str(exported.dtype).removeprefix("torch.")
        exported = exported.float()
        found = [_logits(exported, ids) for ids in prompts]
        again = _open_tokenizer(folder, trust_remote_code)
    if [_token_ids(again, text) for text in texts] != prompts:
        raise ValueError(f"{folder}: the saved tokenizer cuts text differently from {source}'s")
    difference, scale = compare_logits(trained, found, dtype)
    return Verified(tensors, parameters, dtype, is_adapter, difference, scale)


def check_tensors(folder: Path) -> tuple[int, int]:
    """Return the number of tensors and of their elements in the safetensors files of a folder.

    Raises:
        ValueError: If there are none, a file is missing or damaged, or a tensor is empty or not finite.
    """
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    missing = _indexed(folder) - {path.name for path in files}
    if missing or not files:
        what = f"lacks {', '.join(sorted(missing))}" if missing else "has no safetensors file"
        raise ValueError(f"{folder} {what}: its weights are not whole; export another checkpoint")
    tensors = parameters = 0
    for path in files:
        try:
            with safe_open(path, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118  (no mapping)
                    tensor = opened.get_tensor(name)
                    _check_tensor(tensor, f"{path}: {name}")
                    tensors += 1
                    parameters += tensor.numel()
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}): the file is damaged, or saving it was interrupted; export another "
                "checkpoint"
            ) from None
    return tensors, parameters


def _indexed(folder: Path) -> set[str]:
    """Return the files that a sharded model's index names."""
    index = folder / "model.safetensors.index.json"
    return set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else set()


def _check_tensor(tensor: "Tensor", place: str) -> None:
    if tensor.numel() == 0:
        raise ValueError(f"{place} is empty (shape {list(tensor.shape)}): nothing was exported")
    bad = int((~tensor.isfinite()).sum()) if tensor.is_floating_point() else 0
    if bad:
        raise ValueError(
            f"{place}: {bad} of {tensor.numel()} values are not finite: the model is broken and nothing was exported. "
            "Find the update where loss or grad_norm stop being numbers (rlvr monitor), export a checkpoint before it"
        )


def compare_logits(
    trained: "Sequence[Tensor]", exported: "Sequence[Tensor]", dtype: str
) -> tuple[float, float]:
    """Return the largest difference between logits, and the largest of the first.

    Args:
        trained: Of the model that was trained, one tensor for each text.
        exported: Of the exported model.
        dtype: Of the exported weights, such as `bfloat16`; decides what rounding may move.

    Raises:
        ValueError: If they differ by more than rounding explains.
    """
    difference = max(float((a - b).abs().max()) for a, b in zip(trained, exported, strict=True))
    scale = max(float(a.abs().max()) for a in trained)
    allowed = _TOLERANCE.get(dtype, _TOLERANCE["bfloat16"]) * scale
    if not difference <= allowed:
        raise ValueError(
            f"the exported model is not the one that was trained: a logit differs by {difference:.3g}, and rounding to "
            f"{dtype} explains at most {allowed:.3g} (largest logit {scale:.3g}); nothing was exported. Was the base "
            "of the adapter changed since the run?"
        )
    return difference, scale


def _open_model(
    folder: Path | str,
    trust_remote_code: bool,
    *,
    revision: str | None = None,
    offline: bool = False,
) -> "PreTrainedModel":
    """Return a model in the types it is stored in; every weight must come from its files."""
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype="auto",
        revision=revision,
        local_files_only=offline,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # reported, and refused below
    )
    model, report = loaded
    # transformers fills these with random numbers
    wrong = {kind: report[kind] for kind in ("missing_keys", "mismatched_keys") if report[kind]}
    if wrong:
        names = ", ".join(sorted(str(name) for keys in wrong.values() for name in keys)[:3])
        raise ValueError(
            f"{folder}: weights do not fit the model's config.json ({' and '.join(wrong)}: {names} ...); the folder "
            "is not whole, or belongs to another model"
        )
    return model.eval()


def _open_adapter(
    source: Path, revision: str | None, trust_remote_code: bool, offline: bool
) -> tuple[Any, dict[str, Any]]:
    """Return an adapter on its base in float32, and the types in which the base is stored."""
    from peft import PeftModel

    base = json.loads((source / ADAPTER).read_text())["base_model_name_or_path"]
    try:
        with cache_if_unreachable(base):
            model = _open_model(base, trust_remote_code, revision=revision, offline=offline)
    except (OSError, ImportError) as error:  # a base that was quantized needs bitsandbytes
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{source / ADAPTER}: the adapter's base {base!r} cannot be loaded ({reason}); put the model there, or "
            "write where it is as base_model_name_or_path"
        ) from None
    if getattr(model, "is_quantized", False):
        model = model.dequantize()  # type: ignore[operator]
        # those of reading 4 bits, which transformers cannot revert when it saves; the model's own are found again
        model._weight_conversions = None
    # a tied head under its own name too
    named = model.named_parameters(remove_duplicate=False)
    dtypes = {name: value.dtype for name, value in named}
    with warnings.catch_warnings():
        # peft only warns, and leaves the adapter at its initial value
        warnings.filterwarnings("error", message="Found missing adapter keys")
        try:
            adapted = PeftModel.from_pretrained(model.float(), str(source)).eval()
        except (UserWarning, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"{source}: the adapter does not fit its base {base!r} ({reason})"
            ) from None
    return adapted, dtypes


def _untie(model: Any) -> None:
    """Give an adapted head a matrix of its own where it shares that of the embedding, which has no such adapter."""
    import torch

    base = model.get_base_model()
    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    own = getattr(head, "base_layer", None)
    if own is not None and own.weight is getattr(embedding, "base_layer", embedding).weight:
        own.weight = torch.nn.Parameter(own.weight.detach().clone())
        base.config.get_text_config().tie_word_embeddings = False
        base.config.tie_word_embeddings = False


def _round(model: Any, dtypes: dict[str, Any]) -> None:
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])


def _copy(source: Path, folder: Path) -> None:
    code = ("*.py",)  # of a model with its own
    for pattern in _COPIED + code:
        for path in source.glob(pattern):
            shutil.copyfile(path, folder / path.name)


def _open_tokenizer(folder: Path, trust_remote_code: bool) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{folder} has no tokenizer that can be loaded ({reason})") from None


def _token_ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    return list(tokenizer(text)["input_ids"])[:CHECK_TOKENS] or [0]


def _logits(model: Any, ids: list[int]) -> "Tensor":
    import torch

    limit = getattr(model.config, "max_position_embeddings", None)
    with torch.inference_mode():
        return model(torch.tensor([ids[:limit]])).logits[0].float()


@contextmanager
def _quietly() -> Iterator[None]:
    """Load models here and whole: without progress bars, and not in ZeRO-3's parts after a distributed run."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config
    from transformers.utils import logging

    unset_hf_deepspeed_config()
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
