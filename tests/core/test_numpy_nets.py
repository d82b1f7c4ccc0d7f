from __future__ import annotations

import numpy as np
import pytest

from counterlog.core.numpy_nets import Adam, as_layers, backward, forward, scores, start


@pytest.mark.parametrize("hidden", [(), (4,), (5, 3)])
@pytest.mark.parametrize("ordinal", [False, True])
def test_gradients_match_finite_differences(hidden, ordinal):
    gen = np.random.default_rng(0)
    basis = np.array([[-1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]) if ordinal else None
    theta = start([3, *hidden, 2 if ordinal else 3], gen)
    theta = [t + 0.3 * gen.standard_normal(t.shape) for t in theta]
    x, pull = gen.normal(size=(6, 3)), gen.normal(size=(6, 3))

    def loss():
        return float((forward(x, theta, basis)[1] * pull).sum())

    inputs, _ = forward(x, theta, basis)
    for block, slope in zip(theta, backward(pull, inputs, theta, basis), strict=True):
        for place in np.ndindex(block.shape):
            block[place] += 1e-6
            up = loss()
            block[place] -= 2e-6
            down = loss()
            block[place] += 1e-6
            assert slope[place] == pytest.approx((up - down) / 2e-6, abs=1e-6)


def test_saved_layers_score_as_the_network_does():
    gen = np.random.default_rng(1)
    basis = gen.normal(size=(2, 5))
    theta = [t + gen.standard_normal(t.shape) for t in start([4, 3, 2], gen)]
    x = gen.normal(size=(7, 4))
    np.testing.assert_allclose(scores(x, as_layers(theta, basis)), forward(x, theta, basis)[1], atol=1e-12)


def test_the_first_adam_step_has_the_length_of_the_rate():
    theta = [np.zeros(2)]
    Adam(theta, 0.1).ascend(theta, [np.array([5.0, -1.0])])
    np.testing.assert_allclose(theta[0], [0.1, -0.1], rtol=1e-4)
