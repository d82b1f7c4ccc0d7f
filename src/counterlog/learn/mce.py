"""MCE: regress what each logged action earned to the end of its trajectory, then take the best action once.

Use when    trajectories end and are short enough for their returns to say something about a single action.
Not when    trajectories are cut long before their end, or returns are mostly noise (use bve).
Data        Episodes(state, action, reward)
Paper       Sutton and Barto, Reinforcement Learning, Monte-Carlo control; compared as in Schweighofer et al., 2022,
            arXiv 2111.04714.
Equation    G_t = sum_k gamma^k r_{t+k} to the end of the trajectory                                  (1)
            cut trajectories:  G_t + gamma^(T-t) max_a Q'(s_T, a)                                     (2)
            L = mean h(Q(s, a) - G),   h: Huber with bound 1;   pi(s) = argmax_a Q(s, a)              (3)
Shapes      s (seeds, b, d) | a (seeds, b) codes | Q (seeds, b, actions) | G (seeds, b) | L (seeds,)
Units       Q, G: shaped reward units, discounted
Raises      LogError: a role is missing | SupportError: rewards are all alike; cut="drop" and no trajectory has an end
            ConfigError: continuous actions | ConvergenceError: the loss is not finite
Differs     the paper's comparison takes a cut for the end: cut="end" does so, cut="drop" leaves such trajectories out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from counterlog.core.config import param
from counterlog.core.discrete_values import DiscreteConfig, DiscreteLearner, huber, taken
from counterlog.core.errors import SupportError, message
from counterlog.core.training_loop import Metrics
from counterlog.core.transition_rows import Batch
from counterlog.core.transitions import Transitions, returns_to_go


@dataclass(frozen=True, kw_only=True)
class MCEConfig(DiscreteConfig):
    """Parameters of MCE."""

    cut: str = param(
        "bootstrap",
        "cut trajectories: valued at their last state (bootstrap), left out (drop), taken for ended (end)",
        choices=("bootstrap", "drop", "end"),
    )


def completed(returns: Tensor, tail: Tensor, value: Tensor) -> Tensor:
    """Equation (2): `tail` (seeds, b) is gamma^(T-t), 0 where the trajectory ended by itself."""
    return torch.addcmul(returns, tail, value)


class MCE(DiscreteLearner):
    """Monte-Carlo estimation."""

    config: MCEConfig

    def __init__(self, config: MCEConfig | None = None) -> None:
        self.config = config or MCEConfig()

    def build(self, data: Transitions) -> None:
        """The network, and for each row its return (1), its tail gamma^(T-t), and the last row of its trajectory."""
        super().build(data)
        gamma = self.config.gamma
        new = np.flatnonzero(np.diff(data.trajectory, prepend=-1))
        offsets = np.append(new, len(data))
        size = np.diff(offsets)
        last = np.repeat(offsets[1:] - 1, size)
        ended = data.column("terminated").numpy()[last] > 0
        reward = data.column("reward").numpy().astype(np.float64)
        tail = np.where(ended, 0.0, gamma ** (last - np.arange(len(data)) + 1.0))
        keep = np.arange(len(data)) if self.config.cut != "drop" else np.flatnonzero(ended)
        if not keep.size:
            msg = message("no trajectory in the log has an end, so no return is known")
            raise SupportError(message(msg, hint="set cut=bootstrap, or use bve"))
        self.returns = torch.from_numpy(returns_to_go(reward, offsets, gamma)).float()
        self.tail = torch.from_numpy(tail if self.config.cut == "bootstrap" else np.zeros(len(data))).float()
        self.last, self.kept = torch.from_numpy(last), torch.from_numpy(keep)

    def draw(self) -> Batch:
        """The next batch, from the rows that are kept."""
        index = self.draws.index(len(self.kept), self.config.batch)
        return self.data.batch(self.kept[index])

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """(2) and (3)."""
        rows = batch.index
        assert rows is not None
        target = self.returns[rows]
        if self.config.cut == "bootstrap":
            with torch.no_grad():
                value = self.critic_target(self.data.batch(self.last[rows]).next_state).amax(dim=-1)
            target = completed(target, self.tail[rows], value)
        values = self.critic(batch.state)
        found = huber(taken(values, batch.action) - target).mean(dim=1)
        return found, {"q": taken(values.detach(), batch.action).mean(dim=1)}
