"""Which option a text asserts: (C)   option C   C. Paris   Paris, but not C or D, or A good one.

"C"          it asserts this one
REFUSED      it names several, or denies what it names
None         it names none
"""

import re
from collections.abc import Iterator

from rlvr.rewards.answer.doubt import retracts
from rlvr.rewards.answer.options import Options, plain, unmarked

REFUSED = ""
MAX_TEXT = 600  # characters of a statement that are read

# a label in brackets, or by itself: not C++, C-level, C = 5, C's, 2.5, or a letter with an accent
_TOKEN = (
    r"(?:(?<![\w\\}])[(\[{]\s?(?P<inner>[A-Za-z]|\d{1,2})\s?[)\]}]"
    r"|(?<!\w)(?P<bare>[A-Za-z]|\d{1,2})(?![\w+#°\u0300-\u036f\u20d0-\u20f0]|[-'’]\w|\s?=|[.,]\d))"
)
_LABEL = re.compile(_TOKEN)
_I_SAY = r"I\s(?:think|believe|guess|choose|pick|say|would\ssay|go\swith)\b"
_HEAD = re.compile(
    rf"""(?: [\s:,'(\[{{]
           | \b(?: the|option|choice|letter|answer|statement|number|is|be|it|it's|most|best|correct
                 | right|so|thus|hence|therefore|indeed|for\ssure|of\scourse|[a-z]{{2,12}}ly
                 | {_I_SAY} )\b(?=[\s:,(])
         )*? (?!{_I_SAY}) {_TOKEN}""",
    re.X | re.I,
)
_AFTER_NOUN = re.compile(rf"\b(?:option|choice|letter)\s{_TOKEN}", re.I)
_AND_OR = "and|or|und|oder|et|ou|y|o|и|или|和|与|或"
_NEXT = re.compile(
    rf"(?:\s|[^\w\s]|\b(?:{_AND_OR}|also|then|plus|maybe|perhaps|possibly|even|option|choice|alternatively)\b){{0,12}}?{_TOKEN}",
    re.I,
)
# what may follow a label that is also a word (A, I, a small letter) or a number
_ENDED = re.compile(r"\s*(?:[.,;:)\]/|&!?]|[-–—]\s|$)")
_EXPLAINED = re.compile(
    r"\s+(?:because|since|as|due|for|which|and|or|not|based|given|rather|instead|is)\b", re.I
)
_GOES_ON = re.compile(r"\s+[A-Z](?!\w)")
_JOINT = re.compile(rf"[,/&|+;(\[→]|\b(?:{_AND_OR}|maybe|perhaps|possibly|alternatively)\b", re.I)
_SENTENCE_END = re.compile(r"(?<=.)[.!](?=\s|$)", re.S)
_CLAUSE = re.compile(r"[,;.]\s|\bbut\b")
_HEDGE = re.compile(
    r"\b(?:or|oder|ou|или|或|maybe|perhaps|possibly|alternatively|unless|(?:could|might|may)\s(?:also\s)?be)\b",
    re.I,
)
_AGAINST = re.compile(
    r"\b(?:not|never|neither|nor|cannot|wrong|incorrect|false|rather\sthan|instead\sof)\b|n't", re.I
)
_OPENS_AGAINST = re.compile(
    r"\W*(?:\w+\s){0,2}?(?:not|neither|none|either|both|between|cannot|never)\b", re.I
)
_SEPARATOR = re.compile(r"^[\s.:)\]]*(?:[-–—]\s)?")
_DENIED = re.compile(r"[\W_]*\b(?:is|was)\s(?:\w+\s)?(?:not|wrong|incorrect|false)\b|\W*\?", re.I)


def asserted(text: str, known: Options) -> str | None:
    """Return the label of the one option that the text asserts, REFUSED, or None.

    Example:
        >>> asserted("**C**, not D", Options()), asserted("C or D", Options())
        ('C', '')
    """
    text = unmarked(text[:MAX_TEXT]).strip()
    if known.label(text.strip("()[]{}. ")) is None and (exact := known.by_text.get(plain(text))):
        return exact
    head = _HEAD.match(text)
    label = _label(head, known) if head else None
    if head and label:
        return _confirmed(label, text[head.end() :], known)
    named, inside = _named_by_text(text, known), _named_inside(text, known)
    if None in (named, inside) or named == inside:
        return inside if named is None else named
    return REFUSED


