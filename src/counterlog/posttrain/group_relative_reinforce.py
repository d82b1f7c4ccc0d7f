"""Group-relative REINFORCE: learn from rollouts that another model, or an older one, has sampled.

Use when    responses to prompts have rewards, several a prompt, and some of them are stale, replayed or logged.
Not when    every prompt has one response (the baseline is the group), or rewards come as preferences between pairs.
Data        Rollouts(prompt, completion, reward, [completion_logprobs], [group], [policy_version], [weight])
Paper       Yao, Chen, Sun, Chen, Zhang, Pan, Li, Ding, 2025, arXiv 2509.24203 (ICLR 2026), sections 2 to 4.
            Kimi (OPMD) arXiv 2501.12599; AsymRE arXiv 2506.20520; GRPO arXiv 2402.03300; GSPO arXiv 2507.18071.
Equation    a_i = r_i - tau (l_i - l0_i);   L = 1/(K (1+tau)^2) sum_i (a_i - mean a)^2                              (1)
            at l = l0:  grad L = -2 tau/(1+tau)^2 (1/K) sum_i (r_i - mean r) grad l_i, whoever sampled the y_i       (2)
            A_i = r_i - mean r  (or over the group's spread, or against another baseline)                            (3)
            M_it by clip_mode from rho_it = pi/pi_old:  one-side 1[A>=0, rho<=1+eh] or 1[A<=0, rho>=1-el];
              two-side 1[1-el<=rho<=1+eh];  ring: two-side or far out in the wrong direction (el', eh')              (4)
            L = - sum_it m_it M_it w_it A_i log pi_it / sum m,   w: 1, rho, its mean over the response, exp(A/T)     (5)
            regularisers inside the same mean: k2  + c (log rho)^2  (OPMD);  forward-kl  - c log pi  (AsymRE)        (6)
            RED-Drop: of the responses below the mean, as many go as make both kinds equally many; (3) again         (7)
            pairs: g_i = sum_j w_ij (r_i - r_j)                                                                      (8)
Shapes      r (b,) float32 | log pi, log pi_old (b, t) float32 | A (b,) float32 | M, m (b, t) in {0, 1}
Units       r, A: reward | L: reward x nats a token | c, tau: reward per nat | rho, w: none
Raises      ConfigError: thresholds out of order, nothing to learn from | LogError: rewards, log-probabilities, tokens |
            SupportError: no group has two responses, ratios without the sampler's log-probabilities |
            ConvergenceError: the loss is no longer finite
Differs     a group of one gets advantage 0 (the released code fails); `weight=seq-importance` goes with every clip
            mode; the ring's thresholds are the registry's 0.6 and 2.0; regularisers act on all rows, also those
            RED drops; token sums divide by the whole optimiser batch, not by each micro-batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from counterlog.core.config import param
from counterlog.core.errors import ConfigError, LogError, SupportError, message
from counterlog.core.generation import seed_of
from counterlog.core.group_advantages import Groups, group_advantage, spread_share
from counterlog.core.off_policy import clip_sums
from counterlog.core.rollout_config import RolloutConfig
from counterlog.core.rollout_tuning import tune_on_rollouts
from counterlog.core.token_batches import TokenBatch
from counterlog.core.token_losses import aggregate, log_ratio, sequence_log_ratio
from counterlog.core.tuning_result import Tuned

ADVANTAGES = ("mean", "zscore", "leave-one-out", "log-average-exp")
PairWeights = Callable[[Tensor], Tensor]  # rewards (b,) -> weights of pairs (b, b), at least 0
LARGEST_EXPONENT = 20.0


@dataclass(frozen=True, kw_only=True)
class GroupRelativeReinforceConfig(RolloutConfig):
    """Four switches make the family: clip mode, weight, regulariser, and what the group's data become."""

    advantage: str = param("mean", "baseline of a group (3)", choices=ADVANTAGES)
    ddof: int = param(0, "degrees of freedom of zscore's spread", at_least=0, at_most=1)
    std_eps: float = param(1e-6, "added to zscore's spread", unit="reward", at_least=0)
    baseline_shift: float = param(0.0, "added to the baseline: AsymRE has -0.1", unit="reward")
    baseline_tau: float = param(1.0, "temperature of log-average-exp", unit="reward", above=0)
    clip_mode: str = param(
        "one-side",
        "which tokens keep their gradient (4)",
        choices=("none", "one-side", "two-side", "ring", "seq-one-side"),
    )
    eps_low: float = param(0.2, "how far below 1 a ratio may be", above=0, at_most=1)
    eps_high: float = param(0.2, "how far above 1 a ratio may be", above=0)
    ring_low: float = param(0.6, "ring: below 1 by more than this counts again", above=0, at_most=1)
    ring_high: float = param(2.0, "ring: above 1 by more than this counts again", above=0)
    weight: str = param(
        "none",
        "what multiplies a token's gradient (5)",
        choices=("none", "importance", "seq-importance", "advantage"),
    )
    weight_temperature: float = param(1.0, "temperature of weight=advantage", unit="reward", above=0)
    surrogate: str = param(
        "reinforce", "(5), or PPO's minimum with gradient through rho", choices=("reinforce", "ppo")
    )
    dual_clip: float = param(3.0, "ppo: largest ratio that a bad token is pushed down at; 0: off", at_least=0)
    regularizer: str = param("none", "what holds the step back (6)", choices=("none", "k2", "forward-kl"))
    regularizer_coef: float = param(0.0, "its weight c", unit="reward per nat", at_least=0)
    regularizer_level: str = param("token", "k2 of a token or of a response", choices=("token", "sequence"))
    step_tau: float = param(
        0.0, "divides the loss by 1 + this: the simplified OPMD", unit="reward", at_least=0
    )
    drop: str = param("none", "balance: RED-Drop (7)", choices=("none", "balance"))
    singleton: str = param(
        "drop", "a response alone in its group: advantage 0, or its own reward", choices=("drop", "keep")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip_mode == "ring" and (self.ring_low < self.eps_low or self.ring_high < self.eps_high):
            msg = message(
                f"ring_low={self.ring_low:g}, ring_high={self.ring_high:g}",
                expected=f"at least eps_low={self.eps_low:g} and eps_high={self.eps_high:g}",
                hint="the ring lies outside the band",
            )
            raise ConfigError(msg)

    @classmethod
    def preset(cls, name: str, **settings: Any) -> Self:
        """A named member of the family, with these settings on top. Raises `ConfigError` listing the names."""
        if name not in PRESETS:
            msg = message(f"there is no preset {name!r}", expected=f"one of {', '.join(PRESETS)}")
            raise ConfigError(msg)
        return cls.from_dict({**PRESETS[name], **settings})

    @property
    def needs_old(self) -> str:
        """The setting that needs the sampler's log-probabilities, or ""."""
        wants = {
            f"clip_mode={self.clip_mode}": self.clip_mode != "none",
            f"weight={self.weight}": self.weight in ("importance", "seq-importance"),
            f"surrogate={self.surrogate}": self.surrogate == "ppo",
            f"regularizer={self.regularizer}": self.regularizer == "k2",
        }
        return next((name for name, wanted in wants.items() if wanted), "")


WIDE = {"eps_low": 0.6, "eps_high": 2.0}
PRESETS: dict[str, dict[str, Any]] = {
    "reinforce": {"clip_mode": "none"},
    "grpo": {"surrogate": "ppo", "advantage": "zscore", "ddof": 1},
    "rec-oneside-nois": {"clip_mode": "one-side"},
    "rec-oneside-is": {"clip_mode": "one-side", "weight": "importance"},
    "rec-oneside-nois-wide": {"clip_mode": "one-side", **WIDE},
    "rec-twoside-nois": {"clip_mode": "two-side"},
    "rec-twoside-is": {"clip_mode": "two-side", "weight": "importance"},
    "rec-ring-nois": {"clip_mode": "ring"},
    "gspo": {
        "clip_mode": "seq-one-side",
        "weight": "seq-importance",
        "aggregation": "seq-mean-token-mean",
        "advantage": "zscore",
        "eps_low": 3e-4,
        "eps_high": 4e-4,
    },
    "opmd": {"clip_mode": "none", "regularizer": "k2", "regularizer_coef": 0.1},
    "asymre": {"clip_mode": "none", "baseline_shift": -0.1},
    "red-drop": {"clip_mode": "none", "drop": "balance"},
    "red-weight": {"clip_mode": "none", "weight": "advantage"},
}


def consistency_loss(logp: Tensor, anchor: Tensor, rewards: Tensor, tau: float) -> Tensor:
    """Equation (1) for one group: sequence log-probabilities now and at the anchor, rewards, (K,) each -> ()."""
    a = rewards - tau * (logp - anchor)
    return (a - a.mean()).square().mean() / (1 + tau) ** 2


def pairwise_advantage(rewards: Tensor, group: Tensor, weights: PairWeights) -> Tensor:
    """Equation (8): (b,) sum over the group's others of w_ij (r_i - r_j)."""
    same = group[:, None] == group[None, :]
    w = weights(rewards) * same
    return (w * (rewards[:, None] - rewards[None, :])).sum(1)


def balanced(rewards: Tensor, group: Tensor, keys: Tensor) -> Tensor:
    """Equation (7): (b,) True for rows that stay. `keys` (b,) decide which of the rows below the mean go: the smallest
    first."""
    g = Groups(rewards, group)
    good = g.known & (rewards.double() >= g.mean - 1e-12)
    bad = g.known & ~good
    surplus = (g.sum(bad) - g.sum(good)).clamp(min=0)
    order = torch.argsort(keys, stable=True)
    order = order[torch.argsort(g.place[order], stable=True)]  # by group, then by key
    in_order, place = bad[order].double(), g.place[order]
    running = in_order.cumsum(0) - in_order
    before = torch.full((int(place.max()) + 1,), torch.inf, dtype=torch.float64).scatter_reduce(
        0, place, running, "amin"
    )
    rank = torch.empty_like(running)
    rank[order] = running - before[place]
    return ~(bad & (rank < surplus))


def clip_mask(ratio: Tensor, advantage: Tensor, c: GroupRelativeReinforceConfig) -> Tensor:
    """Equation (4): (b, t) 1 where a token keeps its gradient. `ratio` (b, t) or (b, 1), without gradient."""
    low, high = ratio >= 1 - c.eps_low, ratio <= 1 + c.eps_high
    if c.clip_mode == "none":
        return torch.ones_like(ratio)
    up, down = advantage[:, None] >= 0, advantage[:, None] <= 0
    if c.clip_mode in ("one-side", "seq-one-side"):
        return ((up & high) | (down & low)).float()
    kept = low & high
    if c.clip_mode == "ring":
        kept = kept | (up & (ratio <= 1 - c.ring_low)) | (down & (ratio >= 1 + c.ring_high))
    return kept.float()


def ppo_token_loss(
    logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor, c: GroupRelativeReinforceConfig
) -> tuple[Tensor, Tensor]:
    """- min(rho A, clip(rho) A), and with the dual clip at most - c A where A < 0; and which tokens keep a gradient."""
    ratio = log_ratio(logp, old, mask).exp()
    a = advantage[:, None]
    plain, held = ratio * a, ratio.clamp(1 - c.eps_low, 1 + c.eps_high) * a
    loss, kept = -torch.minimum(plain, held), (plain <= held).float()
    if c.dual_clip:
        capped = (a < 0) & (loss > -c.dual_clip * a)
        loss = torch.where(capped, -c.dual_clip * a, loss)
        kept = torch.where(capped, 0.0, kept)
    return loss, kept


class GroupRelativeLoss:
    """Equations (3) to (8) on a batch: `prepared` gives advantages once a step, `loss` the loss of a part of it."""

    def __init__(
        self, config: GroupRelativeReinforceConfig, *, rng: int = 0, pair_weights: PairWeights | None = None
    ) -> None:
        self.config, self.rng, self.pair_weights = config, rng, pair_weights
        self.needs_old = config.needs_old

    def __call__(self, logp: Tensor, batch: TokenBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Advantages and loss of a whole batch at once: for use without the loop."""
        whole = self.prepared(batch, 0).counted()
        return self.loss(logp, torch.zeros_like(logp), whole)

    def prepared(self, batch: TokenBatch, step: int) -> TokenBatch:
        """The batch with its advantages. Raises `LogError` and `SupportError`; warns when no group teaches anything."""
        self._check(batch)
        keep = None
        if self.config.drop == "balance":
            keep = balanced(batch.rewards, batch.group, self._keys(batch, step))
        batch.advantage = self.advantage(batch.rewards, batch.group, keep)
        return batch

    def advantage(self, rewards: Tensor, group: Tensor, keep: Tensor | None = None) -> Tensor:
        """Equation (3), or (8) with pair weights. (b,)."""
        c = self.config
        if self.pair_weights is not None:
            known = torch.isfinite(rewards) if keep is None else torch.isfinite(rewards) & keep
            alone = torch.where(known, group, -1 - torch.arange(len(group), device=group.device))
            return pairwise_advantage(rewards.nan_to_num(), alone, self.pair_weights)
        out = group_advantage(
            rewards, group, c.advantage, ddof=c.ddof, eps=c.std_eps, tau=c.baseline_tau, keep=keep
        )
        g = Groups(rewards, group, keep)
        counts = g.known & (g.count > 1)
        if c.singleton == "keep":
            out = torch.where(g.known & (g.count == 1), rewards, out)
            counts = g.known
        return torch.where(counts, out - c.baseline_shift, out)

    def loss(self, logp: Tensor, entropy: Tensor, batch: TokenBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Equations (4) to (6): (b, t) nats -> () and the sums of clipped tokens."""
        c, mask, old = self.config, batch.response_mask, batch.old_logprobs
        assert batch.advantage is not None  # `prepared` gave it
        advantage, sums = batch.advantage, {}
        if self.needs_old and old is None:
            msg = message(
                f"{self.needs_old} needs the sampler's log-probabilities",
                hint="set recompute_old=true, give behaviour_model, or use clip_mode=none with weight=none",
            )
            raise SupportError(msg)
        if c.surrogate == "ppo":
            assert old is not None  # refused above
            per_token, kept = ppo_token_loss(logp, old, advantage, mask, c)
        else:
            shift = torch.zeros_like(logp) if old is None else log_ratio(logp.detach(), old, mask)
            whole = sequence_log_ratio(shift, mask)
            ratio = (whole if c.clip_mode == "seq-one-side" else shift).exp()
            kept = clip_mask(ratio, advantage, c).expand_as(mask)
            held = advantage / c.weight_temperature
            weight = {
                "none": torch.ones_like(advantage)[:, None],
                "importance": shift.exp(),
                "seq-importance": whole.exp(),
                "advantage": held.clamp(max=LARGEST_EXPONENT).exp()[:, None],
            }[c.weight]
            if c.weight == "advantage":
                sums["count_weight_held"] = ((held > LARGEST_EXPONENT)[:, None] * mask).sum()
            per_token = -(kept * weight * advantage[:, None] * logp)
        sums |= clip_sums(kept, batch)
        value = self._mean(per_token, batch) / (1 + c.step_tau)
        if c.regularizer != "none" and c.regularizer_coef > 0:
            value = value + c.regularizer_coef * self._regularizer(logp, batch)
        return value, sums

    def _regularizer(self, logp: Tensor, batch: TokenBatch) -> Tensor:
        """Equation (6) without its coefficient."""
        if self.config.regularizer == "forward-kl":
            return self._mean(-logp, batch)
        assert batch.old_logprobs is not None  # refused before
        moved = (logp - batch.old_logprobs) * batch.response_mask
        if self.config.regularizer_level == "sequence":
            return (batch.weights * moved.sum(1).square()).sum() / batch.rows
        return self._mean(moved.square(), batch)

    def _mean(self, per_token: Tensor, batch: TokenBatch) -> Tensor:
        c = self.config
        weighted = per_token * batch.weights[:, None]
        return aggregate(
            weighted,
            batch.response_mask,
            c.aggregation,
            tokens=batch.tokens,
            rows=batch.rows,
            longest=c.longest,
        )

    def _check(self, batch: TokenBatch) -> None:
        if bool(torch.isinf(batch.rewards).any()):
            rows = torch.isinf(batch.rewards).nonzero().flatten().tolist()
            msg = message(f"rewards that are infinite in row {rows[0]}", expected="finite numbers")
            raise LogError(msg)
        alike, alone = spread_share(batch.rewards, batch.group)
        if alone == 1.0 and self.config.singleton == "drop":
            msg = message(
                "no group of the batch has two judged responses; a group-relative baseline needs >= 2 responses "
                "per prompt",
                hint="sample more responses, or give rows of one prompt the same group",
            )
            raise SupportError(msg)
        if alike == 1.0 and self.config.baseline_shift == 0:
            msg = "all groups of a batch have equal rewards (100 %): this step teaches nothing"
            warnings.warn(msg, stacklevel=3)

    def _keys(self, batch: TokenBatch, step: int) -> Tensor:
        """(b,) numbers drawn by what a row holds, so that the order of the rows does not matter."""
        gen = torch.Generator().manual_seed(seed_of(self.rng, step))
        draw = torch.randint(1, 2**62, (batch.input_ids.shape[1],), generator=gen)
        return (batch.input_ids.cpu() * draw).sum(1)


class GroupRelativeReinforce:
    """The family as a system: `tune` a model on a log of rollouts, or on what it samples itself."""

    def __init__(
        self,
        config: GroupRelativeReinforceConfig | None = None,
        *,
        pair_weights: PairWeights | None = None,
    ) -> None:
        self.config = config or GroupRelativeReinforceConfig()
        self.pair_weights = pair_weights

    def tune(self, model: Any, log: Any = None, *, rng: int = 0, **settings: Any) -> Tuned:
        """The tuned model and the report of the run, off-policyness included.

        `model`: a folder, a name, or a loaded causal language model (copied unless `in_place=True`). `log`: rollouts,
        or give `prompts` and `reward` (a function, several, or "module:function") to sample. Further settings: `out`
        (the run's folder; a run goes on where it was), `behaviour_model`, `reward_weights`, `tokenizer`, `trackers`,
        `callbacks`, `progress`, `command`.
        """
        policy = GroupRelativeLoss(self.config, rng=rng, pair_weights=self.pair_weights)
        return tune_on_rollouts(
            "group-relative-reinforce", policy, self.config, model, log=log, rng=rng, **settings
        )
