"""What the README shows works as typed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def commands() -> list[str]:
    """Return the lines that a user types and that need neither a hub nor several processes."""
    lines = [line.partition("#")[0].strip() for text in blocks("") for line in text.splitlines()]
    return [line for line in lines if line.startswith("rlvr ")]


def test_the_recipe_is_one(tmp_path, monkeypatch):
    from rlvr.check.methods import check_methods
    from rlvr.recipe import load_recipe

    [recipe] = blocks("yaml")
    (tmp_path / "mine.yaml").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    loaded, origins = load_recipe("mine.yaml")
    check_methods(loaded, origins)
    assert loaded.training.updates == 500


def test_the_python_example_runs():
    [example] = [text for text in blocks("python") if "Objective" in text]
    names: dict = {}
    exec(example, names)
    names["loss"].backward()
    assert "kl_cov/selected_fraction" in names["statistics"]


def test_every_file_and_link_that_is_named_is_there():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    for link in [*links, *re.findall(r"`(tests/[\w/.]+)`", README)]:
        assert (ROOT / link).exists(), link


def test_every_control_is_in_the_table_with_its_recipe():
    from rlvr.entropy.control import control_names

    for name in control_names():
        assert f"| `{name}` |" in README
        assert (ROOT / "recipes" / f"{name}.yaml").is_file()


@pytest.mark.slow
def test_the_commands_work_as_typed_one_after_the_other(tmp_path):
    [reward] = [text for text in blocks("python") if "def reward" in text]
    (tmp_path / "my_reward.py").write_text(reward)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    folder = Path(sys.executable).parent
    assert len(commands()) >= 12
    for line in commands():
        arguments = shlex.split(line)[1:]
        if arguments[:2] == ["check", "mine.yaml"]:
            (tmp_path / "mine.yaml").write_text(blocks("yaml")[0])
        done = subprocess.run(
            [folder / "rlvr", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "exported/first/model.safetensors").is_file()
    assert (tmp_path / "runs/first/curves.html").is_file()
