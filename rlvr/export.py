"""`rlvr export`: the weights of a run, merged and verified, with a model card, in a folder or on the hub."""

import hashlib
import json
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rlvr.card import PICTURE, Subject, model_card
from rlvr.checkpoint import CHECKPOINTS, PREFIX, checkpoints, update_of
from rlvr.console import say
from rlvr.final import FINAL
from rlvr.hub import MARKER, endpoint, push, require_token
from rlvr.monitor.store import METRICS_FILE, RECIPE_FILE, Run, read_completions, read_run
from rlvr.suggest import closest
from rlvr.zero import whole

STAGED = "export"
"""In the run folder: what is on its way to the hub."""

_METRICS_LIMIT = 10_000_000  # bytes
_TEXTS = ("The answer to 12 + 30 is", "Let x = 3. Then x squared is")


@dataclass(frozen=True)
class Source:
    """The weights that are exported."""

    folder: Path
    update: int | None
    """Of a checkpoint; None: the end of the run."""

    @property
    def name(self) -> str:
        """`final`, or `checkpoint-<update>`."""
        return self.folder.name


def export(
    run: Path,
    to: str,
    *,
    private: bool = True,
    dry_run: bool = False,
    checkpoint: str | None = None,
) -> None:
    """Write the weights of a run as a plain Hugging Face folder with a model card, or publish it.

    Adapters are merged. The folder is made beside its place, opened again, compared with the trained model, and
    then renamed: a stopped export leaves nothing half.

    Args:
        run: Run folder, or that of a checkpoint in it.
        to: Folder, or `user/name` on the hub; see `destination`.
        private: Of a hub repository. A public one is left alone where a private one is asked for.
        dry_run: Do everything but the last step, without network, and say what would be published.
        checkpoint: `200` or `checkpoint-200` instead of the end of the run.

    Raises:
        ValueError: For whatever a user can mend; nothing is changed where it is raised, apart from a hub
            repository that could be made but not filled.
    """
    run, checkpoint = _run_of(Path(run), checkpoint)
    record = _read(run)
    source = find_source(run, checkpoint)
    place = destination(to)
    label = _describe(place, private)
    say(f"export    {source.folder} to {label}")
    identity = _identity(run, record.name)
    folder = place if isinstance(place, Path) else run / STAGED
    _refuse_foreign(folder, identity)
    if dry_run:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=run) as staged:
            _build(Path(staged), record, source, _address(place), identity, offline=True)
            _list(Path(staged), f"would be in {label}")
        return
    if isinstance(place, str):
        require_token()
    with _replacing(folder) as staging:
        _build(staging, record, source, _address(place), identity)
    if isinstance(place, str):
        url = push(
            folder,
            place,
            private=private,
            message=f"{record.name}: {source.name}",
            again=_command(run, to, private=private, checkpoint=checkpoint),
        )
        _list(folder, f"are at {url}")
        shutil.rmtree(folder)
    else:
        _list(folder, f"are in {label}")


def _run_of(given: Path, checkpoint: str | None) -> tuple[Path, str | None]:
    """Return a run and its checkpoint where the folder of a checkpoint was given."""
    if given.parent.name != CHECKPOINTS or not given.name.startswith(PREFIX):
        return given, checkpoint
    if checkpoint is not None:
        raise ValueError(f"{given} is a checkpoint already; leave out --checkpoint {checkpoint}")
    return given.parent.parent, given.name


def _command(run: Path, to: str, *, private: bool, checkpoint: str | None) -> str:
    """Return the command that exports like this."""
    words = ["rlvr", "export", str(run), "--to", to]
    words += [] if private else ["--public"]
    words += [] if checkpoint is None else ["--checkpoint", str(checkpoint)]
    return shlex.join(words)


def check_destination(run: Path, name: str, to: str) -> None:
    """Raise for what would stop an export at the end of a run, before the run.

    Args:
        run: Its folder, which need not exist yet.
        name: Of its recipe.
        to: As for `export`.

    Raises:
        ValueError: If there is no access token, or a folder holds something else.
    """
    place = destination(to)
    if isinstance(place, str):
        require_token()
    else:
        _refuse_foreign(place, _identity(run, name))


