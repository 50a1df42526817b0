"""An export is the model that was trained, says where it comes from, and overwrites nothing of anybody."""

import hashlib
import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr.card import front_matter
from rlvr.export import check_destination, destination, export
from rlvr.hub import push
from rlvr.monitor.store import RunWriter
from rlvr.recipe import load_recipe, write_resolved
from rlvr.weights import check_tensors, compare_logits, export_weights
from tests import hub_server
from tests.full_disk import files_up_to

BASE = Path(__file__).parents[1] / "recipes" / "demo" / "base"
FILES = {
    *("README.md", "config.json", "curves.png", "generation_config.json", "metrics.jsonl"),
    *("model.safetensors", "resolved.yaml", "rlvr_export.json"),
    *("tokenizer.json", "tokenizer_config.json"),
}
TEXTS = ("3,5,7,2=16:", "4,4=16:4*4")


def logits(model) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    with torch.inference_mode():
        return model(torch.tensor([tokenizer(TEXTS[0])["input_ids"]])).logits.float()


def make_run(folder: Path, *, created: str = "2026-01-02T03:04:05+00:00") -> Path:
    """Write what a run leaves behind, without training."""
    source = (
        "{paper: The Paper, url: 'https://arxiv.org/abs/2505.22617', deviations: [fewer updates]}"
    )
    arguments = [
        *(f"output={folder}", "training.updates=4", "entropy=[{kl_cov: {fraction: 0.05}}]"),
        f"source={source}",
    ]
    recipe, origins = load_recipe("demo", overrides=arguments)
    held_out = "eval/countdown/pass@1"
    with RunWriter(folder) as writer:
        for update in range(5):
            evaluated = {
                held_out: 0.25 + 0.05 * update,
                f"{held_out}/low": 0.2 + 0.05 * update,
                f"{held_out}/high": 0.3 + 0.05 * update,
                "eval/countdown/prompts": 200,
                "eval/countdown/samples": 16,
            }
            trained = {"reward": 0.2 + 0.1 * update, "entropy": 0.6 - 0.1 * update}
            writer.log(
                {"update": update}
                | (trained if update else {})
                | (evaluated if update % 2 == 0 else {})
            )
    write_resolved(recipe, origins, folder / "resolved.yaml")
    provenance = {"created": created, "processes": 1, "versions": {"rlvr": "9.8.7"}}
    (folder / "run.json").write_text(json.dumps(provenance))
    shutil.copytree(BASE, folder / "final")
    (folder / "final" / "training_args.bin").write_bytes(b"private")
    return folder


def make_adapter(base: Path, folder: Path) -> Path:
    """Write an adapter that changes the model, as the trainer saves it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    adapted.save_pretrained(folder)
    AutoTokenizer.from_pretrained(BASE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "plain")


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "plain"
    export(run, str(folder))
    return folder


@pytest.fixture
def own(run, tmp_path) -> Path:
    """A run that a test may change."""
    return Path(shutil.copytree(run, tmp_path / "own"))


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import close_session, constants

    with hub_server.serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        close_session()
        yield server
    close_session()


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def damage(folder: Path, **changes) -> None:
    """Change tensors of a model; None removes one."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    first = next(iter(weights))
    for _, change in changes.items():
        if change is None:
            del weights[first]
        else:
            weights[first] = change(weights[first])
    save_file(weights, path, metadata={"format": "pt"})


# the folder


def test_a_whole_model_is_exported_as_it_was_trained(run, exported):
    assert {path.name for path in exported.iterdir()} == FILES
    weights = (exported / "model.safetensors").read_bytes()
    assert weights == (run / "final" / "model.safetensors").read_bytes()
    assert not list(exported.parent.glob(".*"))  # nothing is left beside it
    loaded = AutoModelForCausalLM.from_pretrained(exported)
    assert torch.equal(logits(loaded), logits(AutoModelForCausalLM.from_pretrained(BASE)))
    tokenizer = AutoTokenizer.from_pretrained(exported)
    assert tokenizer(TEXTS[0]) == AutoTokenizer.from_pretrained(BASE)(TEXTS[0])


