"""Retraining without the rows: the reference that every faster way of forgetting is held against.

Use when    deletion must be exact, or another method is to be judged.
Not when    the answer is needed in seconds and an approximation will do.
Data        any torch module, x (n, ...), y (n,), row numbers or a mask of the rows to forget
Paper       none: the definition of exact unlearning
Equation    theta = A(D_retain, rng),  with A the training that made the model
Shapes      as the model's
Units       as the model's
Raises      LogError: rows overlap, do not exist, are none or all | ConvergenceError: the loss is no longer finite
            ConfigError: a layer cannot be given fresh weights
Differs     nothing to differ from; `folder` saves every epoch so that a killed retraining goes on
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import nn

from counterlog.core.errors import ConfigError, message
from counterlog.core.torch_training import Objective, TrainConfig, mean_only, train
from counterlog.unlearn.forget_request import Request, Unlearner


@dataclass(frozen=True, kw_only=True)
class RetrainConfig(TrainConfig):
    """The training that made the model."""


class Retrain(Unlearner):
    """Train again on the kept rows, from `start` (fresh weights of the same architecture) or from drawn weights."""

    def __init__(
        self,
        config: RetrainConfig | None = None,
        *,
        start: nn.Module | None = None,
        objective: Objective = mean_only,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        self.config: RetrainConfig = config or RetrainConfig()
        self.start, self.objective, self.folder = start, objective, folder

    def _update(self, model: nn.Module, request: Request) -> tuple[float, tuple[str, ...]]:
        if self.start is None:
            fresh_weights(model, request.rng)
        else:
            model.load_state_dict(self.start.state_dict())
        made = train(
            model,
            *request.kept,
            self.config,
            loss=request.loss,
            objective=self.objective,
            rng=request.rng,
            folder=self.folder,
        )
        model.load_state_dict(made.state_dict())
        return float(self.config.epochs * len(request.retain)), ()


def fresh_weights(model: nn.Module, rng: int, *, last: int = 0) -> list[str]:
    """Draw the weights of all layers (or the `last` ones) anew, in place; the global generator is left as it was.

    Returns the names of the layers. Raises `ConfigError` for a weight in no layer that can be drawn anew.
    """
    layers = [(n, m) for n, m in model.named_modules() if hasattr(m, "reset_parameters")]
    if last:
        layers = layers[-last:]
    else:
        covered = {id(w) for _, m in layers for w in m.parameters()}
        if missed := [n for n, w in model.named_parameters() if id(w) not in covered]:
            msg = message(
                f"no layer can draw {', '.join(missed[:3])} anew", hint="give start=, an untrained model"
            )
            raise ConfigError(msg)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng)
        for _, module in layers:
            module.reset_parameters()
    return [n for n, _ in layers]
