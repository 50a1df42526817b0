"""One side of `benchmarks.trainer`, in a process of its own: `python -m benchmarks.trainer_side JOB RESULT`, both JSON files.

rlvr runs as `rlvr train` runs it, with metrics, completions, progress and isolated rewards; TRL runs as `trainer_peer.py` says.
Both have the same clock: the time between the ends of two optimizer steps, whatever happens there.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from benchmarks.trainer_cases import REWARDS, Job
from benchmarks.trainer_peer import Peer, build_peer
from rlvr import assemble
from rlvr.advantage import group_zscore
from rlvr.batch import Origin, RolloutBatch
from rlvr.check.plan import plan_batches
from rlvr.inputs import load_inputs
from rlvr.recipe import Recipe
from rlvr.train import run

STARTED = time.perf_counter()
MIB = 2**20


class Clock(TrainerCallback):
    """Notes when updates end, and keeps weights; what it does itself is not counted."""

    def __init__(self, job: Job) -> None:
        self._every = job.every
        self._cuda = job.device == "cuda"
        self._off = 0.0
        self.seconds: list[float] = []
        """Since training began, at the end of each update."""
        self.cpu: list[float] = []
        """Processor seconds of this process, likewise."""
        self.weights: dict[int, dict[str, torch.Tensor]] = {}
        self.setting_up = 0.0
        self.resident = self.held = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Start the clock, and the measurement of memory."""
        self._keep(0, kwargs["model"])
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            self.held = torch.cuda.memory_allocated()
        self.setting_up = time.perf_counter() - STARTED
        self.resident = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        self._began, self._cpu_began = time.perf_counter(), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Note that an update has ended."""
        if self._cuda:
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self._began - self._off)
        self.cpu.append(time.process_time() - self._cpu_began)
        self._keep(state.global_step, kwargs["model"])
        self._off += time.perf_counter() - now

    def _keep(self, update: int, model: Any) -> None:
        if self._every and update % self._every == 0:
            self.weights[update] = {
                name: value.detach().to("cpu", copy=True)
                for name, value in model.state_dict().items()
            }

    def result(self, job: Job) -> dict[str, Any]:
        """Return seconds of an update, and memory."""

        def per_update(values: list[float]) -> float:
            return (values[-1] - (values[job.warm - 1] if job.warm else 0.0)) / job.updates

        return {
            "seconds": per_update(self.seconds),
            "cpu_seconds": per_update(self.cpu),
            "setting_up": self.setting_up,
            "peak_mib": _status("VmHWM") / MIB,
            "training_mib": (_status("VmHWM") - self.resident) / MIB,
            "device_mib": torch.cuda.max_memory_allocated() / MIB if self._cuda else None,
            "held_mib": self.held / MIB,
        }


def measure(job: Job) -> dict[str, Any]:
    """Do a job and return what it found."""
    torch.set_num_threads(job.threads)
    if job.part == "sample":
        return _sample(job)
    if job.part == "gradient":
        return _gradient(job)
    return _peer(job) if job.side == "TRL" else _ours(job)


# ---------------------------------------------------------------------- rlvr


def _ours(job: Job) -> dict[str, Any]:
    recipe, origins = job.load()
    clock = Clock(job)
    with _prepared(job, clock):
        run(recipe, origins)
    lines = (recipe.output / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["update"] > job.warm]
    rollouts = [row for row in rows if "time/rollout" in row]
    times = {
        "rollout_seconds": sum(row["time/rollout"] for row in rollouts),
        "scoring_seconds": sum(row["time/score"] for row in rollouts),
    }
    tokens = sum(row["tokens"] for row in rows)
    return _whole(job, clock, times, tokens) | _held_out(job, recipe, clock)


@contextmanager
def _prepared(job: Job, clock: Clock) -> Iterator[None]:
    """Have the trainer of a run watched, and given its rollout where there is one."""
    build = assemble.build_trainer

    def prepared(recipe: Recipe, *others: Any) -> Any:
        trainer = build(recipe, *others)
        # before the trainer's own, which saves the policy after the last update
        trainer.callback_handler.callbacks.insert(0, clock)
        if job.given is not None:
            rows = _rollout(job, recipe).to(trainer.processes.device)
            rows = replace(rows, old_entropies=trainer.look(rows).entropies)
            trainer._roll_out = lambda _: trainer._take_rollout(rows)
        return trainer

    assemble.build_trainer = prepared
    try:
        yield
    finally:
        assemble.build_trainer = build


def _rollout(job: Job, recipe: Recipe) -> RolloutBatch:
    """Return the given rollout as rlvr's."""
    batch = given_rollout(job, recipe)
    exists, groups = batch["completion_mask"].bool(), batch["group_ids"]
    return RolloutBatch(
        prompt_ids=batch["prompt_ids"],
        prompt_mask=batch["prompt_mask"].bool(),
        completion_ids=batch["completion_ids"],
        completion_mask=exists,
        mask=exists,
        advantages=batch["advantages"].unsqueeze(-1).expand(exists.shape).clone(),
        rewards=batch["rewards"],
        group_ids=groups,
        origin=torch.full_like(groups, Origin.POLICY),
        old_logprobs=batch["old_per_token_logps"],
    )