def test_the_marker_has_the_checksum_of_every_other_file(exported):
    marker = json.loads((exported / "rlvr_export.json").read_text())
    assert marker["run"] == "demo"
    assert marker["checkpoint"] == "final"
    assert marker["files"] == {
        name: hashlib.sha256(data).hexdigest()
        for name, data in tree(exported).items()
        if name != "rlvr_export.json"
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_an_adapter_is_merged_in_the_types_of_its_base(tmp_path, dtype):
    from peft import PeftModel

    base, out = tmp_path / "base", tmp_path / "out"
    stored = AutoModelForCausalLM.from_pretrained(BASE).to(dtype)
    stored.save_pretrained(base)
    adapter = make_adapter(base, tmp_path / "adapter")
    out.mkdir()
    verified = export_weights(adapter, out, TEXTS)
    assert verified.merged
    merged = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert merged.dtype == dtype
    assert {path.name for path in out.iterdir() if "adapter" in path.name} == set()
    source = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter
    )
    trained, untrained = logits(source), logits(stored.float())
    moved = float((trained - untrained).abs().max())
    apart = float((trained - logits(merged.float())).abs().max())
    # the check would see an adapter that was not merged
    with pytest.raises(ValueError, match="not the one that was trained"):
        compare_logits([trained], [untrained], verified.dtype)
    # one rounding of weights to 8 bits, or sums in another order
    assert apart < moved * (0.1 if dtype == torch.bfloat16 else 1e-4)


def test_logits_may_differ_by_rounding_and_not_by_more():
    trained = [torch.tensor([[10.0, -2.0]])]
    assert compare_logits(trained, [trained[0] + 5e-4], "float32") == pytest.approx(
        (5e-4, 10), rel=1e-3
    )
    for wrong in (5e-3, float("nan")):
        with pytest.raises(ValueError, match=r"a logit differs by (0.005|nan)"):
            compare_logits(trained, [trained[0] + wrong], "float32")
    compare_logits(trained, [trained[0] + 5e-3], "bfloat16")


def test_a_checkpoint_is_exported_with_the_curves_up_to_its_update(own, tmp_path, capsys):
    (own / "checkpoints").mkdir()
    checkpoint = own / "checkpoints" / "checkpoint-2"
    (own / "final").rename(checkpoint)
    for name in ("optimizer.pt", "rollout.pt", "rng_state.pth"):
        (checkpoint / name).write_bytes(b"state")
    with pytest.raises(ValueError, match=r"not finished: it has no final/ \(checkpoints: 2\)"):
        export(own, str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"no such checkpoint \(checkpoints: 2\)"):
        export(own, str(tmp_path / "out"), checkpoint="3")
    export(own, str(tmp_path / "out"), checkpoint="checkpoint-2")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| update 0 | update 2 |" in card
    assert "update 4" not in card


# the card


