r"""From tokens to a tree: 3x^2, \frac{\sqrt 2}{2}, \sin^2 2x, 2\frac34, n!, |x|, \log_2 8."""

from collections.abc import Callable
from fractions import Fraction

from rlvr.rewards.answer.expression import Expression, variables
from rlvr.rewards.answer.tokens import Tokens, is_number

MAX_DIGITS = 1000  # of a number
MAX_DEPTH = 40  # of brackets, powers and signs
MAX_OPERATIONS = 150  # the tree is as deep as a sum is long

_LETTERS = r"""\alpha \beta \gamma \delta \epsilon \zeta \eta \theta \iota \kappa \lambda \mu \nu \xi
\rho \sigma \tau \upsilon \phi \chi \psi \omega \ell \hbar \Gamma \Delta \Theta \Lambda \Xi \Sigma \Phi
\Psi \Omega"""
_GREEK = frozenset(_LETTERS.split())
_OF_ONE = r"\sin \cos \tan \cot \sec \csc \asin \acos \atan \sinh \cosh \tanh \ln \log \lg \exp"
_FUNCTIONS = frozenset(_OF_ONE.split())
_CONSTANTS = {r"\pi": "pi", "e": "e", "i": "i", r"\infty": "infinity"}
_OF_MANY = {r"\max": "max", r"\min": "min", r"\gcd": "gcd", r"\lcm": "lcm"}
_INVERSE = {name: "a" + name for name in ("sin", "cos", "tan")}
_UNKNOWN_FUNCTIONS = frozenset("fgFG")
_GROUPS = {"(": ")", "[": "]", "{": "}"}
_CLOSED = frozenset(")}")
_AFTER = frozenset(("!", "^", "%", r"\%"))
_TIMES = frozenset((r"\cdot", r"\times", "*"))


class Unreadable(Exception):
    """The tokens are no expression."""


def parse(tokens: Tokens) -> Expression:
    """Return the tree, or raise Unreadable where a token is left over or missing.

    Example:
        >>> parse(["2", "x"])
        ('multiply', ('number', Fraction(2, 1)), ('variable', 'x'))
    """
    parser = _Parser(list(tokens))
    tree = parser.sum()
    if parser.next is not None:
        raise Unreadable
    return tree


def number(text: str) -> Fraction:
    """Return the value of a number's token: 12, .5, 2.1e3, 0.1(6) with the digits that repeat."""
    if len(text) > MAX_DIGITS:
        raise Unreadable
    head, _, repeating = text.partition("(")
    if not repeating:
        return Fraction(head)
    repeating = repeating.rstrip(")")
    places = len(head.partition(".")[2])
    tail = Fraction(int(repeating), (10 ** len(repeating) - 1) * 10**places)
    return Fraction(head.rstrip(".") or "0") + tail


