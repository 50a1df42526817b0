"""How a reader sees a response, where that differs from its characters.

An instruction must hold for the text as written and for the text as seen, so that what no reader
sees (zero-width characters, HTML comments) can neither satisfy nor hide anything. All functions
are linear in the text.
"""

import html
import re
import unicodedata
from functools import cache

from rlvr.rewards.extraction import without_comments

# Unicode's Default_Ignorable_Code_Point: what is drawn as nothing, the Hangul fillers included
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_WORD = re.compile(r"\w+")
_EMPHASIS = re.compile(r"(?<=\w)[*_~`]+(?=\w)")
_INLINE_TAG = re.compile(r"</?[a-zA-Z]{1,8}/?>")
_SPELLED = re.compile(r"(?<!\w)(?:[^\W_][ .\-_·]){2,}[^\W_](?!\w)")
_MARKS = re.compile("(?<=[A-Za-z])[\u0300-\u036f]+")
# letters that are drawn like a Latin one: Cyrillic, Greek, and small capitals
_LOOKALIKES = str.maketrans(
    "АВЕЅІЈКМНОРСТУХаеѕіјорсухԁһԛԝΑΒΕΖΗΙΚΜΝΟΡΤΥΧαινορυχᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ",
    "ABESIJKMHOPCTYXaesijopcyxdhqwABEZHIKMNOPTYXaivopuxabcdefghijklmnoprstuvwyz",
)


def visible(text: str) -> str:
    r"""Return the text without invisible characters and HTML comments.

    Example:
        >>> visible("a\u200bb <!-- c d -->e")
        'ab e'
    """
    if not text.isascii():
        text = INVISIBLE.sub("", text)
    return without_comments(text)


def unmasked(text: str) -> str:
    r"""Return the text with disguised letters as plain ones, to look for what must not be there.

    Undone are character references, tags and emphasis inside a word, letters drawn one by one, other
    forms of a letter, marks on it, and letters of another script that are drawn like Latin ones.

    Example:
        >>> unmasked("r<b>iv</b>er r*iv*er &#114;iver \uff52iver r\u0456v\u0332er r-i-v-e-r \u0440\u0438\u043a\u0430")
        'river river river river river river рика'
    """
    text = html.unescape(visible(text))
    text = _EMPHASIS.sub("", _INLINE_TAG.sub("", text))
    if not text.isascii():
        text = _MARKS.sub("", unicodedata.normalize("NFKC", visible(text)))
        text = _WORD.sub(_as_latin, text)
    return _SPELLED.sub(lambda found: "".join(filter(str.isalnum, found[0])), text)


def has_content(text: str) -> bool:
    """Return whether the text has a letter or a digit that a reader sees."""
    return any(map(str.isalnum, visible(text)))


def lines(text: str) -> list[str]:
    """Return the lines, split at line feeds only."""
    return text.split("\n")


def loose_readings(text: str) -> list[str]:
    r"""Return the text and its readings without first line, last line, both, and asterisks.

    Example:
        >>> loose_readings("Sure:\n*a*")
        ['Sure:\n*a*', '*a*', 'Sure:', '', 'Sure:\na', 'a']
    """
    rows = lines(text)
    kept = (rows, rows[1:], rows[:-1], rows[1:-1])
    plain = [text, *("\n".join(some).strip() for some in kept[1:])]
    return list(dict.fromkeys([*plain, *(reading.replace("*", "") for reading in plain)]))


@cache
def is_comma(char: str) -> bool:
    """Return whether a character is a comma of any script, or is drawn like one."""
    if char == "\u201a":  # single low-9 quotation mark
        return True
    return unicodedata.category(char)[0] == "P" and "COMMA" in unicodedata.name(char, "")


def _as_latin(match: re.Match[str]) -> str:
    """Return the word in Latin letters where all of it can be read so."""
    latin = match[0].translate(_LOOKALIKES)
    return latin if latin.isascii() else match[0]
