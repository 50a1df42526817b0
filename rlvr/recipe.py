"""What a recipe may say: the schema, and loading one from files and the command line.

    recipe, origins = load_recipe("clip_cov", overrides=["training.seed=1"])

Lengths are in tokens, entropies in nats, sizes in prompts (P), completions per prompt (G) and updates
(optimizer steps). Paths are relative to the folder in which the command runs, except `extends`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rlvr.check.combination import combination_problems, no_effect_problems
from rlvr.check.schema import prune, schema_problems
from rlvr.compose import Origins, compose, is_override, shipped_recipes
from rlvr.recipe_error import Problem, RecipeError, raise_problems
from rlvr.recipe_yaml import dump_yaml
from rlvr.whole_file import whole_file

__all__ = [
    "Origins",
    "Recipe",
    "RecipeError",
    "load_recipe",
    "parse_recipe_arguments",
    "write_resolved",
]


class Section(BaseModel):
    """A part of a recipe: fixed keys, exact types, no change after loading."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=False,
    )


class NamedItem(Section):
    """NAME or {NAME: {option: value}}: a method of a folder, with its options."""

    name: str
    """Of the method."""
    options: dict[str, Any] = {}
    """Checked against the method itself."""

    def __str__(self) -> str:
        return self.name


def _named_item(given: Any) -> Any:
    if isinstance(given, str):
        return {"name": given, "options": {}}
    if isinstance(given, dict) and len(given) == 1:
        [(name, options)] = given.items()
        if options is None or isinstance(options, dict):
            return {"name": name, "options": options or {}}
        raise PydanticCustomError("item_options", "the options of an item are a mapping")
    if isinstance(given, dict) and len(given) > 1 and given.keys() != {"name", "options"}:
        raise PydanticCustomError(
            "item_indent",
            "an item is one NAME or {NAME: {option: value}}; indent its options below the name, and give each name a dash",
        )
    return given


def _write_item(item: NamedItem) -> str | dict[str, Any]:
    return {item.name: item.options} if item.options else item.name


Item = Annotated[NamedItem, BeforeValidator(_named_item), PlainSerializer(_write_item)]
Items = Annotated[tuple[Item, ...], Field(strict=False)]
Names = Annotated[tuple[str, ...], Field(strict=False)]
Score = float | Literal["drop"]
SEED_MAX = 2**32 - 1
"""The largest that every random generator takes."""
SECONDS_MAX = 1_000_000
"""Of a deadline: twelve days; clocks take no number of any size."""
GIB_MAX = 1_000_000
"""More than a machine has."""
Fraction = Annotated[float, Field(ge=0, le=1)]


class Source(Section):
    """Where the numbers of a recipe come from."""

    paper: str | None = None
    """Authors, title, place of the numbers."""
    url: str | None = None
    """Address of the paper."""
    repository: str | None = None
    """owner/name of the authors' code."""
    commit: str | None = None
    """Commit of the authors' code that was read."""
    deviations: Names = ()
    """What differs from the source, one sentence each."""


class Lora(Section):
    """Train a low-rank adapter (peft) instead of all weights."""

    rank: int = Field(default=16, ge=1, le=8192)
    """Rank of the adapter."""
    alpha: float = Field(default=32.0, gt=0)
    """Scale: the adapter counts alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    target_modules: str | Names = "all-linear"
    """`all-linear`, or names of modules."""


class Model(Section):
    """The policy to train."""

    path: str
    """Hub id or folder; a relative folder may lie beside the recipe."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null: the default branch."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the computation; auto: bfloat16 on a GPU that has it, else float32. Trained weights are kept in float32."""
    attention: str | None = None
    """sdpa, flash_attention_2, eager, ...; null: what transformers chooses."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run."""
    lora: Lora | None = None
    """Low-rank adapter; null: all weights are trained."""
    quantization: Literal["4bit", "8bit"] | None = None
    """Of the base under a trained adapter, by bitsandbytes: 4bit (NF4 with double quantization, QLoRA) or 8bit (LLM.int8);
    null: none."""


