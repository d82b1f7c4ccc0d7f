"""Tuning a language model on rollouts: what the systems share around their loss.

A system gives a `PolicyLoss`: the advantage of a batch, and the loss of a part. Here are the batches, the references,
the checks of the sampler, the diagnostics, and the run.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from counterlog.core.errors import ConfigError, LogError, SupportError, message
from counterlog.core.group_advantages import spread_share
from counterlog.core.kl_estimators import kl
from counterlog.core.language_models import (
    LanguageModel,
    open_language_model,
    save_language_model,
    texts_of,
    weights_fingerprint,
    with_lora,
)
from counterlog.core.off_policy import Watch, off_policy_metrics, off_policy_sums
from counterlog.core.reference_models import Averaged, Reference, log_logprobs, reference_of
from counterlog.core.reward_functions import RewardFunction, load_reward, scored
from counterlog.core.rollout_config import RolloutConfig
from counterlog.core.rollout_sources import (
    LogSource,
    Prompts,
    SampledSource,
    Source,
    check_sampler,
    prompts_of_log,
    read_prompts,
    sample_scored,
)
from counterlog.core.rollouts import Rollouts
from counterlog.core.run_folder import MODEL, RESULT, RunFolder
from counterlog.core.study import versions
from counterlog.core.token_batches import TokenBatch
from counterlog.core.token_logprobs import TokenLogProbs
from counterlog.core.token_losses import aggregate, log_ratio
from counterlog.core.tuning_loop import Progress, Record, make_accelerator, run_loop
from counterlog.core.tuning_result import Tuned, TuningReport, side_by_side

DISTANCE = {"no": 1e-3, "bf16": 2e-2, "fp16": 1e-2}  # mean |ratio - 1| that rounding explains


class PolicyLoss(Protocol):
    """What makes one system differ from another."""

    needs_old: str  # the setting that needs the sampler's log-probabilities, or ""

    def prepared(self, batch: TokenBatch, step: int) -> TokenBatch:
        """The whole batch with its `advantage`, and with what the system takes out masked."""
        ...

    def loss(self, logp: Tensor, entropy: Tensor, batch: TokenBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """() the loss of a part, and sums for `off_policy_metrics`."""
        ...


@dataclass
class RolloutTrainee:
    """A language model, its batches and its loss, as the loop wants them."""

    module: TokenLogProbs
    source: Source
    policy: PolicyLoss
    config: RolloutConfig
    reference: Reference | None = None
    watch: Watch = field(default_factory=Watch)
    checked: bool = False

    def batch(self, step: int, accelerator: Any) -> TokenBatch:
        """The step's rows with advantages and sums."""
        found = self.source.next(step, accelerator)
        if not self.checked and found.old_logprobs is not None and bool((found.version == step).all()):
            self._check(found, accelerator)
        self.checked = True
        if self.reference is not None:
            found.ref_logprobs = self._reference(found, accelerator.device)
            if self.config.kl_place == "reward":
                found.rewards = penalised(found, self.config.kl_coef)
        return self.policy.prepared(found, step).counted()

    def _check(self, batch: TokenBatch, accelerator: Any) -> None:
        """Refuse to train when the sampler's log-probabilities are not the policy's own."""
        if isinstance(self.source, LogSource) and self.source.log.version is None:
            return
        part = batch.part(slice(0, 64)).to(accelerator.device)
        with torch.no_grad(), accelerator.autocast():
            logp = self.module(part, self.config.temperature)[0]
        if (off := check_sampler(logp, part)) > DISTANCE[self.config.precision]:
            msg = message(
                f"the first rows' log-probabilities are not this model's: the mean |ratio - 1| is {off:.3g}",
                expected=f"at most {DISTANCE[self.config.precision]:g} for rows that this version sampled",
                hint="temperature, precision or tokenizer differ; or set recompute_old=true",
            )
            if isinstance(self.source, LogSource):
                warnings.warn(msg, stacklevel=2)
            else:
                raise LogError(msg)

    def _reference(self, batch: TokenBatch, device: Any) -> Tensor:
        assert self.reference is not None  # asked by the caller
        found = torch.zeros_like(batch.response_mask)
        size = self.config.micro_batch
        for i in range(0, len(batch), size):
            rows = slice(i, i + size)
            part = batch.part(rows).to(device)
            logp = self.reference.logprobs(part, self.config.temperature).cpu()
            found[rows, : logp.shape[1]] = logp
        return found

    def loss(self, module: nn.Module, part: TokenBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The system's loss plus the penalty."""
        logp, entropy = module(part, self.config.temperature, True)
        value, sums = self.policy.loss(logp, entropy, part)
        sums = {**off_policy_sums(logp, entropy, part), **sums}
        if part.ref_logprobs is not None:
            estimate = kl(logp.detach(), part.ref_logprobs, "low-var-k3")
            sums["kl_reference"] = (estimate * part.response_mask).sum()
            if self.config.kl_place == "loss" and self.config.kl_coef > 0:
                ratio = None
                if part.old_logprobs is not None:
                    ratio = log_ratio(logp.detach(), part.old_logprobs, part.response_mask).exp()
                penalty = kl(logp, part.ref_logprobs, self.config.kl_kind, ratio=ratio)
                value = value + self.config.kl_coef * self.total(penalty, part)
        return value, sums

    def total(self, per_token: Tensor, part: TokenBatch) -> Tensor:
        """Token values as one number, by the configuration's aggregation."""
        c = self.config
        return aggregate(
            per_token,
            part.response_mask,
            c.aggregation,
            tokens=part.tokens,
            rows=part.rows,
            longest=c.longest,
        )

    def report(self, sums: Record, batch: TokenBatch, step: int) -> Record:
        """Reward, off-policyness and staleness of the step."""
        rewards = batch.rewards[torch.isfinite(batch.rewards)]
        out = {} if len(rewards) == 0 else {"reward": float(rewards.mean())}
        out["groups_alike"], out["rows_alone"] = spread_share(batch.rewards, batch.group)
        out |= off_policy_metrics(sums)
        out |= self.watch.add(sums, batch.version, step)
        return {k: v for k, v in out.items() if np.isfinite(v)}

    def stepped(self, module: nn.Module, step: int) -> None:
        """Let a reference that follows follow."""
        if isinstance(self.reference, Averaged):
            self.reference.follow(self.module)

    def state(self) -> dict[str, Tensor]:
        """Queue, totals, and the reference where it moves."""
        found = {**self.source.state(), **self.watch.state()}
        if isinstance(self.reference, Averaged):
            found |= {f"average.{k}": v for k, v in self.reference.scorer.state_dict().items()}
        return found

    def load_state(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """As it was."""
        self.checked = True
        self.source.load_state(tensors, step)
        self.watch.load_state(tensors)
        if isinstance(self.reference, Averaged):
            mine = {k.removeprefix("average."): v for k, v in tensors.items() if k.startswith("average.")}
            self.reference.scorer.load_state_dict(mine)


def penalised(batch: TokenBatch, coefficient: float) -> Tensor:
    """(b,) reward minus the penalty of what was sampled: the plain estimator summed over the response (RLHF)."""
    assert batch.ref_logprobs is not None  # set before
    if batch.old_logprobs is None:
        msg = message(
            "kl_place='reward' needs the sampler's log-probabilities", hint="set recompute_old=true"
        )
        raise SupportError(msg)
    paid = ((batch.old_logprobs - batch.ref_logprobs) * batch.response_mask).sum(1)
    return batch.rewards - coefficient * paid


def tune_on_rollouts(
    slug: str,
    policy: PolicyLoss,
    config: RolloutConfig,
    model: Any,
    *,
    log: Any = None,
    prompts: Any = None,
    reward: Any = None,
    reward_weights: Sequence[float] = (),
    behaviour_model: Any = None,
    tokenizer: Any = None,
    rng: int = 0,
    out: str | os.PathLike[str] | None = None,
    in_place: bool = False,
    command: str = "",
    trackers: Sequence[str] = (),
    callbacks: Sequence[Any] = (),
    progress: Progress | None = None,
) -> Tuned:
    """The whole run of a system that tunes on rollouts; what `tune` of its class calls.

    From a `log` alone, or from `prompts` and `reward`: the rows are then sampled as the configuration says. A log that
    has no rewards is judged by `reward` first.
    """
    rewards = _functions(reward)
    found = open_language_model(model, tokenizer, in_place=in_place)
    if log is None and (prompts is None or not rewards):
        msg = message(
            "there is nothing to learn from",
            expected="a log of rollouts, or prompts and a reward function",
        )
        raise ConfigError(msg)
    if config.checkpointing:
        found.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    data: dict[str, Any] = {"reward": [getattr(f, "__name__", str(f)) for f in rewards]}
    start = weights_fingerprint(found.model)
    behaviour = None if behaviour_model is None else open_language_model(behaviour_model, found.tokenizer)
    if config.lora_rank:
        found.model = with_lora(
            found.model,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            targets=config.lora_targets,
            rng=rng,
        )
    folder = None if out is None else RunFolder(out)
    accelerator = make_accelerator(config, trackers, folder)
    scorer = TokenLogProbs(found.model).to(accelerator.device)
    if behaviour is not None:
        behaviour.model.to(accelerator.device)
    source: Source
    if log is not None:
        table = log if isinstance(log, Rollouts) else Rollouts(log)
        data |= {"log": table.fingerprint, "rows": table.n, "groups": table.groups}
        asked = prompts_of_log(table.table, found)
        table = _judged(table, rewards, reward_weights)
        source = _log_source(table, found, policy, config, scorer, behaviour, rng)
    else:
        asked = read_prompts(prompts, found)
        data |= {"prompts": asked.n} | ({} if config.sync_interval else {"steps": config.steps})
        source = _sampled_source(found, asked, rewards, reward_weights, config, rng)
    trainee = RolloutTrainee(scorer, source, policy, config)
    if config.reference != "none":
        extra = {"decay": config.reference_decay} if config.reference == "average" else {}
        trainee.reference = reference_of(config.reference, scorer, **extra)
    if folder is not None:
        folder.writes = accelerator.is_main_process
        folder.begin(
            {
                "slug": slug,
                "command": command,
                "config": config.to_dict(),
                "rng": rng,
                "model": {
                    "from": str(model) if isinstance(model, (str, os.PathLike)) else "",
                    "weights": start,
                },
                "data": data,
                "processes": accelerator.num_processes,
                "versions": versions("counterlog", "torch", "transformers", "accelerate"),
            }
        )
    before = _answers(found, asked, rewards, config, rng)
    if trainee.reference is not None and hasattr(trainee.reference, "scorer"):
        trainee.reference.scorer.to(accelerator.device)
    metrics = run_loop(
        trainee, config, accelerator=accelerator, folder=folder, project=slug, trackers=trackers,
        callbacks=callbacks, progress=progress,
    )  # fmt: skip
    report = TuningReport(
        slug=slug,
        unit="reward",
        n=trainee.watch.rows,
        rng=rng,
        metrics=tuple(metrics),
        samples=side_by_side(before, _answers(found, asked, rewards, config, rng), "answer"),
        off_policy=trainee.watch.report(),
        notes=tuple(_notes(config, trainee)),
    )
    if folder is not None and accelerator.is_main_process:
        save_language_model(found, folder.path / MODEL)
        report.save(folder.path / RESULT)
    accelerator.wait_for_everyone()
    return Tuned(found.model, report, found.tokenizer, None if folder is None else Path(folder.path))


def _functions(reward: Any) -> list[RewardFunction]:
    """One reward or several, as functions; names are imported."""
    listed = [] if reward is None else list(reward) if isinstance(reward, (list, tuple)) else [reward]
    return [load_reward(r) if isinstance(r, str) else r for r in listed]


def _judged(table: Rollouts, rewards: Sequence[RewardFunction], weights: Sequence[float]) -> Rollouts:
    """The log with rewards: its own, or those of the functions."""
    if table.has("reward"):
        return table
    if not rewards:
        msg = message("the log has no column 'reward'", hint="give a reward function, or name the column")
        raise LogError(msg)
    t = table.table
    columns = {c: t[c].to_list() for c in t.columns if c not in ("prompt", "completion")}
    if table.completion_kind == "tokens":
        columns["completion_ids"] = t["completion"].to_list()
    if table.prompt_kind == "tokens":
        columns["prompt_ids"] = t["prompt"].to_list()
    return table.with_rewards(
        scored(rewards, t["prompt"].to_list(), t["completion"].to_list(), columns, weights)
    )


def _log_source(
    table: Rollouts,
    found: LanguageModel,
    policy: PolicyLoss,
    config: RolloutConfig,
    scorer: TokenLogProbs,
    behaviour: LanguageModel | None,
    rng: int,
) -> LogSource:
    """The log as batches, with the sampler's log-probabilities where the loss needs them."""
    encoded = table.encode(found.tokenizer, vocabulary=found.vocabulary, longest=config.longest)
    sizes = np.unique(encoded.group, return_counts=True)[1]
    if int(sizes.max()) < 2:
        msg = message(
            f"every one of the {len(sizes)} groups holds one response: a group-relative baseline needs at least 2",
            hint="log several responses to a prompt, and give them one `group`",
        )
        raise SupportError(msg)
    if behaviour is not None:
        encoded.logprobs = log_logprobs(
            TokenLogProbs(behaviour.model), encoded, pad=found.pad, temperature=config.temperature
        )
    elif config.recompute_old:
        encoded.logprobs = log_logprobs(scorer, encoded, pad=found.pad, temperature=config.temperature)
    elif encoded.logprobs is not None:
        table.need_temperature(config.temperature)
    elif policy.needs_old:
        msg = message(
            f"{policy.needs_old} needs the sampler's log-probabilities, and the log has no column "
            "'completion_logprobs'",
            hint="set recompute_old=true (the model at the start was the sampler), give behaviour_model, or use "
            "a setting without ratios (clip_mode=none, weight=none, regularizer=none)",
        )
        raise SupportError(msg)
    return LogSource(encoded, found.pad, config.prompts, rng, config.mask_truncated)


def _sampled_source(
    found: LanguageModel,
    asked: Prompts,
    rewards: Sequence[RewardFunction],
    weights: Sequence[float],
    config: RolloutConfig,
    rng: int,
) -> SampledSource:
    if config.responses < 2:
        msg = message("responses=1: a group-relative baseline needs at least 2 responses to a prompt")
        raise ConfigError(msg)
    return SampledSource(
        model=found,
        from_prompts=asked,
        rewards=rewards,
        prompts=config.prompts,
        responses=config.responses,
        longest=config.longest,
        temperature=config.temperature,
        interval=config.sync_interval,
        offset=config.sync_offset,
        reuse=config.reuse,
        steps=config.steps,
        chunk=config.sampling_batch,
        rng=rng,
        reward_weights=weights,
        mask_truncated=config.mask_truncated,
    )


def _answers(
    found: LanguageModel, asked: Prompts, rewards: Sequence[RewardFunction], config: RolloutConfig, rng: int
) -> list[dict[str, Any]]:
    """One sampled answer to each of the first prompts, by the same seed whenever it is asked."""
    n = min(config.samples, asked.n)
    if n == 0:
        return []
    batch = sample_scored(
        found, asked, np.arange(n), rewards, seed=rng, longest=config.longest, temperature=config.temperature
    )
    width = batch.prompt_width
    texts = texts_of(found, batch.input_ids[:, width:], batch.attention_mask[:, width:])
    shown = [t if isinstance(t, str) else _shown(t) for t in asked.texts[:n]]
    return [
        {"prompt": p, "answer": a, "reward": r if np.isfinite(r) else None}
        for p, a, r in zip(shown, texts, batch.rewards.tolist(), strict=True)
    ]


def _shown(prompt: Any) -> str:
    """Chat turns or token numbers as text."""
    if prompt and isinstance(prompt[0], dict):
        return "\n".join(f"{t['role']}: {t['content']}" for t in prompt)
    return " ".join(map(str, prompt))


def _notes(config: RolloutConfig, trainee: RolloutTrainee) -> list[str]:
    """What a reader of the numbers must know."""
    notes = []
    if isinstance(trainee.source, SampledSource) and config.sync_interval == 1 and config.reuse == 1:
        notes.append("on policy: every ratio is 1 by construction, so nothing can be clipped")
    if isinstance(trainee.source, LogSource) and trainee.source.log.logprobs is None:
        notes.append("the log has no log-probabilities of its sampler: ratios and KL to it are not known")
    if config.recompute_old and isinstance(trainee.source, LogSource):
        notes.append("the model at the start was taken as the sampler of the log")
    return notes
