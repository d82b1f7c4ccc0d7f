"""Random labels for the rows to forget, then fine-tuning; with a mask of salient weights it is SalUn.

Use when    a few passes are affordable and membership should fade strongly.
Not when    targets are not classes, or a wrong label on a known row is itself a harm.
Data        a classifier as torch module, x (n, ...), y (n,) class numbers, rows to forget
Paper       Golatkar, Achille and Soatto (2020), arXiv:1911.04933 | salient weights: Fan et al. (2024), arXiv:2310.12508
Equation    min over theta of  mean over D_retain u {(x, u) : x in D_forget, u uniform over classes} of l
            salient: only weights with the largest |grad mean_forget l(theta0)| move
Shapes      y (n,) int64 in [0, k)
Units       l: nats
Raises      LogError: rows overlap, do not exist, are none or all | ConvergenceError: a weight is no longer finite
            ConfigError: targets are not classes
Differs     the random label may be the true one, as in the released code; `exclude_true` forbids it
Builds on   influence-approximation-unlearning (the mask of salient weights)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from counterlog.core.config import param
from counterlog.core.errors import ConfigError, message
from counterlog.core.torch_models import checked_loss, mean_gradient, outputs, weights_of
from counterlog.core.torch_training import TrainConfig, make_optimiser, minibatches
from counterlog.unlearn.forget_request import Request, Unlearner
from counterlog.unlearn.influence_approximation_unlearning import salient_mask


@dataclass(frozen=True, kw_only=True)
class RandomLabelsConfig(TrainConfig):
    """Training on relabelled rows."""

    epochs: int = param(3, "passes over all rows", at_least=1)
    lr: float = param(0.01, "step size", above=0)
    optimiser: str = param("sgd", "which optimiser", choices=("adam", "sgd"))
    exclude_true: bool = param(False, "never draw the row's own label")
    salient: float = param(1.0, "share of weights that may move; SalUn takes 0.5", above=0, at_most=1)


class RandomLabels(Unlearner):
    """RL, and SalUn with `salient` below 1."""

    def __init__(self, config: RandomLabelsConfig | None = None) -> None:
        self.config: RandomLabelsConfig = config or RandomLabelsConfig()

    def _update(self, model: nn.Module, request: Request) -> tuple[float, tuple[str, ...]]:
        c, (x, y), (gone_x, gone_y) = self.config, request.kept, request.gone
        if y.is_floating_point():
            raise ConfigError(message("the targets are no classes", hint="random labels need class numbers"))
        classes = outputs(model, x[:1]).shape[-1]
        gen = np.random.default_rng(request.rng)
        if c.exclude_true:
            drawn = (gone_y + torch.from_numpy(gen.integers(1, classes, len(gone_y)))) % classes
        else:
            drawn = torch.from_numpy(gen.integers(0, classes, len(gone_y)))
        weights = weights_of(model)
        masks = None
        if c.salient < 1:
            masks = salient_mask(mean_gradient(model, gone_x, gone_y, request.loss), c.salient)
        all_x, all_y = torch.cat([x, gone_x]), torch.cat([y, drawn])
        optimiser = make_optimiser(weights, c)
        for epoch in range(c.epochs):
            for i in minibatches(len(all_x), c.batch, (request.rng, epoch)):
                optimiser.zero_grad(set_to_none=True)
                checked_loss(request.loss, model, all_x[i], all_y[i]).mean().backward()
                if masks is not None:
                    for w, m in zip(weights, masks, strict=True):
                        if w.grad is not None:
                            w.grad.mul_(m)
                optimiser.step()
        return float(c.epochs * len(all_x)), ()
