from __future__ import annotations

import pytest

from counterlog.core.study import Study
from counterlog.index import ROOT
from counterlog.studies.capacity_constrained_im import LOCAL, OPIM, run


@pytest.mark.graphs
@pytest.mark.data
@pytest.mark.slow
def test_the_quick_study_measures_every_rule_and_repeats_itself(data_folder: object) -> None:
    pytest.importorskip("numba", reason="numba is not installed (extra graphs)")
    one, two = run(), run()
    assert {r["method"] for r in one.tables[1].rows} == {*OPIM, *LOCAL[:2]}
    for a, b in zip(one.tables[1].rows, two.tables[1].rows, strict=True):
        assert {k: v for k, v in a.items() if k != "cpu ms"} == {
            k: v for k, v in b.items() if k != "cpu ms"
        } or (a["method"] in LOCAL)


def test_the_committed_result_is_a_full_run_on_eight_networks() -> None:
    found = Study.load(ROOT / "studies" / "results" / "capacity-constrained-im.json")
    assert found.mode == "full" and found.n == 3
    assert len(found.tables[0].rows) == 8
    assert {r["model"] for r in found.tables[1].rows} == {"ic", "lt"}
