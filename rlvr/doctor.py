"""`rlvr doctor`: what of this machine and installation works, and what to do about the rest.

A check is a function that returns findings; the list is `CHECKS`.
"""

import json
import os
import platform
import resource
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

from rlvr.console import plural, say
from rlvr.rewards.calling import describe

OK, WARN, FAIL = "ok", "warn", "fail"
GIB = 2**30
MIN_DISK = 5.0  # GiB; a checkpoint of a model of half a billion parameters is about that large
MIN_OPEN_FILES = 256  # a few for each worker and data loader
_STYLES = {OK: "green", WARN: "yellow", FAIL: "bold red"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What.
        state: OK; WARN: something optional does not work; FAIL: something needed does not.
        detail: What was found.
        advice: What to do; "" where nothing is to be done.
    """

    name: str
    state: str
    detail: str
    advice: str = ""


def doctor(*, as_json: bool = False) -> bool:
    """Print what was found, and return whether all that is needed works."""
    if as_json:
        findings = list(examine())
        say(json.dumps({"ok": is_well(findings), "findings": [asdict(item) for item in findings]}))
        return is_well(findings)
    from rich.console import Console
    from rich.text import Text

    console = Console()
    findings = []
    for item in examine():
        findings.append(item)
        line = Text.assemble(f"{item.name:<12}", (f"{item.state:<6}", _STYLES[item.state]))
        line.append(item.detail + (f". {item.advice}" if item.advice else ""))
        console.print(line, soft_wrap=True)
    counts = {state: sum(item.state == state for item in findings) for state in _STYLES}
    say("result      " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    return is_well(findings)


def is_well(findings: Iterable[Finding]) -> bool:
    """Return whether nothing that is needed is broken."""
    return all(item.state != FAIL for item in findings)


def examine() -> Iterator[Finding]:
    """Yield the findings of every check; one that breaks is a finding itself."""
    for check in CHECKS:
        name = check.__name__.strip("_")
        try:
            yield from check()
        except Exception as error:  # whatever is broken here is what a doctor is for
            yield Finding(name, FAIL, f"the check broke: {describe(error)[:300]}")


def python() -> list[Finding]:
    """Interpreter and system."""
    version = platform.python_version()
    detail = f"{version} at {sys.executable}; {platform.platform(terse=True)}, {platform.machine()}"
    if not sys.platform.startswith("linux"):
        return [Finding("python", WARN, detail, "rewards and sandbox are tested on Linux only")]
    return [Finding("python", OK, detail)]


def packages() -> list[Finding]:
    """What rlvr requires, and what its extras would add."""
    from packaging.requirements import Requirement

    try:
        texts = metadata.requires("rlvr") or []
    except metadata.PackageNotFoundError:
        return [Finding("packages", FAIL, "rlvr is not installed", "pip install -e .")]
    needed: dict[str, str] = {}
    absent: dict[str, list[str]] = {}
    findings = []
    for requirement in map(Requirement, texts):
        extra = _extra(str(requirement.marker or ""))
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        version = _version(requirement.name)
        if version is not None and not requirement.specifier.contains(version, prereleases=True):
            detail = f"{requirement.name} is {version}; {requirement.specifier} is needed"
            advice = f"pip install '{requirement.name}{requirement.specifier}'"
            findings.append(Finding("packages", WARN if extra else FAIL, detail, advice))
        elif version is None and not extra:
            detail, advice = f"{requirement.name} is missing", f"pip install '{requirement}'"
            findings.append(Finding("packages", FAIL, detail, advice))
        elif version is None and requirement.name != "rlvr":
            absent.setdefault(extra, []).append(requirement.name)
        elif version is not None and not extra:
            needed[requirement.name] = version
    listed = ", ".join(f"{name} {version}" for name, version in needed.items())
    findings.insert(0, Finding("packages", OK, f"rlvr {_version('rlvr')}, {listed}"))
    for extra, names in absent.items():
        advice = f"For it: pip install 'rlvr[{extra}]'"
        findings.append(Finding("packages", OK, f"not installed: {', '.join(names)}", advice))
    return findings


def _extra(marker: str) -> str:
    _, found, name = marker.partition("extra ==")
    return name.split(" and ")[0].strip(" '\"()") if found else ""


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def processor() -> list[Finding]:
    """Cores that this process may use, and memory."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return [Finding("processor", OK, f"{plural(cores, 'core')}, {total:.0f} GiB of memory")]


def gpu() -> list[Finding]:
    """What torch can train on."""
    if find_spec("torch") is None:
        return [Finding("gpu", FAIL, "torch is not installed", "pip install torch")]
    import torch

    if not torch.cuda.is_available():
        return [
            Finding("gpu", OK, f"none that torch {torch.__version__} sees: runs are on the CPU")
        ]
    findings = []
    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        detail = f"{found.name}, {found.total_memory / GIB:.0f} GiB, CUDA {torch.version.cuda}"
        findings.append(Finding("gpu", OK, detail))
    return findings


def workers() -> list[Finding]:
    """Reward workers start, and answer."""
    from rlvr.rewards.scorer import Scorer
    from rlvr.rewards.verdict import Outcome, Sample

    with Scorer(["math"], workers=1) as scorer:
        began = perf_counter()
        scorer.start()
        ready = perf_counter() - began
        # typed otherwise than the gold, so that a worker is asked
        scored = scorer.score([Sample("", r"\boxed{x(x+1)+1}", r"x^2+x+1")])[0]
    verdict = scored.verdict
    detail = f"ready after {ready:.1f} s; a verdict took {1000 * verdict.seconds:.0f} ms"
    if verdict.outcome is not Outcome.CORRECT:
        return [Finding("workers", FAIL, f"{verdict.outcome.value}: {verdict.reason}")]
    return [Finding("workers", OK, detail)]


def sandbox() -> list[Finding]:
    """What locks in the programs that the verifier `code` runs, and that one runs."""
    from rlvr.reward.example import EXAMPLES
    from rlvr.rewards.sandbox import probe
    from rlvr.rewards.scorer import Scorer
    from rlvr.rewards.verdict import Outcome, Sample

    (_, strength, advice), *layers = probe.rows()
    shown = f"{strength} ({', '.join(f'{name}: {there}' for name, there, _ in layers)})"
    if probe.refusal("local", unsafe=False) is not None:
        return [Finding("sandbox", WARN, shown, advice)]
    row = EXAMPLES["code"][0]
    with Scorer(["code"], workers=1) as scorer:
        verdict = scorer.score([Sample("", row["right"], row=row)])[0].verdict
    if verdict.outcome is not Outcome.CORRECT:
        reason = f"a right program is {verdict.outcome.value}: {verdict.reason}"
        return [Finding("sandbox", FAIL, f"{shown}; {reason}")]
    return [Finding("sandbox", OK, f"{shown}; a program ran in {1000 * verdict.seconds:.0f} ms")]


def disk() -> list[Finding]:
    """Room for runs, for downloads, and for scratch folders."""
    from tempfile import gettempdir

    from huggingface_hub import constants

    findings = []
    places = {"here": Path(), "hub cache": Path(constants.HF_HOME), "scratch": Path(gettempdir())}
    for name, folder in places.items():
        there = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())
        free = shutil.disk_usage(there).free / GIB
        is_small, is_closed = free < MIN_DISK, not os.access(there, os.W_OK)
        advice = "Make room" if is_small else "It cannot be written to" if is_closed else ""
        state = FAIL if is_closed and name == "scratch" else WARN if advice else OK
        findings.append(Finding("disk", state, f"{name}: {free:.0f} GiB free at {there}", advice))
    return findings


