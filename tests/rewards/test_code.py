"""The code verifier: every form of tests, every option, and what each ending is called."""

import json
import os

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.rewards.code import DEADLINE, Config, answer_text, build, fault, ready
from rlvr.rewards.scorer import Scorer
from rlvr.rewards.verdict import Sample
from tests.sandbox.fusion_server import FusionServer
from tests.sandbox.programs import below, needs_locks

pytestmark = needs_locks

ADD = "def add(a, b):\n    return a + b"
ECHO = "a, b = map(int, input().split())\nprint(a + b)"
WRONG_ADD = "def add(a, b):\n    return a - b"
WRONG_ECHO = "a, b = map(int, input().split())\nprint(a - b)"
CLASS = "class Solution:\n    def add(self, a, b):\n        return a + b"
PAIRS = [((1, 2), 3), ((-5, 5), 0), ((10**20, 7), 10**20 + 7)]
ASSERTS = [f"assert add({a}, {b}) == {c}" for (a, b), c in PAIRS]
CHECK = "def check(candidate):\n" + "\n".join(
    "    " + line.replace("add(", "candidate(") for line in ASSERTS
)
INPUTS, OUTPUTS = [list(args) for args, _ in PAIRS], [total for _, total in PAIRS]
LINES = [(f"{a} {b}\n", f"{c}\n") for (a, b), c in PAIRS]

FUNCTION_FORMS = {
    "asserts": ({"tests": ASSERTS}, ADD),
    "assert_text": ({"tests": "\n".join(ASSERTS)}, ADD),
    "asserts_json": ({"tests": json.dumps(ASSERTS)}, ADD),
    "asserts_array": ({"tests": numpy.array(ASSERTS, dtype=object)}, ADD),
    "reversed_asserts": ({"tests": "assert 3 == add(1, b=2)\nassert 0 == add(b=-5, a=5)"}, ADD),
    "check": ({"tests": CHECK, "entry_point": "add"}, ADD),
    "check_called": ({"tests": CHECK + "\ncheck(add)"}, ADD),
    "check_of_method": ({"tests": CHECK + "\n\ncheck(Solution().add)"}, CLASS),
    "functional": ({"tests": {"functional": CHECK + "\ncheck(Solution().add)"}}, CLASS),
    "entry_of_method": ({"tests": CHECK, "entry_point": "Solution().add"}, CLASS),
    "pytest": (
        {"tests": "from solution import add\ndef test_it():\n    assert add(1, 2) == 3"},
        ADD,
    ),
    "fn_name": ({"tests": {"inputs": INPUTS, "outputs": OUTPUTS, "fn_name": "add"}}, ADD),
    "fn_name_method": ({"tests": {"inputs": INPUTS, "outputs": OUTPUTS, "fn_name": "add"}}, CLASS),
    "wrapped_outputs": (
        {"tests": {"inputs": INPUTS, "outputs": [[o] for o in OUTPUTS], "fn_name": "add"}},
        ADD,
    ),
    "inputs_and_entry": (
        {"tests": json.dumps({"inputs": INPUTS, "outputs": OUTPUTS}), "entry_point": "add"},
        ADD,
    ),
    "functional_cases": (
        {
            "tests": json.dumps(
                [
                    {"input": f"{a}\n{b}", "output": f"{c}", "testtype": "functional"}
                    for (a, b), c in PAIRS
                ]
            ),
            "entry_point": "add",
        },
        ADD,
    ),
    "args": (
        {"tests": [{"args": list(a), "expected": c} for a, c in PAIRS], "entry_point": "add"},
        ADD,
    ),
    "kwargs": (
        {"tests": [{"kwargs": {"a": 1, "b": 2}, "expected": 3}], "entry_point": "add"},
        ADD,
    ),
}
SCRIPT_FORMS = {
    "stdin": {"tests": [{"stdin": i, "stdout": o} for i, o in LINES]},
    "input": {"tests": [{"input": i, "output": o, "testtype": "stdin"} for i, o in LINES]},
    "inputs": {"tests": {"inputs": [i for i, _ in LINES], "outputs": [o for _, o in LINES]}},
    "lines": {"tests": json.dumps({"inputs": [["1 2"]], "outputs": [["3"]], "fn_name": None})},
}


