"""An answer as a model would state it: what a verifier that reads answers should find.

Each wrapping is a way to end a completion; which of them a verifier reads is its own choice.
"""

from collections.abc import Callable, Mapping

Wrapping = Callable[[str], str]

THOUGHT = "<think>Let me see. First I write down what is given.</think>"


def boxed(answer: str) -> str:
    r"""Return the answer in a box.

    Example:
        >>> boxed("7")
        '\\boxed{7}'
    """
    return rf"\boxed{{{answer}}}"


def _sentence(answer: str) -> str:
    return f"We simplify.\n\nThe final answer is ${boxed(answer)}$. I hope it is right."


def _phrase(answer: str) -> str:
    return f"We look at each part in turn.\n\nThe answer is {answer}"


def _tag(answer: str) -> str:
    return f"{THOUGHT}\n<answer>{answer}</answer>"


def _hash(answer: str) -> str:
    return f"We add them up.\n#### {answer}"


def _fence(answer: str) -> str:
    return f"This should do:\n```\n{answer}\n```"


def _bare(answer: str) -> str:
    return answer


WRAPPINGS: Mapping[str, Wrapping] = {
    "box": _sentence,
    "phrase": _phrase,
    "tag": _tag,
    "hash": _hash,
    "fence": _fence,
    "bare": _bare,
}

ORDINARY: Mapping[str, str] = {
    "choice": "phrase",
    "exact": "bare",
    "json_schema": "fence",
    "sql": "fence",
}
"""The wrapping that answers of a verifier usually have; "box" for all others."""

ASKED: Mapping[str, tuple[str, ...]] = {
    "box": (r"\boxed",),
    "phrase": ("answer is", "answer:", "answer ("),
    "tag": ("<answer>",),
    "hash": ("####",),
    "fence": ("```", "json", "sql"),
}
"""What a prompt says that asks for a wrapping, in small letters."""

PARAPHRASES: Mapping[str, tuple[Wrapping, ...]] = {
    "box": (
        lambda a: f"{THOUGHT}\nTherefore\n\\[ {boxed(a)} \\]",
        lambda a: f"Adding up, one finds $ {boxed(f' {a} ')} $.\n",
        lambda a: f"**Final answer**\n\n${boxed(a)}$",
    ),
    "phrase": (
        lambda a: f"{THOUGHT}\nSo the answer is {a}.",
        lambda a: f"It follows.\n\nFinal answer: {a}\n",
    ),
    "tag": (
        lambda a: f"<answer>\n{a}\n</answer>",
        lambda a: f"{THOUGHT}\n\nI am sure.\n<answer> {a} </answer>\n",
    ),
    "hash": (lambda a: f"Half of it is left.\n\n#### {a}\n",),
    "fence": (lambda a: f"{THOUGHT}\nHere it is.\n\n```\n{a}\n```\nIt reads one table.",),
    "bare": (lambda a: f"{a}\n", lambda a: f"{THOUGHT}\n{a}"),
}
"""Other ways to state the same answer, of each wrapping."""
