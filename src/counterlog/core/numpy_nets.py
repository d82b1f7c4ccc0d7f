"""Small tanh networks in numpy: forward, backward, Adam, and the layers that a saved policy keeps.

`theta` is the flat list [weights, bias, weights, bias, ...], weights (d_in, d_out), bias (d_out,). An optional fixed
`basis` (outputs, actions) maps the outputs to scores, so that a few outputs can score many actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Layers = tuple[tuple[Floats, Floats], ...]


def start(widths: Sequence[int], gen: np.random.Generator) -> list[Floats]:
    """theta for layers of these widths: hidden weights of variance 1/d_in, the last layer 0."""
    theta: list[Floats] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
        scale = 1.0 / np.sqrt(max(fan_in, 1)) if i < len(widths) - 2 else 0.0
        theta += [scale * gen.standard_normal((fan_in, fan_out)), np.zeros(fan_out)]
    return theta


def forward(x: Floats, theta: list[Floats], basis: Floats | None) -> tuple[list[Floats], Floats]:
    """The input of every layer and the scores (b, actions)."""
    inputs = [x]
    for i in range(0, len(theta) - 2, 2):
        inputs.append(np.tanh(inputs[-1] @ theta[i] + theta[i + 1]))
    out = inputs[-1] @ theta[-2] + theta[-1]
    return inputs, out if basis is None else out @ basis


def backward(
    gradient: Floats, inputs: list[Floats], theta: list[Floats], basis: Floats | None
) -> list[Floats]:
    """Gradients of theta from d objective / d scores (b, actions)."""
    flow = gradient if basis is None else gradient @ basis.T
    found: list[Floats] = []
    for i in range(len(inputs) - 1, -1, -1):
        found = [inputs[i].T @ flow, flow.sum(axis=0), *found]
        if i:
            flow = (flow @ theta[2 * i].T) * (1 - inputs[i] ** 2)
    return found


def as_layers(theta: list[Floats], basis: Floats | None) -> Layers:
    """(weights, bias) pairs; an ordinal basis is multiplied into the last."""
    pairs = [(theta[i], theta[i + 1]) for i in range(0, len(theta), 2)]
    if basis is not None:
        pairs[-1] = (pairs[-1][0] @ basis, pairs[-1][1] @ basis)
    return tuple(pairs)


class Adam:
    """Adam (Kingma and Ba, 2015) for ascent, in place."""

    def __init__(self, theta: list[Floats], rate: float) -> None:
        self.rate, self.step = rate, 0
        self.first, self.second = [np.zeros_like(t) for t in theta], [np.zeros_like(t) for t in theta]

    def ascend(self, theta: list[Floats], gradient: list[Floats]) -> None:
        """One step."""
        self.step += 1
        rate = self.rate * np.sqrt(1 - 0.999**self.step) / (1 - 0.9**self.step)
        for t, g, m, v in zip(theta, gradient, self.first, self.second, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            t += rate * m / (np.sqrt(v) + 1e-8)


def scores(x: Floats, layers: Layers) -> Floats:
    """(n, actions) scores of x (n, d)."""
    for i, (weights, bias) in enumerate(layers):
        x = (np.tanh(x) if i else x) @ weights + bias
    return x