def test_the_card_has_recipe_curves_results_and_source(run, exported):
    card = (exported / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---\n")[1])
    # the base and the data of the demo are not on the hub
    assert metadata == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["rlvr", "grpo", "kl_cov"],
    }
    assert (run / "resolved.yaml").read_text() in card
    assert "| countdown | pass@1 | 0.250 [0.200, 0.300] | 0.450 [0.400, 0.500] |" in card
    assert "200 prompts x 16 samples" in card
    assert "| reward | 0.300 | 0.600 |" in card
    assert "](curves.png)" in card
    assert (exported / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "[The Paper](https://arxiv.org/abs/2505.22617)" in card
    assert "- fewer updates" in card
    assert "| rlvr | 9.8.7 |" in card
    assert "from_pretrained('./plain')" in card


def test_base_model_and_data_are_named_where_they_are_on_the_hub():
    recipe, _ = load_recipe("clip_cov")
    metadata = front_matter(recipe.model_dump(mode="json"))
    assert metadata["base_model"] == "Qwen/Qwen2.5-Math-7B"
    assert metadata["datasets"] == ["BytedTsinghua-SIA/DAPO-Math-17k"]
    assert metadata["tags"] == ["rlvr", "grpo", "clip_cov"]
    assert "license" not in metadata


def test_the_exported_recipe_can_be_trained(exported, tmp_path):
    recipe, _ = load_recipe(exported / "resolved.yaml", overrides=[f"output={tmp_path}"])
    assert recipe.training.updates == 4


# what is there already


def test_an_export_replaces_only_an_unchanged_export_of_its_own_run(own, tmp_path):
    folder = tmp_path / "out"
    export(own, str(folder))
    (folder / "README.md").open("a").write("my notes")
    with pytest.raises(ValueError, match=r"was changed since it was exported \(README.md\)"):
        export(own, str(folder))
    assert (folder / "README.md").read_text().endswith("my notes")
    shutil.rmtree(folder)

    other = make_run(tmp_path / "other", created="2026-02-02T00:00:00+00:00")
    shutil.copytree(own / "final", folder)
    with pytest.raises(ValueError, match=r"holds something else \(config.json"):
        export(own, str(folder))
    shutil.rmtree(folder)
    export(other, str(folder))
    before = tree(folder)
    with pytest.raises(ValueError, match=r"holds an export of another run \(demo\)"):
        export(own, str(folder))
    assert tree(folder) == before
    export(other, str(folder))
    assert tree(folder).keys() == before.keys()


def test_a_failed_export_leaves_the_one_before_it_and_nothing_half(own, tmp_path):
    folder = tmp_path / "out"
    export(own, str(folder))
    before = tree(folder)
    damage(own / "final", nan=lambda weight: weight.index_fill(0, torch.tensor([1]), torch.nan))
    with pytest.raises(ValueError, match="values are not finite"):
        export(own, str(folder))
    assert tree(folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "own"]


def test_an_export_that_finds_no_room_leaves_the_one_before_it(own, tmp_path):
    folder = tmp_path / "out"
    export(own, str(folder))
    before = tree(folder)
    with (
        files_up_to(50_000),
        pytest.raises(ValueError, match=r"out could not be made .*File too large"),
    ):
        export(own, str(folder))
    assert tree(folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "own"]
    with pytest.raises(ValueError, match="could not be made"):
        export(own, "/proc/self/out")


def test_a_run_can_ask_before_it_starts(exported, run, tmp_path):
    check_destination(tmp_path / "new", "demo", str(tmp_path / "free"))
    check_destination(run, "demo", str(exported))
    with pytest.raises(ValueError, match="export of another run"):
        check_destination(tmp_path / "new", "demo", str(exported))


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("somebody/my-model", "somebody/my-model"),
        ("./somebody/my-model", Path("somebody/my-model")),
        ("/models/mine", Path("/models/mine")),
        ("mine", Path("mine")),
        ("a/b/c", Path("a/b/c")),
        ("mine/", Path("mine")),
        ("there/model", Path("there/model")),
    ],
)
def test_a_destination_is_a_repository_only_where_it_cannot_be_a_folder(
    to, expected, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there" / "model").mkdir(parents=True)
    assert destination(to) == expected


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("there/other", "write ./there/other for the folder"),
        ("some body/mine", "not a name on the hub"),
        ("https://huggingface.co/me/mine", "give a folder, or user/name"),
        ("", "give a folder, or user/name"),
    ],
)
def test_a_destination_that_could_be_two_things_or_none_is_an_error(
    to, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match=message):
        destination(to)


# what is wrong with a run


def test_what_is_not_a_run_is_an_error_that_says_what_is_near(run, tmp_path):
    with pytest.raises(ValueError, match=r"there is no run at .*plian.* Did you mean .*plain"):
        export(run.parent / "plian", str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"has no metrics.jsonl"):
        export(run / "final", str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weight: weight / 0, "values are not finite: the model is broken"),
        (lambda weight: weight[:0], "is empty"),
        (lambda weight: weight[:-1], "weights do not fit the model's config.json"),
        (None, "weights do not fit the model's config.json"),
    ],
    ids=["infinite", "empty", "another shape", "missing"],
)
def test_wrong_weights_are_not_exported(own, tmp_path, change, message):
    damage(own / "final", first=change)
    with pytest.raises(ValueError, match=message) as caught:
        export(own, str(tmp_path / "out"))
    assert "final" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_whole_are_not_exported(own, tmp_path):
    weights = own / "final" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"model.safetensors cannot be read"):
        check_tensors(own / "final")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (own / "final" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"lacks model-00002-of-00002.safetensors"):
        check_tensors(own / "final")
    (own / "final" / "model.safetensors.index.json").unlink()
    weights.unlink()
    with pytest.raises(ValueError, match="has no safetensors file"):
        export(own, str(tmp_path / "out"))


