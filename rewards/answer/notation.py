r"""One spelling for what has several: Unicode and LaTeX variants, thousands separators, spacing.

    １,２３４ °   1\,234   1{,}234        ->   1234
    \dfrac{1}{2}   ½   \tfrac12           ->   \frac{1}{2}, \frac12
    \left( −1 , ∞ \right)                 ->   ( -1 , \infty )

Every rule is a pattern that is linear in the text.
"""

import re
import unicodedata

# LaTeX, and the symbols that are written so
_TABLE = r"""
- − – — ﹣ －        \times × ✕ ⨯        \cdot · ⋅ ∙ •       ^{\circ} ° ˚ º      ' ’ ‘ ` ´ ′
\langle ⟨ 〈 《      \rangle ⟩ 〉 》      \le ≤ ⩽ ≦           \ge ≥ ⩾ ≧           \ne ≠
\emptyset ∅ ⌀       | ∣ ｜              / ÷ ∕ ⁄ ／          \pm ±               \mp ∓
\sqrt √             \infty ∞            \cup ∪              \cap ∩              \in ∈
\approx ≈           \equiv ≡            \setminus ∖         \land ∧             \lor ∨
\to →               \Rightarrow ⇒       \mathbb{R} ℝ        \mathbb{Z} ℤ        \mathbb{N} ℕ
\mathbb{Q} ℚ        \lfloor ⌊           \rfloor ⌋           \lceil ⌈            \rceil ⌉
\ell ℓ              ( （                ) ）                , ， 、             : ：
; ；                = ＝                + ＋                % ％                < ＜
> ＞                [ ［                ] ］                { ｛                } ｝
. 。 ．             \alpha α            \beta β             \gamma γ            \delta δ
\epsilon ε          \zeta ζ             \eta η              \theta θ            \iota ι
\kappa κ            \lambda λ           \mu μ µ             \nu ν               \xi ξ
\pi π               \rho ρ              \sigma σ ς          \tau τ              \upsilon υ
\phi φ              \chi χ              \psi ψ              \omega ω            \Gamma Γ
\Delta Δ            \Theta Θ            \Lambda Λ           \Xi Ξ               \sum Σ
\prod Π             \Phi Φ              \Psi Ψ              \Omega Ω            \text{euro} €
\text{GBP} £        \text{yen} ¥        \text{rupee} ₹
"""
_SYMBOLS = {
    symbol: f"{latex} " if latex[-1].isalpha() else latex
    for latex, *symbols in map(str.split, re.split(r"\n|\s{2,}", _TABLE.strip()))
    for symbol in symbols
}
_SYMBOL = re.compile("|".join(map(re.escape, _SYMBOLS)))
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉ₙ", "0123456789n")
_RAISED_RUN, _LOWERED_RUN = re.compile("[⁰¹²³⁴-⁹⁻⁺ⁿ]+"), re.compile("[₀-₉ₙ]+")
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_CIRCLED = re.compile("[①-⑳]+")
_ROOT = re.compile(r"√\s*(\d+(?:\.\d+)?|[a-zA-Zπ])")

_COMMANDS = (
    "frac|sqrt|text|left|right|pi|cdot|times|begin|end|infty|boxed|mathrm|circ|pm|cup|binom|le|leq|"
    "ge|geq|ne|neq|in|alpha|beta|theta|sin|cos|tan|ln|log|quad|mid|langle|rangle"
)
_DOUBLED = re.compile(rf"(?<!\\)\\\\(?=(?:[dt]?(?:{_COMMANDS}))(?![a-z]))")
_SIZES = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|mathstrut)(?![a-zA-Z])"
)
_EMPTY_SIDE = re.compile(r"\\(?:left|right)\s*\.")
_SPACES = re.compile(r"(?<!\\)\\[,;:> !\n()\[\]]|\\q?quad(?![a-zA-Z])|\\thinspace|~|[^\S\n]")
_GLUED_QUAD = re.compile(r"\\(q?quad)(?=[a-zA-Z])")
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
# the commands on the right of each pair are written as the left one
_SHORTER = r"""
\le leq leqslant leqq lt= | \ge geq geqslant geqq | \ne neq | < lt | > gt | \cup cupdot bigcup
\emptyset varnothing | "|" vert lvert rvert | \{ lbrace | \} rbrace | [ lbrack | ] rbrack
/ div | ^{\circ} degree | \ldots dots cdots | \setminus backslash | \lor vee | \land wedge
\epsilon varepsilon | \phi varphi | \cdot ast bullet | \asin arcsin | \acos arccos | \atan arctan
\tan tg | \cot ctg | \binom dbinom tbinom | \Leftrightarrow iff
"""
_SHORT_COMMANDS = {
    command: latex.strip('"')
    for latex, *commands in map(str.split, re.split(r"\n|\s\|\s", _SHORTER.strip()))
    for command in commands
}
_SHORT = re.compile(rf"\\({'|'.join(_SHORT_COMMANDS)})(?![a-zA-Z])")
_CIRCLE = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))")
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|up|normal)?|math(?:rm|bf|it|sf|tt|normal)|mbox|hbox|operatorname\*?"
    r"|emph|bold|boldsymbol)\s*\{([^{}]*)\}"
)
_ACCENT = re.compile(
    r"\\(?:vec|hat|bar|tilde|widehat|overrightarrow|mathcal|mathbf)\s*(?:\{\s*([a-zA-Z]{1,2})\s*\}|([a-zA-Z]))"
)
_DECLARED = re.compile(r"\\(?:rm|bf|it|tt)(?![a-zA-Z])")
_LATIN = re.compile(r"[a-zA-Z]")
_FUNCTIONS = """sin cos tan cot sec csc sinh cosh tanh asin acos atan arcsin arccos arctan ln log lg exp
max min gcd lcm"""
FUNCTION_NAMES = frozenset(_FUNCTIONS.split())

