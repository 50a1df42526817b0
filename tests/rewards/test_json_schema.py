"""The json_schema verifier: strict JSON, the schema's drafts, equality and shares of values."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.rewards import json_schema, registry
from rlvr.rewards.scorer import Scorer
from rlvr.rewards.strict_json import equal, leaves, parse
from rlvr.rewards.verdict import Sample

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}
ANN = '{"name": "Ann", "age": 3}'
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def verdict(text, answer=None, schema=PERSON, **options):
    sample = Sample("p", text, answer, {} if schema is None else {"schema": schema})
    return json_schema.build(json_schema.Config(**options))(sample)


def outcome(*arguments, **options):
    return verdict(*arguments, **options).outcome


def fault(schema=None, answer=None, **options):
    sample = Sample("p", "", answer, {} if schema is None else {"schema": schema})
    return json_schema.fault(sample, json_schema.Config(**options))


@pytest.mark.parametrize(
    "text",
    [
        ANN,
        f" \n{ANN}\n",
        f"<think>{{}}</think>{ANN}",
        f"Here:\n```json\n{ANN}\n```\nThat is all.",
        f"```json\n[]\n```\nNo:\n```json\n{ANN}\n```",
        f"<answer>{ANN}</answer>",
        f"<answer>```\n{ANN}\n```</answer>",
        '{"age": 3.0, "name": "\\u0041nn"}',
        '{"name": "see ```x``` and <answer>"}',
    ],
)
def test_json_that_validates_is_correct(text):
    assert outcome(text) == "correct"


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"name": 1}', '{"name": "A", "x": 1}',
                                  '{"name": "A", "age": true}', '{"name": "A", "age": -1}'])  # fmt: skip
def test_json_that_does_not_validate_is_wrong_and_says_where(text):
    found = verdict(text)
    assert found.outcome == "wrong"
    assert found.reason.startswith("$")


@pytest.mark.parametrize(
    "text",
    [
        "", "Ann", f"It is {ANN}", f"{ANN} as asked", f"{ANN}{ANN}", "{'name': 'Ann'}", '{"name": "Ann",}',
        '{"name": "Ann", "age": NaN}', '{"name": "Ann", "age": Infinity}', '{"name": "Ann", "age": 1e999}',
        '{"name": "Eve", "name": "Ann"}', '{"name": "Ann" // so\n}', '{"name": "A\nnn"}', f"{ANN}\0",
        '{"name": "Ann", "age": ' + "9" * 400 + "}", "[" * 100_000, '{"a":' * 70 + "1" + "}" * 70,
        f"<think>{ANN}", f"```json\n{ANN}", f"```python\n{ANN}\n```", "\ud800", json.dumps("a" * 200_000),
    ],
    ids=range(22),
)  # fmt: skip
def test_what_is_not_strict_json_within_the_limits_is_unparsable(text):
    found = verdict(text)
    assert found.outcome == "unparsable"
    assert found.reason


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (None, "no schema"),
        ("{", "not JSON"),
        ("[1]", "must be an object"),
        (5, "mapping"),
        ({"type": "text"}, "$.type"),
        ({"pattern": "("}, "$.pattern"),
        ({"$schema": "http://example.org/mine"}, "no known draft"),
        ({"$schema": 5}, "no known draft"),
        ({"$ref": "#"}, "without end"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "$defs/b"),
        ({"items": {"$ref": "http://127.0.0.1:9/schema.json"}}, "none is fetched"),
        ({"items": {"$ref": "file:///etc/hostname"}}, "none is fetched"),
    ],
)
def test_a_schema_that_is_none_is_a_fault_and_skipped(schema, words):
    assert words in fault(schema)
    assert outcome(ANN, schema=schema) == "skipped"


def test_a_schema_follows_its_draft_and_its_own_references():
    seven = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": {"pair": {"items": [{"type": "integer"}, {"type": "string"}]}},
        "$ref": "#/definitions/pair",
    }
    assert outcome('[1, "a"]', schema=seven) == "correct"
    assert outcome('["a", 1]', schema=json.dumps(seven)) == "wrong"
    tree = {"$ref": "#/$defs/n", "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}}
    assert outcome("[[], [[]]]", schema=tree) == "correct"
    assert outcome("[[], [0]]", schema=tree) == "wrong"


def test_the_recipes_schema_stands_in_for_the_column_and_is_checked_at_start():
    assert outcome(ANN, schema=None) == "skipped"
    verify = registry.build("json_schema", {"schema": PERSON})
    assert verify(Sample("p", ANN)).outcome == "correct"
    assert verify(Sample("p", "[]", None, {"schema": {"type": "array"}})).outcome == "correct"
    with pytest.raises(ValueError, match=r"json_schema: schema.*\$\.type"):
        registry.configure("json_schema", {"schema": {"type": "text"}})


def test_equal_asks_for_the_answers_values():
    for answer in (ANN, json.loads(ANN), '{"age": 3.0, "name": "Ann"}'):
        assert outcome(ANN, answer, score="equal") == "correct"
        assert outcome('{"name": "Ann"}', answer, score="equal") == "wrong"
    assert outcome("[1, 2]", "[1, 2]", schema=None, score="equal") == "correct"
    assert outcome("[2, 1]", "[1, 2]", schema=None, score="equal") == "wrong"
    assert outcome('{"name": 5}', '{"name": "Ann"}', score="equal") == "wrong"


@pytest.mark.parametrize(
    ("text", "fraction"),
    [
        (ANN, 1.0),
        ('{"name": "Ann"}', 0.5),
        ('{"name": "Eve", "age": 3}', 0.5),
        ('{"name": "Eve"}', 0.0),
        ('{"name": "Ann", "age": -3}', 0.0),  # does not validate
    ],
)
def test_fields_is_the_share_of_values_that_agree(text, fraction):
    assert verdict(text, ANN, score="fields").fraction == fraction


def test_invented_values_cost_as_missing_ones_do():
    answer = '{"items": [{"sku": 1}, {"sku": 2}]}'
    more = '{"items": [{"sku": 1}, {"sku": 2}, {"sku": 3}, {"sku": 4}]}'
    assert verdict(more, answer, schema=None, score="fields").fraction == 0.5
    assert verdict(answer, more, schema=None, score="fields").fraction == 0.5


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "no answer"),
        ("Ann", "not JSON"),
        ('{"name": 1}', "does not validate"),
        ({1, 2}, "not JSON"),
    ],
)
def test_an_answer_that_cannot_be_compared_is_a_fault(answer, words):
    assert words in fault(PERSON, answer, score="equal")
    assert fault(PERSON, answer) is None


def test_a_pattern_that_backtracks_costs_its_worker_and_no_other_sample():
    schema = json.dumps({"type": "string", "pattern": "^(a|aa)+$"})
    texts = [json.dumps("a" * 60 + "b"), '"aaa"', '"b"']
    with Scorer(["json_schema"], workers=1, deadline=0.5) as scorer:
        scored = scorer.score([Sample("p", text, None, {"schema": schema}) for text in texts])
    assert [item.verdict.outcome for item in scored] == ["timeout", "correct", "wrong"]


@given(VALUES)
def test_written_json_is_read_back_equal(value):
    text = json.dumps(value)
    assert equal(parse(text), value)
    assert outcome(text, text, schema={}, score="equal") == "correct"
    assert verdict(text, text, schema=None, score="fields").fraction == 1.0


@given(VALUES, VALUES)
def test_equality_is_that_of_the_leaves(a, b):
    def kinds(value):  # true is not 1, but 1 is 1.0
        return {path: (isinstance(leaf, bool), leaf) for path, leaf in leaves(value)}

    assert equal(a, b) == equal(b, a) == (kinds(a) == kinds(b))
    assert equal(a, a)
