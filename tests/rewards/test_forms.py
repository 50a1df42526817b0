"""Every form of a user's function: what one call is shown, and what becomes of a call that fails."""

import asyncio
import json
import math
import statistics
import textwrap
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.data.source import check_columns
from rlvr.rewards import plugin
from rlvr.rewards.scorer import NORMALIZE_EPS, Scorer, normalized
from rlvr.rewards.verdict import Sample

FORMS = """
import asyncio, os, time

def value(text):
    if text == "hang":
        while True: pass
    if text == "die": os._exit(3)
    if text == "raise": raise KeyError("gold")
    if text == "nan": return float("nan")
    return float(text)

def sample(sample): return value(sample.completion)

async def awaited(sample):
    await asyncio.sleep(0.01)
    return value(sample.completion)

def batch(samples): return [value(s.completion) for s in samples]

async def awaited_batch(samples): return [value(s.completion) for s in samples]

def group(group): return [value(s.completion) for s in group]

def trl(completions, **columns): return [value(text) for text in completions]

async def awaited_trl(prompts, completions): return [value(text) for text in completions]

class Callable:
    def __call__(self, samples): return [value(s.completion) for s in samples]

instance = Callable()
"""
ONE_BY_ONE = ("sample", "awaited", "batch", "awaited_batch", "trl", "awaited_trl")


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    path = tmp_path_factory.mktemp("forms") / "forms.py"
    path.write_text(FORMS)
    return path


def write(folder, code, name="mine.py"):
    path = folder / name
    path.write_text(textwrap.dedent(code))
    return f"{path}:reward"


def samples(*texts, row=None):
    return [Sample("p", text, None, row or {}) for text in texts]


def score(reference, texts, groups=None, **options):
    options = {"workers": 1, "deadline": 0.7} | options
    with Scorer([reference], **options) as scorer:
        scorer.start()
        return scorer.score(samples(*texts), groups)


# ---------------------------------------------------------------- what a call is shown


@pytest.mark.parametrize("name", [*ONE_BY_ONE, "group", "instance"])
def test_every_form_gives_the_same_rewards(forms, name):
    texts = [str(number) for number in (0, 1, 0.25, 3, -2, 0.5, 1, 1)]
    scored = score(f"{forms}:{name}", texts, [0, 0, 1, 1, 2, 2, 3, 3], workers=2)
    assert [item.reward for item in scored] == [float(text) for text in texts]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("sample", "sample"),
        ("awaited", "async"),
        ("batch", "batch"),
        ("awaited_batch", "batch"),
        ("group", "group"),
        ("trl", "trl"),
        ("instance", "sample"),  # not a function that can be read: asked one by one
    ],
)
def test_the_first_parameter_declares_the_form(forms, name, form):
    assert plugin.find(f"{forms}:{name}").form.name == form


@pytest.mark.parametrize("parameter", ["group", "completions"])
@pytest.mark.parametrize("groups", [[0, 0, 0, 1, 1, 1], [4, 9, 4, 9, 9, 4], None])
def test_a_call_has_exactly_the_completions_of_one_prompt_in_their_order(
    tmp_path, parameter, groups
):
    text = "item" if parameter == "completions" else "item.completion"
    code = f"""
        from rlvr.rewards.verdict import Outcome, Verdict
        def reward({parameter}):
            seen = "".join({text} for item in {parameter})
            return [Verdict(Outcome.WRONG, reason=seen) for _ in {parameter}]
    """
    scored = score(write(tmp_path, code), "abcdef", groups, workers=2)
    numbers = groups or range(6)
    for number, item in zip(numbers, scored, strict=True):
        of_group = [c for c, other in zip("abcdef", numbers, strict=True) if other == number]
        assert item.verdict.reason == "".join(of_group)


def test_a_batch_is_shared_among_the_workers(tmp_path):
    code = """
        from rlvr.rewards.verdict import Outcome, Verdict
        def reward(samples):
            return [Verdict(Outcome.WRONG, reason=str(len(samples))) for _ in samples]
    """
    sizes = lambda n: {
        int(item.verdict.reason) for item in score(write(tmp_path, code), "x" * n, workers=2)
    }
    assert sizes(10) == {5}
    assert sizes(80) == {32, 16}


