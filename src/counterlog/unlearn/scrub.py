"""SCRUB: a student that leaves its teacher on the rows to forget and stays with it on the others.

Use when    kept accuracy must hold and several passes are affordable.
Not when    seconds matter, or the rows to forget look like the kept ones: the second goal undoes the first.
Data        a classifier as torch module, x (n, ...), y (n,) class numbers, rows to forget
Paper       Kurmanji, Triantafillou, Hayes and Triantafillou (2023), arXiv:2302.09880, section 3
Equation    max over B_forget of  T^2 KL(p_teacher^(1/T) || p^(1/T))                                  (1)
            min over B_retain of  gamma l + alpha T^2 KL(p_teacher^(1/T) || p^(1/T))                  (2)
Shapes      logits (b, k)
Units       l, KL: nats
Raises      LogError: rows overlap, do not exist, are none or all | ConvergenceError: a weight is no longer finite
            ConfigError: a parameter is outside its bounds
Differs     `reference` given: the epoch's weights whose forget error is nearest to the error on those rows win
            (rewinding, SCRUB+R). Epochs of (1) are the first `ascents`; (2) runs in all.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from counterlog.core.config import param
from counterlog.core.torch_models import checked_loss, outputs, weights_of
from counterlog.core.torch_training import TrainConfig, descend, make_optimiser, minibatches
from counterlog.unlearn.forget_request import Request, Unlearner, refuse_nan, share_right


@dataclass(frozen=True, kw_only=True)
class ScrubConfig(TrainConfig):
    """The student's training."""

    epochs: int = param(6, "passes over the kept rows", at_least=1)
    lr: float = param(5e-4, "step size before its decay", above=0)
    ascents: int = param(2, "epochs that begin with a pass of equation (1)", at_least=0)
    alpha: float = param(0.5, "weight of the teacher in (2)", at_least=0)
    gamma: float = param(1.0, "weight of the labels in (2)", at_least=0)
    temperature: float = param(4.0, "T", above=0)
    decay: float = param(0.1, "factor of the step size after `decay_at`", above=0, at_most=1)
    decay_at: tuple[int, ...] = param(
        (3, 5, 9), "epochs after which the step size is multiplied by `decay`", at_least=1
    )


def away(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 times the mean KL divergence of the softened outputs, (b, k), (b, k) -> () nats."""
    log_p = functional.log_softmax(student / temperature, dim=-1)
    log_q = functional.log_softmax(teacher / temperature, dim=-1)
    return temperature**2 * (log_q.exp() * (log_q - log_p)).sum(dim=-1).mean()


class Scrub(Unlearner):
    """SCRUB, and SCRUB+R with `reference=(x, y)`, rows never trained on."""

    def __init__(
        self, config: ScrubConfig | None = None, *, reference: tuple[Tensor, Tensor] | None = None
    ) -> None:
        self.config: ScrubConfig = config or ScrubConfig()
        self.reference = reference

    def _update(self, model: nn.Module, request: Request) -> tuple[float, tuple[str, ...]]:
        c, (x, y), (gone_x, gone_y) = self.config, request.kept, request.gone
        teacher_kept, teacher_gone = outputs(model, x), outputs(model, gone_x)
        optimiser, rows = make_optimiser(weights_of(model), c), len(x) + len(gone_x)
        visited: list[tuple[float, int, dict[str, Tensor]]] = []
        for epoch in range(c.epochs):
            if epoch < c.ascents:
                for i in minibatches(len(gone_x), c.batch, (request.rng, epoch, 1)):
                    descend(optimiser, -away(model(gone_x[i]), teacher_gone[i], c.temperature))
                rows += len(gone_x)
            for i in minibatches(len(x), c.batch, (request.rng, epoch)):
                pull = away(model(x[i]), teacher_kept[i], c.temperature)
                descend(
                    optimiser, c.gamma * checked_loss(request.loss, model, x[i], y[i]).mean() + c.alpha * pull
                )
            rows += len(x)
            refuse_nan(model, f"epoch {epoch + 1}")
            if epoch + 1 in c.decay_at:
                for group in optimiser.param_groups:
                    group["lr"] *= c.decay
            if self.reference is not None:
                gap = abs(share_right(model, gone_x, gone_y) - share_right(model, *self.reference))
                visited.append((gap, epoch + 1, copy.deepcopy(model.state_dict())))
        if not visited:
            return float(rows), ()
        gap, epoch, state = min(visited, key=lambda v: v[:2])
        with torch.no_grad():
            model.load_state_dict(state)
        return float(rows), (f"rewound to epoch {epoch}, {gap:.3f} from the error on the reference rows",)
