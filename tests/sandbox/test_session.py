"""Calls of a program's functions: what it may say back, and that a lie is only ever a value."""

import pytest

from rlvr.rewards.sandbox.local import LocalSandbox
from rlvr.rewards.sandbox.request import Stopped
from rlvr.rewards.sandbox.session import ProgramEnded, ProgramRaised, Remote
from tests.sandbox.programs import LIMITS, needs_locks

pytestmark = needs_locks

# a program finds its end of the channel, and has the words to write what it likes
CHANNEL = """
import gc, json, os, socket, sys, threading, time
channel = [o for o in gc.get_objects() if isinstance(o, socket.socket)][0]
def line(token, value):
    return json.dumps({"token": token, "value": value}).encode() + b"\\n"
def forge(token, value):
    channel.sendall(line(token, value))
def frames():
    frame = sys._getframe()
    while frame:
        yield frame
        frame = frame.f_back
def token():
    seen = [f.f_locals["message"] for f in frames() if "message" in f.f_locals]
    return [message["token"] for message in seen if "token" in message][0]
"""


@pytest.fixture(scope="module")
def box():
    made = LocalSandbox()
    yield made
    made.close()


def calls(box, program, *arguments, name="f"):
    """What each call returns, until the program ends; then why."""
    found = []
    with box.session(LIMITS) as session:
        try:
            session.begin(1.0, 5.0)
            session.load("", CHANNEL + program)
            function = session.evaluate(name)
            for argument in arguments:
                session.begin(1.0, 5.0)
                found.append(session.call(function, (argument,), {}))
        except (ProgramEnded, Stopped) as error:
            found.append(f"{type(error).__name__}: {error}")
        except ProgramRaised as error:
            found.append(f"ProgramRaised: {error}")
    return found


def test_functions_keep_their_state_between_calls(box):
    program = "seen = []\ndef f(x):\n    seen.append(x)\n    print('noise')\n    return tuple(seen)"
    assert calls(box, program, 1, "b") == [(1,), (1, "b")]


def test_an_argument_that_is_changed_in_place_stays_as_it_was(box):
    argument = [3, 1, 2]
    assert calls(box, "def f(x):\n    x.sort()\n    return x", argument) == [[1, 2, 3]]
    assert argument == [3, 1, 2]


def test_an_exception_comes_back_as_one_that_tests_can_expect(box):
    with box.session(LIMITS) as session:
        session.load("", "class Mine(KeyError): pass\ndef f(x): raise Mine('gone')")
        with pytest.raises(KeyError, match="gone") as caught:
            session.call(session.evaluate("f"), (1,), {})
    assert isinstance(caught.value, ProgramRaised)


@pytest.mark.parametrize("name", ["StopIteration", "AssertionError", "SystemExit", "Nonsense"])
def test_an_exception_that_would_steer_a_test_comes_back_as_a_plain_one(box, name):
    with box.session(LIMITS) as session:
        session.load("", f"class Nonsense(BaseException): pass\ndef f(x): raise {name}")
        with pytest.raises(ProgramRaised) as caught:
            session.call(session.evaluate("f"), (1,), {})
    assert type(caught.value) is ProgramRaised or type(caught.value).__bases__[1] is Exception


