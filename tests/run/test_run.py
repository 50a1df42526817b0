"""What a run leaves behind: metrics, completions, weights, and a recipe that gives the same numbers again."""

import json
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch

from rlvr.monitor.metrics import OUTCOMES, describe
from tests.run import launch

GROUP, PROMPTS, PER_UPDATE = 4, 8, 2
# 6 updates on 2 rollouts; the second is used in part
ARGUMENTS = (
    "training.updates=6",
    "evaluation.every=2",
    "evaluation.batch_size=5",
    "monitor.report_to=[tensorboard]",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "plain"
    launch.train(output, *ARGUMENTS)
    return output


@pytest.fixture(scope="module")
def rows(run):
    return launch.rows(run)


def completions(run: Path, update: int) -> list[dict]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(run / f"completions/update_{update:05d}.parquet")
    return table.to_pylist()


def test_every_update_has_a_row(rows):
    assert [row["update"] for row in rows] == [0, 1, 2, 3, 4, 5, 6]
    assert [row["generation"] for row in rows[1:]] == [0, 0, 0, 0, 1, 1]


def test_every_metric_has_a_documented_name_and_is_finite(rows):
    not_measured = {(1, "entropy/measured_change")}  # there is no update before
    for row in rows:
        for name, value in row.items():
            metric = describe(name)
            assert metric is not None, name
            assert not metric.name.startswith("<control>"), name  # this run has none
            if (row["update"], name) not in not_measured:
                assert launch.is_finite(value), (row["update"], name)


def test_the_metrics_that_the_documentation_promises_are_there(rows):
    promised = {
        *("update", "generation", "tokens", "reward", "reward/std", "rewards/countdown"),
        *("group/zero_advantage_fraction", "loss", "grad_norm", "learning_rate"),
        *("entropy", "entropy/covariance", "entropy/predicted_change", "entropy/measured_change"),
        *("length/mean", "length/max", "length/truncated_fraction"),
        *("clip/low_fraction", "clip/high_fraction"),
        *("time/rollout", "time/score", "time/update"),
        *("time/verifier/countdown/mean", "time/verifier/countdown/p99"),
        "verifier/countdown/failed_fraction",
        *(f"verdict/{outcome}" for outcome in OUTCOMES),
    }
    of_a_rollout = {"time/rollout", "time/score", "rewards/countdown"}
    of_a_rollout |= {name for name in promised if "verifier/" in name}
    for row in rows[1:]:
        assert promised <= set(row) | of_a_rollout
    assert of_a_rollout <= set(rows[1]) & set(rows[5])


def test_held_out_metrics_are_measured_at_the_start_at_intervals_and_at_the_end(rows):
    evaluated = [row["update"] for row in rows if "eval/countdown/pass@1" in row]
    assert evaluated == [0, 2, 4, 6]
    for row in rows[::2]:
        assert row["eval/countdown/prompts"] == 8
        assert row["eval/countdown/samples"] == 2
        assert 0 <= row["eval/countdown/pass@1"] <= row["eval/countdown/pass@2"] <= 1
        assert 0 < row["eval/countdown/entropy"] < 3


def test_evaluation_does_not_change_the_training(run, rows, tmp_path):
    launch.train(tmp_path / "run", *ARGUMENTS[:1], *launch.UNEVALUATED)
    for row, other in zip(rows[1:], launch.rows(tmp_path / "run"), strict=True):
        trained = {n: v for n, v in launch.numbers(row).items() if not n.startswith("eval/")}
        assert trained == launch.numbers(other)


def test_verdict_shares_add_up_to_one(rows):
    for row in rows[1:]:
        assert sum(row[f"verdict/{outcome}"] for outcome in OUTCOMES) == pytest.approx(1)


def test_every_completion_of_a_rollout_is_kept(run):
    assert sorted(path.name for path in (run / "completions").iterdir()) == [
        "update_00001.parquet",
        "update_00005.parquet",
    ]
    for update, generation in ((1, 0), (5, 1)):
        written = completions(run, update)
        assert len(written) == PROMPTS * GROUP
        assert {row["generation"] for row in written} == {generation}
        assert len({row["prompt"] for row in written}) == PROMPTS
        for row in written:
            numbers = sorted(row["prompt"].partition("=")[0].split(","))
            if row["verdict"] == "correct":
                assert sorted(c for c in row["completion"] if c.isdigit()) == numbers
            assert row["reward"] == float(row["verdict"] == "correct") == row["rewards/countdown"]
            assert row["task"] == "countdown"
            assert 0 < row["length"] <= 8
            assert row["entropy"] > 0


def test_advantages_follow_from_the_rewards_of_the_group(run):
    written = completions(run, 1)
    moved = 0
    for start in range(0, len(written), GROUP):
        group = written[start : start + GROUP]
        assert len({row["prompt"] for row in group}) == 1
        rewards = [row["reward"] for row in group]
        for row in group:
            expected = (row["reward"] - fmean(rewards)) / (stdev(rewards) + 1e-4)
            assert row["advantage"] == pytest.approx(expected, abs=1e-5)
        moved += len(set(rewards)) > 1
    assert moved >= 2


def test_metrics_of_an_update_are_those_of_its_completions(run, rows):
    written = completions(run, 1)
    share = PER_UPDATE * GROUP
    for number, row in enumerate(rows[1:5]):
        mine = written[number * share : (number + 1) * share]
        assert row["reward"] == pytest.approx(fmean(item["reward"] for item in mine))
        assert row["tokens"] == sum(item["length"] for item in mine)
        assert row["length/mean"] == pytest.approx(row["tokens"] / share)
        idle = [
            len({item["reward"] for item in mine[start : start + GROUP]}) == 1
            for start in range(0, share, GROUP)
        ]
        assert row["group/zero_advantage_fraction"] == pytest.approx(fmean(idle))


def test_the_first_update_of_a_rollout_has_ratio_one(rows):
    for row in (rows[1], rows[5]):
        assert row["clip/low_fraction"] == row["clip/high_fraction"] == 0
        assert row["loss"] == pytest.approx(0, abs=1e-6)  # z-scores add up to 0: so does the loss


def test_the_time_of_an_update_includes_its_rollout(rows):
    for row in (rows[1], rows[5]):
        assert row["time/update"] >= row["time/rollout"] >= row["time/score"] > 0


def test_what_the_numbers_depend_on_is_written_down(run):
    provenance = json.loads((run / "run.json").read_text())
    assert provenance["versions"].keys() >= {"rlvr", "torch", "trl", "transformers"}
    assert provenance["processes"] == 1
    assert provenance["created"]
    assert provenance["command"]


def test_the_resolved_recipe_gives_the_same_numbers_again(run, rows, tmp_path):
    result = launch.command("train", run / "resolved.yaml", f"output={tmp_path / 'again'}")
    assert result.code == 0, result.err
    again = launch.rows(tmp_path / "again")
    assert [launch.numbers(row) for row in again] == [launch.numbers(row) for row in rows]


def test_another_seed_gives_other_numbers(rows, tmp_path):
    arguments = (*ARGUMENTS, *launch.UNEVALUATED, "evaluation.every=0", "training.seed=1")
    launch.train(tmp_path / "run", *arguments)
    assert launch.rows(tmp_path / "run")[0]["grad_norm"] != rows[1]["grad_norm"]


def test_the_final_folder_is_an_ordinary_model_that_has_learned_something(run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    final = AutoModelForCausalLM.from_pretrained(run / "final")
    base = AutoModelForCausalLM.from_pretrained(launch.BASE)
    before = dict(base.named_parameters())
    assert dict(final.named_parameters()).keys() == before.keys()
    for name, weight in final.named_parameters():
        assert torch.isfinite(weight).all()
        assert not torch.equal(weight, before[name]), name
    tokenizer = AutoTokenizer.from_pretrained(run / "final")
    assert tokenizer("3,5,7,2=16:")["input_ids"]


def test_the_base_model_is_not_changed(run):
    assert sorted(path.name for path in launch.BASE.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_tensorboard_gets_reward_and_entropy_of_every_update(run, rows):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [file] = run.rglob("*tfevents*")
    assert "checkpoints" not in file.relative_to(run).parts
    events = EventAccumulator(str(file)).Reload()
    for name in ("reward", "entropy"):
        scalars = events.Scalars(f"train/{name}")
        assert [item.step for item in scalars] == [1, 2, 3, 4, 5, 6]
        expected = [row[name] for row in rows[1:]]
        assert [item.value for item in scalars] == pytest.approx(expected, rel=1e-5)


DPH = "{dph: {rows_per_update: 4, buffer_rows: 8, samples: 4, min_pass_rate: 0.5}}"


def controlled(output: Path, entropy: str, *args: str) -> list[dict]:
    """Return the rows of a run of one rollout under entropy controls."""
    launch.train(output, *launch.UNEVALUATED, f"entropy={entropy}", *args)
    rows = launch.rows(output)
    assert len(rows) == 4
    for row in rows:
        for name, value in row.items():
            assert launch.is_finite(value) or name == "entropy/measured_change", name
    return rows


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "plain4"
    launch.train(output, *launch.UNEVALUATED)
    return launch.rows(output)


def of(name: str, row: dict) -> dict[str, float]:
    """Return a control's own metrics."""
    return {key: value for key, value in row.items() if key.startswith(f"{name}/")}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clip_cov", "{fraction: 0.05, covariance_low: 0.01}"),
        ("kl_cov", "{fraction: 0.05}"),
        ("steer", "{}"),
    ],
)
def test_a_control_of_the_loss_runs_and_says_what_it_touched(tmp_path, plain, name, options):
    rows = controlled(tmp_path / "run", f"[{{{name}: {options}}}]")
    for row in rows:
        fractions = [v for key, v in of(name, row).items() if key.endswith("_fraction")]
        assert fractions
        assert all(0 <= value <= 1 for value in fractions)
    assert any(v > 0 for row in rows for key, v in of(name, row).items() if "_fraction" in key)
    # the same rollout, another loss
    assert rows[0]["reward"] == plain[0]["reward"]
    assert rows[0]["grad_norm"] == pytest.approx(plain[0]["grad_norm"], rel=0.9)
    assert [row["grad_norm"] for row in rows] != [row["grad_norm"] for row in plain]


def test_aepo_adds_correct_completions_drawn_at_another_temperature(tmp_path, plain):
    rows = controlled(tmp_path / "run", "[{aepo: {rows: 4, prompt_fraction: 0.5, target: 0.4}}]")
    assert rows[0]["aepo/positives"] >= 4
    assert rows[0]["aepo/reinforce_fraction"] == pytest.approx(4 / 36)
    assert rows[0]["aepo/temperature"] == 1.2  # no entropy is known yet: low
    for row, without in zip(rows, plain, strict=True):
        assert row["tokens"] > without["tokens"]
        assert row["reward"] == without["reward"]  # of the policy's own completions


def test_dph_rehearses_correct_completions_of_the_initial_policy(tmp_path, plain):
    rows = controlled(tmp_path / "run", f"[{DPH}]")
    assert rows[0]["dph/divergence"] == pytest.approx(0, abs=1e-8)  # the policy has not moved
    assert all(row["dph/divergence"] > 0 for row in rows[2:])
    assert [row["tokens"] for row in rows] == [row["tokens"] for row in plain]
    assert (tmp_path / "run" / "rehearsal.pt").is_file()


def test_a_rehearsal_buffer_of_one_run_serves_another(tmp_path):
    first = controlled(tmp_path / "one", f"[{DPH}]")
    named = f"entropy.dph.buffer={tmp_path / 'one' / 'rehearsal.pt'}"
    second = controlled(tmp_path / "two", f"[{DPH}]", named)
    assert [launch.numbers(row) for row in second] == [launch.numbers(row) for row in first]


def test_controls_act_in_a_chain(tmp_path):
    for row in controlled(tmp_path / "run", f"[steer, {DPH}]"):
        assert of("steer", row)
        assert of("dph", row)


@pytest.mark.parametrize(
    "arguments",
    [
        ["algorithm.surrogate=gspo", "algorithm.aggregate=sequence_mean"],
        ["algorithm.surrogate=cispo", "algorithm.advantage=leave_one_out"],
        ["algorithm.surrogate=sapo", "rollout.passes=2"],
        ["algorithm.surrogate=gmpo", "algorithm.aggregate=sequence_mean"],
        ["algorithm.surrogate=gppo", "algorithm.aggregate=sequence_sum"],
        ["algorithm.surrogate=gpg", "algorithm.advantage=group_mean"],
        [
            "algorithm.dual_clip=3",
            "algorithm.advantage=batch_zscore",
            "algorithm.mask_truncated=true",
        ],
    ],
    ids=lambda items: items[0].partition("=")[2],
)
def test_every_loss_trains(tmp_path, arguments):
    launch.train(tmp_path / "run", *launch.UNEVALUATED, *arguments)
    rows = launch.rows(tmp_path / "run")
    assert len(rows) == 4
    assert all(launch.is_finite(row["loss"]) for row in rows)
    assert all(row["grad_norm"] > 0 for row in rows)


@pytest.mark.parametrize("lora", [[], ["model.lora={rank: 4}"]], ids=["all weights", "LoRA"])
def test_the_kl_to_the_initial_policy_starts_at_zero_and_grows(tmp_path, lora):
    launch.train(tmp_path / "run", *launch.UNEVALUATED, "algorithm.kl_coef=0.1", *lora)
    rows = launch.rows(tmp_path / "run")
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-7)
    assert all(row["kl"] > 0 for row in rows[1:])


