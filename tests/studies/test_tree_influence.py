from __future__ import annotations

import pytest

from counterlog.core.study import Study
from counterlog.index import ROOT
from counterlog.studies.tree_influence import WAYS, run


@pytest.mark.trees
@pytest.mark.slow
def test_the_quick_study_measures_every_method_and_repeats_itself() -> None:
    pytest.importorskip("lightgbm", reason="lightgbm is not installed (extra trees)")
    one, two = run(), run()
    assert {r["method"] for r in one.tables[0].rows} == set(WAYS)
    assert repr(one.tables) == repr(two.tables)


def test_the_committed_result_is_a_full_run_with_leave_one_out_beside_it() -> None:
    found = Study.load(ROOT / "studies" / "results" / "tree-influence.json")
    assert found.mode == "full" and found.n == 3
    assert {r["data"] for r in found.tables[0].rows} == {
        "breast-cancer",
        "german-credit",
        "adult",
        "bank-marketing",
    }
    assert sum(r["method"] == "LOO" for r in found.tables[0].rows) == 2
    assert len([c for c in found.checks if "leave-one-out" in c.claim]) == 4