def test_a_function_of_the_group_makes_the_scorer_ask_for_groups(forms):
    assert Scorer([f"{forms}:group"]).needs_groups
    assert Scorer([f"{forms}:trl"]).needs_groups
    assert not Scorer([f"{forms}:batch"]).needs_groups


def test_groups_and_samples_must_be_as_many(forms):
    with (
        Scorer([f"{forms}:group"]) as scorer,
        pytest.raises(ValueError, match="1 groups for 2 samples"),
    ):
        scorer.score(samples("1", "2"), [0])


# ---------------------------------------------------------------- calls that fail


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_one_completion_takes_no_other_of_its_call_with_it(forms, name):
    texts = ["1", "raise", "0.5", "nan", "0", "die", "hang", "0.25"]
    scored = score(f"{forms}:{name}", texts, [0] * len(texts))
    assert [item.verdict.outcome for item in scored] == [
        *("correct", "crashed", "partial", "crashed", "wrong", "crashed", "timeout", "partial")
    ]
    assert [item.reward for item in scored if not math.isnan(item.reward)] == [1.0, 0.5, 0.0, 0.25]
    reasons = [scored[place].verdict.reason for place in (1, 3, 5)]
    for reason, part in zip(reasons, ("KeyError: 'gold'", "nan", "exit code 3"), strict=True):
        assert part in reason


@pytest.mark.parametrize("name", ["batch", "trl", "awaited"])
def test_a_hang_costs_the_others_of_its_call_time_and_nothing_else(forms, name):
    scored = score(f"{forms}:{name}", ["1", "0.5", "hang", "0.25"], [0] * 4, deadline=0.5)
    assert [item.reward for item in scored if not math.isnan(item.reward)] == [1.0, 0.5, 0.25]
    assert scored[2].verdict.outcome == "timeout"


@pytest.mark.parametrize("name", ["batch", "group", "awaited", "sample"])
def test_the_batch_deadline_leaves_no_sample_without_a_verdict(forms, name):
    texts = ["1", *["hang"] * 20]
    options = {"deadline": 60, "batch_deadline": 1.0}
    began = time.monotonic()
    scored = score(f"{forms}:{name}", texts, list(range(21)), **options)
    assert time.monotonic() - began < 10
    assert {str(item.verdict.outcome) for item in scored[1:]} == {"timeout"}
    assert all("deadline of 1 s" in item.verdict.reason for item in scored[1:])


def test_a_group_that_fails_fails_whole_and_alone(forms):
    texts = ["1", "raise", "0.5", "0.25"]
    scored = score(f"{forms}:group", texts, [0, 0, 1, 1])
    assert [item.verdict.outcome for item in scored] == ["crashed"] * 2 + ["partial"] * 2


def functions(folder, parameters, bodies):
    """Write a function for each pair; return the references."""
    pairs = [(parameter, body) for parameter in parameters for body in bodies]
    lines = [f"def f{i}({p}): return {body}" for i, (p, body) in enumerate(pairs)]
    write(folder, "import numpy as np\n" + "\n".join(lines))
    return [f"{folder}/mine.py:f{i}" for i in range(len(pairs))]


def test_the_wrong_number_of_values_is_a_crash_for_each(tmp_path):
    bodies = ["[1.0]", "[1.0] * 9", "None", "1.0", "'ab'", "{0: 1.0, 1: 1.0}"]
    references = functions(tmp_path, ("samples", "group", "completions"), bodies)
    with Scorer(references, workers=1) as scorer:
        scored = scorer.score(samples("a", "b"), [0, 0])
    for item in scored:
        assert len(item.verdicts) == 18
        for verdict in item.verdicts.values():
            assert verdict.outcome == "crashed"
            assert "for 2 completions" in verdict.reason


def test_any_sequence_of_numbers_is_a_list_of_rewards(tmp_path):
    bodies = ["np.array([0.5, 1.0])", "(0.5, True)", "(x for x in (0.5, 1))", "np.float32(.5), 1"]
    with Scorer(functions(tmp_path, ("samples", "completions"), bodies), workers=1) as scorer:
        scored = scorer.score(samples("a", "b"), [0, 0])
    assert [set(item.parts.values()) for item in scored] == [{0.5}, {1.0}]


