"""How close a model is to one that never saw the rows: accuracies, membership attacks, distances to retraining.

Forgetting without this page is a claim without evidence. UA alone is won by wrecking the model; a UA above that of
retraining is over-forgetting, and gives the rows away as surely as remembering them. So every gap keeps its sign.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from counterlog.core.errors import LogError, SupportError, message
from counterlog.core.results import Result
from counterlog.core.torch_models import RowLoss, as_rows, cross_entropy_rows, flat, losses, outputs
from counterlog.unlearn.forget_request import Forgotten, Request, digest, make_request
from counterlog.unlearn.membership import attack_features, loss_auc, svc_attack

Floats = NDArray[np.float64]
ATTACKS = ("correctness", "confidence", "entropy", "modified_entropy", "probabilities")
MOST_MEMBERS = 1_000
PLACES = 6


@dataclass(frozen=True, kw_only=True)
class UnlearningMetrics(Result):
    """Shares, except where said. UA = 1 - accuracy on forgotten rows, RA on kept, TA on test rows.

    `mia` is the share of forgotten rows that an attack takes for rows never seen, by attack; the headline is
    `mia['confidence']`. `loss_auc` is how well a small loss tells forgotten from test rows: 0.5 is nothing.
    Against a retrained model: `gaps` = metric minus its metric, `average_gap` of the four |gaps|, `tow` =
    product of 1 - |gap| over UA, RA, TA; `kl_forget`, `kl_test` = mean KL(retrained || model) in nats,
    `weight_distance` in weight units, `activation_distance` = mean L2 between probabilities on forgotten rows.
    NaN where no retrained model was given.
    """

    unit: str = "share"
    n: int
    ua: float
    ra: float
    ta: float
    mia: dict[str, float]
    loss_auc: float
    gaps: dict[str, float]
    average_gap: float = math.nan
    tow: float = math.nan
    kl_forget: float = math.nan
    kl_test: float = math.nan
    weight_distance: float = math.nan
    activation_distance: float = math.nan
    notes: tuple[str, ...] = ()

    def records(self) -> list[dict[str, Any]]:
        """One record: the four headline metrics, then the distances."""
        (rest,) = super().records()
        return [{"ua": self.ua, "ra": self.ra, "ta": self.ta, "mia": self.mia["confidence"], **rest}]

    def needs_gap(self) -> float:
        """`average_gap`. Raises `SupportError` when there is no retrained model to measure it against."""
        if math.isnan(self.average_gap):
            msg = message(
                "there is no average gap without a retrained model", hint="give evaluate(retrained=...)"
            )
            raise SupportError(msg)
        return self.average_gap


def evaluate(
    model: nn.Module | Forgotten,
    x: object,
    y: object,
    forget: object,
    *,
    test: tuple[object, object],
    retrained: nn.Module | Forgotten | None = None,
    retain: object = None,
    loss: RowLoss = cross_entropy_rows,
    attacks: Sequence[str] = ATTACKS,
    rng: int = 0,
) -> UnlearningMetrics:
    """All metrics of a classifier after (or before) forgetting; row order and batch size do not change them.

    `attacks` says which of `ATTACKS` to run; `confidence` always is.
    Raises `LogError` for bad rows, and when `retrained` was made for another set of rows. Warns when the rows to
    forget are all the rows of a class: UA then speaks of the class.
    """
    net = model.model if isinstance(model, Forgotten) else model
    reference = retrained.model if isinstance(retrained, Forgotten) else retrained
    request = make_request(net, x, y, forget, retain=retain, loss=loss, rng=rng)
    for made in (model, retrained):
        if isinstance(made, Forgotten) and made.report.digest != digest(request.forget):
            msg = message(
                f"the {made.report.method} model forgot other rows than these", hint="compare like with like"
            )
            raise LogError(msg)
    if request.y.is_floating_point():
        raise LogError(
            message("y holds no class numbers", hint="compare losses through the report of forget()")
        )
    notes = _whole_classes(request)
    test_x, test_y = as_rows(test[0], test[1], net)
    chosen = tuple(a for a in ATTACKS if a == "confidence" or a in attacks)
    found = _measure(net, request, test_x, test_y, chosen)
    if reference is None:
        return UnlearningMetrics(n=len(request.forget), gaps={}, notes=notes, **found)
    other = _measure(reference, request, test_x, test_y, chosen)
    gaps = {k: found[k] - other[k] for k in ("ua", "ra", "ta")}
    gaps["mia"] = found["mia"]["confidence"] - other["mia"]["confidence"]
    gone_x = request.gone[0]
    return UnlearningMetrics(
        n=len(request.forget),
        gaps=gaps,
        average_gap=float(np.mean([abs(g) for g in gaps.values()])),
        tow=math.prod(1 - abs(gaps[k]) for k in ("ua", "ra", "ta")),
        kl_forget=_divergence(reference, net, gone_x),
        kl_test=_divergence(reference, net, test_x),
        weight_distance=_weight_distance(net, reference),
        activation_distance=float((_probs(net, gone_x) - _probs(reference, gone_x)).norm(dim=1).mean()),
        notes=notes,
        **found,
    )


def lira(target: Floats, seen: Floats, unseen: Floats) -> Floats:
    """Log likelihood ratio that a row was seen and then forgotten rather than never seen (U-LiRA).

    (n,) confidences log(p/(1-p)) of the model in question; (shadows, n) those of shadow models that ran the same
    forgetting with the row in, and that never had it. Gaussians a row. Raises `SupportError` below 2 shadows.
    """
    if min(len(seen), len(unseen)) < 2:
        raise SupportError(
            message(f"{min(len(seen), len(unseen))} shadow models", expected="2 or more a side, best 16")
        )

    def log_density(sample: Floats) -> Floats:
        spread = np.maximum(sample.std(axis=0, ddof=1), 1e-6)
        out: Floats = -np.log(spread) - ((target - sample.mean(axis=0)) / spread) ** 2 / 2
        return out

    return log_density(seen) - log_density(unseen)


def confidence_logit(model: nn.Module, x: Tensor, y: Tensor) -> Floats:
    """log(p_y / (1 - p_y)) of each row, (n,), what `lira` reads."""
    p = _probs(model, x).gather(1, y[:, None])[:, 0].clamp(1e-12, 1 - 1e-12)
    out: Floats = torch.log(p / (1 - p)).numpy()
    return out


def _measure(
    model: nn.Module, request: Request, test_x: Tensor, test_y: Tensor, attacks: Sequence[str]
) -> dict[str, Any]:
    """The metrics of one model. Attack features are rounded, and members drawn by content, so that order is nothing."""
    kept_x, kept_y = request.kept
    gone_x, gone_y = request.gone
    count = min(MOST_MEMBERS, len(kept_x), len(test_x))
    member, other = (_by_content(*rows, count, request.rng) for rows in ((kept_x, kept_y), (test_x, test_y)))
    sets = [
        attack_features(_rounded(model, x), y.cpu().numpy())
        for x, y in ((kept_x[member], kept_y[member]), (test_x[other], test_y[other]), (gone_x, gone_y))
    ]
    right = {
        name: float((outputs(model, x).argmax(dim=1) == y).double().mean())
        for name, x, y in (("gone", gone_x, gone_y), ("kept", kept_x, kept_y), ("test", test_x, test_y))
    }
    forgotten, unseen = (
        np.round(losses(model, x, y, request.loss).cpu().numpy().astype(np.float64), PLACES)
        for x, y in (request.gone, (test_x, test_y))
    )
    return {
        "ua": 1 - right["gone"],
        "ra": right["kept"],
        "ta": right["test"],
        "mia": {a: svc_attack(*(features[a] for features in sets)) for a in attacks},
        "loss_auc": loss_auc(forgotten, unseen),
    }


def _rounded(model: nn.Module, x: Tensor) -> Floats:
    out: Floats = np.round(_probs(model, x).cpu().numpy(), PLACES)
    return out


def _probs(model: nn.Module, x: Tensor) -> Tensor:
    return outputs(model, x).double().softmax(dim=1)


def _by_content(x: Tensor, y: Tensor, count: int, rng: int) -> Tensor:
    """`count` row numbers, drawn by `rng` and by what the rows hold: the same rows in any order."""
    values = x.reshape(len(x), -1).double().cpu().numpy()
    gen = np.random.default_rng([rng, 7])
    key = np.cos(values @ gen.normal(size=values.shape[1]) * 1e3 + y.cpu().numpy() * gen.normal())
    return torch.from_numpy(np.argsort(np.round(key, 9), kind="stable")[:count].copy())


def _divergence(reference: nn.Module, model: nn.Module, x: Tensor) -> float:
    log_q = outputs(reference, x).double().log_softmax(dim=1)
    log_p = outputs(model, x).double().log_softmax(dim=1)
    return float((log_q.exp() * (log_q - log_p)).sum(dim=1).mean())


def _weight_distance(a: nn.Module, b: nn.Module) -> float:
    first, second = flat(list(a.parameters())), flat(list(b.parameters()))
    return float((first.double() - second.double()).norm()) if first.shape == second.shape else math.nan


def _whole_classes(request: Request) -> tuple[str, ...]:
    gone, kept = set(request.gone[1].tolist()), set(request.kept[1].tolist())
    if not (whole := sorted(gone - kept)):
        return ()
    note = f"no kept row has class {', '.join(map(str, whole))}: UA speaks of the class, not of its rows"
    warnings.warn(note, UserWarning, stacklevel=3)
    return (note,)
