import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from counterlog.core.ragged import Weights, running_logs, running_sums, steps, sums, window_logs

sizes = st.lists(st.integers(1, 6), min_size=1, max_size=6)


@given(sizes, st.integers(0, 2**31))
def test_segmented_sums_equal_a_loop_over_trajectories(size, seed):
    offsets = np.concatenate([[0], np.cumsum(size)])
    x = np.random.default_rng(seed).normal(size=offsets[-1])
    parts = np.split(x, offsets[1:-1])
    assert_allclose(sums(x, offsets), [p.sum() for p in parts], atol=1e-12)
    assert_allclose(running_sums(x, offsets), np.concatenate([p.cumsum() for p in parts]), atol=1e-12)
    assert steps(offsets).tolist() == [t for s in size for t in range(s)]


@given(sizes, st.integers(0, 4), st.integers(0, 2**31))
def test_windowed_products_equal_a_loop_and_zeros_end_with_their_window(size, lag, seed):
    offsets = np.concatenate([[0], np.cumsum(size)])
    gen = np.random.default_rng(seed)
    ratio = gen.choice([0.0, 0.5, 1.0, 3.0], offsets[-1])
    with np.errstate(divide="ignore"):
        logs = np.log(ratio)
    cumulative, windowed = [], []
    for part in np.split(ratio, offsets[1:-1]):
        cumulative += np.cumprod(part).tolist()
        windowed += [np.prod(part[max(0, t - lag + 1) : t + 1]) if lag else 1.0 for t in range(len(part))]
    assert_allclose(np.exp(running_logs(logs, offsets)), cumulative, rtol=1e-12)
    assert_allclose(np.exp(window_logs(logs, offsets, lag)), windowed, rtol=1e-12)


@given(sizes, st.integers(0, 2**31))
def test_the_mean_weight_of_a_step_counts_finished_trajectories_with_their_last(size, seed):
    offsets = np.concatenate([[0], np.cumsum(size)])
    gen = np.random.default_rng(seed)
    w = Weights(gen.uniform(0.5, 2, offsets[-1]), gen.normal(size=offsets[-1]), offsets)
    shift, mean = w.scale()
    padded = np.array([np.pad(p, (0, max(size) - len(p)), "edge") for p in np.split(w.values, offsets[1:-1])])
    assert_allclose(mean * np.exp(shift), padded.mean(axis=0), rtol=1e-12)


def test_equal_weights_are_fully_effective_and_one_weight_counts_for_one():
    offsets = np.array([0, 2, 4, 6])
    assert abs(Weights(np.ones(6), np.zeros(6), offsets).effective(0.9) - 3.0) < 1e-12
    lone = np.array([0.0, 0.0, -np.inf, -np.inf, -np.inf, -np.inf])
    assert abs(Weights(np.ones(6), lone, offsets).effective(0.9) - 1.0) < 1e-12
