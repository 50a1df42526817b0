r"""One spelling for what has several: Unicode and LaTeX variants, thousands separators, spacing.

    １,２３４ °   1\,234   1{,}234        ->   1234
    \dfrac{1}{2}   ½   \tfrac12           ->   \frac{1}{2}, \frac12
    \left( −1 , ∞ \right)                 ->   ( -1 , \infty )

Every rule is a pattern that is linear in the text.
"""

import re
import unicodedata

_SYMBOLS = {
    **dict.fromkeys("−–—﹣－", "-"),
    **dict.fromkeys("×✕⨯", r"\times "),
    **dict.fromkeys("·⋅∙•", r"\cdot "),
    **dict.fromkeys("°˚º", r"^{\circ} "),
    **dict.fromkeys("’‘`´", "'"),
    **dict.fromkeys("“”", '"'),
    **dict.fromkeys("《⟨〈", r"\langle "),
    **dict.fromkeys("》⟩〉", r"\rangle "),
    **dict.fromkeys("⩽≤≦", r"\le "),
    **dict.fromkeys("⩾≥≧", r"\ge "),
    **dict.fromkeys("∅⌀", r"\emptyset "),
    **dict.fromkeys("∣｜", "|"),
    **{"÷": "/", "∕": "/", "⁄": "/", "±": r"\pm ", "∓": r"\mp ", "√": r"\sqrt ", "∞": r"\infty "},
    **{"∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "≠": r"\ne ", "≈": r"\approx ", "≡": r"\equiv "},
    **{"∖": r"\setminus ", "∧": r"\land ", "∨": r"\lor ", "→": r"\to ", "⇒": r"\Rightarrow "},
    **{"ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "′": "'"},
    **{"⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "ℓ": r"\ell "},
    **{"（": "(", "）": ")", "，": ",", "：": ":", "；": ";", "＝": "=", "＋": "+", "％": "%", "、": ","},
    **{"＜": "<", "＞": ">", "［": "[", "］": "]", "｛": "{", "｝": "}", "／": "/", "。": ".", "．": "."},
    **{"€": r"\text{euro}", "£": r"\text{pound sterling}", "¥": r"\text{yen}", "₹": r"\text{rupee}"},
}
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho "
    "sigma_ sigma tau upsilon phi chi psi omega"
).split()
_SYMBOLS |= {chr(0x3B1 + i): rf"\{name.rstrip('_')} " for i, name in enumerate(_GREEK)}
_SYMBOLS |= {
    chr(0x391 + i): rf"\{_GREEK[i].capitalize()} " for i in range(24) if i not in (14, 17)
} | {"Σ": r"\sum ", "Π": r"\prod ", "Ω": r"\Omega ", "µ": r"\mu "}
_SYMBOL = re.compile("|".join(map(re.escape, _SYMBOLS)))
_RAISED = {c: str(unicodedata.digit(c)) for c in "⁰¹²³⁴⁵⁶⁷⁸⁹"} | {"⁻": "-", "⁺": "+", "ⁿ": "n"}
_LOWERED = {c: str(unicodedata.digit(c)) for c in "₀₁₂₃₄₅₆₇₈₉"} | {"ₙ": "n"}
_RAISED_RUN = re.compile(f"[{''.join(_RAISED)}]+")
_LOWERED_RUN = re.compile(f"[{''.join(_LOWERED)}]+")
_CIRCLED = re.compile("[①-⑳]+")
_VULGAR = re.compile("[¼-¾⅐-⅞]")

_COMMANDS = (
    "frac sqrt text left right pi cdot times begin end infty boxed mathrm circ pm cup binom le leq "
    "ge geq ne neq in alpha beta theta sin cos tan ln log quad mid langle rangle"
)
_DOUBLED = re.compile(r"(?<!\\)\\\\(?=(?:[dt]?(?:" + _COMMANDS.replace(" ", "|") + r"))(?![a-z]))")
_SIZES = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|mathstrut)(?![a-zA-Z])"
)
_EMPTY_SIDE = re.compile(r"\\(?:left|right)\s*\.")
_SPACES = re.compile(r"(?<!\\)\\[,;:> !\n()\[\]]|\\q?quad(?![a-zA-Z])|\\thinspace|~|[^\S\n]")
_GLUED_QUAD = re.compile(r"\\(q?quad)(?=[a-zA-Z])")
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_SHORT_COMMANDS = {
    **dict.fromkeys(("leq", "leqslant", "leqq"), "le"),
    **dict.fromkeys(("geq", "geqslant", "geqq"), "ge"),
    **{"neq": "ne", "lt": "<", "gt": ">", "cupdot": "cup", "bigcup": "cup", "varnothing": "emptyset"},
    **{"vert": "|", "lvert": "|", "rvert": "|", "lbrace": r"\{", "rbrace": r"\}", "div": "/"},
    **{"degree": r"^{\circ}", "dots": r"\ldots", "cdots": r"\ldots", "backslash": r"\setminus"},
    **{"vee": "lor", "wedge": "land", "varepsilon": "epsilon", "varphi": "phi", "ast": "cdot"},
    **{"lbrack": "[", "rbrack": "]", "langle": r"\langle", "iff": "Leftrightarrow", "bullet": "cdot"},
    **{"arcsin": "asin", "arccos": "acos", "arctan": "atan", "tg": "tan", "ctg": "cot"},
    **{"gt": ">", "dbinom": "binom", "tbinom": "binom"},
}
_SHORT = re.compile(r"\\(" + "|".join(_SHORT_COMMANDS) + r")(?![a-zA-Z])")
_CIRCLE = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))")
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|up|normal)?|math(?:rm|bf|it|sf|tt|normal)|mbox|hbox|operatorname\*?"
    r"|emph|bold|boldsymbol)\s*\{([^{}]*)\}"
)
_ORDINAL = re.compile(r"(?<=\d)\s*\^?\s*\{?\s*\\text\{\s*(?:st|nd|rd|th)\s*\}\s*\}?|(?<=\d)(?:st|nd|rd|th)\b")
_HALF_DAY = re.compile(r"\b([ap])\.\s?m\b\.?", re.I)
_RAISED_FIRST = re.compile(r"\^(\{[^{}]*\}|\w)_(\{[^{}]*\}|\w)")
_DECLARED = re.compile(r"\\(?:rm|bf|it|tt)(?![a-zA-Z])")
_LATIN = re.compile(r"[a-zA-Z]")
FUNCTION_NAMES = frozenset(
    "sin cos tan cot sec csc sinh cosh tanh asin acos atan arcsin arccos arctan ln log lg exp "
    "max min gcd lcm det deg".split()
)