def destination(to: str) -> Path | str:
    """Return a folder, or the id of a hub repository.

    Exactly one slash, no `.`, `~` or slash in front and no such folder: a repository. Everything else: a folder.

    Raises:
        ValueError: If it could be either.

    Example:
        >>> destination("somebody/my-model"), destination("./my/model").parts
        ('somebody/my-model', ('my', 'model'))
    """
    if not to.strip() or "://" in to:
        raise ValueError(f"export to {to!r}: give a folder, or user/name for the hub")
    path = Path(to).expanduser()
    user, _, name = to.partition("/")
    if to[0] in "./~" or not user or not name or "/" in name or path.exists():
        return path
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if Path(user).exists():
        raise ValueError(
            f"export to {to!r}: {user}/ is a folder here, and {to} could be a repository on the hub; write ./{to} for "
            "the folder"
        )
    try:
        validate_repo_id(to)
    except HFValidationError as error:
        raise ValueError(
            f"export to {to!r}: not a name on the hub ({error}); write ./{to} for a folder"
        ) from None
    return to


def find_source(run: Path, checkpoint: str | None = None) -> Source:
    """Return the weights of a run: `final/`, or a checkpoint by its update.

    Raises:
        ValueError: If they are not there; says which are.
    """
    numbers = sorted(map(update_of, checkpoints(run / CHECKPOINTS)))
    there = f"checkpoints: {', '.join(map(str, numbers))}" if numbers else "no checkpoint either"
    if checkpoint is None:
        if (run / FINAL).is_dir():
            return Source(run / FINAL, None)
        what = f"; export one with --checkpoint {numbers[-1]}" if numbers else ""
        raise ValueError(
            f"{run} is not finished: it has no final/ ({there}){what}, or finish it with rlvr train "
            f"{run / RECIPE_FILE} --resume"
        )
    given = str(checkpoint).removeprefix(PREFIX)
    if not given.isdigit() or int(given) not in numbers:
        raise ValueError(f"checkpoint {checkpoint!r}: {run} has no such checkpoint ({there})")
    return Source(run / CHECKPOINTS / f"{PREFIX}{int(given)}", int(given))


def _read(run: Path) -> Run:
    if not run.is_dir():
        near = closest(
            run.name, [p.name for p in run.parent.iterdir()] if run.parent.is_dir() else []
        )
        question = f" Did you mean {run.parent / near}?" if near else ""
        raise ValueError(f"there is no run at {run}; give the folder of a run.{question}")
    record = read_run(run)
    if not record.recipe:
        raise ValueError(f"{run} has no {RECIPE_FILE}; give the folder of a run")
    return record


def _describe(place: Path | str, private: bool) -> str:
    if isinstance(place, Path):
        return f"the folder {place}"
    kind = "private" if private else "public"
    return f"the {kind} repository {place} at {endpoint()}"


def _address(place: Path | str) -> str:
    return place if isinstance(place, str) else f"./{place.resolve().name}"


def _identity(run: Path, name: str) -> dict[str, Any]:
    """Return what tells this run from others of its name."""
    path = run / "run.json"
    created = json.loads(path.read_text()).get("created") if path.is_file() else None
    return {"run": name, "created": created}


