"""Learners side by side: one budget, same seeds, the numbers of their reports; files; refusals."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.errors import ConfigError, SupportError  # noqa: E402
from counterlog.core.learner_comparison import Comparison, compare  # noqa: E402
from counterlog.datasets.pendulum import Pendulum  # noqa: E402
from counterlog.online.mdpo import MDPO, MDPOConfig  # noqa: E402
from counterlog.online.sac import SAC, SACConfig  # noqa: E402
from counterlog.online.trpo import TRPO, TRPOConfig  # noqa: E402

pytestmark = pytest.mark.torch
SMALL = {"hidden": (8,), "copies": 2, "horizon": 100, "steps": 800, "seeds": 2}


@pytest.fixture(scope="module")
def found() -> Comparison:
    return compare({"MDPO": MDPO(MDPOConfig(**SMALL)), "TRPO": TRPO(TRPOConfig(**SMALL))}, Pendulum, rng=3)


def test_rows_are_those_of_the_reports(found, tmp_path) -> None:
    report = MDPO(MDPOConfig(**SMALL)).improve(Pendulum, rng=3).report
    row = found.rows[0]
    assert list(row.returns) == report.last("return")
    assert row.low <= row.last <= row.high
    assert (found.n, found.steps, found.unit) == (2, 800, "reward per episode")
    curve = np.array(list(report.curve("return").values()))
    assert row.area == pytest.approx(curve[:, :, 1].mean())
    assert [x for x, _ in row.curve] == [200 * k for k in curve[0, :, 0]]
    assert found.rows[1].beyond == 0.0
    assert Comparison.load(found.save(tmp_path / "c.json")) == found
    assert found.to_frame()["learner"].to_list() == ["MDPO", "TRPO"]


def test_it_plots_a_line_a_learner(found) -> None:
    assert [line.name for line in found.plot().data] == ["MDPO", "TRPO"]


def test_unequal_budgets_and_runs_without_an_episode_are_refused() -> None:
    other = MDPO(MDPOConfig(**{**SMALL, "steps": 400}))
    with pytest.raises(ConfigError, match="one budget"):
        compare({"a": MDPO(MDPOConfig(**SMALL)), "b": other}, Pendulum)
    short = SAC(SACConfig(hidden=(8,), batch=8, warmup=10, steps=50, log_every=10))
    with pytest.raises(SupportError, match="no episode"):
        compare({"SAC": short}, Pendulum)
