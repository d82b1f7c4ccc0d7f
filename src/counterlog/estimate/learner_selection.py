"""Choosing among learners of three nuisance groups by how little the estimate moves when one of them is replaced.

    per(j; l) = mean over splits s of (psi_s(j) - psi_s(l))^2                                                (1)
    minimax   B(j) = max over groups g and alternatives l of per(j; j with entry g replaced by l)            (2)
    mixed     B(j) = sum over g of max over l, l' of per(j[g <- l]; j[g <- l'])                               (3)
    soft      weight(j) proportional to exp(-B(j) / tau),  tau = median B                                    (4)

When two groups are right, replacing the third changes nothing but noise. Cui and Tchetgen Tchetgen, Selective machine
learning of doubly robust functionals, Biometrika 2024, for two groups; here for any number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RULES = ("minimax", "mixed")


def changes(psi: Floats, group: int) -> Floats:
    """(1) between all pairs of one group's learners: (..., J_g, J_g), the group's axis moved to the end.

    `psi` is (splits, J_1, ..., J_G) in the unit of the effect; the answer is in its square.
    """
    last = np.moveaxis(psi, group + 1, -1)
    return np.asarray(((last[..., :, None] - last[..., None, :]) ** 2).mean(axis=0))


def minimax(psi: Floats) -> Floats:
    """(2): (J_1, ..., J_G) squared units of the effect."""
    worst = [np.moveaxis(changes(psi, g).max(axis=-1), -1, g) for g in range(psi.ndim - 1)]
    return np.asarray(np.max(worst, axis=0))


def mixed(psi: Floats) -> Floats:
    """(3): (J_1, ..., J_G) squared units of the effect."""
    total = np.zeros(psi.shape[1:])
    for g in range(psi.ndim - 1):
        widest = changes(psi, g).max(axis=(-2, -1))
        total += np.expand_dims(widest, g)
    return total


def criterion(psi: Floats, rule: str) -> Floats:
    """(2) or (3) by name."""
    return mixed(psi) if rule == "mixed" else minimax(psi)


def best(psi: Floats, rule: str) -> tuple[int, ...]:
    """The choice with the smallest criterion; of equal ones the first."""
    found = criterion(psi, rule)
    return tuple(int(i) for i in np.unravel_index(int(np.argmin(found)), found.shape))


def soft_weights(psi: Floats, rule: str = "minimax") -> Floats:
    """(4): (J_1, ..., J_G), sum 1."""
    found = criterion(psi, rule)
    tau = float(np.median(found))
    if tau <= 0:
        flat = (found == found.min()).astype(np.float64)
        return np.asarray(flat / flat.sum())
    weight = np.exp(-(found - found.min()) / tau)
    return np.asarray(weight / weight.sum())
