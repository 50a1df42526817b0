"""Completions that try a verifier: some hold no one answer, some are too much for a careless one.

Those of the first kind must not be rewarded; to those of the second there must be an answer in time.
"""

from collections.abc import Callable, Mapping, Sequence

from rlvr.reward.wrapping import THOUGHT, WRAPPINGS, boxed

FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")
SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

Gaming = Callable[[str, str, str, Sequence[str]], list[str]]
"""Of how answers are stated, a prompt, its answer and those of other rows."""


def _empty(how: str, prompt: str, gold: str, others: Sequence[str]) -> list[str]:  # noqa: ARG001
    return ["", " \n", THOUGHT]


def _boxes(how: str, prompt: str, gold: str, others: Sequence[str]) -> list[str]:  # noqa: ARG001
    if how != "box" or not others:
        return []
    several = [boxed(answer) for answer in (*others[:3], gold)]
    return [
        f"It could be ${boxed(others[0])}$. On the other hand, it could be ${boxed(gold)}$.",
        "\n\nAnother try: ".join(several),
    ]


def _options(how: str, prompt: str, gold: str, others: Sequence[str]) -> list[str]:  # noqa: ARG001
    if how not in WRAPPINGS or not others:
        return []
    wrap = WRAPPINGS[how]
    return [
        wrap(f"{others[0]} or {gold}"),
        wrap(f"{gold} or {others[0]}"),
        wrap(" or ".join(sorted({*others[:3], gold}))),
    ]


def _echo(how: str, prompt: str, gold: str, others: Sequence[str]) -> list[str]:  # noqa: ARG001
    return [prompt, f"{prompt}\n\n{prompt}"] if prompt.strip() else []


def _superscript(how: str, prompt: str, gold: str, others: Sequence[str]) -> list[str]:  # noqa: ARG001
    raised = gold.translate(SUPERSCRIPT)
    return [WRAPPINGS[how](raised)] if how in WRAPPINGS and raised != gold else []


GAMING: Mapping[str, Gaming] = {
    "empty completion": _empty,
    "several boxes": _boxes,
    "A or B or C": _options,
    "prompt echo": _echo,
    "superscript digits": _superscript,
}
"""Completions that must not get as much as the right one, by the name of the check."""


def hostile(how: str | None) -> dict[str, list[str]]:
    """Return completions that a verifier must answer in time, by the name of the check.

    Args:
        how: A wrapping of this name carries them; others: a box does.
    """
    wrap = WRAPPINGS.get(how or "", WRAPPINGS["box"])
    return {
        "giant integers": [wrap("9" * 5_000), wrap("7" * 100_000), wrap("-1e999999999")],
        "towers": [
            wrap("9^{9^{9^{9}}}"),
            wrap(r"\frac{(9!)!}{10^{10^{10}}}"),
            wrap("9**9**9**9"),
        ],
        "deep nesting": [wrap("(" * 3_000 + "1" + ")" * 3_000), r"\boxed{" * 3_000, "[" * 50_000],
        "1 MB of output": [
            "wait, " * 170_000,
            "1" * 1_000_000,
            f"{THOUGHT}{wrap('x' * 1_000_000)}",
        ],
        "broken text": [wrap("\ud800"), "\x00\udfff\x00", wrap("7\u202e\u200b")],
        "unicode digits": [wrap("４２"), wrap("٤٢"), wrap("④²"), wrap("½")],
    }
