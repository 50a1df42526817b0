r"""The final answer of a mathematical completion: what is boxed, tagged, or stated in its last words.

    \boxed{7}      <answer>7</answer>      The answer is 7.      Therefore, x = 7.

The last sentence states what follows its last "is" or =, or the only number or formula in it. There
is no fallback to a number before it, nor to a sentence that was cut off.
"""

import re
from collections.abc import Iterator

from rlvr.rewards.answer.doubt import leaves_open, takes_back
from rlvr.rewards.answer.notation import canonical
from rlvr.rewards.answer.place import find
from rlvr.rewards.answer.reading import shape
from rlvr.rewards.answer.shapes import Scalar, Shape, has_words, parts
from rlvr.rewards.extraction import boxes, clean
from rlvr.rewards.verdict import Verdict, unparsable

MAX_ANSWER = 2000  # characters; no gold answer of the usual sets comes near
MAX_BOXES = 4  # answers that are compared one by one; more are a list of guesses
MAX_NESTING = 20  # brackets
MAX_WHOLE = 400  # characters at the end of a completion in which a result may stand
MAX_SENTENCE = 350  # characters; of a longer one the start may not be within those
MAX_PHRASE = 100  # characters of a completion that is nothing but its answer in words

_CODE = re.compile(r"```(?:python|py|output|text|sympy)\b.*?```", re.S)
_COMMENT = re.compile(r"^[ \t]*%.*$", re.M)  # TeX's
_BOX_COMMAND = re.compile(r"\\(?:boxed|fbox)\s*\{")
_TURN = re.compile(r"<\|[a-z_]{2,20}\|>.*", re.S)
_MATH = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]")
_SENTENCE_END = re.compile(r"[.!?](?=\s+[^\Wa-z\d_]|\s+[$\\]|\s*$)|\*\*\s|。|;\s")
_NUMBER = r"(?:[$€£]\s?)?[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?\s?%?"
_LEADING = re.compile(
    rf"(?P<number>{_NUMBER})(?![\w.,]*\d|\s*[-+*/^=(\\])|(?P<letter>\(?[A-Z]\)?)(?=[\s,.:;)]|$)"
)
_MORE = re.compile(r"\s*(?:,?\s*(?:and|or|also|but)\b|,\s*[-$\d\\(])")
_SAYS = re.compile(
    r"\b(?:is|are|equals|equal to|was|were|be)\s*:?\s+|为|是|(?<![<>!])=\s*|:\s+", re.I
)
_BOLD_END = re.compile(r"\*\*([^*\n]{1,100})\*\*\s*[.。]?\s*$")
_DENIES = re.compile(r"\b(?:not|never|cannot|no|neither|nor|unless|if)\b|n't\b", re.I)
_LABEL = re.compile(r"(?:the\s)?(?:final\s)?answer\b(?:\sis)?[\s:]*", re.I)
_HOPE = re.compile(r"I hope (?:it|this|that) (?:is correct|helps)[.!]?$", re.I)
_IS_ANSWER = re.compile(
    r"(\$[^$]+\$|\S+) is (?:the|our|my) (?:final |correct )?(?:answer|solution|result)$", re.I
)
_SIGNED_BOX = re.compile(r"((?:[=$]|\\\(|\\\[)\s*)-\s*(\\{1,2}boxed\s*\{)(?=[\d.]+\})")
_ANY_NUMBER = re.compile(rf"(?<![\w.,]){_NUMBER}(?!\w)")
_ENDED = re.compile(r"[.!。$*)\]}]\s*$")
_TWO_WORDS = re.compile(r"[^\W\d_]{2}.* [^\W\d_]{2}")
_TASK = re.compile(
    r"(?:please\s)?(?:simplify|compute|find|evaluate|solve|determine|calculate|express|show|prove|"
    r"let|suppose|assume|consider|what|how|which|who)\b",
    re.I,
)


