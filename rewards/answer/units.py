r"""Units of measurement by name: km, \text{ cm}^2, square feet, m/s^2, mph, dollars, °.

A unit is the powers of its base units and an exact factor, so 5 km = 5000 m is equality of
fractions. Temperatures have no factor between their scales: each scale is a base unit of its own.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

MAX_UNIT = 80  # characters

# names = factor and units; a name with * takes SI prefixes. What follows a slash is the denominator.
_TABLE = """
m* meter* metre* = m          g* gram* = 0.001 kg           s* second* sec = s
A* ampere* amp = A            mol* mole* = mol              K kelvin = K
L* l* liter* litre* = 0.001 m^3                             Hz* hertz* = /s
N* newton* = kg m/s^2         Pa* pascal* = kg/m s^2        J* joule* = kg m^2/s^2
W* watt* = kg m^2/s^3         C* coulomb* = A s             V* volt* = kg m^2/A s^3
Ω* ohm* = kg m^2/A^2 s^3      F* farad* = A^2 s^4/kg m^2    T* tesla* = kg/A s^2
eV* = 1.602176634e-19 kg m^2/s^2                            cal* calorie* = 4.184 kg m^2/s^2
bit* = bit                    B* byte* = 8 bit              bar* = 100000 kg/m s^2
atm = 101325 kg/m s^2         t ton tonne = 1000 kg         cc = 0.000001 m^3
min minute = 60 s             h hr hour = 3600 s            day = 86400 s
week = 604800 s               month = month                 yr year = year
in inch inches = 0.0254 m     ft foot feet = 0.3048 m       yd yard = 0.9144 m
mi mile = 1609.344 m          acre = 4046.8564224 m^2       ha hectare = 10000 m^2
lb pound = 0.45359237 kg      oz ounce = 0.028349523125 kg  mph = 0.44704 m/s
kph = 5/18 m/s              gal gallon = 0.003785411784 m^3     gm = 0.001 kg
° deg degree = °              rad* radian* = rad            rpm = 1/60 turn/s
turn revolution = turn        °C celsius = °C               °F fahrenheit = °F
$ dollar USD buck = $         ¢ cent = 0.01 $               € euro EUR = €
£ GBP = £                     ¥ yen JPY = ¥                 ₹ rupee INR Rs = ₹
"""
_PREFIXES = {"n": -9, "u": -6, "µ": -6, "μ": -6, "m": -3, "c": -2, "d": -1, "h": 2}
_PREFIXES |= {"k": 3, "M": 6, "G": 9, "T": 12, "nano": -9, "micro": -6, "milli": -3}
_PREFIXES |= {"centi": -2, "deci": -1, "hecto": 2, "kilo": 3, "mega": 6, "giga": 9, "tera": 12}

_DEGREE = re.compile(r"\^?\s?\{?\s?\\(?:circ|degree)(?![a-zA-Z])\s?\}?|º")
_COMMAND = re.compile(
    r"\\(?:text|mathrm|mbox|textrm|operatorname|rm|cdot|times)(?![a-zA-Z])|\\[,;:!]"
)
_SUPERSCRIPT = re.compile("[⁰¹²³⁴-⁹⁻]{1,3}")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SPELLED = (
    (re.compile(r"\b(?:square|sq\.?)\s([^\W\d_]+)", re.I), r"\1^2"),
    (re.compile(r"\b(?:cubic|cu\.?)\s([^\W\d_]+)", re.I), r"\1^3"),
    (re.compile(r"([^\W\d_]+)\ssquared\b", re.I), r"\1^2"),
    (re.compile(r"([^\W\d_]+)\scubed\b", re.I), r"\1^3"),
    (re.compile(r"° (?=[CF]\b)"), "°"),
    (re.compile(r"\bdegrees? (celsius|fahrenheit|C|F)\b", re.I), r"\1"),
    (re.compile(r"\s?\b(?:per|an?)\s"), "/"),
)
_BLANKS = re.compile(r"(?:[\s~{}()·⋅*]|(?<!\^)-)+")
_POWER = re.compile(r"(?P<name>[^\W\d_]+|[$¢€£¥₹]|°[CF]?)(?:\^?(?P<power>-?\d))?")


@dataclass(frozen=True)
class Unit:
    """Powers of base units, and how many of them the unit is."""

    powers: frozenset[tuple[str, int]]
    factor: Fraction


def unit(text: str) -> Unit | None:
    r"""Return the unit that the text names; None where it names none that is known.

    Example:
        >>> unit("km") == unit(r"\text{ kilometers}"), unit("square feet") == unit("ft^2")
        (True, True)
    """
    return _product(plain_unit(text), _known) if len(text) <= MAX_UNIT else None


def plain_unit(text: str) -> str:
    r"""Return the unit's name without LaTeX, its words apart by one space.

    Example:
        >>> plain_unit(r"\text{ m}/\text{s}^{2}"), plain_unit("square  inches")
        ('m/s^2', 'inches^2')
    """
    text = text.replace(r"\mu ", "µ").replace(r"\Omega", "Ω")
    text = _COMMAND.sub(" ", _DEGREE.sub("°", text).replace(r"\$", "$"))
    text = _SUPERSCRIPT.sub(lambda match: "^" + match[0].translate(_SUPERSCRIPTS), text)
    text = _BLANKS.sub(" ", text.replace("^{", "^")).strip(" .")
    for pattern, spelling in _SPELLED:
        text = pattern.sub(spelling, text)
    return re.sub(r"\s?([/^])\s?", r"\1", text)


def _product(text: str, known: Callable[[str], Unit | None]) -> Unit | None:
    """Return the unit of a product such as `kg m/s^2`."""
    above, _, below = text.partition("/")
    factors = [(word, 1) for word in above.split()]
    factors += [(word, -1) for word in below.replace("/", " ").split()]
    powers: Counter[str] = Counter()
    factor = Fraction(1)
    for word, sign in factors:
        match = _POWER.fullmatch(word)
        named = known(match["name"]) if match else None
        if match is None or named is None:
            return None
        power = sign * int(match["power"] or 1)
        factor *= named.factor**power
        for base, exponent in named.powers:
            powers[base] += exponent * power
    if not factors:
        return None
    return Unit(frozenset((base, power) for base, power in powers.items() if power), factor)


def _known(name: str) -> Unit | None:
    units = _units()
    folded = name.casefold() if len(name) > 2 else name
    for spelling in (name, name.removesuffix("s"), folded, folded.removesuffix("s")):
        if spelling in units:
            return units[spelling]
    return None


@cache
def _units() -> dict[str, Unit]:
    units: dict[str, Unit] = {}
    for line in re.split(r"\n|\s{2,}", _TABLE.strip()):
        names, _, definition = line.partition(" = ")
        number, expression = re.fullmatch(r"(?:([\d./e-]+) )?(.+)", definition).groups()  # type: ignore[union-attr]
        base = _product(expression, lambda name: Unit(frozenset({(name, 1)}), Fraction(1)))
        assert base is not None, line  # the table is ours
        plain = Unit(base.powers, Fraction(number or 1))
        for name in names.split():
            units[name.removesuffix("*")] = plain
            if name.endswith("*"):
                units |= _prefixed(name.removesuffix("*"), plain)
    return units


def _prefixed(name: str, plain: Unit) -> dict[str, Unit]:
    """Return the unit with each SI prefix: symbols before symbols, words before words."""
    kinds = {len(name) <= 3, len(name) < 3}
    return {
        prefix + name: Unit(plain.powers, plain.factor * Fraction(10) ** power)
        for prefix, power in _PREFIXES.items()
        if (len(prefix) == 1) in kinds
    }
