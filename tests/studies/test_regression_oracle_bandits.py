from __future__ import annotations

import pytest

from counterlog.core.study import Study
from counterlog.index import ROOT
from counterlog.studies.regression_oracle_bandits import run


@pytest.mark.slow
def test_the_quick_study_runs_and_repeats() -> None:
    one, two = run(rng=1), run(rng=1)
    assert one.checks == two.checks and {t.title for t in one.tables} >= {"window 1", "window 4"}


def test_the_committed_result_is_a_full_run() -> None:
    found = Study.load(ROOT / "studies" / "results" / "regression-oracle-bandits.json")
    assert found.mode == "full" and found.n == 10
