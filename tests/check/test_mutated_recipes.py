"""A recipe with a fault ends with code 2, the key, its line and the fix: before a model loads, without a traceback.

The policy of these recipes has a configuration and a tokenizer but no weights, and every second command is `train`
itself. Other faults than those of the fast tests: RLVR_MUTATIONS=SEED:SHARE, as 7:0.5 for half of all by seed 7.
"""

import os
import random
import re
from collections.abc import Iterator

import pytest

from tests.check import mutations
from tests.check.mutations import Chance, Mutant
from tests.run import launch

SEED, SHARE = (float(part) for part in os.environ.get("RLVR_MUTATIONS", "0:0").split(":"))
SOURCES = ("demo", "clip_cov", "aepo", "sapo", "psr_nsr", "overlong")


def chance(share: float) -> Chance:
    return Chance(random.Random(SEED), SHARE or share)


def misspelt_keys() -> Iterator[Mutant]:
    for source in SOURCES:
        yield from mutations.key_typos(mutations.whole(source), source, chance(0.015))


def mutants() -> Iterator[Mutant]:
    demo = mutations.whole("demo")
    yield from misspelt_keys()
    yield from mutations.name_typos(demo, chance(0.15))
    yield from mutations.option_mutants(demo, chance(0.02))
    yield from mutations.wrong_values(demo, "demo", chance(0.06))
    yield from mutations.neighbours(demo)
    yield from mutations.algebra(demo)
    yield from mutations.structure()


MUTANTS = list(mutants())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return launch.without_weights(tmp_path_factory.mktemp("policy") / "model")


def test_there_are_hundreds_of_different_faults():
    assert len({mutant.text for mutant in MUTANTS}) >= 300


@pytest.mark.parametrize(("number", "mutant"), list(enumerate(MUTANTS)), ids=str)
def test_a_fault_is_named_with_its_key_its_line_and_the_fix(tmp_path, model, number, mutant):
    file, run = tmp_path / "recipe.yaml", tmp_path / "run"
    file.write_text(
        mutant.text.replace("POLICY_FOLDER", str(model)).replace("RUN_FOLDER", str(run))
    )
    command = ("check", file, "--processes", mutant.processes)
    if number % 2 and mutant.processes == 1:
        command = ("train", file)
    result = launch.command(*command)
    assert result.code == 2, result.out
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err
    assert "no model can be loaded" not in result.err
    assert len(result.err.splitlines()) <= 12
    [line] = [
        line
        for line in result.err.splitlines()
        if re.search(rf"\b{re.escape(mutant.key)}[ :\[]", line)
    ][:1]
    if mutant.line is not None:
        assert f"{file}:{mutant.line}: {mutant.key}" in line
    for part in mutant.said:
        assert part in line
    if mutant.original is not None:
        question = line.partition("Did you mean ")[2].partition("?")[0]
        assert mutant.original in [name.strip("'") for name in question.split(" or ")]
    assert not run.exists()


# YAML

HEAD = "model: {path: POLICY_FOLDER}\ndata: {task: countdown, size: 64}\ntraining: {updates: 2}\noutput: RUN_FOLDER\n"
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdefg", "bcdefgh", strict=True)
)
DAMAGE = {
    "tab": ("evaluation:\n\tevery: 0\n", ":6: not YAML"),
    "a section twice": ("training: {seed: 1}\n", ":5: training is given twice (first in line 3)"),
    "a key twice": ("evaluation: {every: 0, every: 1}\n", ":5: evaluation.every is given twice"),
    "unknown alias": ("expect: *nothing\n", ":5: not YAML: found undefined alias"),
    "an alias that holds itself": (
        "entropy: &a [*a]\n",
        ":5: entropy[0][0] is nested more than 32",
    ),
    "a map that holds itself": ("entropy: &a {x: *a}\n", ":5: entropy.x.x is nested more than 32"),
    "aliases that multiply": (LAUGHS, ":5: e[7][8] is value 100001 of this file"),
    "brackets without end": ("entropy: " + "[" * 3000 + "]" * 3000 + "\n", "nested too deeply"),
    "open quote": ('expect: "abc\n', "not YAML"),
    "open bracket": ("entropy: [kl_cov\n", "not YAML"),
    "indentation": ("evaluation:\n   every: 0\n  at_start: true\n", ":7: not YAML"),
    "a colon": ("expect: a: b\n", ":5: not YAML"),
    "two documents": ("---\na: 1\n", "another document"),
    "tag": ("expect: !!timestamp 2024-13-45\n", ":5: expect has the tag !!timestamp"),
    "tag of a class": ("expect: !!python/object:os.system x\n", ":5: expect has the tag"),
    "wrong tag": ("expect: !!int abc\n", ":5: expect is 'abc', which is no int"),
    "number of thousands of digits": (f"expect: {'9' * 5000}\n", ":5: expect is a number of 5000"),
    "a number for a key": ("5: 1\n", ":5: the key 5 is not a string"),
    "a list for a key": ("? [a, b]\n: 1\n", ":5: the key here is not a string"),
    "merge of a number": ("<<: 5\n", ":5: not YAML"),
    "zero byte": ("expect: a\0b\n", "not YAML"),
    "itself as parent": ("extends: recipe.yaml\n", "extends itself"),
    "misspelt parent": ("extends: kl_covv\n", ":5: extends kl_covv: there is no such file"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_named_with_its_line(tmp_path, damage, said):
    file = tmp_path / "recipe.yaml"
    file.write_text(HEAD + damage)
    result = launch.command("check", file)
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert str(file) in result.err
    assert said in result.err
    assert len(result.err) < 2000


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (bytes(range(128, 256)), "cannot be read as UTF-8 text"),
        (HEAD.encode("utf-16"), "cannot be read as UTF-8 text"),
        (b"", "model is missing"),
        (b"- model\n", "holds a list"),
        (b"hello\n", "holds a str"),
    ],
    ids=["binary", "utf-16", "empty", "list", "word"],
)
def test_a_file_that_is_no_recipe_says_what_it_is(tmp_path, content, said):
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content)
    result = launch.command("check", file)
    assert result.code == 2
    assert str(file) in result.err
    assert said in result.err


def test_a_folder_is_no_recipe(tmp_path):
    assert f"{tmp_path}: is a folder" in launch.command("check", tmp_path).err


@pytest.mark.parametrize("ending", ["\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_endings_and_byte_order_marks_of_other_systems_are_no_fault(
    tmp_path, model, ending, mark
):
    file = tmp_path / "recipe.yaml"
    text = HEAD.replace("POLICY_FOLDER", str(model)).replace("RUN_FOLDER", str(tmp_path / "run"))
    file.write_bytes((mark + text.replace("\n", ending)).encode())
    result = launch.command("train", file, "--dry-run", "rewards.verifiers=[countdown]")
    assert result.code == 0, result.err
