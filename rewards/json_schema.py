"""JSON schema: the answer is JSON that validates, and where asked holds the gold answer's values.

The JSON is the whole text after the thought (or the content of the last `<answer>` tag), or its last
fenced block (```json). It is read strictly: one value, no NaN, no repeated keys. The schema's draft is
its `$schema`, else 2020-12; a `$ref` is never fetched, and `format` is no constraint.
"""

import json
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from jsonschema_specifications import REGISTRY
from pydantic import BaseModel, ConfigDict, Field, field_validator
from referencing import Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from rlvr.rewards.extraction import after_thought, last_tag
from rlvr.rewards.fenced import last_block
from rlvr.rewards.strict_json import equal, leaves, parse
from rlvr.rewards.verdict import CORRECT, Sample, Verdict, partial, skipped, unparsable, wrong

COLUMNS: tuple[str, ...] = ()
OPTIONAL_COLUMNS = ("schema",)
BOUNDED = False  # a schema's regular expressions may backtrack

# the option has the name of a method that pydantic no longer uses
warnings.filterwarnings("ignore", message='Field name "schema" in "Config" shadows')


class Config(BaseModel):
    """Options of the json_schema verifier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema: dict[str, Any] | str | None = None  # type: ignore[assignment]
    """Of the rows that have no `schema` column: a mapping, or JSON text."""
    score: Literal["valid", "equal", "fields"] = "valid"
    """valid: the JSON validates. equal: it also equals the row's `answer`. fields: the share of values
    that agree with the `answer`'s, by their path, of all values that either has."""
    max_chars: int = Field(default=100_000, ge=1)
    """Characters of the JSON; a longer one is unparsable."""
    max_depth: int = Field(default=64, ge=1, le=200)
    """Nesting of the JSON; a deeper one is unparsable."""

    @field_validator("schema")
    @classmethod
    def _is_schema(cls, value: Any) -> Any:
        if value is not None:
            _validator(_schema_text(value))
        return value


def build(config: Config) -> Callable[[Sample], Verdict]:
    """Return the verifier."""

    def verify(sample: Sample) -> Verdict:
        try:
            validator, gold = _task(sample, config)
        except ValueError as error:
            return skipped(str(error))
        try:
            value = find_json(sample.completion, config)
        except ValueError as error:
            return unparsable(str(error))
        try:
            if validator is not None and (violation := _violation(validator, value)):
                return wrong(violation)
        except Unresolvable as error:
            return skipped(f"the schema's $ref leads nowhere: {error}")
        return CORRECT if config.score == "valid" else _compared(value, gold, config.score)

    return verify


def fault(sample: Sample, config: Config) -> str | None:
    """Return why the row cannot be judged: no usable schema, or no usable answer."""
    try:
        _task(sample, config)
    except ValueError as reason:
        return str(reason)
    return None


def find_json(completion: str, config: Config) -> Any:
    """Return the value of a completion's JSON, or raise ValueError saying why there is none."""
    text = after_thought(completion)
    if text is None:
        raise ValueError("the think block is not closed")
    tagged = last_tag(text)
    text = text if tagged is None else tagged
    limits = {"max_chars": config.max_chars, "max_depth": config.max_depth}
    try:
        return parse(text, **limits)
    except ValueError as error:
        block = last_block(text, ("json",))
        if block is None:
            raise ValueError(f"no JSON: {error}") from None
    if not block.closed:
        raise ValueError("the code block is not closed")
    try:
        return parse(block.content, **limits)
    except ValueError as error:
        raise ValueError(f"no JSON: {error}") from None


def _compared(value: Any, gold: Any, score: str) -> Verdict:
    if score == "equal":
        return CORRECT if equal(value, gold) else wrong("other values than the answer")
    found, asked = dict(leaves(value)), dict(leaves(gold))
    right = sum(path in found and equal(found[path], item) for path, item in asked.items())
    every = len(found.keys() | asked.keys())
    return partial(right / every, f"{right} of {every} values agree")


def _violation(validator: Validator, value: Any) -> str:
    """Return the first way in which the value breaks the schema; "" where it keeps it."""
    try:
        error = next(validator.iter_errors(value), None)
    except RecursionError:
        return "the schema nests too deep on it"
    return "" if error is None else f"{error.json_path}: {error.message}"


def _task(sample: Sample, config: Config) -> tuple[Validator | None, Any]:
    """Return the row's schema and gold value, or raise ValueError saying what is wrong."""
    given = sample.row.get("schema")
    given = config.schema if given is None else given
    if given is None and config.score == "valid":
        raise ValueError("the row has no schema, and neither has the recipe")
    validator = None if given is None else _validator(_schema_text(given))
    if config.score == "valid":
        return validator, None
    gold = _gold(sample.answer)
    if validator is not None and (reason := _violation(validator, gold)):
        raise ValueError(f"the answer does not validate: {reason}")
    return validator, gold


def _gold(answer: Any) -> Any:
    if answer is None:
        raise ValueError("the row has no answer to compare with")
    try:
        return parse(answer if isinstance(answer, str) else json.dumps(answer))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"the answer is not JSON: {error}") from None


def _schema_text(schema: Any) -> str:
    if isinstance(schema, str):
        return schema
    if not isinstance(schema, Mapping):
        raise ValueError(f"the schema is {schema!r:.80}; it must be a mapping, or JSON text")
    try:
        return json.dumps(schema)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"the schema is not JSON: {error}") from None


@lru_cache(maxsize=64)
def _validator(text: str) -> Validator:
    try:
        schema = parse(text, max_chars=1_000_000)
    except ValueError as error:
        raise ValueError(f"the schema is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise ValueError(f"the schema is {text:.80}; it must be an object")
    kind = Draft202012Validator
    if "$schema" in schema:
        draft = schema["$schema"]
        kind = validator_for(schema, default=None) if isinstance(draft, str) else None
        if kind is None:
            raise ValueError(f"the schema's $schema {draft!r:.80} is no known draft")
    try:
        kind.check_schema(schema)
        resource = Resource.from_contents(schema, default_specification=DRAFT202012)
        _look_up(resource, REGISTRY.resolver_with_root(resource))
        validator = kind(schema, registry=REGISTRY)
        validator.is_valid(None)  # a schema that only refers to itself never ends
    except SchemaError as error:
        raise ValueError(f"the schema is no schema: {error.json_path}: {error.message}") from None
    except Unresolvable as error:
        raise ValueError(f"the schema's $ref leads nowhere: {error}; none is fetched") from None
    except RecursionError:
        raise ValueError("the schema refers to itself without end") from None
    return validator


def _look_up(resource: Any, resolver: Any) -> None:
    """Follow every reference of a schema, or raise Unresolvable."""
    if isinstance(resource.contents, Mapping):
        for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
            if isinstance(reference := resource.contents.get(keyword), str):
                resolver.lookup(reference)
    for part in resource.subresources():
        _look_up(part, resolver.in_subresource(part))