def find_answers(
    completion: str, *, asked: str = "", boxed_only: bool = False, phrases: bool = False
) -> list[str] | Verdict:
    """Return the answers that the completion gives, or an UNPARSABLE verdict.

    More than one only where boxes that stand apart hold different texts.

    Args:
        completion: All that the model wrote.
        asked: The prompt: a sentence of it concludes nothing.
        boxed_only: Only a box or a tag holds an answer.
        phrases: A completion of a few words may be nothing but its answer.

    Example:
        >>> find_answers("We get 3 + 4 = 7. The answer is 7 apples.")
        ['7 apples']
    """
    text = _COMMENT.sub("", _CODE.sub("", clean(completion)))
    found = find(_SIGNED_BOX.sub(r"\1\2-", text))
    if isinstance(found, Verdict):
        return found
    texts: tuple[str, ...] = found.texts
    if found.kind in ("stated", "whole"):
        said = _HOPE.sub("", _TURN.sub("", texts[0]).rstrip()).rstrip()
        text = "" if boxed_only else _said(found.kind, said, asked)
        if not text and phrases and not boxed_only and len(said) <= MAX_PHRASE:
            text = said.strip()
        texts = (text,) if text else ()
    if not texts:
        return unparsable("no final answer")
    if len(texts) > MAX_BOXES:
        return unparsable(f"{len(texts)} different boxed answers")
    texts = tuple(map(_inner, texts))
    for text in texts:
        if len(text) > MAX_ANSWER:
            return unparsable(f"the answer is longer than {MAX_ANSWER} characters")
        if nesting(text) > MAX_NESTING:
            return unparsable(f"the answer has more than {MAX_NESTING} nested brackets")
    return [text for text in texts if canonical(text)] or unparsable("the answer is empty")


def _inner(text: str) -> str:
    """Return what is boxed within a box or tag, where around it stand no other numbers."""
    found = boxes(text)
    if not found or len(text) > MAX_ANSWER:
        return text
    around, end = "", 0
    for box in found:
        around, end = around + text[end : box.start], box.end
    around += text[end:]
    if leaves_open(around) or takes_back(around):
        return text
    if any(char.isdigit() for char in around):
        return _BOX_COMMAND.sub("{", text)
    return ", ".join(box.content for box in found)


def _said(kind: str, text: str, asked: str) -> str:
    return _stated(text) if kind == "stated" else _concluded(text.rstrip(), asked)


def _stated(line: str) -> str:
    """Return the answer at the start of what follows "the answer is"."""
    sentence = _sentence(line.strip().strip("*").strip())
    sentence = _LABEL.sub("", sentence, count=1) if _LABEL.match(sentence) else sentence
    for reading in _readings(sentence):
        if reading and _is_answer(reading):
            return reading
    return sentence.strip(" *`")


def _sentence(line: str) -> str:
    """Return the line up to the first end of a sentence that is not within $...$."""
    spans = [match.span() for match in _MATH.finditer(line)]
    for end in _SENTENCE_END.finditer(line):
        if not any(start < end.start() < stop for start, stop in spans):
            return line[: end.start()]
    return line


def _readings(sentence: str) -> Iterator[str]:
    yield sentence
    if leaves_open(sentence) or takes_back(sentence):
        return
    if asserted := _IS_ANSWER.search(sentence):
        yield asserted[1]
    leading = _MATH.match(sentence) or _LEADING.match(sentence)
    if leading and not _MORE.match(sentence, leading.end()):
        yield next(group for group in leading.groups() if group is not None)
    if not _DENIES.search(sentence):
        yield from _tails(sentence)


def prose(text: str) -> str:
    """Return the result that a boxed sentence ends with; "" where it states none.

    Example:
        >>> prose("The largest n is 34."), prose("7 or 8")
        ('34', '')
    """
    sentence = _LABEL.sub("", text.strip().rstrip(" ."), count=1)
    if leaves_open(sentence) or takes_back(sentence) or _DENIES.search(sentence):
        return ""
    asserted = _IS_ANSWER.search(sentence)
    spans = ["".join(span) for span in _MATH.findall(sentence)]
    if len(spans) > 1 or any(char.isdigit() for char in _MATH.sub(" ", sentence)):
        spans = []
    readings = [sentence, *([asserted[1]] if asserted else []), *spans]
    said = _SAYS.split(sentence)
    readings += said[-1:] if len(said) > 1 else []
    return next((reading for reading in readings if reading and _is_answer(reading)), "")


