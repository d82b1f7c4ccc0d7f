from __future__ import annotations

import pytest

from counterlog.core.errors import DatasetError
from counterlog.core.study import Study
from counterlog.index import ROOT
from counterlog.studies.counterfactual_tables import run


def test_without_the_tables_the_study_says_how_to_get_them(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("COUNTERLOG_DATA", str(tmp_path))
    monkeypatch.setenv("COUNTERLOG_CACHE", str(tmp_path))
    with pytest.raises(DatasetError, match="COUNTERLOG_DATA"):
        run()


@pytest.mark.data
@pytest.mark.slow
def test_the_quick_study_measures_every_policy_and_estimator(data_folder) -> None:
    found = run()
    assert len(found.tables[0].rows) == 2 * 3 * 4 and found.n == 40


def test_the_committed_result_is_a_full_run() -> None:
    found = Study.load(ROOT / "studies" / "results" / "counterfactual-tables.json")
    assert found.mode == "full" and found.n == 400