def hub() -> list[Finding]:
    """Whether models and data sets can be fetched."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HTTPError
    from huggingface_hub.utils import get_session

    from rlvr.reach import SECONDS

    if constants.HF_HUB_OFFLINE:
        return [Finding("hub", OK, "offline by HF_HUB_OFFLINE: only what is in the cache is found")]
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except (HTTPError, OSError):
        advice = "Only local files and the cache are found; HF_HUB_OFFLINE=1 saves the wait"
        return [Finding("hub", WARN, f"{constants.ENDPOINT} cannot be reached", advice)]
    return [Finding("hub", OK, f"{constants.ENDPOINT} answers")]


def limits() -> list[Finding]:
    """What the system grants this process."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    shown = ", ".join(
        f"{'any number of' if limit == resource.RLIM_INFINITY else limit} {name}"
        for limit, name in ((files, "open files"), (processes, "processes"))
    )
    if files != resource.RLIM_INFINITY and files < MIN_OPEN_FILES:
        return [Finding("limits", FAIL, shown, f"ulimit -n {MIN_OPEN_FILES} or more")]
    return [Finding("limits", OK, shown)]


CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    python,
    packages,
    processor,
    gpu,
    workers,
    sandbox,
    disk,
    hub,
    limits,
)
"""In the order of the report."""