def test_an_adapter_whose_base_is_missing_or_another_is_not_exported(tmp_path):
    base, out = Path(shutil.copytree(BASE, tmp_path / "base")), tmp_path / "out"
    out.mkdir()
    adapter = make_adapter(base, tmp_path / "adapter")
    config = json.loads((base / "config.json").read_text())
    shutil.rmtree(base)
    with pytest.raises(ValueError, match=r"base .* cannot be loaded .*base_model_name_or_path"):
        export_weights(adapter, out, TEXTS)
    small = AutoModelForCausalLM.from_config(
        type(AutoModelForCausalLM.from_pretrained(BASE).config)(
            **config | {"intermediate_size": 48}
        )
    )
    small.save_pretrained(base)
    with pytest.raises(ValueError, match="the adapter does not fit its base"):
        export_weights(adapter, out, TEXTS)
    assert not list(out.iterdir())


# the hub


def test_a_dry_run_says_what_would_be_published_and_touches_nothing(
    run, exported, tmp_path, monkeypatch, capsys
):
    def refuse(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    before = tree(run)
    export(run, "somebody/my-model", dry_run=True)
    said = capsys.readouterr().out
    assert "would be in the private repository somebody/my-model at http" in said
    assert tree(run) == before
    for name in FILES - {"README.md"}:
        size = (exported / name).stat().st_size
        assert any(line.split()[:2] == [name, f"{size:,}"] for line in said.splitlines()), name
    export(run, str(tmp_path / "new" / "out"), dry_run=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("large", [(), (".safetensors", ".png")], ids=["commit", "large files"])
def test_the_hub_gets_every_file_byte_for_byte(run, exported, hub, monkeypatch, large, capsys):
    from huggingface_hub import constants

    # large files through LFS, which a server here can speak
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", bool(large))
    hub.large = large
    export(run, "somebody/my-model")
    assert hub.private == {"somebody/my-model": True}
    received = dict(hub.files["somebody/my-model"])
    assert received.pop(".gitattributes") == b""
    assert received.keys() == FILES
    checksums = json.loads(received["rlvr_export.json"])["files"]
    for name in FILES - {"rlvr_export.json"}:
        assert hashlib.sha256(received[name]).hexdigest() == checksums[name]
    for name in FILES - {"README.md", "rlvr_export.json"}:
        assert received[name] == (exported / name).read_bytes(), name
    assert b"from_pretrained('somebody/my-model')" in received["README.md"]
    assert len(hub.objects) == (2 if large else 0)
    assert hub.commits == ["demo: final"]
    assert f"are at {hub.address}/somebody/my-model" in capsys.readouterr().out
    assert not (run / "export").exists()


def test_a_later_export_removes_weights_of_other_names(exported, hub):
    for _ in range(2):
        push(exported, "somebody/my-model", private=True, message="again", again="rlvr export")
    hub.files["somebody/my-model"] |= {"model-00001-of-00002.safetensors": b"x", "notes.md": b"y"}
    push(exported, "somebody/my-model", private=True, message="again", again="rlvr export")
    assert set(hub.files["somebody/my-model"]) == FILES | {".gitattributes", "notes.md"}


def test_a_repository_that_is_no_export_or_is_public_is_left_alone(exported, hub):
    hub.files["somebody/theirs"] = {"model.safetensors": b"theirs"}
    hub.private["somebody/theirs"] = True
    with pytest.raises(ValueError, match=r"holds something else \(model.safetensors\)"):
        push(exported, "somebody/theirs", private=True, message="mine", again="rlvr export")
    push(exported, "somebody/open", private=False, message="mine", again="rlvr export")
    with pytest.raises(ValueError, match="it is public, and a private one is asked for"):
        push(exported, "somebody/open", private=True, message="mine", again="rlvr export")
    assert hub.files["somebody/theirs"] == {"model.safetensors": b"theirs"}
    assert hub.commits == ["mine"]


def test_without_a_token_nothing_is_done(run, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"hf auth login.*HF_TOKEN"):
        export(run, "somebody/my-model")
    assert not (run / "export").exists()


def test_what_could_not_be_published_is_kept_and_named(own, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ValueError, match=r"was not published: .*401.* may not write") as caught:
        export(own, "somebody/my-model")
    assert f"hf upload somebody/my-model {own / 'export'} ." in str(caught.value)
    assert f"Again: rlvr export {own} --to somebody/my-model, or" in str(caught.value)
    kept = tree(own / "export")
    assert kept.keys() == FILES
    # nobody listens there
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"was not published: .*\nThe export is whole in"):
        push(own / "export", "somebody/my-model", private=True, message="m", again="rlvr export")
    assert tree(own / "export") == kept
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    export(own, "somebody/my-model")
    assert not (own / "export").exists()
    assert set(hub.files["somebody/my-model"]) == FILES | {".gitattributes"}
