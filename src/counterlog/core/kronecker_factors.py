"""Kronecker-factored curvature of a layer: covariances, their eigenbases, corrected eigenvalues, the damped inverse.

A layer's gradient is a P x M matrix. A (M, M) is the mean outer product of inputs over tokens, S (P, P) that of output
gradients; Lambda (P, M) is the mean over ROWS of squared gradients in the basis of their eigenvectors. Mixing the two
normalisers would scale layers against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from counterlog.core.layer_rows import LayerRows, OuterRows
from counterlog.core.layer_traces import Layer

STRATEGIES = ("ekfac", "kfac", "diagonal", "identity")
HEURISTIC = 0.1


@dataclass(frozen=True)
class LayerFactors:
    """Curvature of one layer. `left` (P, P) and `right` (M, M) are empty where the basis is that of the weights."""

    curvature: Tensor  # Lambda (P, M); empty for the identity
    left: Tensor
    right: Tensor
    damping: float

    def into_basis(self, v: Tensor) -> Tensor:
        """(q, P, M) in the eigenbasis."""
        return v if self.left.numel() == 0 else self.left.T @ v @ self.right

    def from_basis(self, v: Tensor) -> Tensor:
        """The inverse of `into_basis`."""
        return v if self.left.numel() == 0 else self.left @ v @ self.right.T

    def solve(self, v: Tensor) -> Tensor:
        """(G + damping I)^-1 v for v (q, P, M); v itself for the identity."""
        if self.curvature.numel() == 0:
            return v
        return self.from_basis(self.into_basis(v) / (self.curvature + self.damping))

    def multiply(self, v: Tensor) -> Tensor:
        """(G + damping I) v."""
        if self.curvature.numel() == 0:
            return v
        return self.from_basis(self.into_basis(v) * (self.curvature + self.damping))


Covariances = dict[str, Tensor]


def covariance_sums(traces: Mapping[str, LayerRows]) -> Covariances:
    """Sums over tokens of a a' and s s', and the tokens counted, by layer; only layers that have both."""
    out: Covariances = {}
    for name, rows in traces.items():
        if isinstance(rows, OuterRows):
            a, s = rows.a.flatten(0, 1), rows.s.flatten(0, 1)
            out |= {f"{name}|A": a.T @ a, f"{name}|S": s.T @ s}
            out[f"{name}|count"] = torch.tensor(rows.count, dtype=torch.float64)
    return out


def added(total: dict[str, Tensor], part: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sums of two parts; a name that one lacks counts as zero."""
    for name, value in part.items():
        total[name] = total[name] + value if name in total else value.clone()
    return total


def covariances(sums: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """(A, S) of a layer: sums divided once, by all tokens that counted."""
    count = sums[f"{name}|count"].clamp_min(1)
    return sums[f"{name}|A"].double() / count, sums[f"{name}|S"].double() / count


def eigenbasis(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (ascending, none below zero) and eigenvectors in float64, of the symmetric part."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T).double() / 2)
    return values.clamp_min(0), vectors.contiguous()


def square_sums(
    traces: Mapping[str, LayerRows], bases: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Squared gradients added over rows, (P, M) by layer, in the layer's eigenbasis where it has one."""
    out = {}
    for name, rows in traces.items():
        if name in bases and isinstance(rows, OuterRows):
            left, right = bases[name]
            out[name] = rows.rotated_squares(left.to(rows.s), right.to(rows.s))
        else:
            out[name] = rows.squares()
    return out


def heuristic_damping(curvature: Tensor) -> float:
    """A tenth of the layer's mean eigenvalue."""
    return HEURISTIC * float(curvature.double().mean())


def layer_factors(
    layer: Layer,
    strategy: str,
    sums: Mapping[str, Tensor],
    spectra: Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]],
    squares: Mapping[str, Tensor],
    rows: int,
    damping: float | None,
    like: Tensor,
) -> LayerFactors:
    """The factors of a layer from its sums over all rows; `spectra` holds (values S, basis S, values A, basis A)."""
    none = like.new_zeros(0)
    if strategy == "identity":
        return LayerFactors(none, none, none, 0.0)
    left = right = none
    if strategy == "kfac" and layer.name in spectra:
        on_s, left, on_a, right = spectra[layer.name]
        curvature = torch.outer(on_s, on_a)
    else:
        curvature = squares[layer.name] / rows
        if strategy == "ekfac" and layer.name in spectra:
            _, left, _, right = spectra[layer.name]
    amount = heuristic_damping(curvature) if damping is None else damping
    return LayerFactors(curvature.to(like), left.to(like), right.to(like), amount)