def test_a_verdict_of_wrong_types_is_a_crash_and_ends_nothing(tmp_path):
    code = """
        from rlvr.rewards.verdict import Outcome, Verdict
        def reward(sample):
            if sample.completion == "a": return Verdict("good")
            if sample.completion == "b": return Verdict("wrong", reason=["two\\nlines"])
            class Mine(Verdict): pass
            return Mine(Outcome.CORRECT)
    """
    found = [item.verdict for item in score(write(tmp_path, code), "abc")]
    assert [item.outcome for item in found] == ["crashed", "wrong", "correct"]
    assert isinstance(found[1].reason, str)


# ---------------------------------------------------------------- async


def test_many_awaited_samples_wait_together_and_a_late_one_times_out_alone(tmp_path):
    code = """
        import asyncio
        async def reward(sample):
            await asyncio.sleep(60 if sample.completion == "late" else 0.3)
            return 1.0
    """
    texts = ["late" if i == 7 else "x" for i in range(40)]
    began = time.monotonic()
    scored = score(write(tmp_path, code), texts, deadline=2.0)
    assert time.monotonic() - began < 10  # one after the other they would take 12
    outcomes = [item.verdict.outcome for item in scored]
    assert outcomes == ["timeout" if i == 7 else "correct" for i in range(40)]
    assert scored[7].verdict.seconds >= 2.0 > scored[0].verdict.seconds >= 0.3


def test_an_awaited_function_that_holds_up_the_event_loop_harms_only_its_sample(tmp_path):
    code = """
        import asyncio, time
        async def reward(sample):
            if sample.completion == "block": time.sleep(1.5)  # past the deadline, before the kill
            if sample.completion == "refuse":
                while True:
                    try: await asyncio.sleep(60)
                    except asyncio.CancelledError: pass
            if sample.completion == "raise": raise TimeoutError("mine")
            if sample.completion == "leave": raise SystemExit(4)
            await asyncio.sleep(0.1)
            return 1.0
    """
    texts = ["x", "block", "y", "refuse", "raise", "leave", "z"]
    scored = score(write(tmp_path, code), texts, deadline=0.8)
    assert [item.verdict.outcome for item in scored] == [
        *("correct", "timeout", "correct", "timeout", "crashed", "crashed", "correct")
    ]
    assert "TimeoutError: mine" in scored[4].verdict.reason


def test_one_event_loop_lasts_for_the_life_of_a_worker(tmp_path):
    code = """
        import asyncio
        seen = []
        async def reward(sample):
            seen.append(asyncio.get_running_loop())
            return float(len(set(map(id, seen))))
    """
    with Scorer([write(tmp_path, code)], workers=1) as scorer:
        assert [scorer.score(samples("x"))[0].reward for _ in range(3)] == [1.0] * 3


def test_a_scorer_can_be_awaited(forms):
    async def both(scorer):
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        found = await asyncio.gather(
            scorer.ascore(samples("1", "hang")), scorer.ascore(samples("0.5"))
        )
        ticking.cancel()
        return found, ticks

    with Scorer([f"{forms}:sample"], workers=2, deadline=0.5) as scorer:
        scorer.start()
        ((one, late), (half,)), ticks = asyncio.run(both(scorer))
    assert (one.reward, late.verdict.outcome, half.reward) == (1.0, "timeout", 0.5)
    assert ticks > 10  # the loop went on


# ---------------------------------------------------------------- TRL's own functions

CHATS = ["<think>a</think>\\boxed{4}", "\\boxed{4}", "<think>a\\boxed{5}", "<think>a</think>5", ""]


