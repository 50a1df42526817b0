"""`rlvr data split`: what the initial policy masters apart from the rest, and the buffer to rehearse."""

import json
import shlex
from pathlib import Path

import pytest
import torch

from rlvr.data.mastery import overrides
from rlvr.data.source import load_rows
from rlvr.recipe import load_recipe
from rlvr.rollout.difficulty import read_memory
from rlvr.rollout.rehearsal import load_buffer
from tests.run import launch

OPTIONS = ("--samples", "4", "--min-pass-rate", "0.5")


def split(folder: Path, *args: object) -> launch.Result:
    result = launch.command("data", "split", "demo", *launch.SMALL, "--to", folder, *args)
    assert result.code == 0, result.err
    return result


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, launch.Result]:
    folder = tmp_path_factory.mktemp("split") / "parts"
    return folder, split(folder, *OPTIONS)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_prompt_is_in_the_part_that_its_pass_rate_says(done):
    folder, _ = done
    mastered, explore = (lines(folder / f"{name}.jsonl") for name in ("mastered", "explore"))
    assert mastered
    assert explore
    assert all(row["initial_pass_rate"] >= 0.5 for row in mastered)
    assert all(row["initial_pass_rate"] < 0.5 for row in explore)
    recipe, _ = load_recipe("demo", overrides=launch.SMALL)
    prompts = [row["prompt"] for row in load_rows(recipe.data)]
    assert sorted(row["prompt"] for row in mastered + explore) == sorted(prompts)


def test_the_summary_and_the_table_count_what_the_files_hold(done):
    folder, result = done
    summary = json.loads((folder / "split.json").read_text())
    rows = {name: lines(folder / f"{name}.jsonl") for name in ("mastered", "explore")}
    assert (summary["mastered"], summary["explore"]) == tuple(map(len, rows.values()))
    rates = [row["initial_pass_rate"] for part in rows.values() for row in part]
    for right in range(5):
        assert summary["right"][str(right)] == rates.count(right / 4)
        assert f"{right}/4" in result.out
    assert summary["samples"] == 4
    assert summary["seed"] == 42
    assert summary["versions"]["torch"] == torch.__version__


def test_a_run_with_difficulty_can_start_from_the_pass_rates(done, tmp_path):
    folder, _ = done
    parts = [row for name in ("mastered", "explore") for row in lines(folder / f"{name}.jsonl")]
    recipe, _ = load_recipe("demo", overrides=launch.SMALL)
    rows = load_rows(recipe.data)
    known = read_memory(folder, rows)
    rates = {row["prompt"]: row["initial_pass_rate"] for row in parts}
    assert known.pass_rates.tolist() == [rates[row["prompt"]] for row in rows]
    result = launch.train(
        tmp_path / "run",
        *launch.UNEVALUATED,
        f"rollout.difficulty={{start: {folder}, min_pass_rate: 0.2, max_pass_rate: 0.8}}",
    )
    assert f"from {folder} on; left out outside 0.2 to 0.8" in result.out
    first = launch.rows(tmp_path / "run")[0]
    assert first["difficulty/too_easy_fraction"] == sum(r > 0.8 for r in rates.values()) / 64
    assert first["difficulty/too_hard_fraction"] == sum(r < 0.2 for r in rates.values()) / 64


def test_the_buffer_has_a_right_completion_of_each_mastered_prompt_with_its_log_probs(done):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = done
    buffer = load_buffer(folder / "rehearsal.pt")
    tokenizer = AutoTokenizer.from_pretrained(launch.BASE)
    prompts = tokenizer.batch_decode(buffer.prompt_ids, skip_special_tokens=True)
    mastered = {row["prompt"]: row for row in lines(folder / "mastered.jsonl")}
    assert sorted(text.replace(" ", "") for text in prompts) == sorted(mastered)
    texts = tokenizer.batch_decode(buffer.completion_ids, skip_special_tokens=True)
    for prompt, text in zip(prompts, texts, strict=True):
        assert eval(text) == mastered[prompt.replace(" ", "")]["target"]
    model = AutoModelForCausalLM.from_pretrained(launch.BASE, dtype=torch.float32)
    row = buffer.rows(torch.tensor([0]))
    prompt_ids, ids = row.prompt_ids[row.prompt_mask], row.completion_ids[row.completion_mask]
    with torch.no_grad():
        logits = model(torch.cat([prompt_ids, ids])[None]).logits[0, len(prompt_ids) - 1 : -1]
    expected = logits.log_softmax(-1).gather(-1, ids[:, None]).squeeze(-1)
    torch.testing.assert_close(
        row.initial_logprobs[row.completion_mask], expected, rtol=1e-4, atol=1e-5
    )