def _tails(sentence: str) -> Iterator[str]:
    """Return what follows the last "is", and the last =, at the sentence's end."""
    ends = [match.end() for match in _SAYS.finditer(sentence)]
    for end in ends[-1:-4:-1]:
        tail = sentence[end:]
        if tail.count("$") % 2:
            tail = tail.replace("$", "", 1) if sentence[:end].count("$") % 2 else tail
        yield tail
        leading = _MATH.match(tail) or _LEADING.match(tail)
        if leading and not _MORE.match(tail, leading.end()):
            yield next(group for group in leading.groups() if group is not None)


def _is_answer(text: str) -> bool:
    """Return whether the text is mathematics, and not prose."""
    if len(text) > MAX_WHOLE or nesting(text) > MAX_NESTING:
        return False
    found = shape(text)
    if has_words(found):
        return False
    return _MATH.fullmatch(text) is not None or all(map(_is_read, parts(found)))


def _is_read(part: Shape) -> bool:
    """Return whether the part is more than a letter before words: I am done."""
    if not isinstance(part, Scalar):
        return True
    if part.unit_words and part.unit is None and not any(map(str.isdigit, part.text)):
        return False
    return part.tree is not None


def _concluded(text: str, asked: str) -> str:
    """Return the result that the last sentence states; "" where it states none."""
    if len(text) <= MAX_WHOLE and "\n" not in text and _is_answer(text):
        return text
    line = text[-MAX_WHOLE:].rpartition("\n")[2].strip()
    if bold := _BOLD_END.search(line):
        return bold[1]
    if not _ENDED.search(line):
        return ""  # cut off
    sentence = _last_sentence(line)
    if leaves_open(sentence) or takes_back(sentence) or _DENIES.search(sentence):
        return ""
    if _is_question(sentence, asked):
        return ""
    asserted = _IS_ANSWER.search(sentence)
    for reading in (*([asserted[1]] if asserted else []), *_tails(sentence)):
        if _is_answer(reading):
            return reading
    if len(sentence) > MAX_SENTENCE:
        return ""  # its start is not seen
    return _only_value(sentence)


def _is_question(sentence: str, asked: str) -> bool:
    """Return whether the sentence sets a task, or says again what the prompt says."""
    again = _TWO_WORDS.search(sentence) is not None and sentence in asked
    return again or _TASK.match(sentence) is not None


def _only_value(sentence: str) -> str:
    """Return the one value that stands in the sentence; "" where there are more."""
    spans = _MATH.findall(sentence)
    rest = _MATH.sub(" ", sentence)
    if len(spans) == 1 and not any(char.isdigit() for char in rest):
        return "".join(spans[0])
    numbers = _ANY_NUMBER.findall(rest)
    return numbers[0] if len(numbers) == 1 and not spans else ""


def _last_sentence(line: str) -> str:
    line = line.rstrip(" .!。")
    spans = [match.span() for match in _MATH.finditer(line)]
    start = 0
    for end in _SENTENCE_END.finditer(line):
        if not any(first < end.start() < last for first, last in spans):
            start = end.end()
    return line[start:].strip()


def nesting(text: str) -> int:
    r"""Return how deep brackets stand in one another; every `\begin` counts as one.

    Example:
        >>> nesting("((1), 2)"), nesting("))))((")
        (2, 2)
    """
    depth = deepest = 0
    for char in text:
        depth = max(depth + (char in "([{") - (char in ")]}"), 0)
        deepest = max(deepest, depth)
    return deepest + text.count(r"\begin")
