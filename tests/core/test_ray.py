"""Ray as joblib's backend: retraining checks, studies and seeds on two local workers give the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from counterlog.core.evaluate import evaluate
from counterlog.core.results import plain
from counterlog.core.rounds import Rounds
from counterlog.studies import counterfactual_tables
from counterlog.trace.retraining import leave_one_out

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray cluster on this machine, and joblib's Ray backend."""
    ray = pytest.importorskip("ray")
    from ray.util.joblib import register_ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
    register_ray()
    yield
    ray.shutdown()


def ridge_losses(rows: Any) -> Any:
    """Losses of three targets after training on some rows."""
    gen = np.random.default_rng(0)
    X, y = gen.normal(size=(40, 3)), gen.normal(size=40)
    model = Ridge().fit(X[rows], y[rows])
    return (model.predict(X[:3]) - y[:3]) ** 2


def value(rng: int) -> list[float]:
    """A bootstrap interval of one seed."""
    gen = np.random.default_rng(rng)
    log = Rounds(
        {"a": gen.integers(0, 2, 400), "r": gen.random(400), "p": np.full(400, 0.5)},
        action="a",
        reward="r",
        propensity="p",
    )
    e = evaluate(log, ["always:1"], ["SNIPS"], interval="bootstrap", rng=rng).estimates[0]
    return [e.value, e.lo, e.hi]


@pytest.mark.usefixtures("cluster")
def test_retraining_checks_run_on_two_workers() -> None:
    rows = np.arange(40)
    here = leave_one_out(ridge_losses, rows)
    with joblib.parallel_config(backend="ray", n_jobs=2):
        there = leave_one_out(ridge_losses, rows, jobs=2)
    np.testing.assert_allclose(there, here, rtol=1e-12)


@pytest.mark.usefixtures("cluster")
def test_seeds_run_on_two_workers() -> None:
    with joblib.parallel_config(backend="ray", n_jobs=2):
        found = joblib.Parallel()(joblib.delayed(value)(seed) for seed in range(6))
    np.testing.assert_allclose(found, [value(seed) for seed in range(6)], rtol=1e-12)


@pytest.mark.usefixtures("cluster")
def test_a_study_runs_on_two_workers() -> None:
    here = counterfactual_tables.run(full=False, rng=0)
    with joblib.parallel_config(backend="ray", n_jobs=2):
        there = counterfactual_tables.run(full=False, rng=0)
    assert plain(there.tables) == plain(here.tables)