def _own_gradient(job: Job, recipe: Recipe) -> torch.Tensor:
    """Return the gradient of all updates on the given rollout, flat, without a step between them.

    TRL divides an update by its share of the rollout's tokens, rlvr by its own tokens.
    """
    inputs = load_inputs(recipe)
    plan = plan_batches(recipe)
    trainer = assemble.build_trainer(recipe, plan, inputs, job.updates)
    inputs.close()
    rows = _rollout(job, recipe).to(trainer.processes.device)
    parts = rows.mask.split(plan.completions_per_update)
    trainer.model.train()
    flat = torch.zeros(())
    for update, part in enumerate(parts):
        trainer.model.zero_grad()
        for loss in trainer.losses(rows, update):
            loss.backward()
        own = torch.cat([p.grad.flatten() for p in trainer.model.parameters()]).cpu()
        flat = flat + own * float(part.sum() * len(parts) / rows.mask.sum())
    return flat


# ---------------------------------------------------------------------- TRL


def _peer(job: Job) -> dict[str, Any]:
    recipe, _ = job.load()
    clock = Clock(job)
    peer = _build(job, recipe, clock)
    if job.given is not None:
        peer.given = _inputs(job, recipe, peer.accelerator.device)
    peer.train()
    rollouts = [item for item in peer.rollouts if item.update >= job.warm]
    times = {
        "rollout_seconds": sum(item.seconds for item in rollouts),
        "scoring_seconds": sum(item.scoring for item in rollouts),
    }
    tokens = sum(item.tokens for item in rollouts)
    return _whole(job, clock, times, tokens) | _held_out(job, recipe, clock)


def _inputs(job: Job, recipe: Recipe, device: torch.device) -> dict[str, torch.Tensor]:
    """Return the given rollout as TRL's."""
    given = given_rollout(job, recipe)
    names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages")
    own = (*names, "num_items_in_batch", "old_per_token_logps")
    return {name: given[name].to(device) for name in own}


def _build(job: Job, recipe: Recipe, clock: Clock) -> Peer:
    size = job.micro_batch_size or recipe.training.micro_batch_size
    assert size is not None  # every case says it
    return build_peer(recipe, load_inputs(recipe), REWARDS[job.reward](), clock, size)


# ---------------------------------------------------------------------- both


def _whole(job: Job, clock: Clock, times: dict[str, float], tokens: float) -> dict[str, Any]:
    """Return what an update takes, in parts; training is all that is not the rollout."""
    found = clock.result(job)
    found |= {name: value / job.updates for name, value in times.items()}
    found["training_seconds"] = found["seconds"] - found["rollout_seconds"]
    found["tokens_per_second"] = tokens / job.updates / found["seconds"]
    return found


def _held_out(job: Job, recipe: Recipe, clock: Clock) -> dict[str, Any]:
    """Return pass@1 on the recipe's held-out problems by update and second, for the weights that were kept."""
    if not clock.weights:
        return {}
    from rlvr.demo_base import measure as pass_rates

    inputs = load_inputs(recipe)
    (held_out,) = inputs.sets
    model = AutoModelForCausalLM.from_pretrained(recipe.model.path, dtype=torch.float32)
    found = []
    for update, weights in clock.weights.items():
        model.load_state_dict(weights)
        torch.manual_seed(0)
        rates = pass_rates(model, inputs.tokenizer, held_out.rows, job.samples)
        found.append([update, clock.seconds[update - 1] if update else 0.0, rates["pass@1"]])
    inputs.close()
    return {"held_out": found}


def _sample(job: Job) -> dict[str, Any]:
    """Write a rollout of the initial policy as TRL makes it, old log-probs and all."""
    recipe, _ = job.load()
    torch.manual_seed(job.seed)
    batch = _build(job, recipe, Clock(job)).sample()
    assert job.given is not None
    torch.save({name: value.cpu() for name, value in batch.items()}, job.given)
    return {"rows": len(batch["advantages"]), "tokens": int(batch["completion_mask"].sum())}


def given_rollout(job: Job, recipe: Recipe) -> dict[str, torch.Tensor]:
    """Return the rollout of the file with made-up rewards: a share of its groups has none that differ."""
    assert job.given is not None
    batch = torch.load(job.given, weights_only=True)
    rows, size = len(batch["prompt_ids"]), recipe.rollout.group_size
    group_ids = torch.arange(rows) // size
    chance = torch.Generator().manual_seed(0)
    rewards = torch.randint(0, 2, (rows,), generator=chance).float().view(-1, size)
    rewards[:, 0], rewards[:, 1] = 1.0, 0.0
    numbers = torch.arange(len(rewards) + 1)
    steps = (numbers * job.idle + 1e-6).floor()
    rewards[steps.diff() > 0] = 0.0  # spread evenly over the rollout
    batch["group_ids"], batch["rewards"] = group_ids, rewards.flatten()
    batch["advantages"] = group_zscore(batch["rewards"], group_ids)
    return batch


def _status(field: str) -> int:
    """Return a number of bytes that Linux has on this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


def _gradient(job: Job) -> dict[str, Any]:
    """Write a side's gradient on the given rollout."""
    recipe, _ = job.load()
    if job.side == "TRL":
        peer = _build(job, recipe, Clock(job))
        flat = peer.gradient(_inputs(job, recipe, peer.accelerator.device))
    else:
        flat = _own_gradient(job, recipe)
    path = Path(job.folder) / "gradient.pt"
    torch.save(flat, path)
    return {"gradient": str(path)}


if __name__ == "__main__":
    wanted = Job(**json.loads(Path(sys.argv[1]).read_text()))
    Path(sys.argv[2]).write_text(json.dumps(measure(wanted)))
