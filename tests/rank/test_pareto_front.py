from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from counterlog.core.rounds import Rounds
from counterlog.rank.pareto_front import efficient, front, keeps
from counterlog.rank.value_components import Components, measure


def made(n=400, seed=0, users=120):
    gen = np.random.default_rng(seed)
    logging = gen.dirichlet(np.ones(3) * 4, n)
    action = (gen.random(n)[:, None] > logging.cumsum(axis=1)).sum(axis=1).clip(max=2)
    columns = {
        "a": action,
        "p": logging[np.arange(n), action],
        "s": gen.normal(1.0, 1.0, n) - 0.3 * action,
        "m": gen.gamma(2.0, 1.0, n) * action,
        "u": gen.integers(0, users, n),
        "x": gen.normal(size=n),
    }
    log = Rounds(columns, action="a", reward=["s", "m"], propensity="p", unit="u", context=["x"])
    policies = {"logged": None, "one": gen.dirichlet(np.ones(3), n), "two": gen.dirichlet(np.ones(3), n)}
    q = {r: gen.normal(size=(n, 3)) for r in ("s", "m")}
    return log, policies, {r: log.reward_of(r) for r in ("s", "m")}, q


def test_joint_bands_cover_all_values_together_as_often_as_they_say():
    inside = []
    for seed in range(300):
        gen = np.random.default_rng(seed)
        n = 200
        columns = {"a": gen.integers(3, size=n), "r": gen.normal(size=n), "c": gen.normal(size=n)}
        log = Rounds(columns, action="a", reward=["r", "c"], propensity=1 / 3)
        policies = {str(k): np.tile(np.eye(3)[k], (n, 1)) for k in range(3)}
        found = measure(log, policies, {r: log.reward_of(r) for r in ("r", "c")}, estimator="IPS")
        drawn = front(found, {"r": 1.0}, {"c": 1.0}, rng=seed)
        inside.append(
            all(lo <= 0.0 <= hi for p in drawn.points for lo, hi in (p.satisfaction_band, p.revenue_band))
        )
    assert 0.91 <= np.mean(inside) <= 0.985


def test_efficient_points_by_hand():
    points = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.4, 0.4], [1.0, 0.0]])
    np.testing.assert_array_equal(efficient(points), [True, True, True, False, True])


@given(arrays(np.float64, (12, 2), elements=st.floats(-5, 5)))
@settings(max_examples=60, deadline=None)
def test_no_efficient_point_is_beaten_and_every_other_is(points):
    best = efficient(points)
    for i, p in enumerate(points):
        beaten = any((q >= p).all() and (q > p).any() for q in points)
        assert beaten != best[i]


def test_the_floor_keeps_only_policies_whose_lower_bound_reaches_it():
    log, policies, rewards, q = made(n=4000, users=4000)
    found = measure(log, policies, rewards, q=q)
    assert keeps(found, ("one", "two"), {"s": 1.0}, baseline="logged", floor=-10.0, alpha=0.05) == (
        "one",
        "two",
    )
    assert keeps(found, ("one", "two"), {"s": 1.0}, baseline="logged", floor=10.0, alpha=0.05) == ()


def test_components_and_front_are_read_back_as_saved(tmp_path):
    log, policies, rewards, q = made()
    found = measure(log, policies, rewards, q=q)
    back = Components.load(found.save(tmp_path / "components.json"))
    assert back == found
    drawn = front(back, {"s": 1.0}, {"m": 1.0})
    assert type(drawn).load(drawn.save(tmp_path / "front.json")) == drawn
    assert len(drawn.records()) == 3
    assert len(drawn.plot().data) == 2
