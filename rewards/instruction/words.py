"""Words, words in capitals, and sentences of a text, counted as IFEval's reference counts them.

The reference splits sentences with NLTK's trained Punkt model, which must be downloaded; the rule
here follows the same order of decisions with a short list of abbreviations in place of the model.
"""

import re

from rlvr.rewards.instruction.text import INVISIBLE

LONGEST = 80  # characters of a word that are looked at

_WORD = re.compile(r"\w+")
# \w without the connectors, which look like a space or a line under it
_PART = re.compile("[^\\W_\u203f\u2040\u2054\ufe33\ufe34\ufe4d-\ufe4f\uff3f]+")
# NLTK's word tokenizer separates these; a hyphen, a slash, a period stay inside a word
_BETWEEN = re.compile(r"[\s;@#$%&?!*\[\](){}<>\"“”«»‘’„`]+|--+|\.{2,}|[:,](?!\d)")
_CONTRACTION = re.compile(r"(?<=[^'])('[SMD]|'LL|'RE|'VE|N'T)$")

_END = re.compile(r"[.?!](?=[)\";}\]*:@'({\[!?]|\s|$)")
_CLOSING = "\"')]}"
_ABBREVIATED = (
    "dr mr mrs ms prof rev hon gen col maj capt cmdr lt sgt sen rep gov pres adm st jr sr vs v "
    "inc co corp ltd bros cos jan feb mar apr aug sept sep oct nov dec mon tues wed thurs fri "
    "u.s u.k u.n d.c e.u a.m p.m i.e ph.d m.d b.c a.d n.y calif fla mass conn ala ariz wash"
)
# words that begin a sentence more often than they are a name: they end one even after "U.S."
_BEGINNING = (
    "the a an this that these those it he she they we you i in on at if when as for but and so "
    "there however although while with my our his her their its what how why who where"
)
_ABBREVIATIONS = frozenset(_ABBREVIATED.split())
_STARTERS = frozenset(_BEGINNING.split())
_NEXT_WORD = re.compile(r"\W*(\w*)")


def word_counts(text: str) -> tuple[int, int]:
    """Return the least and the greatest number of words that the text can be said to have.

    They differ for underscores and for letters that nobody sees: "_" is no word, "one_two" hides one.

    Example:
        >>> word_counts("one two"), word_counts("one_two _ _")
        ((2, 2), (1, 3))
    """
    words = _WORD.findall(text)
    written = sum(any(map(str.isalnum, word)) for word in words)
    parts = len(_PART.findall(INVISIBLE.sub(" ", text)))
    return min(written, parts), max(len(words), parts)


def capital_words(text: str) -> int:
    """Return how many words are written in capitals; a contraction counts as two words.

    Example:
        >>> capital_words("NASA said: I'M a WELL-KNOWN agency, OK?")
        5
    """
    total = 0
    for token in _BETWEEN.split(text):
        if token.isupper() and any(map(str.isalpha, token)):
            total += 2 if _CONTRACTION.search(token) else 1
    return total


def sentences(text: str) -> list[str]:
    """Return the sentences that hold a letter or a digit.

    Example:
        >>> sentences("Dr. No came. It was 3.5 p.m. there... Then 1. Yes! ! !")
        ['Dr. No came.', 'It was 3.5 p.m. there...', 'Then 1.', 'Yes!']
    """
    found, start = [], 0
    for match in _END.finditer(text):
        end = match.end()
        if end < start or not _ends_sentence(text, match.start()):
            continue
        while end < len(text) and text[end] in _CLOSING:
            end += 1
        found.append(text[start:end])
        start = end
    found.append(text[start:])
    return [part.strip() for part in found if any(map(str.isalnum, part))]


def _ends_sentence(text: str, position: int) -> bool:
    """Return whether the mark at the position ends a sentence: a period may do other work."""
    if text[position] != ".":
        return True
    begin = position
    while begin and position - begin < LONGEST and not text[begin - 1].isspace():
        begin -= 1
    word = text[begin:position].lstrip("\"'([{*_#-").lower()
    following = _NEXT_WORD.match(text, position + 1, position + LONGEST)
    after = following[1] if following else ""
    ellipsis = word.endswith(".")
    initial = len(word) == 1 and word.isalpha() and after[:1].isupper()
    if ellipsis or initial or word.rpartition("-")[2] in _ABBREVIATIONS:
        capital = after[:1].isupper()
        return not after or (capital and (ellipsis or after.lower() in _STARTERS))
    # "2. a thing" goes on; "2. A thing" are two, as in the reference
    return not (word.isdigit() and after[:1].islower())
