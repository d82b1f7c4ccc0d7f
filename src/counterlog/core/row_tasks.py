"""What a network is trained on and what is asked of it: row losses, label draws, token masks, as one frozen `Task`.

Everything is a number a row, (b,): a loss that averages over the batch cannot be taken apart again. A sequence is one
row; its tokens' losses are added inside the row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from counterlog.core.errors import ConfigError, LogError, message
from counterlog.core.torch_models import RowLoss, checked_loss, cross_entropy_rows, squared_error_rows

Sampler = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
TokenMask = Callable[[Tensor, Tensor], Tensor]


def drawn_classes(model: nn.Module, x: Tensor, y: Tensor, gen: torch.Generator) -> Tensor:
    """Class numbers drawn from the model's own softmax, (b,), or (b, t) for outputs (b, t, k)."""
    with torch.no_grad():
        probs = model(x).float().softmax(dim=-1)
    drawn = torch.multinomial(probs.reshape(-1, probs.shape[-1]).cpu(), 1, generator=gen)
    return drawn.reshape(probs.shape[:-1]).to(probs.device)


def drawn_targets(model: nn.Module, x: Tensor, y: Tensor, gen: torch.Generator) -> Tensor:
    """Targets drawn from a normal around the output with variance 1, what half the squared error stands for."""
    with torch.no_grad():
        out = model(x).reshape(y.shape)
    return out + torch.randn(out.shape, generator=gen, dtype=out.dtype).to(out.device)


def margin_rows(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """log(p / (1 - p)) of the labelled class, (b,): the margin."""
    logits = model(x)
    own = logits.gather(1, y[:, None])[:, 0]
    others = logits.scatter(1, y[:, None], -torch.inf)
    return own - others.logsumexp(dim=1)


def token_cross_entropy_rows(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy added over the tokens of each row, (b,) nats; outputs (b, t, k), labels (b, t), -100 left out."""
    out = model(x)
    each = functional.cross_entropy(out.flatten(0, 1), y.flatten(), reduction="none", ignore_index=-100)
    return each.reshape(y.shape).sum(dim=1)


@dataclass(frozen=True)
class Task:
    """The training loss of a row, what is measured of a query, how labels are drawn, which tokens count.

    `measure` is any number a query row: a loss (default), a margin, a term of an off-policy value. `draw` is needed
    for the true Fisher matrix. `mask(x, y)` gives (b, t), True where a token counts.
    """

    loss: RowLoss = cross_entropy_rows
    measure: RowLoss | None = None
    draw: Sampler | None = None
    mask: TokenMask | None = None
    unit: str = "nats"

    @property
    def measured(self) -> RowLoss:
        """The measurement of a query: the training loss unless another was given."""
        return self.measure or self.loss

    def drawn(self, model: nn.Module, x: Tensor, y: Tensor, gen: torch.Generator) -> Tensor:
        """Labels from the model's own distribution. Raises `ConfigError` for a loss whose draw is not known."""
        draw = self.draw or DRAWS.get(self.loss)
        if draw is None:
            msg = message(
                "the true Fisher matrix needs labels drawn from the model, and this task has no draw",
                hint="give Task(draw=...), or use fisher='empirical'",
            )
            raise ConfigError(msg)
        return draw(model, x, y, gen)

    def token_mask(self, x: Tensor, y: Tensor) -> Tensor | None:
        """(b, t) True where a token counts, or None. Raises `LogError` for a mask that cannot be read."""
        if self.mask is None:
            return None
        found = self.mask(x, y)
        if found.is_floating_point() or found.dim() != 2 or len(found) != len(x):
            msg = message(
                f"the mask is {found.dtype} of shape {tuple(found.shape)}",
                expected=f"true or false, of shape ({len(x)}, tokens)",
                hint="mask = attention_mask.bool()",
            )
            raise LogError(msg)
        found = found.bool()
        if not bool(found.any()):
            raise LogError(
                message("the mask leaves no token of the batch", hint="drop empty sequences first")
            )
        return found


DRAWS: dict[RowLoss, Sampler] = {
    cross_entropy_rows: drawn_classes,
    token_cross_entropy_rows: drawn_classes,
    squared_error_rows: drawn_targets,
}


def refuse_mean(task: Task, model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Raises `ConfigError` when a row's loss depends on the other rows: a mean in disguise, or batch statistics."""
    with torch.no_grad():
        alone = checked_loss(task.loss, model, x[:1], y[:1])
        twice = checked_loss(task.loss, model, torch.cat([x[:1]] * 2), torch.cat([y[:1]] * 2))
        other = checked_loss(task.loss, model, x[:2], y[:2])
    scale = alone.abs().max().clamp_min(1e-12)
    moved = torch.maximum((twice - alone).abs().max(), (other[:1] - alone).abs().max()) / scale
    if float(moved) > 1e-3:
        msg = message(
            f"the loss of row 0 moves by {float(moved):.1%} when other rows join the batch",
            expected="one loss a row that the other rows do not touch",
            hint='return the unreduced loss: reduction="none", no division by the batch size',
        )
        raise ConfigError(msg)
