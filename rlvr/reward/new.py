"""`rlvr reward new`: a file with a reward of one's own, to be changed."""

from pathlib import Path

from rlvr.console import say
from rlvr.suggest import unknown_name

_HEAD = '''"""A reward: is the answer of the completion the gold answer?

In a recipe:   rewards: {{verifiers: [{file}:{name}]}}
To check it:   rlvr reward test {file}:{name}

It runs in worker processes, which are ended at the deadline. Return True or False, a number that is
the reward itself, or a verdict. What is raised is a `crashed` verdict, never a reward.
"""

from rlvr.rewards.extraction import short_answer
from rlvr.rewards.verdict import CORRECT, unparsable, wrong

# columns that the rows must have, looked for before a run starts
COLUMNS = ("answer",)

'''

_JUDGE = '''
def is_right(completion, answer):
    """Return whether the one answer of the completion is the gold answer."""
    # after the thought: what is in <answer>, else in the box; None where boxes disagree
    return short_answer(completion) == str(answer).strip()

'''

_SAMPLE = '''
def {name}(sample):
    """Return the verdict on one completion.

    sample has prompt, completion, answer, row (the other columns), truncated and length (tokens).
    """
    # after the thought: what is in <answer>, else in the box; None where boxes disagree
    found = short_answer(sample.completion)
    if not found:
        return unparsable("no answer")
    return CORRECT if found == str(sample.answer).strip() else wrong(f"it says {{found}}")
'''

_ASYNC = '''
async def {name}(sample):
    """Return the verdict on one completion; many are waited for at once.

    sample has prompt, completion, answer, row (the other columns), truncated and length (tokens).
    """
    found = short_answer(sample.completion)
    if not found:
        return unparsable("no answer")
    # here a service would be asked: `await client.post(...)`
    return CORRECT if found == str(sample.answer).strip() else wrong(f"it says {{found}}")
'''

_BATCH = '''
def {name}(samples):
    """Return a number for each sample, in order; for checks that are faster for many at once.

    A sample has prompt, completion, answer, row (the other columns), truncated and length (tokens).
    """
    return [1.0 if is_right(sample.completion, sample.answer) else 0.0 for sample in samples]
'''

_GROUP = '''
def {name}(group):
    """Return a number for each completion of one prompt, in order: the shortest right one gets most.

    A sample has prompt, completion, answer, row (the other columns), truncated and length (tokens).
    """
    right = [is_right(sample.completion, sample.answer) for sample in group]
    lengths = [len(sample.completion) for sample in group]
    shortest = min((length for length, ok in zip(lengths, right) if ok), default=0)
    return [
        0.0 if not ok else 1.0 if length == shortest else 0.9
        for length, ok in zip(lengths, right)
    ]
'''

_TRL = '''
def {name}(completions, answer, **columns):
    """Return a number for each completion, as TRL's reward functions do.

    A completion is text, or chat messages where the prompts are; columns are lists of the same length.
    """
    texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
    return [1.0 if is_right(text, gold) else 0.0 for text, gold in zip(texts, answer)]
'''

STYLES = {
    "sample": _SAMPLE,
    "async": _ASYNC,
    "batch": _JUDGE + _BATCH,
    "group": _JUDGE + _GROUP,
    "trl": _JUDGE + _TRL,
}
"""Forms that a function can have, each with what stands below the imports."""


def new(name: str, style: str = "sample", folder: Path | None = None) -> Path:
    """Write `NAME.py` with a reward that passes its test, say how to use it, and return its path.

    Args:
        name: Of the file and the function.
        style: One of `STYLES`.
        folder: Where it is written; None: here.

    Raises:
        ValueError: For a name that is none, an unknown style, or a file that is there.
    """
    name = name.removesuffix(".py")
    if not name.isidentifier():
        raise ValueError(f"{name!r} cannot be a function's name: use letters, digits and _")
    if style not in STYLES:
        raise ValueError(unknown_name("style", style, STYLES))
    path = (folder or Path()) / f"{name}.py"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(template(name, style))
    except FileExistsError:
        raise ValueError(f"{path} is there already; choose another name") from None
    reference = f"{path}:{name}"
    say(f"written   {path}")
    say(f"check     rlvr reward test {reference}")
    say(f"recipe    rewards: {{verifiers: [{reference}]}}")
    say(f"command   rlvr train RECIPE 'rewards.verifiers=[\"{reference}\"]'")
    return path


def template(name: str, style: str) -> str:
    """Return the text of a file with a reward of this name."""
    text = (_HEAD + STYLES[style]).format(name=name, file=f"{name}.py")
    if "unparsable" in STYLES[style]:
        return text
    return text.replace("from rlvr.rewards.verdict import CORRECT, unparsable, wrong\n", "")