@pytest.fixture(scope="module")
def verify():
    made: dict = {}

    def check(program, row, **options):
        key = json.dumps(options, sort_keys=True, default=str)
        if key not in made:
            made[key] = build(Config(**options))
        return made[key](Sample("", program, None, row))

    return check


def fenced(program):
    return f"<think>\n```python\nno\n```\n</think>So:\n```python\n{program}\n```\nDone."


@pytest.mark.parametrize("form", FUNCTION_FORMS)
def test_a_function_is_judged_by_tests_of_every_form(verify, form):
    row, program = FUNCTION_FORMS[form]
    assert fault(Sample("", "", None, row), Config()) is None
    assert verify(fenced(program), row).outcome == "correct"
    assert verify(program, row).outcome == "correct"
    assert verify(fenced(program.replace("+", "-")), row).outcome == "wrong"


@pytest.mark.parametrize("form", SCRIPT_FORMS)
def test_a_script_is_judged_by_tests_of_every_form(verify, form):
    row = SCRIPT_FORMS[form]
    assert fault(Sample("", "", None, row), Config()) is None
    assert verify(fenced(ECHO), row).outcome == "correct"
    assert verify(fenced(WRONG_ECHO), row).outcome == "wrong"


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({}, "no tests"),
        ({"tests": None}, "no tests"),
        ({"tests": []}, "no tests"),
        ({"tests": ""}, "tests anything"),
        ({"tests": "assert f(1) =="}, "no Python"),
        ({"tests": "assert True, 'fine'"}, "tests anything"),
        ({"tests": "import math"}, "tests anything"),
        ({"tests": "import pytest\ndef test():\n    assert f(1) == 1"}, "pytest"),
        ({"tests": "assert np.isclose(f(1), 1)"}, "np"),
        ({"tests": {"inputs": [1]}}, "inputs and outputs"),
        ({"tests": {"inputs": ["1", "2"], "outputs": ["1"]}}, "2 inputs and 1 outputs"),
        ({"tests": {"inputs": "1", "outputs": "1"}}, "lists"),
        ({"tests": [{"args": [1], "expected": 1}]}, "entry_point"),
        ({"tests": [{"args": [1]}], "entry_point": "f"}, "expected"),
        ({"tests": [{"args": [1], "expected": 1}], "entry_point": "f(1); g"}, "name of a function"),
        ({"tests": [{"stdin": 1, "stdout": "1"}]}, "int"),
        ({"tests": [{"question": 1}]}, "question"),
        ({"tests": [1, 2]}, "neither"),
        ({"tests": ["assert f(1)", {"args": []}]}, "neither"),
        (
            {
                "tests": [{"input": "1x", "output": "1", "testtype": "functional"}],
                "entry_point": "f",
            },
            "JSON",
        ),
        ({"tests": "assert f(1) == 1", "setup": "def ("}, "setup"),
        ({"tests": 5}, "tests anything"),
    ],
)
def test_a_row_without_usable_tests_is_skipped_and_says_why(verify, row, word):
    reason = fault(Sample("", "", None, row), Config())
    assert word in reason
    verdict = verify(ADD, row)
    assert (verdict.outcome, verdict.reason) == ("skipped", reason)


