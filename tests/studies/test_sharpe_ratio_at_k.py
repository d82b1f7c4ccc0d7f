from __future__ import annotations

from counterlog.core.study import Study
from counterlog.index import ROOT
from counterlog.studies.sharpe_ratio_at_k import ESTIMATORS, run


def test_quick_mode_holds_and_repeats_itself() -> None:
    one, two = run(), run()
    assert one.passed and one.n == 2
    assert repr(one.tables) == repr(two.tables)


def test_the_committed_result_is_a_full_run_that_keeps_what_did_not_hold() -> None:
    found = Study.load(ROOT / "studies" / "results" / "sharpe-ratio-at-k.json")
    assert found.mode == "full" and found.n == 20
    assert {r["estimator"] for r in found.tables[1].rows} == {*ESTIMATORS, "random ranking", "true ranking"}
    toys = [c for c in found.checks if c.claim.startswith("toy")]
    assert len(toys) == 3 and all(c.passed for c in toys)
    assert len([c for c in found.checks if c.claim.startswith("share")]) == 3