class DataSource(Section):
    """Problems, from a data set (`path`) or a procedural task (`task`)."""

    path: str | None = None
    """Hub id, or a local .jsonl, .json, .parquet or .csv file, or a folder of them."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null: the default branch."""
    subset: str | None = None
    """Configuration of a hub data set; null: its default."""
    split: str = "train"
    """Split of a hub data set; `train` or `test` of a task (no problem is in both)."""
    task: str | None = None
    """Instead of `path`: a built-in task, or reasoning_gym/<name>."""
    task_options: dict[str, Any] = {}
    """Options of the task."""
    size: int | None = Field(default=None, ge=1, le=1_000_000)
    """Problems that the task makes; null: 512."""
    seed: int = Field(default=0, ge=0, le=SEED_MAX)
    """Of the task's problems and of the shuffling."""
    columns: dict[str, str] = {}
    """Our column -> theirs: {prompt: problem, answer: reward_model.ground_truth}; dots go into structures. {}: known layouts."""
    template: str | None = None
    """Prompt as str.format over the row's columns; null: the prompt column as it is."""
    system: str | None = None
    """System message before each prompt; null: none."""
    limit: int | None = Field(default=None, ge=1)
    """Rows kept, after filters and shuffling; null: all."""
    deduplicate: bool = True
    """Drop rows whose prompt occurred before."""
    max_prompt_length: int | None = Field(default=None, ge=1)
    """Tokens; longer prompts are dropped and counted. null: what the model's context leaves."""


class EvaluationSet(DataSource):
    """A held-out data source with a name."""

    name: str = Field(min_length=1)
    """Of its metrics: eval/<name>/pass@1."""
    verifiers: Items | None = None
    """Verifiers of this set; null: those of `rewards`."""


class Scores(Section):
    """Reward of each outcome of a verifier; a partly right answer gets its share of `correct`."""

    correct: float = 1.0
    """The answer is right."""
    wrong: Score = 0.0
    """The answer is wrong."""
    unparsable: Score = 0.0
    """No answer was found in the completion."""
    timeout: Score = "drop"
    """The verifier ran past its deadline; `drop` leaves the completion out of its group."""
    crashed: Score = "drop"
    """The verifier crashed."""
    skipped: Score = "drop"
    """The row has no usable answer."""


class Rewards(Section):
    """What checks completions, and what its verdicts are worth."""

    verifiers: Items = Field(default=(NamedItem(name="math"),), min_length=1)
    """Files of rlvr/rewards, or path/to/file.py:function; each with weight, when_correct, deadline, normalize and options of
    its own. The first says what is correct."""
    deadline: float = Field(default=5.0, gt=0, le=SECONDS_MAX)
    """Seconds for one completion, for verifiers that have no deadline of their own."""
    batch_deadline: float = Field(default=300.0, gt=0, le=SECONDS_MAX)
    """Seconds for all completions of a rollout on one process."""
    workers: int | None = Field(default=None, ge=1, le=1024)
    """Verifier processes beside each training process; null: the cores there are for it."""
    memory_gib: float | None = Field(default=4.0, gt=0, le=GIB_MAX)
    """Address space of one verifier process, beyond which it fails; null: unlimited."""
    scores: Scores = Scores()
    """Reward of each outcome: a number, or `drop`."""
    unusable_rows: Literal["error", "leave_out"] = "error"
    """Prompts that the first verifier cannot judge (a gold it cannot read, a file that is not there): an error at start, or
    left out and counted. Held-out sets always leave them out."""


class DynamicSampling(Section):
    """Replace groups whose completions all earned the same: they teach nothing (DAPO)."""

    max_refills: int = Field(default=3, ge=1, le=1000)
    """Further batches of prompts_per_rollout prompts that a rollout may sample, at most; 9 in DAPO's script. Where they do
    not suffice, groups that teach nothing fill up."""
    keep_leftovers: bool = False
    """Whether groups beyond prompts_per_rollout open the next rollout (Recent Sample Recovery) or are thrown away."""


