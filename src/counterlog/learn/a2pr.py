"""A2PR: a deterministic policy pulled to the better of the logged action and one that a model of good actions proposes.

Use when    actions are continuous, the log mixes good and poor ones, and a better action than the logged is plausible.
Not when    actions are discrete, or the log is narrow: advantages of actions that nobody tried are believed (see bc).
Data        Episodes(state, action, reward)
Paper       Liu, Li, Lan, Gao, Pan and Xu, Adaptive Advantage-Guided Policy Regularization for Offline Reinforcement
            Learning, ICML 2024, arXiv 2405.19909.
Equation    y  = r + gamma (1 - terminated) min_j Q'_j(s', a'),   a' smoothed as TD3                    (1)
            y_V = min(y, r + gamma (1 - terminated) min_j Q_j(s', a')),   V: mean (V(s) - y_V)^2          (2)
            VAE: mean w (a_rec - a)^2 + kl_weight KL,   w = vae_weight 1[Q_1(s, a) > V(s)]                (3)
            g = VAE(s, p),  p = pi(s);   A(x) = Q_1(s, x) - V(s)
            target = g if A(g) >= A(a) else a;   active = A(g) >= 0 or A(a) > 0                           (4)
            actor: - lambda mean Q_1(s, p) + pull mean active (p - target)^2,  lambda = alpha / mean |Q_1| (5)
Shapes      s (seeds, b, d) | a, p, g (seeds, b, k) in [-1, 1] | Q (seeds, 2, b) | V, A (seeds, b) | losses (seeds,)
Units       Q, V, A, y: shaped reward units, discounted | KL: nats | lambda: 1 / Q | pull, vae_weight: none
Raises      ConfigError: discrete actions, no such guide | LogError: a role is missing, actions out of bounds
            SupportError: rewards are all alike | NotFittedError: verdicts before fit
            ConvergenceError: a loss is not finite
Differs     paper: the guide is drawn given s; the authors' code, and this, encode the policy's action (guide_latent).
            Beyond the paper: guide="all" (nearest logged pair too), caution, expectile, verdicts on every logged row.
Builds on   td3-bc
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from counterlog.core.action_vae import ActionVAE, at_a_bound, kl_to_prior
from counterlog.core.actor_heads import Actor
from counterlog.core.config import param
from counterlog.core.episodes import EpisodeWarning
from counterlog.core.errors import ConfigError, ConvergenceError, LogError, NotFittedError, message
from counterlog.core.nearest_pairs import NearestPairs
from counterlog.core.results import Result
from counterlog.core.seed_streams import SeedStreams
from counterlog.core.stacked_critics import Critic, StateValue, bootstrap_target, squared_errors
from counterlog.core.stacked_nets import Descent, StackedTensors
from counterlog.core.training_loop import Metrics, one_thread
from counterlog.core.transition_rows import Batch
from counterlog.core.transitions import Transitions
from counterlog.learn.td3_bc import TD3BC, TD3BCConfig, smoothed_action, value_weight

PROPOSED, NEAREST, LOGGED = "proposed", "nearest", "logged"  # in the order in which ties are decided
GUIDES: dict[str, tuple[str, ...]] = {
    "both": (PROPOSED, LOGGED),
    "data": (LOGGED,),
    "vae": (PROPOSED,),
    "all": (PROPOSED, NEAREST, LOGGED),
    "none": (),
}
WATCHED, FEW = 1000, 0.01
CHUNK = 2048


@dataclass(frozen=True, kw_only=True)
class A2PRConfig(TD3BCConfig):
    """Parameters of A2PR."""

    hidden: tuple[int, ...] = param((256, 256, 256), "hidden units a layer of the policy", at_least=1)
    critic_hidden: tuple[int, ...] = param(
        (256, 256, 256, 256), "hidden units a layer of the critics and of V", at_least=1
    )
    vae_hidden: tuple[int, ...] = param((750, 750), "hidden units a layer of encoder and decoder", at_least=1)
    alpha: float = param(2.5, "weight of the value against the pull to the guide (5)", at_least=0)
    pull: float = param(1.0, "weight of the pull (5), the authors' mask; 0 is TD3", at_least=0)
    vae_weight: float = param(1.0, "weight of the reconstruction of good rows (3)", at_least=0)
    kl_weight: float = param(0.5, "weight of the KL (3)", at_least=0)
    vae_lr: float = param(1e-3, "Adam step size of the VAE", above=0)
    vae_every: int = param(1, "critic steps a VAE step", at_least=1)
    vae_filter: bool = param(True, "let rows with a positive advantage alone be reconstructed (3)")
    latent: int = param(0, "latent numbers; 0: twice the action's columns", at_least=0)
    guide: str = param(
        "both",
        "what may be the target (4): the proposal or the logged action, one of them, also the nearest pair, or nothing",
        choices=tuple(GUIDES),
    )
    guide_latent: str = param(
        "posterior",
        "where proposals come from: the policy's action encoded (the authors' code), or the prior (the paper's text)",
        choices=("posterior", "prior"),
    )
    detach_guide: bool = param(
        False, "hold proposals constant; the authors let gradients pass through the VAE"
    )
    threshold: float = param(0.0, "advantage from which an action is worth a pull (4)", unit="reward")
    caution: float = param(
        0.0,
        "deviations of the critics below their mean at which actions are judged; 0: the first critic",
        at_least=0,
    )
    critics: int = param(2, "critics a seed", at_least=2)
    expectile: float = param(
        0.5, "of its targets that V follows; 0.5 is the mean, as in (2)", above=0, below=1
    )
    beta: float = param(2.0, "how much states count beside actions for guide='all', as in prdc", at_least=0)


@dataclass(frozen=True, kw_only=True)
class Verdicts(Result):
    """What becomes of logged actions: shares over seeds and draws of the latent.

    A row has `logged`, `proposed`, `nearest`, `ignored` (they sum to 1: how often that was the target), `verdict` (the
    largest of them), `advantage_logged`, `advantage_proposed` (means), and the two actions in the environment's units.
    """

    unit: str
    n: int
    rows: tuple[dict[str, float | str], ...]

    def records(self) -> list[dict[str, float | str]]:
        """One record a logged action."""
        return [dict(r) for r in self.rows]


def value_errors(value: Tensor, target: Tensor, expectile: float) -> Tensor:
    """The second half of (2): (seeds, b) twice -> (seeds,). Away from expectile 0.5 sides weigh differently."""
    gap = target - value
    if expectile == 0.5:
        return gap.square().mean(dim=1)
    return (2 * torch.where(gap > 0, expectile, 1 - expectile) * gap.square()).mean(dim=1)


def reconstruction_error(rebuilt: Tensor, action: Tensor, weight: Tensor) -> Tensor:
    """The first part of (3), (seeds,): the mean is over all rows, weighted ones or not."""
    return (weight[..., None] * (rebuilt - action).square()).mean(dim=(1, 2))


def chosen(advantage: Tensor, sources: tuple[str, ...], threshold: float) -> tuple[Tensor, Tensor]:
    """Equation (4): the winner's place in `sources` and whether its row is active, (seeds, b) each.

    (sources, seeds, b) advantages. Ties go to the source that is named first; a logged action must be above the
    threshold, another one not below it.
    """
    best = advantage.amax(dim=0)
    winner = advantage.argmax(dim=0)
    above = best > threshold
    if sources[-1] != LOGGED:
        return winner, best >= threshold
    return winner, above | ((best == threshold) & (winner < len(sources) - 1))


def guided_pull(action: Tensor, target: Tensor, active: Tensor) -> Tensor:
    """The pull of (5), (seeds,): the mean is over all rows, so that fewer active rows pull less."""
    return (active[..., None] * (action - target).square()).mean(dim=(1, 2))


class A2PR(TD3BC):
    """Adaptive advantage-guided policy regularisation."""

    config: A2PRConfig

    def __init__(self, config: A2PRConfig | None = None) -> None:
        self.config = config or A2PRConfig()

    @property
    def sources(self) -> tuple[str, ...]:
        """What may be the target of a row."""
        c = self.config
        return GUIDES[c.guide] if c.constraint and c.pull > 0 else ()

    def build(self, data: Transitions) -> None:
        """Actor, critics, V and VAE; only actor and critics have targets."""
        c = self.config
        if data.discrete:
            raise ConfigError(message("A2PR needs continuous actions", hint="use a discrete learner"))
        d, k = data.state_size, data.action_size
        latent = c.latent or 2 * k
        if latent < k:
            msg = f"{latent} latent numbers for {k} action columns: proposals cannot reach every action"
            warnings.warn(msg, EpisodeWarning, stacklevel=2)
        self.actor = Actor(d, c.hidden, k, seeds=self.seeds)
        self.critic = Critic(d, k, c.critic_hidden, seeds=self.seeds, members=c.critics)
        self.actor_target, self.critic_target = self.actor.frozen(), self.critic.frozen()
        self.value = StateValue(d, c.critic_hidden, seeds=self.seeds)
        self.vae = ActionVAE(d, k, c.vae_hidden, latent=latent, seeds=self.seeds)
        self.encoder, self.decoder = self.vae.encoder, self.vae.decoder
        self.actor_descent = Descent(self.actor, lr=c.lr)
        self.critic_descent = Descent(self.critic, lr=c.lr)
        self.value_descent = Descent(self.value, lr=c.lr)
        self.vae_descent = Descent(self.encoder, self.decoder, lr=c.vae_lr)
        self.smoothing = SeedStreams(self.seeds, "target noise")
        self.latents = SeedStreams(self.seeds, "latents")
        self.watch = StackedTensors({"positive": ()}, self.seeds).frozen()
        if NEAREST in self.sources:
            state, action = data.column("state"), data.column("action")
            self.index = NearestPairs(state, action, beta=c.beta)

    def update(self, batch: Batch) -> Metrics:
        """Critics, V, VAE; every `policy_every` steps the actor and the targets."""
        c = self.config
        self.updates += 1
        with torch.no_grad():
            noise = self.smoothing.normal(*batch.action.shape[1:])
            after = smoothed_action(self.actor_target, batch.next_state, noise, c.policy_noise, c.noise_clip)
            later = self.critic_target.least(batch.next_state, after)
            slow = bootstrap_target(batch.reward, batch.terminated, later, c.gamma)
        values = self.critic.values(batch.state, batch.action)
        loss = squared_errors(values, slow)
        self.critic_descent.step(loss)
        with torch.no_grad():
            later = self.critic.least(batch.next_state, after)
            fast = bootstrap_target(batch.reward, batch.terminated, later, c.gamma)
            worth = self.judged(batch.state, batch.action)
        value = self.value.values(batch.state)
        value_loss = value_errors(value, torch.minimum(fast, slow), c.expectile)
        self.value_descent.step(value_loss)
        value, good = value.detach(), (worth > value.detach()).float()
        metrics = {
            "critic_loss": loss.detach(),
            "value_loss": value_loss.detach(),
            "q": values.detach().mean(dim=(1, 2)),
            "v": value.mean(dim=1),
            "positive_share": good.mean(dim=1),
        }
        self._watch_shares(metrics["positive_share"])
        if PROPOSED in self.sources and self.updates % c.vae_every == 0:
            metrics |= self.vae_step(batch, good)
        if self.updates % c.policy_every == 0:
            metrics |= self.guided_step(batch, value, worth - value)
            self.actor_target.follow(self.actor, c.tau)
            self.critic_target.follow(self.critic, c.tau)
        return metrics

    def judged(self, state: Tensor, action: Tensor) -> Tensor:
        """(seeds, b) what an action is held to be worth: Q_1, or with caution a low end over the critics."""
        c = self.config
        if c.caution == 0:
            return self.critic.first(state, action)
        q = self.critic.values(state, action)
        return q.mean(dim=1) - c.caution * q.std(dim=1, correction=0)

    def vae_step(self, batch: Batch, good: Tensor) -> Metrics:
        """(3), with the critic and the advantage of this step."""
        c = self.config
        noise = self.latents.normal(batch.action.shape[1], self.vae.latent)
        mean, log_std = self.vae.posterior(batch.state, batch.action)
        rebuilt = self.vae.decode(batch.state, mean + log_std.exp() * noise)
        weight = c.vae_weight * (good if c.vae_filter else torch.ones_like(good))
        kl = kl_to_prior(mean, log_std).mean(dim=(1, 2))
        self.vae_descent.step(reconstruction_error(rebuilt, batch.action, weight) + c.kl_weight * kl)
        with torch.no_grad():
            error = (rebuilt - batch.action).square().mean(dim=2)
            return {
                "rebuilt_good": (good * error).sum(dim=1) / good.sum(dim=1).clamp(min=1),
                "rebuilt_poor": ((1 - good) * error).sum(dim=1) / (1 - good).sum(dim=1).clamp(min=1),
                "kl": kl.detach(),
                "clamped": at_a_bound(log_std).mean(dim=(1, 2)),
            }

    def proposed(self, state: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """g of (4): what the VAE makes of the policy's action, or draws from its prior."""
        if self.config.guide_latent == "prior":
            return self.vae.from_prior(state, noise)
        return self.vae.passed(state, action, noise)

    def guided_step(self, batch: Batch, value: Tensor, logged: Tensor) -> Metrics:
        """(4) and (5) with V as it was before its step; `logged` are the advantages of the logged actions."""
        c, sources = self.config, self.sources
        action = self.actor.mode(batch.state)
        q = self.critic.first(batch.state, action)
        weight = value_weight(q, c.alpha)
        climb = -weight * q.mean(dim=1)
        if not sources:
            self.actor_descent.step(climb)
            return {"actor_loss": climb.detach(), "value_weight": weight}
        held = action.detach()
        targets = {LOGGED: batch.action}
        if PROPOSED in sources:
            noise = self.latents.normal(batch.action.shape[1], self.vae.latent)
            with torch.set_grad_enabled(not c.detach_guide):
                targets[PROPOSED] = self.proposed(batch.state, action, noise)
        if NEAREST in sources:
            if batch.index is None:
                hint = "draw it with Transitions.batch"
                raise ConfigError(message("a batch without row numbers", hint=hint))
            if not bool(held.isfinite().all()):
                msg = message(f"the policy's actions are not finite at update {self.updates}")
                raise ConvergenceError(message(msg, hint="lower lr, or scale the rewards"))
            found = self.index.of_rows(batch.index.reshape(-1), held.flatten(0, 1))
            targets[NEAREST] = self.data.column("action")[found.row[:, 0]].view_as(held)
        with torch.no_grad():
            advantage = torch.stack(
                [logged if s == LOGGED else self.judged(batch.state, targets[s]) - value for s in sources]
            )
            winner, active = chosen(advantage, sources, c.threshold)
        stacked = torch.stack([targets[s] for s in sources])
        target = stacked.gather(0, winner[None, ..., None].expand(1, *held.shape))[0]
        pull = guided_pull(action, target, active)
        self.actor_descent.step(climb + c.pull * pull)
        live = active.float()
        won = {f"guided_{s}": (live * (winner == i)).mean(dim=1) for i, s in enumerate(sources)}
        return {
            "actor_loss": (climb + c.pull * pull).detach(),
            "guide_gap": pull.detach(),
            **won,
            "unguided": 1 - live.mean(dim=1),
            "guide_advantage": advantage.amax(dim=0).mean(dim=1),
            "effective_pull": c.pull * live.mean(dim=1),
            "value_weight": weight,
        }

    def _watch_shares(self, positive: Tensor) -> None:
        """Warn once every thousand updates while advantages have one sign in nearly every row."""
        self.watch.flat.add_(positive)
        if self.updates % WATCHED:
            return
        share = self.watch.flat / WATCHED
        self.watch.flat.zero_()
        if float(share.min()) < FEW or float(share.max()) > 1 - FEW:
            warnings.warn(
                f"{float(share.mean()):.1%} of the rows had a positive advantage in the last {WATCHED:,} updates: V is "
                "biased or the rewards' scale is off; shape the rewards, or move expectile",
                EpisodeWarning,
                stacklevel=3,
            )

    def judge(self, states: ArrayLike, actions: ArrayLike, *, draws: int = 10, rng: int = 0) -> Verdicts:
        """What (4) makes of these raw states (n, d) and actions (n, k), as the networks stand.

        Raises `NotFittedError` before `fit`, `LogError` for actions of another width or out of bounds, `SupportError`
        for a state far from the log's, `ConfigError` when guide is none.
        """
        data = self._fitted()
        state, action = data.scale.transform(np.asarray(states)), np.asarray(actions, np.float64)
        if action.shape != (len(state), data.action_size):
            msg = message(f"actions of shape {action.shape}", expected=f"({len(state)}, {data.action_size})")
            raise LogError(msg)
        data.scale.check_near(state)
        bounds = data.bounds
        inwards = action.astype(np.float32) if bounds is None else bounds.inwards(action)
        back = inwards if bounds is None else bounds.outwards(inwards)  # cut to the bounds
        if (
            outside := np.flatnonzero((np.abs(back - action) > 1e-5 * (1 + np.abs(action))).any(axis=1))
        ).size:
            raise LogError(message(f"{outside.size} actions outside the bounds (first: row {outside[0]})"))
        rows = self._verdicts(torch.from_numpy(state), torch.from_numpy(inwards), draws, rng)
        return Verdicts(
            unit=data.reward_unit, n=len(rows), rows=tuple({"row": i, **r} for i, r in enumerate(rows))
        )

    def verdicts(self, *, draws: int = 10, rng: int = 0) -> Verdicts:
        """`judge` for every row of the log that was learnt from: which actions to stop copying."""
        data = self._fitted()
        rows = self._verdicts(data.column("state"), data.column("action"), draws, rng)
        named = (
            {"trajectory": int(t), "step": int(s), **r}
            for t, s, r in zip(data.trajectory, data.step, rows, strict=True)
        )
        return Verdicts(unit=data.reward_unit, n=len(rows), rows=tuple(named))

    def _fitted(self) -> Transitions:
        if not hasattr(self, "data"):
            raise NotFittedError(message("there is nothing to judge with yet", hint="call fit(log) first"))
        if not self.sources:
            raise ConfigError(message("guide = none judges no action", expected="both, data, vae or all"))
        return self.data

    def _verdicts(self, state: Tensor, action: Tensor, draws: int, rng: int) -> list[dict[str, float | str]]:
        """Records of scaled states and actions; all seeds vote, `draws` times each."""
        if draws < 1:
            raise ConfigError(message(f"{draws} draws", expected="at least 1"))
        streams, found = SeedStreams(range(rng, rng + len(self.seeds)), "verdicts"), []
        outwards = np.asarray if self.data.bounds is None else self.data.bounds.outwards
        names = (*self.sources, "ignored")
        with torch.no_grad(), one_thread():
            for s, a in zip(state.split(CHUNK), action.split(CHUNK), strict=True):
                share, logged, better, proposal = self._vote(s, a, draws, streams)
                labels = share.argmax(dim=0).tolist()
                acted, offered = outwards(a.numpy()), outwards(proposal.numpy())
                for i, label in enumerate(labels):
                    found.append(
                        {
                            **{n: float(x) for n, x in zip(names, share[:, i], strict=True)},
                            "verdict": names[label],
                            "advantage_logged": float(logged[i]),
                            "advantage_proposed": float(better[i]),
                            **{f"logged_{m}": float(x) for m, x in enumerate(acted[i])},
                            **{f"proposed_{m}": float(x) for m, x in enumerate(offered[i])},
                        }
                    )
        return found

    def _vote(
        self, state: Tensor, action: Tensor, draws: int, streams: SeedStreams
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Shares (sources + 1, n), mean advantages of the logged and the proposed action (n,), mean proposal (n, k)."""
        c, seeds, sources = self.config, len(self.seeds), self.sources
        s, a = state.expand(seeds, -1, -1), action.expand(seeds, -1, -1)
        value, p = self.value.values(s), self.actor.mode(s)
        logged = self.judged(s, a) - value
        known = {LOGGED: logged}
        if NEAREST in sources:
            row = self.index.of_pairs(s.flatten(0, 1), p.flatten(0, 1)).row[:, 0]
            known[NEAREST] = self.judged(s, self.data.column("action")[row].view_as(p)) - value
        share = torch.zeros(len(sources) + 1, len(state))
        better, proposal = torch.zeros(len(state)), torch.zeros_like(action)
        for _ in range(draws):
            offered = self.proposed(s, p, streams.normal(len(state), self.vae.latent))
            known[PROPOSED] = self.judged(s, offered) - value
            winner, active = chosen(torch.stack([known[n] for n in sources]), sources, c.threshold)
            place = torch.where(active, winner, len(sources))
            share += torch.stack([(place == i).float().mean(dim=0) for i in range(len(sources) + 1)])
            better += known[PROPOSED].mean(dim=0)
            proposal += offered.mean(dim=0)
        return share / draws, logged.mean(dim=0), better / draws, proposal / draws