def _build(
    folder: Path,
    record: Run,
    source: Source,
    address: str,
    identity: dict[str, Any],
    *,
    offline: bool = False,
) -> None:
    """Write a whole export into an empty folder."""
    from rlvr.monitor.figure import draw_png
    from rlvr.weights import export_weights

    model = record.recipe["model"]
    with whole(source.folder) as trained:
        weights = export_weights(
            trained,
            folder,
            _texts(record),
            revision=model.get("revision"),
            trust_remote_code=bool(model.get("trust_remote_code")),
            offline=offline,
        )
    shutil.copyfile(record.folder / RECIPE_FILE, folder / RECIPE_FILE)
    metrics = record.folder / METRICS_FILE
    notes = []
    if metrics.stat().st_size <= _METRICS_LIMIT:
        shutil.copyfile(metrics, folder / METRICS_FILE)
    else:
        notes.append(
            f"`{METRICS_FILE}` ({_size(metrics.stat().st_size)}) is too large to be in it."
        )
    if kind := model.get("quantization"):
        notes.append(
            f"The base was held in {kind} numbers while the adapter was trained; here the adapter is merged into the base "
            "as it was before, so that probabilities differ a little from those in training."
        )
    shown = _until(record, source.update)
    draw_png([shown], folder / PICTURE)
    subject = Subject(shown, address, source.name, weights, notes)
    (folder / "README.md").write_text(model_card(subject), encoding="utf-8")
    marker = identity | {"checkpoint": source.name, "files": _checksums(folder)}
    (folder / MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
    for note in notes:
        say(f"note      {note}")
    say(
        f"verified  {weights.tensors} tensors in {weights.dtype}, all finite; logits within {weights.difference:.2g} of "
        f"the trained model's (largest {weights.scale:.3g})"
    )


def _texts(record: Run) -> tuple[str, ...]:
    """Return two texts of the run, or two of ours where it kept none."""
    files = sorted((record.folder / "completions").glob("update_*.parquet"))
    if not files:
        return _TEXTS
    rows = read_completions(record.folder, int(files[-1].stem.removeprefix("update_")))
    texts = {row["prompt"]: f"{row['prompt']}{row['completion']}" for row in rows}
    return tuple(texts.values())[:2] or _TEXTS


def _until(record: Run, update: int | None) -> Run:
    """Return a run as it was at an update."""
    if update is None:
        return record
    kept = record.updates <= update
    return replace(record, columns={name: values[kept] for name, values in record.columns.items()})


def _refuse_foreign(folder: Path, identity: dict[str, Any]) -> None:
    """Raise unless a folder may be replaced: it is empty, or an export of this run that nobody changed."""
    advice = "nothing was changed; give another folder, or move this one away"
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; {advice}")
    if not any(folder.iterdir()):
        return
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        files = dict(marker["files"])
    except (OSError, ValueError, KeyError, TypeError):
        names = ", ".join(path.name for path in sorted(folder.iterdir())[:3])
        raise ValueError(f"{folder} holds something else ({names} ...); {advice}") from None
    if {key: marker.get(key) for key in identity} != identity:
        raise ValueError(f"{folder} holds an export of another run ({marker.get('run')}); {advice}")
    mine = _checksums(folder)
    changed = sorted(name for name in mine if mine[name] != files.get(name))
    if changed:
        raise ValueError(
            f"{folder} was changed since it was exported ({', '.join(changed[:3])}); {advice}"
        )


def _checksums(folder: Path) -> dict[str, str]:
    """Return SHA-256 of the files of an export by their path, without the marker that holds them."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MARKER:
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside `folder` that takes its place at the end, and is removed at an error."""
    # resolved: `.` and names that end in dots have no name of their own
    folder = folder.resolve()
    partial, aside = (
        folder.with_name(f".{folder.name}.rlvr-{end}") for end in ("partial", "replaced")
    )
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        partial.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{folder} could not be made ({error}); nothing was changed. Is there room, and may it be written?"
        ) from None
    finally:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        shutil.rmtree(partial, ignore_errors=True)


def _list(folder: Path, where: str) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    width = max(len(path.relative_to(folder).as_posix()) for path in files)
    total = sum(path.stat().st_size for path in files)
    say(f"files     {len(files)} files, {_size(total)}, {where}")
    for path in files:
        say(
            f"          {path.relative_to(folder).as_posix():<{width}}  {path.stat().st_size:>14,} bytes"
        )


def _size(count: float) -> str:
    """Return a number of bytes with its unit.

    Example:
        >>> _size(999), _size(116_840), _size(15_231_233_024)
        ('999 bytes', '116.8 kB', '15.2 GB')
    """
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000 or unit == "GB":
            break
    return f"{count:.1f} {unit}"
