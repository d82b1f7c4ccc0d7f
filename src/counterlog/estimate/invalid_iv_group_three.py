"""Group 3 of `invalid-iv-ate`: the effect by covariates and the hidden covariance, from two sets of linear equations.

    sum (Z-f_1) D q {r_A (r_Y - b'q r_G) - c'h} = 0,   sum h {r_A (r_Y - b'q r_G) - c'h} = 0                  (4)

(4) holds at the truth when f and the outcome side are right, and when e and the outcome side are right. The weight
(Z-f_1) D of the first is (2Z-1) / (f_Z D) times f_0 f_1 D^2, so that rows with a small D count little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from counterlog.core.nuisances import Floats

PENALTIES = (0.01, 0.1, 1.0, 10.0, 1e3)


@dataclass(frozen=True)
class GroupThree:
    """The sums of (4) on some rows, from which it is solved for any penalty."""

    qq: Floats
    qh: Floats
    hq: Floats
    hh: Floats
    qy: Floats
    hy: Floats
    expected: Floats

    @classmethod
    def of(
        cls,
        q: Floats,
        h: Floats,
        signed: Floats,
        spread: Floats,
        r_a: Floats,
        r_y: Floats,
        r_g: Floats,
        w: Floats,
    ) -> GroupThree:
        """`signed` is (Z - f_1) D, `spread` f_0 f_1 D^2, `w` the rows' own weights."""
        s, ag, ay = w * signed, r_a * r_g, r_a * r_y
        return cls(
            qq=q.T @ (q * (s * ag)[:, None]),
            qh=q.T @ (h * s[:, None]),
            hq=h.T @ (q * (w * ag)[:, None]),
            hh=h.T @ (h * w[:, None]),
            qy=q.T @ (s * ay),
            hy=h.T @ (w * ay),
            expected=q.T @ (q * (w * spread)[:, None]),
        )

    def __add__(self, other: GroupThree) -> GroupThree:
        return GroupThree(*(a + b for a, b in zip(self._all(), other._all(), strict=True)))

    def _all(self) -> tuple[Floats, ...]:
        return (self.qq, self.qh, self.hq, self.hh, self.qy, self.hy, self.expected)

    def first(self, k: int) -> GroupThree:
        """The sums for the first k columns of q alone."""
        qq, qh, hq, hh, qy, hy, expected = self._all()
        return GroupThree(qq[:k, :k], qh[:k], hq[:, :k], hh, qy[:k], hy, expected[:k, :k])

    def solve(self, penalty: float = 0.0) -> tuple[Floats, Floats]:
        """(b, c) of (4); all of b but the constant is shrunk by `penalty` times the weight of the rows."""
        k = len(self.qy)
        shrink = np.full(k, penalty * float(self.expected[0, 0]))
        shrink[0] = 0.0
        left = np.block([[self.qq + np.diag(shrink), self.qh], [self.hq, self.hh]])
        found = np.linalg.lstsq(left, np.concatenate([self.qy, self.hy]), rcond=1e-12)[0]
        return found[:k], found[k:]

    def loss(self, b: Floats, c: Floats) -> float:
        """sum of weight (zeta - omega part - b'q)^2, up to a constant: the loss by which the penalty is chosen."""
        return float(b @ self.expected @ b - 2 * b @ (self.qy - self.qh @ c))


def chosen_penalty(halves: Sequence[GroupThree]) -> float:
    """The penalty with the least loss on the half that (4) was not solved on."""
    one, two = halves
    losses = [two.loss(*one.solve(p)) + one.loss(*two.solve(p)) for p in PENALTIES]
    return PENALTIES[int(np.argmin(losses))]


def solved(halves: Sequence[GroupThree], effect: str, k: int) -> tuple[Floats, Floats]:
    """(b, c) (k,), (k,) of (4) on both halves for one kind of effect: constant, quadratic (free), ridge (shrunk)."""
    if effect == "constant":
        b, c = (halves[0] + halves[1]).first(1).solve()
        return np.concatenate([b, np.zeros(k - 1)]), c
    return (halves[0] + halves[1]).solve(chosen_penalty(halves) if effect == "ridge" else 0.0)


def omega_given(h: Floats, w: Floats, product: Floats) -> Floats:
    """c (k,): weighted least squares of r_A (r_Y - delta r_G) on h, where delta is already known."""
    root = np.sqrt(w)
    return np.asarray(np.linalg.lstsq(h * root[:, None], product * root, rcond=None)[0])