@pytest.mark.parametrize(
    ("reference", "columns"),
    [("trl.rewards:think_format_reward", ()), ("trl.rewards:accuracy_reward", ("solution",))],
)
@pytest.mark.parametrize("grouped", [True, False])
def test_a_reward_function_of_trl_works_unchanged(reference, columns, grouped):
    rewards = pytest.importorskip("trl.rewards")
    prompt = [{"role": "user", "content": "2+2"}]
    rows = [{"prompt": prompt, "solution": "$4$", "level": i} for i in range(len(CHATS))]
    rows[1]["solution"] = ""  # cannot be parsed: the function does not apply
    items = [Sample(prompt, text, None, row) for text, row in zip(CHATS, rows, strict=True)]
    with Scorer([reference], workers=1, deadline=30) as scorer:
        assert scorer.columns == columns
        scored = scorer.score(items, [0] * len(items) if grouped else None)
    direct = getattr(rewards, reference.partition(":")[2])(
        prompts=[prompt] * len(items),
        completions=[[{"role": "assistant", "content": text}] for text in CHATS],
        **{name: [row[name] for row in rows] for name in ("solution", "level")},
    )
    for item, expected in zip(scored, direct, strict=True):
        if expected is None:
            assert item.verdict.outcome == "skipped"
        else:
            assert item.reward == expected


def test_a_trl_function_gets_the_columns_of_the_row_that_trl_gives(tmp_path):
    code = """
        import json
        from rlvr.rewards.verdict import Outcome, Verdict
        def reward(prompts, completions, log_metric, log_extra=None, **columns):
            log_metric("mean", value=1.0)
            log_extra("x", [1])
            seen = json.dumps([prompts, completions, columns], sort_keys=True)
            return [Verdict(Outcome.WRONG, reason=seen) for _ in completions]
    """
    with Scorer([write(tmp_path, code)], workers=1) as scorer:
        row = {"prompt": "2+2", "completion": "?", "level": 3}
        items = [Sample("2+2", "a", "4", row), Sample("2+2", "b", "5", row)]
        scored = scorer.score(items, [0, 0])
    assert json.loads(scored[0].verdict.reason) == [
        ["2+2", "2+2"],
        ["a", "b"],
        {"answer": ["4", "5"], "level": [3, 3]},
    ]


@pytest.mark.parametrize(
    "code",
    [
        "from trl.rewards import get_soft_overlong_punishment as get\nreward = get(100, 20)",
        "def reward(completion_ids, **kwargs): return [1.0]",
        "def reward(completions, trainer_state): return [1.0]",
    ],
)
def test_a_trl_function_that_needs_token_ids_is_refused_before_training(tmp_path, code):
    with (
        pytest.raises(ValueError, match="not known where rewards are computed"),
        Scorer([write(tmp_path, code)], workers=1) as scorer,
    ):
        scorer.start()


# ---------------------------------------------------------------- found without importing


def test_the_form_and_the_columns_are_found_through_imports(tmp_path):
    write(
        tmp_path,
        "def score(completions, solution, level=1, **rest): return [1.0 for _ in completions]",
        "library_of_rewards.py",
    )
    reference = write(tmp_path, "from library_of_rewards import score as reward")
    assert plugin.find(reference).columns == ("solution",)
    assert plugin.find(reference).form.name == "trl"
    items = [Sample("p", "x", None, {"solution": "4"})]
    with Scorer([reference], workers=1) as scorer:
        assert scorer.score(items)[0].reward == 1.0


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("class A:\n    def __call__(self, group): return []\nreward = A()", "takes (group)"),
        (
            """
            def twice(function): return lambda *args: function(*args)
            @twice
            def reward(group): return []
            """,
            "functools.wraps",
        ),
    ],
    ids=["made at run time", "decorated"],
)
def test_a_form_that_cannot_be_read_in_the_file_is_refused_where_it_matters(
    tmp_path, code, message
):
    with Scorer([write(tmp_path, code)], workers=1) as scorer, pytest.raises(ValueError) as error:  # noqa: PT011
        scorer.start()
    assert message in str(error.value)


def test_an_optional_parameter_does_not_change_the_form(tmp_path):
    reference = write(tmp_path, "def reward(sample, group=None): return float(sample.completion)")
    assert score(reference, ["1", "0.5"])[1].reward == 0.5