class _Parser:
    """Recursive descent; each method reads one rule of the grammar."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._operations = 0

    @property
    def next(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self) -> str:
        token = self.next
        if token is None:
            raise Unreadable
        self._at += 1
        return token

    def _expect(self, token: str) -> None:
        if self._take() != token:
            raise Unreadable

    def _nested(self, rule: Callable[[], Expression]) -> Expression:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable
        tree = rule()
        self._depth -= 1
        return tree

    def _operation(self) -> None:
        self._operations += 1
        if self._operations > MAX_OPERATIONS:
            raise Unreadable

    def sum(self) -> Expression:
        tree = self._product()
        while self.next in ("+", "-"):
            self._operation()
            sign = self._take()
            term = self._product()
            tree = ("add", tree, term if sign == "+" else ("negate", term))
        return tree

    def _product(self) -> Expression:
        tree = self._signed()
        while (token := self.next) is not None:
            self._operation()
            if token in _TIMES:
                self._take()
                tree = ("multiply", tree, self._signed())
            elif token == "/":
                self._take()
                tree = ("divide", tree, self._signed())
            elif self._starts_factor(token):
                tree = ("multiply", tree, self._power())
            else:
                break
        return tree

    def _starts_factor(self, token: str) -> bool:
        """Return whether a factor may follow without a sign: 3 4 is no product, 2^k 2^n is one."""
        if is_number(token):
            before, after = self._tokens[self._at - 1], self._tokens[self._at + 1 : self._at + 2]
            return before in _CLOSED or (after == ["^"] and not is_number(before))
        return (
            token in _GROUPS
            or token.isalpha()
            or token in _GREEK
            or token in _CONSTANTS
            or token in _FUNCTIONS
            or token in (r"\frac", r"\sqrt", r"\binom", r"\lfloor", r"\lceil")
        )

    def _signed(self) -> Expression:
        if self.next in ("+", "-"):
            sign = self._take()
            tree = self._nested(self._signed)
            return tree if sign == "+" else ("negate", tree)
        return self._power()

    def _power(self) -> Expression:
        tree = self._atom()
        while (token := self.next) in _AFTER:
            self._operation()
            if token == "!":
                self._take()
                if self.next == "!":
                    raise Unreadable
                tree = ("call", "factorial", tree)
            elif token == "^":
                self._take()
                tree = self._raised(tree)
            else:
                self._take()
                tree = ("divide", tree, ("number", Fraction(100)))
        return tree

    def _raised(self, base: Expression) -> Expression:
        if self._tokens[self._at : self._at + 3] == ["{", r"\circ", "}"]:
            self._at += 3
            return ("multiply", base, ("constant", "degree"))
        return ("power", base, self._nested(self._exponent))

    def _exponent(self) -> Expression:
        if self.next == "{":
            return self._group()
        if self.next in ("+", "-"):
            sign = self._take()
            tree = self._exponent()
            return tree if sign == "+" else ("negate", tree)
        tree = self._atom()
        if self.next == "^":  # a^b^c is a^(b^c)
            self._take()
            tree = ("power", tree, self._nested(self._exponent))
        return tree

    def _group(self) -> Expression:
        closing = _GROUPS[self._take()]
        tree = self._nested(self.sum)
        self._expect(closing)
        return tree

    def _atom(self) -> Expression:
        token = self.next
        if token is None:
            raise Unreadable
        if token in _GROUPS:
            return self._group()
        if is_number(token):
            return self._number()
        if token in _FUNCTIONS:
            return self._function()
        special = {
            r"\frac": self._fraction,
            r"\sqrt": self._root,
            r"\binom": self._binomial,
            "|": self._absolute,
            r"\lfloor": self._rounded,
            r"\lceil": self._rounded,
        }.get(token)
        if special is not None:
            return special()
        return self._of_many() if token in _OF_MANY else self._name()

    def _number(self) -> Expression:
        tree = ("number", number(self._take()))
        if self.next == r"\frac" and tree[1].denominator == 1:  # 2\frac34 is a sum
            start = self._at
            part = self._fraction()
            match part:
                case ("divide", ("number", top), ("number", bottom)) if 0 < top < bottom:
                    return ("add", tree, part)
            self._at = start
        return tree

    def _fraction(self) -> Expression:
        self._take()
        top = self._argument()
        return ("divide", top, self._argument())

    def _binomial(self) -> Expression:
        self._take()
        top = self._argument()
        return ("call", "binomial", top, self._argument())

    def _argument(self) -> Expression:
        r"""Return a command's argument: a group, or as in \frac12 one digit or letter."""
        token = self.next
        if token is None:
            raise Unreadable
        if token == "{":
            return self._group()
        if token.isdecimal() and len(token) > 1:
            self._tokens[self._at : self._at + 1] = [token[0], token[1:]]
        if is_number(token):
            return ("number", number(self._take()))
        return self._nested(self._atom)

    def _root(self) -> Expression:
        self._take()
        index: Expression | None = None
        if self.next == "[":
            index = self._group()
        radicand = self._nested(self._atom)
        return ("call", "sqrt", radicand) if index is None else ("call", "root", radicand, index)

    def _absolute(self) -> Expression:
        self._take()
        tree = self._nested(self.sum)
        self._expect("|")
        return ("call", "abs", tree)

    def _rounded(self) -> Expression:
        opening = self._take()
        tree = self._nested(self.sum)
        self._expect(opening.replace(r"\l", r"\r"))
        return ("call", "floor" if opening == r"\lfloor" else "ceil", tree)

    def _of_many(self) -> Expression:
        name = _OF_MANY[self._take()]
        closing = _GROUPS.get(self._take())
        if closing is None:
            raise Unreadable
        trees = [self._nested(self.sum)]
        while self.next == ",":
            self._take()
            trees.append(self._nested(self.sum))
        self._expect(closing)
        return ("call", name, *trees)

    def _function(self) -> Expression:
        name = self._take()[1:]
        base = exponent = None
        if self.next == "_":
            self._take()
            base = self._argument()
        if self.next == "^":
            self._take()
            exponent = self._nested(self._exponent)
        if exponent == ("negate", ("number", Fraction(1))) and name in _INVERSE:
            name, exponent = _INVERSE[name], None
        tree: Expression = ("call", name, self._nested(self._applied))
        if base is not None:
            tree = ("divide", ("call", "ln", tree[2]), ("call", "ln", base))
        return tree if exponent is None else ("power", tree, exponent)

    def _applied(self) -> Expression:
        r"""Return what a function applies to: a group, or in \sin 2x the factors that follow."""
        if self.next in _GROUPS or self.next == "|":
            return self._atom()
        if self.next in _FUNCTIONS:
            return self._function()
        tree = self._power()
        while self.next is not None and self.next not in _FUNCTIONS | _GROUPS.keys():
            if not self._starts_factor(self.next):
                break
            self._operation()
            tree = ("multiply", tree, self._power())
        if self.next == "/" and not variables(tree):  # \cos 2\pi/7
            self._take()
            tree = ("divide", tree, self._power())
        return tree

    def _name(self) -> Expression:
        token = self._take()
        if not (token in _GREEK or token in _CONSTANTS or (token.isalpha() and len(token) == 1)):
            raise Unreadable
        name = token + self._marks()
        if name in _CONSTANTS:
            return ("constant", _CONSTANTS[name])
        if token in _UNKNOWN_FUNCTIONS and self.next == "(":
            return self._unknown(name)
        return ("variable", name)

    def _unknown(self, name: str) -> Expression:
        self._expect("(")
        trees = [self._nested(self.sum)]
        while self.next == ",":
            self._take()
            trees.append(self._nested(self.sum))
        self._expect(")")
        return ("apply", name, *trees)

    def _marks(self) -> str:
        """Return the subscript and primes of a name."""
        marks = ""
        while True:
            if self.next == "'":
                marks += self._take()
            elif self._tokens[self._at : self._at + 4] == ["^", "{", r"\prime", "}"]:
                self._at += 4
                marks += "'"
            elif self._tokens[self._at : self._at + 2] == ["^", r"\prime"]:
                self._at += 2
                marks += "'"
            elif self.next == "_":
                self._take()
                marks += "_" + self._subscript()
            else:
                return marks

    def _subscript(self) -> str:
        if self.next != "{":
            return self._take().lstrip('"')
        depth, start = 0, self._at
        while True:
            token = self._take()
            depth += (token == "{") - (token == "}")
            if depth == 0:
                return "".join(self._tokens[start + 1 : self._at - 1]).replace('"', "")