class Difficulty(Section):
    """Remember how often each prompt is answered right over the run, and choose prompts by it."""

    memory: Fraction = 0.5
    """Share of what was known of a prompt that still counts at its next visit; 0: the last visit alone, 1: all of them alike."""
    start: str | None = None
    """What is known at the start: the folder of an earlier run with `difficulty`, or of `rlvr data split`; null: nothing."""
    min_pass_rate: Fraction = 0.0
    """Prompts with a lower share of right completions are left out as too hard; 0 leaves none out."""
    max_pass_rate: Fraction = 1.0
    """Prompts with a higher share are left out as too easy; 1 leaves none out."""
    min_visits: int = Field(default=1, ge=1, le=1000)
    """Times that a prompt is sampled before it can be left out."""
    revisit_after: float = Field(default=4.0, gt=0, le=1_000_000)
    """A prompt that was left out is looked at again when so many prompts were sampled since its last visit, in multiples of
    the data's size; at most 1 / revisit_after of the prompts sampled are such."""
    weight_floor: float | None = Field(default=None, gt=0, le=1000)
    """Draw prompts in proportion to p (1 - p) + this, p the share of right completions; 0.05 draws a prompt at p = 1/2 six
    times as often as one at 0 or 1. null: prompts come in the order of the stream."""

    @property
    def filters(self) -> bool:
        """Whether prompts may be left out."""
        return self.min_pass_rate > 0 or self.max_pass_rate < 1

    def describe(self) -> str:
        """Return in words what becomes of prompts."""
        parts = ["pass rates are remembered"]
        if self.start is not None:
            parts[0] += f", from {self.start} on"
        if self.filters:
            parts.append(
                f"left out outside {self.min_pass_rate:g} to {self.max_pass_rate:g}, but for a look every "
                f"{self.revisit_after:g} epochs"
            )
        if self.weight_floor is not None:
            parts.append(f"drawn in proportion to p (1 - p) + {self.weight_floor:g}")
        return "; ".join(parts)


class Rollout(Section):
    """Sampling: P prompts with G completions each, then P / M updates on them."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """What generates."""
    batch_size: int = Field(default=128, ge=1)
    """Completions that transformers generates together on one process; vllm batches by itself."""
    prompts_per_rollout: int = Field(default=512, ge=1, le=10_000_000)
    """P: prompts sampled with one policy."""
    prompts_per_update: int = Field(default=32, ge=1, le=10_000_000)
    """M: prompts of one optimizer step; P / M updates use one rollout."""
    group_size: int = Field(default=8, ge=1, le=65_536)
    """G: completions per prompt, at least 2."""
    max_completion_length: int = Field(default=3072, ge=1)
    """Tokens; a longer completion is cut."""
    temperature: float = Field(default=1.0, gt=0, le=100)
    """Of sampling, and of log-probs and entropies in the loss."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling; 1 is off."""
    top_k: int = Field(default=0, ge=0)
    """Sample among the k likeliest tokens; 0 is off."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    """Drop tokens below this share of the likeliest one's probability; null is off."""
    passes: int = Field(default=1, ge=1, le=1000)
    """Passes over each rollout."""
    dynamic_sampling: DynamicSampling | None = None
    """Replace groups that teach nothing; null: they are trained on."""
    difficulty: Difficulty | None = None
    """Remember the prompts' pass rates, and filter or weight prompts by them; null: no."""
    correction_max: float | None = Field(default=2.0, gt=0)
    """Bound of the importance weight π_old / π_sampler where vllm samples; null: no correction."""


class Algorithm(Section):
    """The policy loss."""

    surrogate: Item = NamedItem(name="clipped")
    """A function of rlvr/surrogate.py."""
    clip_low: float = Field(default=0.2, ge=0)
    """ε below 1: the ratio is clipped at 1 - clip_low."""
    clip_high: float = Field(default=0.2, ge=0)
    """ε above 1: the ratio is clipped at 1 + clip_high; DAPO's clip-higher is 0.28."""
    dual_clip: float | None = Field(default=None, gt=1)
    """c: where the advantage A is negative the loss is at most -c A; null is off."""
    aggregate: Item = NamedItem(name="token_mean")
    """A function of rlvr/aggregate.py."""
    advantage: Item = NamedItem(name="group_zscore")
    """A function of rlvr/advantage.py."""
    kl_coef: float = Field(default=0.0, ge=0)
    """Multiplier of KL(policy || initial policy), per nat; 0 is off."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Schulman's estimators of that KL."""
    kl_correction: bool = True
    """Whether the KL is multiplied by the ratio, which makes its gradient that of the KL (TRL's default)."""
    mask_truncated: bool = False
    """Whether completions cut at max_completion_length teach nothing."""