@pytest.mark.parametrize(
    ("program", "outcome", "word"),
    [
        ("", "unparsable", "no program"),
        ("<think>never ends", "unparsable", "no program"),
        ("```bash\nls\n```", "unparsable", "no program"),
        ("I will not answer.", "wrong", "SyntaxError"),
        ("x" * 300_000, "wrong", "characters"),
        ("def sub(a, b): return a", "wrong", "NameError"),
        ("add = 5", "wrong", "no function"),
        ("def add(a, b): return 1 / 0", "wrong", "ZeroDivisionError"),
        ("def add(a, b): exit(0)", "wrong", "SystemExit"),
        ("import os\ndef add(a, b): os._exit(0)", "wrong", "exit code 0"),
        ("import os\nos.kill(os.getpid(), 15)", "wrong", "signal 15"),
        ("def add(a, b): return bytearray(8 << 30)", "wrong", "MemoryError"),
        ("def add(a, b): return object()", "wrong", "returned"),
        ("def add(a, b): return (x for x in iter(int, 1))", "wrong", "too large"),
        ("def add(a, b): return 10 ** 9999", "wrong", "a very long number"),
        ("def add(a, b): return float('nan')", "wrong", "nan"),
        ("def add(a, b):\n    while True: pass", "wrong", "s"),
        ("import time; time.sleep(60)", "wrong", "no answer after 0.9 s"),
        ("\ud800\x00def", "wrong", ""),
    ],
)
@pytest.mark.parametrize("form", ["asserts", "judged"])
def test_what_the_program_does_wrong_is_wrong_with_the_reason(verify, form, program, outcome, word):
    judged = "import math\nassert math.isclose(add(1, 2), 3)"
    tests = ASSERTS if form == "asserts" else judged
    seconds = 0.3 if "while" in program or "sleep" in program else 5.0
    verdict = verify(program, {"tests": tests}, seconds=seconds)
    assert verdict.outcome == outcome
    if form == "asserts":
        assert word in verdict.reason


PARTLY = "def add(a, b):\n    return a + b if a < 10 else None"


@pytest.mark.parametrize("form", [*FUNCTION_FORMS, "script"])
def test_the_share_of_passed_tests_counts_where_it_is_asked_for(verify, form):
    if form == "script":
        row, program = SCRIPT_FORMS["stdin"], ECHO + "\nif a > 10: raise SystemExit(1)"
    else:
        row, program = FUNCTION_FORMS[form]
        program = program.replace("a + b", "a + b if a < 10 else None")
    verdict = verify(program, row, score="fraction")
    if form in ("pytest", "kwargs", "reversed_asserts"):
        assert verdict.outcome == "correct"
        return
    assert (verdict.outcome, verdict.fraction) == ("partial", pytest.approx(2 / 3))
    assert "1 of 3 tests fail" in verdict.reason
    assert "test 3 of 3" in verdict.reason
    assert verify(program, row).outcome == "wrong"


@pytest.mark.parametrize("ending", ["import os; os._exit(0)", "while True: pass", "1 / 0"])
@pytest.mark.parametrize("judged", [False, True])
def test_the_tests_after_an_ending_get_a_new_process(verify, ending, judged):
    program = f"def f(x):\n    if x == 1:\n        {ending}\n    return x"
    tests = [f"assert f({x}) == {x}" for x in range(3)]
    if judged:
        tests = [test + " + len('')" for test in tests]
    verdict = verify(program, {"tests": tests}, score="fraction", seconds=0.3)
    assert verdict.fraction == pytest.approx(2 / 3), verdict
    assert "test 2 of 3" in verdict.reason


def test_tests_that_are_not_reached_in_time_are_failed(verify):
    tests = [{"stdin": str(x), "stdout": str(x)} for x in range(50)]
    program = "import time; time.sleep(0.25); print(input())"
    options = {"score": "fraction", "total_seconds": 1.0}
    verdict = verify(program, {"tests": tests}, **options)
    assert 0 < verdict.fraction < 0.2
    assert verify("print(input())", {"tests": tests}).outcome == "correct"
    assert "not reached in 1 s" in verdict.reason or "no answer" in verdict.reason


def test_the_pools_deadline_is_above_the_tests_budget():
    assert DEADLINE(Config(total_seconds=100)) > 110


def test_at_most_so_many_tests_are_run_the_last_among_them(verify):
    program = "def f(x):\n    return x if x in (0, 9) else None"
    cases = [{"args": [x], "expected": x} for x in range(10)]
    for tests in (cases, [f"assert f({x}) == {x} + 0" for x in range(10)]):
        row = {"tests": tests, "entry_point": "f"}
        assert verify(program, row, max_tests=2).outcome == "correct"
        assert verify(program, row, max_tests=3).outcome == "wrong"
        assert verify(program, row, score="fraction").fraction == pytest.approx(0.2)
    assert (
        verify("print(1)", {"tests": [{"stdin": "", "stdout": "1"}] * 3}, max_tests=1).fraction == 1
    )


