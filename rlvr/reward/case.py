"""One labelled completion of a bench, and how a row of a file is read into one.

What is wrong with a row is said with file, row, field and what is allowed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rlvr.rewards.verdict import Sample
from rlvr.suggest import closest

PLAIN, ATTACK, BENIGN, DATA_ERROR = "plain", "attack", "benign", "data_error"

ROUNDING = 1e-9
"""How far from [0, 1] a share may be that was computed."""

_Kind = TypeVar("_Kind")


@dataclass(frozen=True)
class Case:
    """One completion with what its verdict should be.

    Attributes:
        id: Names the case in reports.
        verifier: Name of the verifier that the case is made for.
        sample: What the verifier is shown.
        expected: Share that is right: 1 is correct, 0 is wrong; None: nothing is known.
        kind: `attack` and `benign` are to be refused and rewarded; of a `data_error` nothing can be
            said, whatever the completion.
        policy: Name of the choice that the label depends on; "" where everybody would agree.
        tags: What the case is counted by: source, domain, cls.
        must_not: Side effect that judging it must not have, in words.
    """

    id: str
    verifier: str
    sample: Sample
    expected: float | None
    kind: str = PLAIN
    policy: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    must_not: str = ""


class Fields:
    """The fields of one row, asked for by name and type.

    Args:
        row: As it was read.
        place: File and number of the row, for messages.
    """

    def __init__(self, row: Mapping[str, Any], place: str) -> None:
        self.row = row
        self.place = place

    def get(self, name: str, kind: type[_Kind]) -> _Kind:
        """Return a field of this type.

        Raises:
            ValueError: If it is missing or of another type.
        """
        if name not in self.row:
            near = closest(name, self.row)
            raise self.error(
                f"no field {name!r}." + (f" Did you mean {near!r}?" if near else "")
            ) from None
        value = self.row[name]
        if not isinstance(value, kind):
            raise self.error(f"{name} is {_short(value)}; it must be {_NAMES[kind]}")
        return value

    def text(self, *names: str) -> str:
        """Return the first of these fields that is there, as text; "" where it is null."""
        name = next((name for name in names if name in self.row), names[0])
        return "" if self.row.get(name, "") is None else self.get(name, str)

    def optional(self, name: str) -> str:
        """Return a field as text; "" where it is missing or null."""
        value = self.row.get(name)
        return "" if value is None else str(value)

    def share(self, name: str) -> float | None:
        """Return a label: a share in [0, 1], true or false; None where it is null."""
        value = self.row.get(name)
        if name in self.row and value is None:
            return None
        number = self.get(name, object)
        if not isinstance(number, int | float) or not -ROUNDING <= number <= 1 + ROUNDING:
            raise self.error(
                f"{name} is {_short(value)}; it must be a number in [0, 1], true, false or null"
            )
        return min(1.0, max(0.0, float(number)))

    def one_of(self, name: str, allowed: Mapping[str, _Kind]) -> _Kind:
        """Return what the text of a field stands for."""
        value = self.text(name)
        if value not in allowed:
            raise self.error(f"{name} is {_short(value)}; it must be one of {', '.join(allowed)}")
        return allowed[value]

    def error(self, message: str) -> ValueError:
        """Return an error that says where it is."""
        return ValueError(f"{self.place}: {message}")


def make_case(
    fields: Fields,
    verifier: str,
    completion: str,
    expected: float | None,
    row: Mapping[str, Any],
    *,
    name: str = "",
    policy: str = "",
    kind: str = PLAIN,
    must_not: str = "",
    **tags: str,
) -> Case:
    """Return the case of a row; a user's function sees the fields of the file beside the columns.

    Args:
        fields: Of the row; id, source, domain and cls are taken from there.
        verifier: That judges it.
        completion: What is judged.
        expected: Share that is right; None: not known.
        row: Columns that the verifier needs, `prompt` and `answer` among them.
        name: Instead of the id; "": the id, else the row's number.
        policy: As in `Case`, and so are `kind` and `must_not`.
        kind: PLAIN, ATTACK, BENIGN or DATA_ERROR.
        must_not: A side effect.
        tags: Over those of the row.
    """
    columns = {**fields.row, **row}
    own = {tag: fields.optional(tag) for tag in ("source", "domain", "cls")} | tags
    prompt = columns.get("prompt") or ""
    return Case(
        id=name or fields.optional("id") or fields.place.rpartition(", ")[2],
        verifier=verifier,
        sample=Sample(
            prompt=prompt if isinstance(prompt, str | list) else json.dumps(prompt),
            completion=completion,
            answer=columns.get("answer"),
            row=columns,
        ),
        expected=expected,
        kind=kind,
        policy=policy,
        tags={tag: value for tag, value in own.items() if value},
        must_not=must_not,
    )


@dataclass(frozen=True)
class Beside:
    """Finds files that a bench needs besides itself.

    Attributes:
        file: The bench.
        data: Folder to look in first; None: none is given.
    """

    file: Path
    data: Path | None = None

    def find(self, name: str, folder: str) -> Path:
        """Return the file of this name: in `data`, beside the bench, or in a folder next to it.

        Args:
            name: Of the file.
            folder: That it is usually kept in.

        Raises:
            ValueError: If it is in none of them.
        """
        own = self.file.resolve().parent
        given = [self.data, self.data / folder] if self.data else []
        places = [*given, own, own / folder, own.parent / folder]
        for place in places:
            if (place / name).is_file():
                return place / name
        listed = ", ".join(str(place) for place in places)
        raise ValueError(
            f"{self.file} needs {name}, which is in none of {listed}. "
            "Say where it is with --data FOLDER"
        )

    def json(self, name: str, folder: str) -> dict[str, Any]:
        """Return the mapping that a JSON file beside the bench holds."""
        path = self.find(name, folder)
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: not JSON ({error})") from None
        if not isinstance(value, dict):
            raise ValueError(f"{path}: a mapping is needed, as in {{name: [statement, ...]}}")
        return value


_NAMES: dict[type, str] = {
    str: "text",
    list: "a list",
    dict: "a mapping",
    object: "a value",
}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