# 1,\!234 and 1{,}234 are numbers wherever they stand
_TYPESET_COMMA = re.compile(r"(?<=\d)\s*(?:,\s*\\!\s*|\{\s*,\s*\}\s*|\\,\s*)(?=\d{3}(?!\d))")
_GROUPS = re.compile(r"(?<![\d.,\w])([1-9]\d{0,2})(?:(,|[ ~]|\\[;: ])\d{3})(?:\2\d{3})*(?![\d/,]*[\d/])")
_POINT = re.compile(r"(?<=\d)\{\s*([.,])\s*\}(?=\d)")
_MIXED = re.compile(r"(?<![\d.^_{/])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])")
_BRACKET = re.compile(r"[(\[]|\\\{|\\langle|&")
_UNESCAPED_DOLLAR = re.compile(r"(?<!\\)\$")
_WRAPPER = re.compile(r"\\(?:boxed|fbox|mathbf|boldsymbol)\s*\{(.*)\}", re.S)


def canonical(text: str) -> str:
    r"""Return the text in one spelling; spacing is a blank, words are in `\text{}`.

    Example:
        >>> canonical(r"\left(-\dfrac12,\,∞\right)"), canonical(r"12\;345~\mathrm{cm}^2.")
        ('( -\\frac12, \\infty )', '12345 \\text{cm}^2')
    """
    text = _DOUBLED.sub(r"\\", _unicode(text))
    text = _POINT.sub(r"\1", _TYPESET_COMMA.sub("", text))
    text = _separated(text)
    text = _GLUED_QUAD.sub(" ", _EMPTY_SIDE.sub(" ", text))
    text = _SPACES.sub(" ", _SIZES.sub(" ", text.replace(r"\!", "").replace(r"\\n", " ")))
    text = _FRACTION.sub(r"\\frac", _SHORT.sub(_short, text))
    text = _CIRCLE.sub(r"^{\\circ} ", text)
    text = _DECLARED.sub(" ", _TEXT.sub(_worded, text))
    text = _HALF_DAY.sub(r" \1m ", _ORDINAL.sub("", text)) # p.m.
    text = _RAISED_FIRST.sub(r"_\2^\1", text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    return " ".join(_trimmed(text).split())


def _unicode(text: str) -> str:
    if text.isascii():
        return text
    text = _RAISED_RUN.sub(lambda m: "^{" + "".join(_RAISED[c] for c in m[0]) + "}", text)
    text = _LOWERED_RUN.sub(lambda m: "_{" + "".join(_LOWERED[c] for c in m[0]) + "}", text)
    text = _VULGAR.sub(_vulgar, text)
    text = _CIRCLED.sub(lambda m: ", ".join(str(ord(c) - 0x245F) for c in m[0]), text)
    text = re.sub(r"√\s*(\d+(?:\.\d+)?|[a-zA-Zπ])", r"\\sqrt{\1}", text)
    return _SYMBOL.sub(lambda match: _SYMBOLS[match[0]], text)


def _vulgar(match: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", match[0]).partition("⁄")
    return rf"\frac{{{top}}}{{{bottom}}}"


def _separated(text: str) -> str:
    """Return the text with 1,234 and 1 234 as 1234; within brackets a comma separates."""
    in_brackets = _BRACKET.search(text) is not None

    def joined(match: re.Match[str]) -> str:
        separator = match[2]
        return match[0] if separator == "," and in_brackets else match[0].replace(separator, "")

    return _GROUPS.sub(joined, text)


def _short(match: re.Match[str]) -> str:
    other = _SHORT_COMMANDS[match[1]]
    return rf"\{other} " if _LATIN.match(other) else other + " "


def _worded(match: re.Match[str]) -> str:
    r"""Return `\text{words}`; a function's name, an i or an e is what it is without the wrapper."""
    word = match[1].strip()
    if word in FUNCTION_NAMES:
        return f" \\{word} "
    if word in ("i", "e"):
        return f" {word} "
    return rf"\text{{{match[1]}}}" if _LATIN.search(word) or not word.isascii() else f" {match[1]} "


def _trimmed(text: str) -> str:
    """Return the text without dollar signs, outer wrappers, and the sentence's punctuation."""
    while True:
        before = text
        text = _UNESCAPED_DOLLAR.sub("", text).strip().strip("*").strip()
        for opening, closing in ((r"\(", r"\)"), (r"\[", r"\]")):
            text = text.removeprefix(opening).removesuffix(closing)
        text = text.rstrip(".,;: ").removesuffix(r"\\").rstrip(".,;: ")
        if text.endswith("\\"):
            text = text[:-1]
        match = _WRAPPER.fullmatch(text)
        if match and _balanced(match[1]):
            text = match[1]
        if text == before:
            return text


def _balanced(text: str) -> bool:
    depth = 0
    for char in text.replace(r"\{", "").replace(r"\}", ""):
        depth += (char == "{") - (char == "}")
        if depth < 0:
            return False
    return depth == 0