# 1,\!234 and 1{,}234 are numbers wherever they stand
_TYPESET_COMMA = re.compile(r"(?<=\d)\s*(?:,\s*\\!\s*|\{\s*,\s*\}\s*|\\,\s*)(?=\d{3}(?!\d))")
_GROUPS = re.compile(r"(?<![\d.,\w])[1-9]\d{0,2}(,|[ ~]|\\[;: ])\d{3}(?:\1\d{3})*(?![\d/,]*[\d/])")
_POINT = re.compile(r"(?<=\d)\{\s*([.,])\s*\}(?=\d)")
_MIXED = re.compile(r"(?<![\d.^_{/])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])")
_ORDINAL = re.compile(
    r"(?<=\d)\s*\^?\s*\{?\s*\\text\{\s*(?:st|nd|rd|th)\s*\}\s*\}?|(?<=\d)(?:st|nd|rd|th)\b"
)
_HALF_DAY = re.compile(r"\b([ap])\.\s?m\b\.?", re.I)
_RAISED_FIRST = re.compile(r"\^(\{[^{}]*\}|\w)_(\{[^{}]*\}|\w)")
_BRACKET = re.compile(r"[(\[]|\\\{|\\langle|&")
_UNESCAPED_DOLLAR = re.compile(r"(?<!\\)\$")
_WRAPPER = re.compile(r"\\(?:boxed|fbox|mathbf|boldsymbol)\s*\{(.*)\}", re.S)


def canonical(text: str) -> str:
    r"""Return the text in one spelling; spacing is a blank, words are in `\text{}`.

    Example:
        >>> canonical(r"\left(-\dfrac12,\,∞\right)"), canonical(r"12\;345~\mathrm{cm}^2.")
        ('(-\\frac12, \\infty )', '12345 \\text{cm}^2')
    """
    text = _DOUBLED.sub(r"\\", _plain_text(text))
    text = _POINT.sub(r"\1", _TYPESET_COMMA.sub("", text))
    text = _EMPTY_SIDE.sub(" ", _separated(text))
    text = _SIZES.sub(" ", _GLUED_QUAD.sub(" ", text).replace(r"\!", "").replace(r"\\n", " "))
    text = _FRACTION.sub(r"\\frac", _SHORT.sub(_short, _SPACES.sub(" ", text)))
    text = _ACCENT.sub(r" \1\2 ", text)
    text = _TEXT.sub(_worded, _CIRCLE.sub(r"^{\\circ} ", text))
    text = _HALF_DAY.sub(r" \1m ", _ORDINAL.sub("", _DECLARED.sub(" ", text)))  # p.m.
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", _RAISED_FIRST.sub(r"_\2^\1", text))
    return " ".join(_trimmed(text).split())


def _plain_text(text: str) -> str:
    """Return the text with LaTeX for what is not ASCII, except for letters of other scripts."""
    if text.isascii():
        return text
    text = _RAISED_RUN.sub(lambda m: f"^{{{m[0].translate(_RAISED)}}}", text)
    text = _LOWERED_RUN.sub(lambda m: f"_{{{m[0].translate(_LOWERED)}}}", text)
    text = _VULGAR.sub(_vulgar, text)
    text = _CIRCLED.sub(lambda m: ", ".join(str(ord(c) - ord("①") + 1) for c in m[0]), text)
    text = _ROOT.sub(r"\\sqrt{\1}", text)
    return _SYMBOL.sub(lambda match: _SYMBOLS[match[0]], text)


def _vulgar(match: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", match[0]).partition("⁄")
    return rf"\frac{{{top}}}{{{bottom}}}"


def _separated(text: str) -> str:
    """Return the text with 1,234 and 1 234 as 1234; within brackets a comma separates."""
    in_brackets = _BRACKET.search(text) is not None

    def joined(match: re.Match[str]) -> str:
        separator = match[1]
        return match[0] if separator == "," and in_brackets else match[0].replace(separator, "")

    return _GROUPS.sub(joined, text)


def _short(match: re.Match[str]) -> str:
    return _SHORT_COMMANDS[match[1]] + " "


def _worded(match: re.Match[str]) -> str:
    r"""Return `\text{words}`; a function's name, an i or an e is what it is without the wrapper."""
    word = match[1].strip()
    if word in FUNCTION_NAMES:
        return f" \\{word} "
    if word in ("i", "e"):
        return f" {word} "
    is_words = _LATIN.search(word) or not word.isascii()
    return rf"\text{{{match[1]}}}" if is_words else f" {match[1]} "


def _trimmed(text: str) -> str:
    """Return the text without dollar signs, outer wrappers, and the sentence's punctuation."""
    while True:
        before = text
        text = _UNESCAPED_DOLLAR.sub("", text).strip().strip("*").strip()
        text = text.rstrip(".,;: ").removesuffix(r"\\").rstrip(".,;: ").removesuffix("\\")
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
    return True
