"""Tuning an image model on rewards: what the systems share around their loss.

A system gives an `ImageLoss`: which sampler, what of its walk is kept, and the loss of some rows. Here are the epochs
(sample, judge, advantage), the references, the averaged weights, the diagnostics, and the run.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from counterlog.core.errors import need_extra
from counterlog.core.generation import seed_of
from counterlog.core.group_advantages import group_advantage, spread_share
from counterlog.core.image_batches import ImageBatch, joined
from counterlog.core.image_config import ImageConfig
from counterlog.core.image_models import Condition, Denoiser, ImageModel, adapter_off
from counterlog.core.image_samplers import Sampler, walk
from counterlog.core.off_policy import Watch
from counterlog.core.reward_functions import RewardFunction, scored
from counterlog.core.rollout_sources import turn
from counterlog.core.tuning_loop import Record

Forward = Callable[[Tensor, Tensor, Tensor], Tensor]  # x_t, t, prompt numbers -> what the network says
ADVANTAGE_EPS = 1e-4
SHARES = ("ratio", "clipped", "distance_reference", "distance_average", "terms")


class ImageLoss(Protocol):
    """What makes one system differ from another."""

    sampler: Sampler
    keeps_walk: bool  # whether the states on the way are needed
    follows: bool  # whether the loss asks for the average that follows the model
    reference: bool  # whether the loss asks for the model at the start

    def advantage(self, rewards: Tensor, group: Tensor, prompt: Tensor) -> Tensor:
        """(n,) of an epoch's rewards."""
        ...

    def drawn(self, batch: ImageBatch, gen: torch.Generator) -> ImageBatch:
        """The rows of a step with the times and noise that its loss needs."""
        ...

    def old(self, now: Forward, batch: ImageBatch) -> Tensor | None:
        """(b, k) what the weights that sampled say; called before any update, for rows of later updates."""
        ...

    def loss(
        self, now: Forward, batch: ImageBatch, start: Forward, average: Forward
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """() loss of a part, adding up to the step's; sums of what SHARES names, `terms` counting them."""
        ...

    def after(self, step: int) -> float | None:
        """How much of the following average is kept after this step; None: it stays."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What else a resumed run needs."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        ...


def scaled_advantage(rewards: Tensor, group: Tensor, c: ImageConfig) -> Tensor:
    """(n,) group-relative, clipped to adv_clip, so scaled that adv_clip becomes adv_max. Equal rewards give 0."""
    raw = group_advantage(rewards, group, c.advantage, eps=ADVANTAGE_EPS)
    return raw.clamp(-c.adv_clip, c.adv_clip) / c.adv_clip * c.adv_max


class Average:
    """A copy of the trained weights that follows them."""

    def __init__(self, module: nn.Module) -> None:
        self.held = [p.detach().clone() for p in module.parameters() if p.requires_grad]

    def follow(self, module: nn.Module, decay: float) -> None:
        """Keep `decay` of the average."""
        now = [p.detach() for p in module.parameters() if p.requires_grad]
        self.held = [h.to(p.device) for h, p in zip(self.held, now, strict=True)]
        torch._foreach_lerp_(self.held, now, 1 - decay)

    @contextmanager
    def inside(self, module: nn.Module) -> Iterator[None]:
        """The module with the average as its weights; its own are back afterwards."""
        mine = [p for p in module.parameters() if p.requires_grad]
        kept = [p.data for p in mine]
        try:
            for p, h in zip(mine, self.held, strict=True):
                p.data = h.to(p.device)
            yield
        finally:
            for p, k in zip(mine, kept, strict=True):
                p.data = k


@dataclass
class Judge:
    """The prompts, and the reward functions that look at images."""

    prompts: list[Any]
    columns: dict[str, list[Any]]
    rewards: Sequence[RewardFunction]
    weights: Sequence[float] = ()

    def scores(self, images: Tensor, numbers: Tensor) -> Tensor:
        """(n,) rewards of images in [0, 1], asked for by prompt numbers."""
        asked = [self.prompts[i] for i in numbers.tolist()]
        more = {name: [values[i] for i in numbers.tolist()] for name, values in self.columns.items()}
        columns = {**more, "images": images.numpy(), "conditions": asked}
        found = scored(self.rewards, asked, images.numpy(), columns, self.weights)
        return torch.from_numpy(found.astype(np.float32))


@dataclass
class ImageTrainee:
    """An image model, its epochs and its loss, as the loop wants them. With `log`, its rows instead of samples."""

    module: Denoiser
    model: ImageModel
    judge: Judge
    policy: ImageLoss
    config: ImageConfig
    rng: int
    log: ImageBatch | None = None
    watch: Watch = field(default_factory=Watch)
    epoch: ImageBatch | None = None
    start: Denoiser | None = None
    follower: Average | None = None
    saved: Average | None = None
    sampled: int = 0

    def __post_init__(self) -> None:
        if self.policy.reference and not hasattr(self.module.net, "disable_adapter"):
            self.start = copy.deepcopy(self.module).requires_grad_(False)
        if self.policy.follows:
            self.follower = Average(self.module)
        if self.config.ema_decay:
            self.saved = Average(self.module)

    def condition(self, numbers: Tensor) -> tuple[Condition, Condition | None]:
        """The network's inputs for prompt numbers, and without a prompt where guidance needs it."""
        found = self.model.condition([self.judge.prompts[i] for i in numbers.tolist()])
        return found, self.model.null(len(numbers)) if self.config.guidance != 1.0 else None

    def forward(self, module: nn.Module) -> Forward:
        """`module` asked with prompt numbers."""

        def said(x: Tensor, t: Tensor, numbers: Tensor) -> Tensor:
            return module(x, t, *self.condition(numbers))

        return said

    # ------------------------------------------------------------------------------------------------ epochs

    def batch(self, step: int, accelerator: Any) -> ImageBatch:
        """The rows of this update, with the times and noise of its loss."""
        epoch, update = divmod(step, self.config.updates)
        if self.log is not None:
            size = min(self.config.prompts * self.config.images // self.config.updates, len(self.log))
            rows = torch.from_numpy(turn(len(self.log), max(size, 1), step, self.rng))
            found = self.log.part(rows)
            found.total = len(rows)
            return self.policy.drawn(found, self.gen(1, step))
        if update == 0 or self.epoch is None:
            self.epoch = self.sample_epoch(epoch, step, accelerator)
            self.remember(step)
        assert self.epoch is not None  # sampled above
        return self.dealt(epoch, update, step)

    def gen(self, *parts: int) -> torch.Generator:
        """Random numbers of (rng, what, step)."""
        return torch.Generator().manual_seed(seed_of(self.rng, *parts))

    def dealt(self, epoch: int, update: int, step: int) -> ImageBatch:
        """The epoch's rows that belong to one update."""
        assert self.epoch is not None  # sampled before
        rows = self.order(epoch)[update]
        found = self.epoch.part(rows)
        found.total = len(rows)
        return self.policy.drawn(found, self.gen(1, step))

    def order(self, epoch: int) -> list[Tensor]:
        """Which rows each update has."""
        assert self.epoch is not None  # sampled before
        mixed = torch.randperm(len(self.epoch), generator=self.gen(2, epoch))
        return list(torch.tensor_split(mixed, self.config.updates))

    def sample_epoch(self, epoch: int, step: int, accelerator: Any) -> ImageBatch:
        """Images of every prompt of the epoch with rewards and advantages."""
        c = self.config
        asked = torch.from_numpy(turn(len(self.judge.prompts), c.prompts, epoch, self.rng))
        numbers = asked.repeat_interleave(c.images)
        found = self.sample(numbers, self.policy.sampler, seed_of(self.rng, 3, epoch), accelerator)
        found.group = torch.arange(c.prompts).repeat_interleave(c.images)
        found.version = torch.full((len(numbers),), step)
        found.advantage = self.policy.advantage(found.reward, found.group, found.prompt)
        return found

    def sample(self, numbers: Tensor, sampler: Sampler, seed: int, accelerator: Any = None) -> ImageBatch:
        """One judged image for each prompt number; the same whatever the number of processes."""
        size = self.config.sampling_batch
        chunks = [numbers[i : i + size] for i in range(0, len(numbers), size)]
        processes, mine = (
            (1, 0) if accelerator is None else (accelerator.num_processes, accelerator.process_index)
        )
        keep = self.policy.keeps_walk and sampler is self.policy.sampler
        found = [
            (k, self._chunk(chunk, sampler, seed_of(seed, k), keep))
            for k, chunk in enumerate(chunks)
            if k % processes == mine
        ]
        if processes > 1:
            gather = need_extra("accelerate", "language").utils.gather_object
            packed = gather([(k, b.tensors()) for k, b in found])
            found = [(k, ImageBatch(**b)) for k, b in packed]
        return joined([b for _, b in sorted(found, key=lambda item: item[0])])

    def _chunk(self, numbers: Tensor, sampler: Sampler, seed: int, keep: bool) -> ImageBatch:
        gen = torch.Generator().manual_seed(seed)
        device = self.model.device
        noise = torch.randn((len(numbers), *self.model.shape), generator=gen).to(device)
        given = self.condition(numbers)

        def said(x: Tensor, t: Tensor) -> Tensor:
            return self.module(x, t, *given)

        went = walk(said, self.module.path, noise, sampler, gen=gen, keep=keep)
        n, rows = len(numbers), torch.zeros(len(numbers))
        rewards = torch.full((n,), torch.nan)
        if self.judge.rewards:
            rewards = self.judge.scores(self.model.images(went.x0), numbers)
        states = None if went.states is None else went.states.cpu()
        logp = None if went.logp is None else went.logp.cpu()
        return ImageBatch(
            went.x0.cpu(), numbers, rewards, torch.arange(n), rows.clone(), torch.ones(n), torch.zeros(n).long(),
            states=states, logp=logp,
        )  # fmt: skip

    def remember(self, step: int) -> None:
        """What the present weights say about the rows of later updates: the denominators of their ratios."""
        epoch, rows_of = step // self.config.updates, self.epoch
        assert rows_of is not None  # sampled before
        now, device = self.forward(self.module), self.model.device
        for update, rows in enumerate(self.order(epoch)):
            if update == 0:
                continue  # the ratios of the first update are 1
            whole = self.dealt(epoch, update, step + update)
            parts = []
            for i in range(0, len(whole), self.config.micro_batch):
                with torch.no_grad():
                    found = self.policy.old(now, whole.part(slice(i, i + self.config.micro_batch)).to(device))
                if found is None:
                    return
                parts.append(found.cpu())
            old = torch.cat(parts)
            if rows_of.old is None:
                rows_of.old = torch.full((len(rows_of), old.shape[1]), torch.nan)
            rows_of.old[rows] = old

    # ------------------------------------------------------------------------------------------------ the loop's

    def loss(self, module: nn.Module, part: ImageBatch, step: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The system's loss; references are asked without gradient."""
        bare = self.module

        def start(x: Tensor, t: Tensor, numbers: Tensor) -> Tensor:
            with torch.no_grad():
                if self.start is not None:
                    return self.forward(self.start.to(x.device))(x, t, numbers)
                with adapter_off(bare):
                    return self.forward(bare)(x, t, numbers)

        def average(x: Tensor, t: Tensor, numbers: Tensor) -> Tensor:
            assert self.follower is not None  # the policy has said that it follows
            with torch.no_grad(), self.follower.inside(bare):
                return self.forward(bare)(x, t, numbers)

        value, sums = self.policy.loss(self.forward(module), part, start, average)
        sums["advantage_square"] = part.advantage.double().square().sum()
        return value, sums

    def report(self, sums: Record, batch: ImageBatch, step: int) -> Record:
        """Reward, ratios and distances of the step."""
        known = batch.reward[torch.isfinite(batch.reward)]
        out = {"reward": float(known.mean())} if len(known) else {}
        whole = batch if self.epoch is None else self.epoch
        out["groups_alike"] = spread_share(whole.reward, whole.group)[0]
        out["advantage_rms"] = (sums["advantage_square"] / len(batch)) ** 0.5
        out |= {name: sums[name] / sums["terms"] for name in SHARES[:-1] if name in sums}
        out |= self.watch.add(sums, batch.version, step)
        out["images"] = float(self.watch.rows)
        return {k: v for k, v in out.items() if np.isfinite(v)}

    def stepped(self, module: nn.Module, step: int) -> None:
        """The averages follow."""
        if self.saved is not None:
            self.saved.follow(self.module, min(self.config.ema_decay, (1 + step) / (10 + step)))
        decay = self.policy.after(step)
        if self.follower is not None and decay is not None:
            self.follower.follow(self.module, decay)

    def state(self) -> dict[str, Tensor]:
        """Averages, totals, and the epoch that is not yet used up."""
        found = {**self.watch.state(), **self.policy.state()}
        for name, average in (("follower", self.follower), ("saved", self.saved)):
            if average is not None:
                found |= {f"{name}.{i}": v for i, v in enumerate(average.held)}
        if self.epoch is not None:
            found |= {f"epoch.{k}": v for k, v in self.epoch.tensors().items()}
        return found

    def load_state(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """As it was."""
        self.watch.load_state(tensors)
        self.policy.load_state(tensors)
        for name, average in (("follower", self.follower), ("saved", self.saved)):
            if average is not None:
                average.held = [tensors[f"{name}.{i}"] for i in range(len(average.held))]
        kept = {k.removeprefix("epoch."): v for k, v in tensors.items() if k.startswith("epoch.")}
        if kept:
            self.epoch = ImageBatch(**kept)
