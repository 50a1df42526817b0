"""The benchmark of the head's kernels, and the script that checks them on a GPU, run where there is none."""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import kernel, kernel_check, kernel_gates
from benchmarks.kernel_inputs import Pattern, problem, truth

ROOT = Path(__file__).resolve().parents[2]
FIGURES = (
    *("forward_ms", "backward_ms", "total_ms", "forward_tflops", "effective_tflops"),
    *("share_of_floor", "peak_mib"),
)
ERRORS = ("logprob_max", "logprob_rms", "entropy_max", "hidden_gradient", "weight_gradient")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def table() -> dict:
    names = ("auto", "chunked certified", "naive")
    arguments = ("--device", "cpu", "--quick", "--no-memory", "--json", "--only", *names)
    done = run("benchmarks.kernel", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_benchmark_says_what_it_was_taken_on(table):
    assert table["versions"]["torch"] == torch.__version__
    assert table["machine"]["cpu"]
    assert table["machine"]["threads"] == 1
    assert table["machine"]["gpu"] is None
    assert "--quick" in table["command"]


def test_every_contender_has_every_figure(table):
    (row,) = table["rows"]
    assert set(row["contenders"]) == {"auto", "chunked certified", "naive", "matmuls 3U"}
    for name, figures in row["contenders"].items():
        assert set(FIGURES) <= set(figures)
        assert set(ERRORS) <= set(figures) or name.startswith("matmuls")
    assert not row["left_out"]
    assert not row["failed"]
    certified = row["contenders"]["chunked certified"]
    assert 0 < certified["tiles_made"] <= certified["tiles"]
    assert certified["bound"] <= 2**-10


def test_errors_are_those_of_float32(table):
    (row,) = table["rows"]
    for name in ("auto", "naive"):
        figures = row["contenders"][name]
        assert 0 < figures["logprob_max"] < 1e-4
        assert 0 < figures["weight_gradient"] < 1e-5


def test_a_ratio_is_the_median_of_the_ratios_of_rounds(table):
    (row,) = table["rows"]
    assert set(row["ratios"]) == {"auto", "chunked certified"}
    for ours, others in row["ratios"].items():
        assert set(others) == {"naive", "matmuls 3U"}
        for theirs, ratio in others.items():
            own, peer = (row["contenders"][name]["rounds_ms"] for name in (ours, theirs))
            assert len(own) == len(peer) == table["rounds"]
            expected = statistics.median(sum(b) / sum(a) for a, b in zip(own, peer, strict=True))
            assert ratio["total"] == pytest.approx(expected, rel=5e-3)


def test_medians_are_of_the_rounds(table):
    (row,) = table["rows"]
    tflop = row["hidden_size"] * row["rows"] * row["vocabulary"] * 2e-12
    for figures in row["contenders"].values():
        totals = [sum(pair) for pair in figures["rounds_ms"]]
        assert figures["total_ms"] == pytest.approx(statistics.median(totals), rel=5e-3)
        # three products of a row's size
        rate = 3 * tflop / figures["total_ms"] * 1e3
        assert figures["effective_tflops"] == pytest.approx(rate, rel=5e-3)


def test_the_table_is_printed_from_what_was_written(table, tmp_path, capsys, monkeypatch):
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table))
    monkeypatch.setattr(sys, "argv", ["kernel", "--show", str(path)])
    with pytest.raises(SystemExit) as stopped:
        kernel.main()
    assert not stopped.value.code
    said = capsys.readouterr().out
    assert "chunked certified" in said
    assert "TRL / this" in said