@pytest.mark.parametrize(
    ("returned", "expected", "tests", "equal", "strictly"),
    [
        ("True", "1", "assert", True, False),
        ("1.0", "1", "assert", True, False),
        ("(1, 2)", "[1, 2]", "assert", False, False),
        ("(1, 2)", "[1, 2]", "args", True, False),
        ("[(1, 2)]", "[[1, 2]]", "args", True, False),
        ("{1: (2,)}", '{"1": [2]}', "args", True, False),
        ("{1: 2}", "{1: 2}", "assert", True, True),
        ("[1, 2]", "[1, 2]", "args", True, True),
        ("[1, 2, 3]", "[1, 2]", "args", False, False),
        ("None", "0", "args", False, False),
        ("'1'", "1", "args", False, False),
        ("{2, 1}", "{1, 2}", "assert", True, True),
        ("float('nan')", "0", "args", False, False),
    ],
)
def test_types_are_pythons_or_jsons_or_exactly_the_same(
    verify, returned, expected, tests, equal, strictly
):
    row = {"tests": [f"assert f() == {expected}"], "entry_point": "f"}
    if tests == "args":
        row["tests"] = [{"args": [], "expected": json.loads(expected.replace("None", "null"))}]
    program = f"def f(): return {returned}"
    assert (verify(program, row).outcome == "correct") is equal
    assert (verify(program, row, strict_types=True).outcome == "correct") is strictly


def test_numbers_may_differ_by_the_tolerance(verify):
    script = {"tests": [{"stdin": "", "stdout": "0.5 7\nend"}]}
    function = {"tests": [{"args": [], "expected": [0.5, {"a": 7}]}], "entry_point": "f"}
    for near, far in (("0.5000001", "0.51"), ("5e-1", "nan")):
        for number, outcome in ((near, "correct"), (far, "wrong")):
            printing = f"print('{number} 7\\nend')"
            returning = f"def f(): return [float('{number}'), {{'a': 7}}]"
            assert verify(printing, script, tolerance=1e-6).outcome == outcome
            assert verify(returning, function, tolerance=1e-6).outcome == outcome
    assert verify("print('0.5000001 7\\nend')", script).outcome == "wrong"
    assert verify("print('0.5 7.0000001\\nend')", script, tolerance=1e-6).outcome == "wrong"


@pytest.mark.parametrize(
    ("printed", "correct"),
    [("1\n2\n", True), ("1  \n2\n\n\n", True), ("1\r\n2", True), ("1", False), ("1\n2\n3", False),
     ("1\n\n2", False), (" 1\n2", False), ("1 2", False), ("", False)],
)  # fmt: skip
def test_every_line_counts_and_blanks_at_its_end_do_not(verify, printed, correct):
    row = {"tests": [{"stdin": "", "stdout": "1\n2"}]}
    verdict = verify(f"import sys; sys.stdout.write({printed!r})", row)
    assert verdict.outcome == ("correct" if correct else "wrong")


def test_memory_is_what_the_option_says(verify):
    row = {"tests": [{"args": [], "expected": 300 << 20}], "entry_point": "f"}
    program = "def f(): return len(bytearray(300 << 20))"
    assert verify(program, row).outcome == "correct"
    assert verify(program, row, memory_mib=256).outcome == "wrong"


def test_packages_are_what_the_option_says(verify):
    row = {"tests": [{"args": [], "expected": [1.0, 1]}], "entry_point": "f"}
    program = "import numpy\ndef f(): return numpy.eye(2)[0, 0], numpy.int64(1)"
    assert verify(program, row, packages=("numpy",)).outcome == "correct"
    assert "numpy" in verify(program, row).reason


