"""`rlvr doctor` finds what works, and says what to do about the rest."""

import json

import pytest

from rlvr import doctor
from tests.test_cli import run


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_this_machine_is_well_and_the_json_is_one_object_with_every_check(capsys):
    code, out, _ = run(capsys, "doctor", "--json")
    found = json.loads(out)
    assert (code, found["ok"]) == (0, True)
    assert {item["name"] for item in found["findings"]} >= {"python", "packages", "workers", "disk"}
    assert {item["state"] for item in found["findings"]} <= {doctor.OK, doctor.WARN}


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(monkeypatch):
    def broken():
        raise OSError("no such device")

    monkeypatch.setattr(doctor, "CHECKS", (doctor.python, broken, doctor.processor))
    found = list(doctor.examine())
    assert [item.state for item in found] == [doctor.OK, doctor.FAIL, doctor.OK]
    assert "no such device" in found[1].detail


def test_something_needed_that_is_broken_makes_the_exit_code_1(monkeypatch, capsys):
    broken = doctor.Finding("disk", doctor.FAIL, "full", "Make room")
    monkeypatch.setattr(doctor, "CHECKS", (lambda: [broken],))
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert "full. Make room" in out


def test_a_package_out_of_its_range_is_named_with_what_is_needed(monkeypatch):
    versions = {"trl": "1.15.0", "plotly": None}
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: versions.get(name, real(name)))
    failing = [item for item in doctor.packages() if item.state == doctor.FAIL]
    assert any("trl is 1.15.0" in item.detail and "1.16" in item.advice for item in failing)
    assert any("plotly is missing" in item.detail for item in failing)