def alone(line: str, known: Options) -> str | None:
    """Return the label that a line consists of, as in **C.** or "So it is (C)"; None for any other.

    Example:
        >>> alone("**C.**", Options()), alone("C is wrong", Options())
        ('C', None)
    """
    text = unmarked(line[:MAX_TEXT]).strip().lstrip("#>- ")
    head = _HEAD.match(text)
    return _label(head, known) if head and not text[head.end() :].strip(" .:!)]}'") else None


def _label(match: re.Match[str], known: Options) -> str | None:
    """Return the label that a token is; None for a word, such as the article A."""
    name = match["inner"] or match["bare"]
    label = known.label(name)
    if match["inner"] or (name.isupper() and name not in ("A", "I")):
        return label
    follows = _ENDED.match(match.string, match.end())
    explained = not name.islower() and _EXPLAINED.match(match.string, match.end())
    return label if follows or explained else None


def _confirmed(label: str, rest: str, known: Options) -> str:
    """Return the label, or REFUSED where what follows it names another option or takes it back."""
    text = _SEPARATOR.sub("", rest)
    if known.texts and plain(text) == plain(known.texts[label]):
        return label
    if any(other != label for other in _listed(rest, known)):
        return REFUSED
    sentence = _first_sentence(rest)
    if _DENIED.match(rest) or retracts(rest) or _hedges(sentence, label, known):
        return REFUSED
    named = _named_by_text(text, known)
    return label if named in (None, label) else REFUSED


def _listed(rest: str, known: Options) -> Iterator[str]:
    """Yield the labels that go on from a label: , B or C."""
    following = _NEXT.match(rest)
    while following:
        label = _label(following, known)
        if label is None and _GOES_ON.match(rest, following.end()):
            label = known.label(following["bare"] or "")  # the A of B A C is no article
        if label is None:
            return
        group = "inner" if following["inner"] else "bare"
        between = rest[: following.start(group)]
        is_joint = not between.strip() or _JOINT.search(between)  # C D, or C or D
        if not (is_joint or following["inner"] or _ENDED.match(rest, following.end())):
            return  # C. D is wrong
        yield label
        rest = rest[following.end() :]
        following = _NEXT.match(rest)


def _first_sentence(text: str) -> str:
    end = _SENTENCE_END.search(text, 1)
    return text[: end.start()] if end else text


def _hedges(text: str, label: str, known: Options) -> bool:
    """Return whether a clause offers another option: or D, unless it is D; not: it can't be A or B."""
    for clause in _CLAUSE.split(text):
        hedge = _HEDGE.search(clause)
        if hedge and not _AGAINST.search(clause):
            labels = {_label(match, known) for match in _LABEL.finditer(clause, hedge.end())}
            if labels - {None, label}:
                return True
    return False


def _named_by_text(text: str, known: Options) -> str | None:
    """Return the label of the option whose text the text begins with."""
    text = plain(text)
    fitting = [name for name in known.by_text if text.startswith(name)]
    name = max(fitting, key=len, default=None)
    if name is None:
        return None
    rest = text[len(name) :]
    if not (_ENDED.match(rest) or _EXPLAINED.match(rest) or rest.startswith(" (")):
        return None  # 5 of 5 km
    if re.match(r"[.,]\d", rest):
        return None
    rest = _first_sentence(rest)
    next_word = re.sub(r"^[\s,/&|+;]*(?:and\s|or\s)?", "", rest)
    others = [other for other in known.by_text if other != name and other in rest]
    is_listed = any(next_word.startswith(other) for other in others)
    is_hedged = others and _HEDGE.search(rest) and not _AGAINST.search(rest)
    return REFUSED if is_listed or is_hedged or _DENIED.match(rest) else known.by_text[name]


def _named_inside(text: str, known: Options) -> str | None:
    """Return the one option that the first sentence names in brackets or after "option"."""
    sentence = _first_sentence(text)
    matches = [match for match in _LABEL.finditer(sentence) if match["inner"]]
    matches += _AFTER_NOUN.finditer(sentence)
    labels = {label for match in matches if (label := _label(match, known))}
    if _OPENS_AGAINST.match(sentence):
        named = {_label(match, known) for match in _LABEL.finditer(sentence)}
        return REFUSED if named - {None} else None
    if len(labels) > 1 or (labels and _AGAINST.search(sentence)):
        return REFUSED
    return next(iter(labels), None)
