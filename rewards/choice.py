r"""Choice: the one option that the completion states is the gold option.

    gold C   ->   \boxed{C}   <answer>(C)</answer>   "The answer is C, since ..."   a last line **C**

Where the row has `choices`, an option may also be stated by its text. Several options, a letter that
is a word (A good idea, I think), a letter of another alphabet, and a label that contradicts its text
are no answer. Without `choices` every letter is a label.
"""

import re
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict

from rlvr.rewards.answer.asserted import REFUSED, alone, asserted
from rlvr.rewards.answer.options import Options, gold_label, options
from rlvr.rewards.answer.place import Found, find
from rlvr.rewards.verdict import CORRECT, Sample, Verdict, skipped, unparsable, wrong

COLUMNS = ("answer",)
OPTIONAL_COLUMNS = ("choices",)
BOUNDED = True

MAX_STATED = 2  # options that "the answer is" names in turn; more are a list of guesses
MAX_PRAISE = 2000  # characters at the end in which "C is correct" is looked for

_LABELLED = re.compile(r"[\s*_#>$`]*(?:[(\[]([A-Z0-9])[)\]]|([A-Z0-9])[.):])[.:]?[\s*_$`]*(?=\s)")
_HEADED = re.compile(r"[A-Z]\s[A-Z0-9]")
_PRAISED = re.compile(
    r"(?<!\w)[(\[]?([A-Z])[)\]]?\*{0,2}\s(?:is|must\sbe|would\sbe|seems)\s(?:\w+\s){0,3}?"
    r"(?:correct|right|best|answer)\b(?!\s(?:if|when|only))"
)
_BEFORE_PRAISE = re.compile(
    r"(?:^|[.,;:(\n—]|\b(?:option|choice|letter|answer|so|thus|hence|therefore|that|then|and|only))"
    r"[\s*(\[]*\Z",
    re.I,
)
_CONDITION = re.compile(
    r"\b(?:if|whether|not|neither|nor|either|or|unless|suppose|assume)\b|n't", re.I
)


class Config(BaseModel):
    """The choice verifier has no options."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def fault(sample: Sample, config: Config) -> str | None:  # noqa: ARG001 - every verifier takes both
    """Return why the row is unusable; None if it is usable."""
    known = options(sample.row.get("choices"))
    if known is None:
        return "`choices` is neither a list of texts nor a mapping from letters to texts"
    if gold_label(sample.answer, known) is None:
        given = repr(sample.answer)[:80]
        named = "the label or the text of one of `choices`" if known.texts else "a letter"
        return f"the gold answer {given} is not {named}"
    return None


def build(config: Config) -> Callable[[Sample], Verdict]:
    """Return the verifier."""

    def verify(sample: Sample) -> Verdict:
        if reason := fault(sample, config):
            return skipped(reason)
        known = options(sample.row.get("choices")) or Options()
        found = find(sample.completion)
        if isinstance(found, Verdict):
            return found
        label, gold = stated_label(found, known), gold_label(sample.answer, known)
        if label is None:
            return unparsable("no option is stated as the answer")
        if label == REFUSED:
            return unparsable("not one option alone is stated as the answer")
        return CORRECT if label == gold else wrong(f"{label}, not {gold}")

    return verify


def stated_label(found: Found, known: Options) -> str | None:
    """Return the label of the option that is the answer, REFUSED, or None."""
    if found.kind == "box":
        labels = {asserted(text, known) for text in found.texts}
        return labels.pop() if len(labels) == 1 else REFUSED
    label = None
    if found.kind == "stated":
        stated = [asserted(line, known) for line in found.texts]
        if len(set(stated) - {None, REFUSED}) > MAX_STATED:
            return REFUSED
        label = next((label for label in stated if label is not None), None)
    return _from_lines(found.text, known) if label is None else label


def _from_lines(text: str, known: Options) -> str | None:
    """Return the option of a text that has no "answer is": its last or first line, or praise."""
    lines = [line for line in text.splitlines() if any(map(str.isalnum, line))] or [""]
    if label := alone(lines[-1], known):
        is_list = len(lines) > 1 and alone(lines[-2], known) not in (None, label)
        return REFUSED if is_list else label
    for label_of in (alone, _labelled):
        named = {label for line in lines if (label := label_of(line, known))}
        edge = next((line for line in (lines[-1], lines[0]) if label_of(line, known)), None)
        if edge and len(named) == 1:
            return asserted(edge, known)
    label = None
    if len(lines) == 1 and (known.texts or _HEADED.match(lines[0].strip())):
        label = asserted(lines[0], known)
    return _praised(text[-MAX_PRAISE:], known) if label is None else label


def _labelled(line: str, known: Options) -> str | None:
    """Return the label before a text: C. Paris."""
    match = _LABELLED.match(line)
    return known.label(match[1] or match[2]) if match else None


def _praised(text: str, known: Options) -> str | None:
    """Return the option that the text calls correct: "so C is the right answer"."""
    labels = set()
    for match in _PRAISED.finditer(text):
        clause = re.split(r"[.;:\n]", text[max(0, match.start() - 80) : match.start()])[-1]
        if _BEFORE_PRAISE.search(clause) and not _CONDITION.search(clause + match[0]):
            labels.add(known.label(match[1]))
    labels.discard(None)
    return labels.pop() if len(labels) == 1 else REFUSED if labels else None
