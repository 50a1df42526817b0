r"""A number as people write it, with its unit: $1,234.50   5 km   2\frac{1}{2}\%   3 million.

Nothing is computed: what is not one number, alone or with a unit, is no measurement.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from rlvr.rewards.answer.doubt import leaves_open, retracts, takes_back
from rlvr.rewards.answer.notation import canonical
from rlvr.rewards.answer.quantity import MAX_DIGITS, quantity
from rlvr.rewards.answer.units import plain_unit, unit

MAX_TEXT = 500  # characters of an answer that is a number
MAX_LABEL = 8  # words behind a number

_POWER = r"\^\s?(?:\{\s?-?\d{1,4}\s?\}|-?\d{1,4})"
_PART = r"(?:\{{\s?(?P<{0}>-?\d+)\s?\}}|(?P<{0}_digit>\d))"
_CURRENCY = r"(?:US\s?)?\\\$|\b(?:USD|EUR|GBP|JPY|INR|Rs\.?|euro|pound\ssterling|yen|rupee)\b"
_NUMBER = re.compile(
    rf"""
    (?:(?P<sign>[-+])\s?)? (?:(?P<currency>{_CURRENCY})\s*)? (?:(?P<inner>[-+])\s?)?
    (?: (?:(?P<whole>\d+)\s?)? \\frac \s? {_PART.format("top")} \s? {_PART.format("bottom")}
      | (?P<dividend>\d+) \s?/\s? (?P<divisor>\d+) (?![\d.])
      | 10\s?(?P<ten>{_POWER})
      | (?P<decimal>\d+(?:\.\d+)?|\.\d+)
        (?: [eE](?P<shift>[-+]?\d{{1,4}}) | \s?(?:\\times|\\cdot|[*x])\s?10\s?(?P<power>{_POWER}) )?
    )
    (?P<percent>\s*(?:\\?%|(?:percent|per\scent|pct)\b))?
    (?:\s*(?P<scale>hundred|thousand|million|billion|trillion|dozen)s?\b)?
    """,
    re.X | re.ASCII,
)
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_SCALES |= {"trillion": 10**12, "dozen": 12}

_DOLLAR = re.compile(r"(?<!\\)\$")
_WRAPPED = re.compile(r"\\text\s?\{([^{}]*)\}")
_LEAD = re.compile(
    r"""(?: (?:[a-zA-Z\\\s{}']|_\{?\d){1,40} = )?                     # x =   or   Area =
        (?: \s | \\approx | \b(?:approximately|about|around|roughly|exactly|equal\sto)\b )*""",
    re.X,
)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|(?<=[\w%])\s\(")
_CLAUSE_END = re.compile(
    r",(?=\s)|[:;(]|\s[-—]\s|\b(?:because|since|as|so|which|that|after|when|if|is|are|was|were|and)\b"
)
_LISTED = re.compile(r"(?:[,;]|and)\s*[-+\\$]*\d")
_NO_WORD = re.compile(r"[\d\\=]|\b(?:not|never|no)\b|n't")
_DIGIT = re.compile(r"\d", re.ASCII)
_INSIDE = re.compile(r"[\w.^_\\]\Z")
_LABEL = re.compile(r"(?:(?:[^\W\d_]|[.'/])+|°[CF]?|[$¢€£¥₹])(?:\^-?\d)?")


@dataclass(frozen=True)
class Measurement:
    """A number and what was written with it.

    Attributes:
        value: Of the number with its scale word; a percent sign is not applied.
        unit: As `units.plain_unit` writes it; "" for none.
        is_percent: A percent sign stands behind the number.
        is_exact: An integer, or a fraction of integers, by its writing.
        step: What one more in the last digit would add; 0 for a fraction.
        digits: Significant digits; 0 for a fraction.
    """

    value: Fraction
    unit: str
    is_percent: bool
    is_exact: bool
    step: Fraction
    digits: int


def measurement(text: str) -> Measurement | None:
    r"""Return the number and unit that are the whole text; None if it is anything else.

    Example:
        >>> found = measurement(r"x = 2.50 \text{ km}.")
        >>> found.value, found.unit, found.digits
        (Fraction(5, 2), 'km', 3)
    """
    if len(text) > MAX_TEXT or leaves_open(text) or takes_back(text):
        return None
    text = _plain(text)
    match = _NUMBER.match(text, _lead(text))
    return _measured(match, text[match.end() :]) if match else None


def stated_measurement(line: str) -> Measurement | None:
    """Return the number and unit that the line's first sentence states; None for none or several.

    Example:
        >>> stated_measurement("that she has 7 apples, as 3 + 4 = 7.").value
        Fraction(7, 1)
    """
    line = line[:MAX_TEXT]
    end = _SENTENCE_END.search(line)
    sentence = line[: end.start()] if end else line
    if leaves_open(line[: end.end()] if end else line) or takes_back(sentence) or retracts(line):
        return None
    text = _plain(sentence)
    start = _lead(text)
    match = _NUMBER.match(text, start) or _NUMBER.search(text, start)
    if match is None or _NO_WORD.search(text, start, match.start()):
        return None
    tail = text[match.end() :]
    clause = _CLAUSE_END.search(tail)
    if clause and _LISTED.match(tail, clause.start()):
        return None
    return _measured(match, tail[: clause.start()] if clause else tail)


def last_measurement(text: str) -> Measurement | None:
    """Return the last number of the text with its unit; None if there is none.

    Example:
        >>> last_measurement("We had 3 of 8 km, so 5 km are left.").value
        Fraction(5, 1)
    """
    line = next((line for line in reversed(text.splitlines()) if _DIGIT.search(line)), "")
    text = _plain(line[-MAX_TEXT:])
    matches = [
        found for found in _NUMBER.finditer(text) if not _INSIDE.search(text, 0, found.start())
    ]
    if not matches:
        return None
    tail = text[matches[-1].end() :]
    end = _SENTENCE_END.search(tail) or _CLAUSE_END.search(tail)
    return _measured(matches[-1], tail[: end.start()] if end else tail)


def _plain(text: str) -> str:
    if len(_DOLLAR.findall(text)) % 2:  # an odd one delimits nothing: it is a currency
        text = _DOLLAR.sub(r"\\$", text)
    return _WRAPPED.sub(r" \1 ", canonical(text)).strip()


def _lead(text: str) -> int:
    match = _LEAD.match(text)
    return match.end() if match else 0


def _measured(match: re.Match[str], tail: str) -> Measurement | None:
    """Return the measurement of a number and what follows it; None where that is no unit."""
    if match["sign"] and match["inner"]:
        return None
    label = _label(tail)
    ratio = _ratio(match)
    mantissa, shift = ("1", _power(match["ten"])) if match["ten"] else _decimal(match)
    number = quantity(f"{mantissa}e{shift}") if ratio is None else ratio
    if label is None or number is None:
        return None
    whole = Fraction(match["whole"] or 0)
    scale = _SCALES.get(match["scale"] or "", 1)
    value = (number + whole if number >= 0 else number - whole) * scale
    places = len(mantissa.partition(".")[2])
    is_written_out = ratio is None
    return Measurement(
        value=-value if "-" in (match["sign"], match["inner"]) else value,
        unit=plain_unit(f"{match['currency'] or ''} {label}"),
        is_percent=match["percent"] is not None,
        is_exact=not is_written_out or (shift == "0" and value.denominator == 1),
        step=Fraction(10) ** (int(shift) - places) * scale if is_written_out else Fraction(0),
        digits=len(mantissa.replace(".", "").lstrip("0")) if is_written_out else 0,
    )


def _ratio(match: re.Match[str]) -> Fraction | None:
    top = match["top"] or match["top_digit"] or match["dividend"]
    bottom = match["bottom"] or match["bottom_digit"] or match["divisor"]
    if top is None or len(top) + len(bottom) > MAX_DIGITS or int(bottom) == 0:
        return None
    return Fraction(int(top), int(bottom))


def _decimal(match: re.Match[str]) -> tuple[str, str]:
    """Return the mantissa and the power of ten."""
    return match["decimal"] or "", match["shift"] or _power(match["power"] or "0")


def _power(text: str) -> str:
    return text.strip("^{} ")


def _label(tail: str) -> str | None:
    """Return the words behind a number that name its unit; None where it is no words."""
    is_glued = bool(tail) and not tail[0].isspace() and tail[0] not in "°^"
    label = plain_unit(tail).rstrip(" .,:")
    words = label.split()
    for count in range(min(3, len(words)), 0, -1):
        known = " ".join(words[:count])
        if unit(known) and (known != "in" or words == ["in"]):  # 5 in total
            label, words = known, []
    if not words:
        return label
    is_symbol = len(words[0].strip("/")) == 1 and words[0] != "a"  # 5 x, 2 i
    is_label = len(words) <= MAX_LABEL and all(_LABEL.fullmatch(word) for word in words)
    return None if is_glued or is_symbol or not is_label else label