@pytest.mark.parametrize("modules", ["all-linear", ["lm_head", "q_proj"]], ids=["layers", "head"])
def test_a_lora_run_saves_an_adapter_that_can_be_exported_whole(tmp_path, modules):
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    run, exported = tmp_path / "run", tmp_path / "exported"
    lora = json.dumps({"rank": 4, "target_modules": modules})
    launch.train(run, f"model.lora={lora}", "kernel.impl=chunked")
    adapter = load_file(run / "final" / "adapter_model.safetensors")
    assert all(value.abs().max() > 0 for name, value in adapter.items() if "lora_B" in name)
    assert json.loads((run / "final" / "adapter_config.json").read_text())["r"] == 4
    result = launch.command("export", run, "--to", exported)
    assert result.code == 0, result.err
    merged = AutoModelForCausalLM.from_pretrained(exported)
    base = dict(AutoModelForCausalLM.from_pretrained(launch.BASE).named_parameters())
    changed = [n for n, w in merged.named_parameters() if n in base and not torch.equal(w, base[n])]
    assert any("q_proj" in name for name in changed)
    # the demo's head is its embedding: an adapter of the head alone takes them apart
    assert ("lm_head.weight" in {n for n, _ in merged.named_parameters()}) == (
        modules[0] == "lm_head"
    )
    assert "README.md" in {path.name for path in exported.iterdir()}


def test_a_rollout_is_generated_in_batches_of_the_size_asked_for(tmp_path, monkeypatch):
    from rlvr import trainer

    sizes = []
    generate = trainer.generate

    def counted(model, prompts, **options):
        sizes.append(len(prompts))
        return generate(model, prompts, **options)

    monkeypatch.setattr(trainer, "generate", counted)
    launch.train(tmp_path / "run", *launch.UNEVALUATED, "rollout.batch_size=12")
    assert sizes == [12, 12, 8]  # 8 prompts x 4