def test_the_same_recipe_gives_the_same_split(done, tmp_path):
    folder, _ = done
    split(tmp_path / "again", *OPTIONS)
    for name in ("mastered.jsonl", "explore.jsonl", "split.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    one, other = (load_buffer(path / "rehearsal.pt") for path in (folder, tmp_path / "again"))
    assert torch.equal(one.initial_logprobs, other.initial_logprobs)


def test_the_command_that_is_printed_trains_on_the_prompts_to_explore_and_rehearses(done, tmp_path):
    folder, result = done
    [line] = [line for line in result.out.splitlines() if line.startswith("train ")]
    words = shlex.split(line)[1:]
    output = tmp_path / "run"
    trained = launch.command(*words[1:], f"output={output}", *launch.UNEVALUATED)
    assert trained.code == 0, trained.err
    explore = {row["prompt"] for row in lines(folder / "explore.jsonl")}
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(output / "completions/update_00001.parquet")
    assert set(table.column("prompt").to_pylist()) <= explore
    assert not (output / "rehearsal.pt").exists()
    rows = launch.rows(output)
    # the initial policy itself: no distance yet; after an update there is one
    assert rows[0]["dph/divergence"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["dph/divergence"] > 1e-6


def test_the_options_of_the_control_that_rehearses_are_taken(tmp_path):
    control = "entropy=[{kl_cov: {}}, {dph: {samples: 2, min_pass_rate: 0.5, rows_per_update: 4}}]"
    result = split(tmp_path / "parts", control)
    summary = json.loads((tmp_path / "parts/split.json").read_text())
    assert (summary["samples"], summary["min_pass_rate"]) == (2, 0.5)
    assert f"entropy.dph.buffer={tmp_path}/parts/rehearsal.pt" in result.out


def test_a_split_is_not_overwritten_and_no_mastered_prompt_is_said(done, tmp_path):
    folder, _ = done
    again = launch.command("data", "split", "demo", *launch.SMALL, "--to", folder)
    assert again.code == 2
    assert "holds another split" in again.err
    nothing = tmp_path / "nothing.py"
    nothing.write_text("def reward(sample):\n    return False\n")
    verifiers = f"rewards.verifiers=['{nothing}:reward']"
    result = launch.command(
        "data", "split", "demo", *launch.SMALL, verifiers, "--to", tmp_path / "parts"
    )
    assert result.code == 2
    assert "masters none of 64 prompts" in result.err
    assert not (tmp_path / "parts/rehearsal.pt").exists()
    assert len(lines(tmp_path / "parts/explore.jsonl")) == 64


LAYOUTS = {
    "plain": ({"problem": "1+1=", "answer": "2"}, ()),
    "detected": (
        {"question": "1+1=", "reward_model": {"ground_truth": "2"}, "data_source": "sums"},
        (),
    ),
    "worked solution": ({"prompt": "1+1=", "solution": "It is \\boxed{2}.", "answer": None}, ()),
    "answer that looks like working": ({"prompt": "q", "gold": "a #### 2"}, ("answer=gold",)),
    "mapped": (
        {"text": "1+1=", "meta": {"gold": "2", "numbers": [1, 1]}, "answer": "no"},
        ("prompt=text", "answer=meta.gold", "numbers=meta.numbers"),
    ),
}
PROMPTS = {
    "as it is": (),
    "template": ("data.template='{prompt} So: {{}}'",),
    "system": ("data.system=Think.", "data.template='{prompt} now'"),
    "without system": ("data.system=''",),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_rows_are_read_back_as_they_were(tmp_path, layout, prompt):
    record, columns = LAYOUTS[layout]
    path = tmp_path / "raw.jsonl"
    first = next(iter(record))
    others = [record | {first: f"{record[first]} {number}"} for number in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in others))
    given = [
        *("data.task=null", "data.size=null", f"data.path={path}"),
        *(f"data.columns.{item}" for item in columns),
        *(item.replace("{prompt}", "{" + first + "}") for item in PROMPTS[prompt]),
    ]
    recipe, _ = load_recipe("demo", overrides=given)
    rows = load_rows(recipe.data)
    (tmp_path / "explore.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    again, _ = load_recipe("demo", overrides=[*given, *overrides(recipe, rows, tmp_path)])

    def ordered(found: list[dict]) -> list[dict]:
        return sorted(found, key=lambda row: json.dumps(row["prompt"]))

    assert ordered(load_rows(again.data)) == ordered(rows)


def test_a_file_in_place_of_a_recipes_task_needs_nothing_undone(tmp_path):
    path = tmp_path / "raw.jsonl"
    row = {"prompt": "1,2=3:", "answer": "1+2", "numbers": [1, 2], "target": 3}
    path.write_text("".join(json.dumps(row | {"prompt": f"{i}"}) + "\n" for i in range(64)))
    result = launch.command("check", "demo", f"data.path={path}")
    assert result.code == 0, result.err
    assert "data: 64 rows" in result.out


@pytest.mark.slow
def test_two_processes_make_one_split(tmp_path):
    import subprocess
    import sys

    arguments = [*launch.SMALL, "--to", str(tmp_path / "parts"), *OPTIONS]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node", "2", "-m", "rlvr", "data", "split", "demo", *arguments),
        ],
        cwd=launch.ROOT,
        env=launch.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("written ") == 1
    summary = json.loads((tmp_path / "parts/split.json").read_text())
    assert summary["mastered"] + summary["explore"] == 64
    assert len(load_buffer(tmp_path / "parts/rehearsal.pt")) == summary["mastered"]
