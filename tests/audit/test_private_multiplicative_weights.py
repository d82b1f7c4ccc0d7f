import math

import numpy as np
import pytest

from counterlog.audit.private_multiplicative_weights import PMW, MedianMechanism, most_updates, reweighted
from counterlog.core.errors import BudgetExhausted, ConfigError, LogError
from counterlog.core.rounds import Rounds

BITS = (np.arange(64)[:, None] >> np.arange(6)) & 1


def contract_example(frame):
    log = Rounds(frame, action="item", reward="click", propensity="p")
    pmw = PMW(np.bincount(log.action), threshold=0.05, sigma=0.002, rng=3)
    for cell in range(len(pmw.weights)):
        pmw.ask(np.arange(len(pmw.weights)) <= cell)
    return pmw.released()


def monotone(gen):
    """A random conjunction of at most three of the six bits, as a vector over the 64 cells."""
    chosen = gen.choice(6, gen.integers(1, 4), replace=False)
    return BITS[:, chosen].all(axis=1).astype(float)


def test_one_update_by_hand():
    # D = (1/2, 1/2), S = (1, 0), f = (1, 0): y = 1, guess 1/2, gap 1/2 > T = .2 -> D prop. to (e^.1, 1)
    pmw = PMW([5, 0], threshold=0.2, sigma=0.01, noise="none")
    assert pmw.ask([1, 0]) == 1.0
    share = math.exp(0.1) / (1 + math.exp(0.1))
    np.testing.assert_allclose(pmw.weights, [share, 1 - share])
    assert pmw.updates == 1
    assert pmw.released().weights == pytest.approx((share, 1 - share))
    assert pmw.released().n == 5
    np.testing.assert_allclose(reweighted(np.array([0.5, 0.5]), np.array([1.0, 0.0]), 0.1), pmw.weights)


def test_the_draws_come_in_order():
    scales = []

    def draw(scale):
        scales.append(scale)
        return 0.0

    pmw = PMW([5, 0], threshold=0.2, sigma=0.01, draw=draw)
    pmw.ask([1, 0])
    pmw.ask([1, 1])
    assert scales == [0.02, 0.04, 0.01, 0.02, 0.04]


@pytest.mark.parametrize("noise", ["none", "laplace"])
def test_updates_stay_below_the_bound_and_answers_near_the_sample(noise):
    gen = np.random.default_rng(0)
    shares = gen.dirichlet(np.full(64, 0.1))
    tau, sigma = 0.1, 0.002
    pmw = PMW(gen.multinomial(5_000, shares), threshold=tau, sigma=sigma, noise=noise, budget=10**6, rng=1)
    for _ in range(500):
        f = monotone(gen)
        assert abs(pmw.ask(f) - f @ pmw.sample) <= 2 * tau + 40 * sigma * (noise == "laplace")
        assert pmw.weights.sum() == pytest.approx(1)
    assert 0 < pmw.updates <= most_updates(64, tau) == math.ceil(4 * math.log(64) / 0.01)


def test_a_uniform_sample_needs_no_update():
    gen = np.random.default_rng(1)
    pmw = PMW(np.full(64, 7), threshold=0.01, sigma=0.001, noise="none")
    for _ in range(200):
        f = monotone(gen)
        assert pmw.ask(f) == pytest.approx(f.mean())
    assert pmw.updates == 0


def test_relabelled_cells_give_the_same_answers():
    gen = np.random.default_rng(2)
    counts, order = gen.integers(0, 50, 64), gen.permutation(64)
    one = PMW(counts, threshold=0.05, sigma=0.01, rng=3)
    other = PMW(counts[order], threshold=0.05, sigma=0.01, rng=3)
    for _ in range(50):
        f = gen.uniform(0, 1, 64)
        assert one.ask(f) == pytest.approx(other.ask(f[order]))


def test_used_updates_end_the_answers():
    pmw = PMW([9, 0], threshold=0.01, sigma=0.001, budget=1, noise="none")
    pmw.ask([1, 0])
    with pytest.raises(BudgetExhausted, match="all 1 updates are used"):
        pmw.ask([1, 1])


@pytest.mark.parametrize(
    ("counts", "f", "error", "text"),
    [
        ([1, -1], [0, 1], LogError, "not a table of cells"),
        ([0, 0], [0, 1], LogError, "not a table of cells"),
        ([1, 2], [0, 2], LogError, r"reach from 0 to 2; expected values in \[0, 1\]"),
        ([1, 2], [0, 1, 1], LogError, r"shape \(3,\)"),
    ],
)
def test_wrong_tables_and_questions_are_refused(counts, f, error, text):
    with pytest.raises(error, match=text):
        PMW(counts, threshold=0.1, sigma=0.01).ask(f)


def test_parameters_that_are_not_positive_are_refused():
    with pytest.raises(ConfigError, match="sigma = 0"):
        PMW([1, 2], threshold=0.1, sigma=0)
    with pytest.raises(ConfigError, match="rows = 0"):
        MedianMechanism([1, 2], threshold=0.1, sigma=0.1, rows=0)


def test_the_median_of_candidates_answers_within_the_threshold_and_misses_drop_candidates():
    gen = np.random.default_rng(4)
    shares = np.array([0.5, 0.3, 0.1, 0.1])
    median = MedianMechanism(shares * 1000, threshold=0.08, sigma=0.001, rng=1)
    for _ in range(60):
        f = gen.integers(0, 2, 4).astype(float)
        before = len(median.candidates)
        assert abs(median.ask(f) - f @ shares) < 0.12
        assert len(median.candidates) <= before
    assert 0 < median.misses < 10


def test_ruled_out_candidates_end_the_answers():
    median = MedianMechanism([505, 495], threshold=1e-6, sigma=1e-9, candidates=8, rng=0)
    with pytest.raises(BudgetExhausted, match="every candidate"):
        for _ in range(20):
            median.ask([1, 0])