class Kernel(Section):
    """How log-probs and entropies are computed from hidden states and the head."""

    impl: Literal["auto", "triton", "chunked", "naive"] = "auto"
    """auto: triton on CUDA in bfloat16 or float16, else chunked; naive where there are few logits."""
    cache_gib: float | None = Field(default=None, ge=0, le=GIB_MAX)
    """Memory for logits kept for the backward pass; null: 256 KiB times the hidden size on a CPU, else a quarter of what is free, up to 8 GiB."""
    tolerance: float | None = Field(default=None, gt=0, lt=1)
    """Share of the gradient by the logits that may be left out, under a proven bound; null: none, the gradient is exact."""


class Training(Section):
    """Optimization; any other field of TRL's GRPOConfig may be added by its TRL name."""

    model_config = ConfigDict(extra="allow")

    updates: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """Optimizer steps; or give `epochs`."""
    epochs: float | None = Field(default=None, gt=0, le=1_000_000)
    """Passes over the data; or give `updates`."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Completions in one forward and backward pass of one process, at most; null: 16. The last may have fewer, and where few
    completions teach there are fewer passes."""
    tokens_per_micro_batch: int | None = Field(default=None, ge=1)
    """Instead of micro_batch_size: tokens in one pass of one process, at most, prompts and padding counted. Completions of
    similar length go together; null: cut by completions."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: cuda where there is one."""
    learning_rate: float = Field(default=1e-6, gt=0, le=10)
    """Peak; the schedule is lr_scheduler_type."""
    seed: int = Field(default=42, ge=0, le=SEED_MAX)
    """Of sampling, order of prompts and dropout."""
    save_every: int = Field(default=0, ge=0)
    """Updates between checkpoints to resume from; 0: none. The final model is saved in any case."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Checkpoints kept; older ones are deleted."""


class Monitor(Section):
    """What is recorded besides metrics.jsonl, and where it is sent."""

    report_to: Annotated[
        tuple[Literal["tensorboard", "trackio", "wandb"], ...], Field(strict=False)
    ] = ()
    """Dashboards; [] is none."""
    completions_every: int = Field(default=1, ge=0)
    """Updates between completion files; 0: never."""
    progress: bool = True
    """Whether a progress bar is shown."""
    heartbeat_every: float = Field(default=5.0, ge=0)
    """Seconds between two looks of the process beside each training process, which writes what that does to
    heartbeat/rank-00000.json; at least 0.1, or 0: there is none."""
    stall_after: float | None = Field(default=None, gt=0)
    """Seconds in one phase after which a run is said to stall, with the stacks of all processes; null: 80 % of
    training.ddp_timeout."""


class Evaluation(Section):
    """Held-out pass@k during and after training."""

    every: int = Field(default=0, ge=0)
    """Updates between evaluations; 0: none in between."""
    at_start: bool = False
    """Whether the initial policy is evaluated."""
    at_end: bool = True
    """Whether the final policy is evaluated."""
    samples: int = Field(default=8, ge=1, le=65_536)
    """Completions per problem."""
    k: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False, min_length=1)] = (
        1,
        8,
    )
    """pass@k for each of these, at most `samples`."""
    temperature: float = Field(default=1.0, ge=0, le=100)
    """Of sampling; 0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling; 1 is off."""
    max_completion_length: int | None = Field(default=None, ge=1)
    """Tokens; null: that of `rollout`."""
    batch_size: int = Field(default=64, ge=1)
    """Completions generated together on one process."""
    sets: Annotated[tuple[EvaluationSet, ...], Field(strict=False)] = ()
    """Held-out sets."""


class Export(Section):
    """Publishing at the end of training."""

    to: str | None = None
    """Folder or user/name on the hub; null: nothing is published."""
    private: bool = True
    """Whether a hub repository that is created is private."""


class Recipe(Section):
    """A whole run."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][\w.\-]*$")
    """Of the run; by default the recipe file's."""
    output: Annotated[Path, Field(strict=False)] = Field(
        default_factory=lambda data: Path("runs") / data.get("name", "run")
    )
    """Run folder; by default runs/<name>."""
    source: Source | None = None
    """Where the numbers come from."""
    expect: str | None = None
    """What one should see."""
    model: Model
    data: DataSource
    rewards: Rewards = Rewards()
    rollout: Rollout = Rollout()
    algorithm: Algorithm = Algorithm()
    entropy: Items = ()
    """Entropy controls, in the order they act: files of rlvr/entropy. [] is plain GRPO."""
    kernel: Kernel = Kernel()
    training: Training
    monitor: Monitor = Monitor()
    evaluation: Evaluation = Evaluation()
    export: Export = Export()

    @model_validator(mode="after")
    def _combination(self) -> Self:
        problems = combination_problems(self)
        if problems:
            text = "\n".join(str(problem) for problem in problems).replace("{", "{{")
            raise PydanticCustomError(
                "combination", text.replace("}", "}}"), {"problems": problems}
            )  # type: ignore[arg-type]
        return self


