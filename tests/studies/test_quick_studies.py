"""Every study runs in quick mode, states its claims with numbers, and travels through its file."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from counterlog.core.errors import DatasetError
from counterlog.core.study import Study
from counterlog.studies.running import RESULTS, run_study, studies

NEEDS_DATA = {"counterfactual-tables"}


@pytest.mark.parametrize("slug", studies())
def test_the_quick_study_runs_and_is_whole(slug: str, tmp_path: Path) -> None:
    if slug in NEEDS_DATA and not os.environ.get("COUNTERLOG_DATA"):
        with pytest.raises(DatasetError, match="COUNTERLOG_DATA"):
            run_study(slug)
        return
    made = run_study(slug)
    assert made.slug == slug
    assert made.mode == "quick"
    assert made.n > 0
    assert made.unit
    assert made.tables
    assert all(table.rows for table in made.tables)
    assert made.checks
    assert all(math.isfinite(check.measured) and check.bar for check in made.checks)
    assert Study.load(made.save(tmp_path / "s.json")) == made


@pytest.mark.parametrize("slug", studies())
def test_the_committed_result_is_of_a_full_run(slug: str) -> None:
    result = Study.load(RESULTS / f"{slug}.json")
    assert (result.slug, result.mode) == (slug, "full")