def test_the_table_is_printed_without_rich(table, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.table", None)
    kernel.show(table)
    assert "chunked certified" in capsys.readouterr().out


def test_a_row_that_is_none_is_refused_with_those_there_are(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kernel", "--device", "cpu", "--rows", "7x7*"])
    with pytest.raises(SystemExit, match=r"512x2048x32000-float32-half\+entropy"):
        kernel.main()


@pytest.mark.slow
def test_peak_memory_is_more_than_the_gradients_and_less_than_that_of_others():
    names = ("auto", "naive", "TRL")
    done = run("benchmarks.kernel", "--device", "cpu", "--quick", "--json", "--only", *names)
    (row,) = json.loads(done.stdout)["rows"]
    peaks = {name: figures["peak_mib"] for name, figures in row["contenders"].items()}
    gradients = 4 * row["hidden_size"] * (row["vocabulary"] + row["rows"]) / 2**20
    logits = 4 * row["rows"] * row["vocabulary"] / 2**20
    assert gradients <= peaks["auto"] < gradients + 2 * logits
    assert peaks["naive"] > gradients + 2 * logits
    assert peaks["TRL"] > peaks["auto"]
    assert set(row["ratios"]["auto"]) == {"naive", "TRL", "matmuls 3U"}
    assert row["contenders"]["TRL"]["weight_gradient"] < 1e-5


@pytest.mark.parametrize(("pattern", "share"), [("all", 1.0), ("half", 0.5), ("fifth", 0.2)])
def test_inputs_look_like_a_policys(pattern: Pattern, share: float):
    device = torch.device("cpu")
    made = problem(320, 256, 8000, dtype=torch.float32, device=device, pattern=pattern)
    exact = truth(made)
    assert (made.of_logprobs != 0).double().mean() == pytest.approx(share)
    assert made.of_entropies is None
    assert 18 < exact.max_logit < 22
    assert 0.2 < exact.entropies.mean() < 0.6
    assert exact.entropies.median() < 0.3  # most are nearly certain
    assert exact.logprobs.mean() > -2


def test_the_truth_is_additive_over_rows():
    made = problem(300, 16, 100, dtype=torch.float32, device=torch.device("cpu"))
    part = made.part(100)
    own, whole = truth(part), truth(made)
    torch.testing.assert_close(own.logprobs, whole.logprobs[::3])
    torch.testing.assert_close(own.of_hidden, whole.of_hidden[::3])


@pytest.fixture
def check():
    """Check float32 on the CPU; the settings of PyTorch come back."""

    def run_check(**changes) -> int:
        given = {"device": "cpu", "dtypes": ["float32"], "seconds": None, "json": None}
        return kernel_check.check(argparse.Namespace(**given | changes))

    before = torch.are_deterministic_algorithms_enabled()
    yield run_check
    torch.use_deterministic_algorithms(before)


def test_the_check_holds_on_a_cpu(check, capsys, tmp_path):
    path = tmp_path / "check.json"
    assert check(json=str(path)) == 0
    said = capsys.readouterr().out
    assert "FAIL" not in said
    lines = json.loads(path.read_text())["checks"]
    assert all(line["holds"] for line in lines)
    assert said.count("PASS") == len(lines) > 20


def test_a_gradient_that_is_a_little_wrong_is_seen(monkeypatch):
    right = kernel_check.ours
    device, dtypes = torch.device("cpu"), (torch.float32,)
    setting = kernel_check.Setting(device, dtypes, 40, 32, (1500, 1100))
    kernel_check.accuracy(setting, torch.float32, 1100, "plain")

    def wrong(*arguments, **options):
        found = right(*arguments, **options)
        of_hidden = found.gradients["hidden"] * (1 + 1e-5)
        return replace(found, gradients=found.gradients | {"hidden": of_hidden})

    monkeypatch.setattr(kernel_check, "ours", wrong)
    with pytest.raises(AssertionError, match=r"hidden 1\.0e-05"):
        kernel_check.accuracy(setting, torch.float32, 1100, "plain")


def test_a_check_that_crashes_does_not_stop_the_others(check, capsys, monkeypatch):
    def broken() -> str:
        raise RuntimeError("no such thing")

    some = [("one", broken), ("other", lambda: "well")]
    monkeypatch.setattr(kernel_check, "claims", lambda _: iter(some))
    assert check() == 1
    said = capsys.readouterr().out
    assert "FAIL  one: RuntimeError: no such thing" in said
    assert "PASS  other: well" in said


def test_without_time_nothing_is_said_to_hold(check, capsys):
    assert check(seconds=1e-9) == 1
    assert "not run: no time left" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_script_says_that_there_is_no_gpu(tmp_path):
    environment = os.environ | {"PYTHON": sys.executable, "OUT": str(tmp_path)}
    script = ["bash", str(ROOT / "benchmarks/kernel_gpu.sh")]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no GPU" in done.stdout


def row(**changes) -> dict:
    """Return figures of a row as the benchmark writes them."""
    sizes = {"hidden_size": 3584, "rows": 16384, "pattern": "all", "row": "a row"}
    ours = {"forward_tflops": 700.0, "hidden_gradient": 1e-3, "weight_gradient": 1e-3}
    names = ("triton recompute", "triton cached", "triton certified", "auto", "TRL")
    ratio = {"forward": 2.0, "total": 3.0}
    figures = {
        "contenders": {name: ours | {"peak_mib": 10.0} for name in names},
        "ratios": {name: {"TRL": ratio, "naive": ratio} for name in names[:-1]},
    }
    return sizes | figures | changes


def verdicts(gates: list[kernel_gates.Gate]) -> dict[str, str]:
    found: dict[str, str] = {}
    for gate in gates:
        verdict, _ = gate.judged()
        found[gate.name] = verdict if found.get(gate.name, "PASS") == "PASS" else found[gate.name]
    return found


def test_a_goal_is_met_by_its_worst_number_and_owed_without_one():
    kernels = [{"kernel": "forward", "spills": 0, "on_tensor_cores": True}]
    rows = [row(), row(pattern="half"), row(hidden_size=896)]
    assert set(verdicts(kernel_gates.gpu_gates(rows, kernels)).values()) == {"PASS"}
    slow = row()
    slow["contenders"]["triton recompute"]["forward_tflops"] = 600.0
    assert verdicts(kernel_gates.gpu_gates([*rows, slow], kernels))["G1"] == "FAIL"
    spilling = [*kernels, {"kernel": "gradient", "spills": 4, "on_tensor_cores": None}]
    assert verdicts(kernel_gates.gpu_gates(rows, spilling))["G8"] == "FAIL"
    assert set(verdicts(kernel_gates.gpu_gates([], [])).values()) == {"OWED"}


def test_goals_on_a_cpu_are_those_of_its_main_case():
    main = {"hidden_size": 512, "rows": 2048}
    rows = [row(**main), row(**main, pattern="half")]
    found = verdicts(kernel_gates.cpu_gates(rows, []))
    assert found == {
        "C1": "PASS",
        "C2": "FAIL",
        "C3": "PASS",
        "C4": "PASS",
    }  # as much memory as TRL


def test_rows_have_names_of_their_own():
    for rows in (kernel.cpu_rows(), kernel.gpu_rows(), kernel.quick_rows()):
        assert len({row.name for row in rows}) == len(rows)
        assert all(math.isfinite(row.tflop) for row in rows)