def test_setup_is_seen_by_the_tests_and_its_definitions_by_the_program(verify):
    setup = "import math\ndef helper(x):\n    return 2 * x\nSECRET = 7\n"
    row = {"setup": setup, "tests": ["assert f(3) == helper(3) + SECRET", "assert f(1) == 9"]}
    right = "def f(x): return helper(x) + math.floor(7.5)"
    assert verify(right, row).outcome == "correct"
    # neither its values, nor the tests' helpers, are the program's to read or to replace
    assert "NameError" in verify("def f(x): return helper(x) + SECRET", row).reason
    assert verify("helper = lambda x: -7\ndef f(x): return 0", row).outcome == "wrong"


def test_the_head_of_the_function_in_the_setup_is_not_the_function(verify):
    setup = 'def double(x):\n    return 2 * x\n\ndef f(x):\n    """Return 2 x."""\n'
    row = {
        "setup": setup,
        "tests": "def check(c):\n    assert c(2) == double(2)",
        "entry_point": "f",
    }
    assert verify("def f(x): return x + x", row).outcome == "correct"
    assert verify("def f(x): return x", row).outcome == "wrong"


def test_tests_may_make_change_and_pass_objects_of_the_program(verify):
    program = """
class Node:
    def __init__(self, value): self.value, self.left, self.right = value, None, None
def height(node): return 0 if node is None else 1 + max(height(node.left), height(node.right))
"""
    row = {
        "setup": "root = Node(1)\nroot.left = Node(2)\nroot.left.right = Node(3)",
        "tests": ["assert height(root) == 3", "assert root.left.value == 2"],
    }
    assert verify(program, row).outcome == "correct"
    assert verify(program.replace("1 + max", "max"), row).outcome == "wrong"


def test_tests_may_pass_builtin_types_and_expect_exceptions(verify):
    tests = """
assert keep([1, "a"], int) == [1]
try:
    keep(None, int)
    raised = False
except TypeError:
    raised = True
assert raised
"""
    program = "def keep(xs, kind): return [x for x in xs if isinstance(x, kind)]"
    assert verify(program, {"tests": tests}).outcome == "correct"
    assert verify(program.replace("xs if", "xs or () if"), {"tests": tests}).outcome == "wrong"


def test_a_test_that_passes_what_cannot_cross_makes_the_row_unusable(verify):
    row = {"tests": "def twice(x):\n    return 2 * x\nassert apply(twice, 3) == 6"}
    verdict = verify("def apply(f, x): return f(x)", row)
    assert verdict.outcome == "skipped"
    assert "a function" in verdict.reason


def test_a_function_may_have_the_name_of_a_builtin(verify):
    row = {"tests": ["assert sum(1, 2) == 3", "assert sum(2, 2) == 4"]}
    assert verify("def sum(a, b): return a + b", row).outcome == "correct"
    assert verify("def sum(a, b): return a", row).outcome == "wrong"


@pytest.mark.parametrize(
    "tests",
    [
        "assert all(map(lambda x: f(x) == x, [1, 2]))",
        "assert list(map(f, [])) == [x for x in map(f, [1])][1:]\nassert f(1) == 1",
        "for x in range(3):\n    assert f(x) == x",
        "assert [f(x) for x in range(3)] == [0, 1, 2]",
        "found = f(1)\nassert found == 1",
    ],
)
@pytest.mark.parametrize(
    "body",
    ["raise StopIteration", "raise AssertionError", "return E()", "exit()"],
)
def test_no_exception_or_object_satisfies_a_judge(verify, tests, body):
    program = f"""
class E:
    __eq__ = __ne__ = __lt__ = __bool__ = lambda *a: True
    __hash__ = None
def f(x):
    {body}
"""
    row = {"tests": tests}
    assert verify(program, row).outcome == "wrong"
    assert verify("def f(x): return x", {"tests": tests}).outcome == "correct"


