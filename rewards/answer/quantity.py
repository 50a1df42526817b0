r"""Plain numbers as exact fractions: 1,234  -3.50  7/8  \frac{7}{8}  2.5e3  6.63 \times 10^{-34}.

What can be compared here needs no computer algebra, and is exact where that rounds.
"""

import re
from fractions import Fraction

MAX_DIGITS = 400  # of a number; also the largest power of ten
_DECIMAL = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_SCIENTIFIC = re.compile(
    rf"(?P<mantissa>{_DECIMAL})(?:[eE](?P<e>[-+]?\d+)"
    r"|(?:\\times|\\cdot|\*|×)10\^(?:\{(?P<braced>[-+]?\d+)\}|(?P<digit>\d)(?!\d)))?",
    re.ASCII,
)
_TEN = re.compile(r"10\^(?:\{([-+]?\d+)\}|(\d)(?!\d))", re.ASCII)
_RATIO = re.compile(
    r"(?P<sign>[-+]?)(?:\\frac\{(?P<a>[-+]?\d+)\}\{(?P<b>[-+]?\d+)\}|\\frac(?P<c>\d)(?P<d>\d)"
    r"|(?P<e>\d+)/(?P<f>\d+))",
    re.ASCII,
)
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", re.ASCII)


def quantity(text: str) -> Fraction | None:
    r"""Return the value of a plain number without blanks; None if the text is anything else.

    Example:
        >>> quantity("1,234.50"), quantity(r"-\frac{6}{8}"), quantity("2x")
        (Fraction(2469, 2), Fraction(-3, 4), None)
    """
    if len(text) > MAX_DIGITS:
        return None
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if match := _RATIO.fullmatch(text):
        top, bottom = (int(match[x] or match[y] or match[z]) for x, y, z in ("ace", "bdf"))
        return None if bottom == 0 else Fraction(top, bottom) * (-1 if match["sign"] == "-" else 1)
    if match := _TEN.fullmatch(text):
        return _scaled(Fraction(1), match[1] or match[2])
    if match := _SCIENTIFIC.fullmatch(text):
        exponent = match["e"] or match["braced"] or match["digit"] or "0"
        return _scaled(Fraction(match["mantissa"].rstrip(".")), exponent)
    return None


def _scaled(mantissa: Fraction, exponent: str) -> Fraction | None:
    power = int(exponent)
    return mantissa * Fraction(10) ** power if abs(power) <= MAX_DIGITS else None