def load_recipe(
    recipe: str | Path, overlays: Sequence[str | Path] = (), overrides: Sequence[str] = ()
) -> tuple[Recipe, Origins]:
    """Return a checked recipe and the origin of each of its values.

    Nothing heavy is imported and nothing outside the files is looked at; options of methods are checked by
    `rlvr.check.methods.check_methods`.

    Args:
        recipe: A file, or the name of a shipped recipe.
        overlays: Files merged over it, from left to right.
        overrides: `key=value` items, from left to right.

    Raises:
        RecipeError: With all problems of the recipe in one message.
    """
    values, origins = compose(recipe, overlays, overrides)
    loaded, problems = _validate(values)
    if loaded is not None:
        problems = no_effect_problems(loaded, origins)
    placed = [Problem(item.path, item.text, origins.near(item.path)) for item in problems]
    raise_problems(sorted(placed, key=_reading_order), origins.recipe)
    assert loaded is not None  # without problems there is a recipe
    return loaded, origins


def parse_recipe_arguments(args: Sequence[str]) -> tuple[Recipe, Origins]:
    """Return the recipe that `RECIPE [OVERLAY.yaml ...] [KEY=VALUE ...]` names, with its origins.

    Raises:
        RecipeError: If there is no recipe, or the recipe is wrong.
    """
    files = [item for item in args if not is_override(item)]
    flags = [item for item in files if item.startswith("-")]
    if flags:
        raise RecipeError(
            f"command line: unknown option {flags[0]}; values are set as key=value, for example training.seed=1."
        )
    if not files:
        raise RecipeError(
            f"command line: no recipe is given. Give a file, or one of: {', '.join(shipped_recipes())}."
        )
    return load_recipe(files[0], files[1:], [item for item in args if is_override(item)])


def _validate(values: dict[str, Any]) -> tuple[Recipe | None, list[Problem]]:
    """Return the recipe, or every problem: those of single values and those of their combination."""
    try:
        return Recipe.model_validate(values), []
    except ValidationError as error:
        problems = schema_problems(error, values, Recipe)
        if _is_combination(error):
            return None, problems
    # what remains without the wrong values still shows wrong combinations
    pruned = prune(values, problems, Recipe)
    try:
        Recipe.model_validate(pruned)
    except ValidationError as error:
        wrong = [problem.path for problem in problems]
        problems += [
            item
            for item in schema_problems(error, pruned, Recipe)
            if _is_combination(error)
            and not any(
                path[: len(start)] == start for path in (item.path, *item.also) for start in wrong
            )
        ]
    return None, problems


def _is_combination(error: ValidationError) -> bool:
    return error.errors(include_input=False)[0]["type"] == "combination"


def _reading_order(problem: Problem) -> tuple[str, int]:
    file, _, line = problem.origin.rpartition(":")
    return (file, int(line)) if line.isdigit() else (problem.origin, 0)


def write_resolved(recipe: Recipe, origins: Origins, path: Path) -> None:
    """Write every value of a recipe with its origin; loading the file gives an equal recipe."""
    with whole_file(path) as partial:  # a run killed here must find the whole one again
        partial.write_text(resolved_text(recipe, origins), encoding="utf-8")


def resolved_text(recipe: Recipe, origins: Origins) -> str:
    """Return every value of a recipe as YAML, each with its origin at the end of its line."""
    from rlvr import __version__

    values = recipe.model_dump()
    values["output"] = str(recipe.output)
    head = {"resolved": {"from": origins.recipe, "rlvr": __version__}}
    return dump_yaml(head, lambda _: "") + dump_yaml(
        values, lambda place: _comment(origins, place, recipe)
    )


def _comment(origins: Origins, path: tuple[str | int, ...], recipe: Recipe) -> str:
    if path == ("name",) and path not in origins.written and recipe.name != "run":
        return "file name"
    return origins.of(path)