@pytest.mark.parametrize(
    ("code", "columns"),
    [
        ("def reward(sample): return sample.row['level'] > 2", ("level",)),
        ("def reward(sample): return sample.row.get('level', 0)", ()),
        ("def reward(sample): return 'level' in sample.row and sample.row['level']", ()),
        ("def reward(samples): return [s.row['a'] + s.row['b'] for s in samples]", ("a", "b")),
        ("COLUMNS = ('answer', 'a')\ndef reward(sample): return sample.row['a']", ("answer", "a")),
        (
            """
            def reward(sample):
                try:
                    return sample.row["level"]
                except KeyError:
                    return 0.0
            """,
            (),
        ),
        ("def reward(completions, answer, a, b=1, *, c, **k): return []", ("answer", "a", "c")),
    ],
)
def test_the_columns_that_a_function_needs_are_known_before_it_runs(tmp_path, code, columns):
    assert Scorer([write(tmp_path, code)]).columns == columns


def test_a_column_that_no_row_has_is_an_error_before_training(tmp_path):
    reference = write(tmp_path, "def reward(sample): return sample.row['levle']")
    rows = [{"prompt": "p", "answer": "4", "level": 3}]
    with pytest.raises(ValueError, match="need a column 'levle'"):
        check_columns(rows, Scorer([reference]).columns)


# ---------------------------------------------------------------- options of every verifier

scores = st.lists(
    st.tuples(st.one_of(st.floats(-5, 5), st.just(math.nan)), st.integers(0, 3)), max_size=20
)


@given(scores)
def test_normalized_scores_are_their_distances_from_the_groups_mean(items):
    values, groups = [value for value, _ in items], [group for _, group in items]
    found = normalized(values, groups)
    for group in set(groups):
        ours = [i for i, other in enumerate(groups) if other == group]
        valid = [values[i] for i in ours if not math.isnan(values[i])]
        for i in ours:
            if math.isnan(values[i]):
                assert math.isnan(found[i])
            else:
                spread = statistics.stdev(valid) if len(valid) > 1 else 0.0
                expected = (values[i] - statistics.fmean(valid)) / (spread + NORMALIZE_EPS)
                assert found[i] == pytest.approx(expected, abs=1e-9)
        assert sum(found[i] for i in ours if not math.isnan(found[i])) == pytest.approx(0, abs=1e-6)


def test_verifiers_of_different_scales_count_alike_once_they_are_normalized(forms):
    texts, groups = ["1", "3", "nan", "2", "7", "7"], [0, 0, 0, 0, 1, 1]
    plain = {"normalize": "group"}
    thousandth = {"normalize": "group", "weight": 0.5}
    with Scorer([{f"{forms}:group": plain}, {f"{forms}:sample": thousandth}], workers=1) as scorer:
        texts[2] = "2.5"
        scored = scorer.score(samples(*texts), groups)
    mean, spread = statistics.fmean([1, 3, 2.5, 2]), statistics.stdev([1, 3, 2.5, 2])
    for item, text in zip(scored[:4], texts, strict=False):
        expected = 1.5 * (float(text) - mean) / (spread + NORMALIZE_EPS)
        assert item.reward == pytest.approx(expected)
    assert [item.reward for item in scored[4:]] == [0.0, 0.0]  # equal scores
    assert scored[1].parts == {"group": 3.0, "sample": 1.5}  # as they were


def test_a_dropped_score_is_left_out_of_its_groups_mean(forms):
    verifier = {f"{forms}:batch": {"normalize": "group"}}
    with Scorer([verifier], workers=1) as scorer:
        with_it = scorer.score(samples("1", "3", "nan"), [0, 0, 0])
        without = scorer.score(samples("1", "3"), [0, 0])
    assert math.isnan(with_it[2].reward)
    assert [item.reward for item in with_it[:2]] == [item.reward for item in without]


def test_a_verifier_may_have_a_deadline_of_its_own(forms):
    verifiers = [{f"{forms}:sample": {"deadline": 0.3}}]
    with Scorer(verifiers, workers=1, deadline=60) as scorer:
        (scored,) = scorer.score(samples("hang"))
    assert scored.verdict.outcome == "timeout"
    assert "0.3 s" in scored.verdict.reason