@pytest.mark.parametrize(
    ("program", "heard"),
    [
        # before the question, whose number it cannot know
        ("def f(x): return 0\nforge('0' * 16, 3)", "ProgramEnded: it answered"),
        ("def f(x): channel.sendall(line(token(), 3) + line('0', 4))", "ProgramEnded: it answered"),
        ("def f(x):\n    channel.sendall(b'PASS\\n')", "ProgramEnded: it answered"),
        ("def f(x):\n    channel.sendall(b'null\\n')", "ProgramEnded: it answered"),
        ("def f(x):\n    channel.sendall(b'{' * 5000 + b'\\n')", "ProgramEnded: it answered"),
        ("def f(x):\n    while True: channel.sendall(b'0' * 99999)", "ProgramEnded: it answered"),
        ("def f(x): channel.shutdown(2); time.sleep(9)", "ProgramEnded: its process ended"),
        ("def f(x):\n    os.closerange(0, 99); time.sleep(9)", "ProgramEnded: its process ended"),
        ("def f(x): os._exit(0)", "ProgramEnded: its process ended"),
        ("def f(x): sys.exit(0)", "ProgramRaised: SystemExit: 0"),
        ("def f(x): time.sleep(60)", "Stopped: no answer after 3 s"),
        ("def f(x): return object", [object]),
        ("def f(x): return b'0' * (8 << 20)", "ProgramRaised: returned too large a value"),
        (
            "def f(x):\n    forge(token(), {'set': [[1]]}); time.sleep(9)",
            "ProgramRaised: a reply that is no value",
        ),
        (
            "def f(x):\n    forge(token(), {'object': 'x'}); time.sleep(9)",
            "ProgramRaised: a reply that is no value",
        ),
        ("def f(x): return g(x)", "ProgramRaised: NameError"),
    ],
)
def test_what_is_no_answer_to_the_question_is_never_a_value(box, program, heard):
    found = calls(box, program, 1)
    if isinstance(heard, str):
        assert len(found) == 1
        assert found[0].startswith(heard), found
    else:
        assert found == heard


def test_a_forged_answer_to_the_present_question_is_a_claim_like_any_other(box):
    program = "def f(x):\n    forge(token(), 7)\n    os._exit(0)"
    assert calls(box, program, 1, 2) == [7, "ProgramEnded: its process ended"]


def test_an_answer_that_is_kept_back_does_not_shift_the_next_ones(box):
    # answers the first call twice, so that the second answer would be taken for the next question's
    program = """
def f(x):
    mine = token()
    if x == 1:
        threading.Thread(target=lambda: (time.sleep(0.1), forge(mine, 99)), daemon=True).start()
    time.sleep(0.3 * (x - 1))
    return x
"""
    first, second = calls(box, program, 1, 2)
    assert first == 1
    assert second.startswith("ProgramEnded: it answered")


def test_overwriting_what_the_channel_is_made_of_only_changes_what_is_claimed(box):
    program = """
import builtins
for module in list(sys.modules.values()):
    for name in ("encode", "loads", "decode"):
        if hasattr(module, name):
            setattr(module, name, lambda *a, **k: 3)
builtins.isinstance = lambda *a: True
def f(x): return 0
"""
    assert all(isinstance(item, str) or item == 3 for item in calls(box, program, 1, 2))


def test_an_object_of_the_program_equals_nothing_and_is_not_true(box):
    program = """
class Equal:
    def __eq__(self, other): return True
    def __bool__(self): return True
    def __hash__(self): return 0
    value = 5
def f(x): return Equal()
"""
    with box.session(LIMITS) as session:
        session.load("", program)
        found = session.call(session.evaluate("f"), (1,), {})
        assert type(found) is Remote
        assert session.get(found, "value") == found.value == 5
        for use in (bool, lambda o: o == 1, lambda o: o != 1, hash, len, iter, lambda o: o + 1):
            with pytest.raises(TypeError):
                use(found)


def test_objects_are_made_changed_and_passed_back(box):
    program = """
class Node:
    def __init__(self, value): self.value, self.next = value, None
    def double(self): return Node(2 * self.value)
def total(node): return 0 if node is None else node.value + total(node.next)
"""
    with box.session(LIMITS) as session:
        session.load("", program)
        node_class, total = session.evaluate("Node"), session.evaluate("total")
        first = node_class(1)
        first.next = node_class(2).double()
        assert total(first) == 5
        assert total(None) == 0
        assert session.evaluate("[Node(3).double().value]") == [6]


def test_names_given_to_builtin_types_are_called_over_there(box):
    with box.session(LIMITS) as session:
        session.load("", "f = object")
        assert type(session.evaluate("f")) is Remote