def test_the_answers_text_is_the_program_and_gets_the_same_verdict(verify):
    config, row = Config(), {"tests": ASSERTS}
    for completion in (
        fenced(ADD),
        ADD,
        "",
        "<think>",
        "```\n~~~\nx\n~~~\n```",
        "```bash\nls\n```",
    ):
        sample = Sample("", completion, None, row)
        text = answer_text(sample, config)
        assert verify(text, row) == verify(completion, row)
    assert answer_text(Sample("", fenced(ADD), None, row), config) == ADD


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"backend": "http"}, "url is needed"),
        ({"url": "http://x"}, "no effect"),
        ({"backend": "http", "url": "http://x", "packages": ["numpy"]}, "packages"),
        ({"concurrency": 2}, "concurrency has no effect"),
        ({"backend": "http", "url": "http://x", "unsafe": True}, "unsafe has no effect"),
        ({"packages": ["no_such_package"]}, "not installed"),
        ({"seconds": 0}, "greater than 0"),
        ({"backend": "docker"}, "bwrap"),
        ({"tolerance": -1}, "greater than or equal"),
        ({"scores": "all"}, "score"),
    ],
)
def test_options_that_do_not_go_together_are_refused_at_start(options, word):
    with pytest.raises(ValueError, match=word):
        Scorer([{"code": options}])


def test_a_service_runs_scripts_and_calls_with_expected_values():
    with FusionServer() as server:
        config = Config(backend="http", url=server.url, concurrency=2)
        ready(config)
        verify = build(config)
        for form in ("asserts", "check", "args", "check_of_method", "wrapped_outputs"):
            row, program = FUNCTION_FORMS[form]
            assert verify(Sample("", program, None, row)).outcome == "correct"
            wrong = program.replace("+", "-")
            assert verify(Sample("", wrong, None, row)).outcome == "wrong"
        row = SCRIPT_FORMS["stdin"]
        assert verify(Sample("", ECHO, None, row)).outcome == "correct"
        assert verify(Sample("", WRONG_ECHO, None, row)).outcome == "wrong"
        for program in (
            "import os; os._exit(0)",
            "print('{\"value\": 3}')",
            "def add(a, b): return exit",
        ):
            row = FUNCTION_FORMS["asserts"][0]
            assert verify(Sample("", program, None, row)).outcome == "wrong"
        judged = Sample("", ADD, None, {"tests": "assert abs(add(1, 2) - 3) < 1"})
        assert "backend local" in fault(judged, config)
        assert verify(judged).outcome == "skipped"
    crashed = verify(Sample("", ADD, None, FUNCTION_FORMS["asserts"][0]))
    assert crashed.outcome == "crashed"
    assert server.url in crashed.reason


def test_in_the_pool_a_group_is_scored_and_nothing_is_left():
    before = len(below(os.getpid()))
    row = {"tests": ASSERTS, "entry_point": None}
    programs = [fenced(ADD), fenced(WRONG_ADD), "no", fenced("import os\nos.kill(os.getppid(), 9)")]
    with Scorer([{"code": {"seconds": 1}}], workers=2) as scorer:
        scored = scorer.score([Sample("p", program, None, row) for program in programs])
        again = scorer.score([Sample("p", program + " ", None, row) for program in programs])
    assert [item.reward for item in scored] == [1.0, 0.0, 0.0, 0.0]
    assert [item.reward for item in again] == [1.0, 0.0, 0.0, 0.0]
    assert len(below(os.getpid())) == before


KEYS = "inputs outputs fn_name input output testtype args kwargs expected stdin stdout functional"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=4)
    ),
    max_leaves=12,
)
LINES_OF_PYTHON = [
    "assert f(1) == 1",
    "def check(c):",
    "    assert c(1)",
    "check(f)",
    "x = f(",
    "\0",
    "import os",
    "from a import *",
    "assert x.y(1)",
    "\ud800",
    "assert " + "(" * 300,
    "assert f" + "(f" * 90,
]
PYTHON = st.lists(st.sampled_from(LINES_OF_PYTHON)).map("\n".join)


@given(JSON | PYTHON, JSON | PYTHON, JSON | PYTHON)
def test_whatever_stands_in_a_row_it_is_usable_or_the_reason_is_said(tests, entry_point, setup):
    row = {"tests": tests, "entry_point": entry_point, "setup": setup}
    for given_row in (row, row | {"tests": json.dumps(tests)}):
        reason = fault(Sample("", "", None, given_row), Config())
        assert reason is None or reason.strip()
