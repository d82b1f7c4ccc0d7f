"""The whole audit: clean logs stay clean, every planted defect is found, real logs say what is true of them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from counterlog.audit.decision_log import AuditResult, audit, verdict
from counterlog.core.errors import ConfigError
from counterlog.core.results import SEVERITIES, Finding
from counterlog.core.rounds import Rounds
from counterlog.studies.log_audit import DEFECTS, as_log, clean_columns, found, run

DATA = Path(os.environ.get("COUNTERLOG_DATA", "nowhere"))


def of(severity: str, check: str) -> Finding:
    return Finding(check=check, severity=severity, message="m")


def test_clean_logs_of_three_kinds_have_nothing_worse_than_a_note() -> None:
    alarms = [
        (kind, i)
        for kind in ("uniform", "split", "softmax")
        for i in range(12)
        if audit(as_log(clean_columns(2000, i, kind))).worst("warning")
    ]
    assert len(alarms) <= 1


@pytest.mark.slow
def test_at_most_five_of_a_hundred_clean_uniform_logs_alarm() -> None:
    alarms = sum(bool(audit(as_log(clean_columns(3000, 500 + i))).worst("warning")) for i in range(200))
    assert alarms <= 10


@pytest.mark.parametrize("name", DEFECTS)
def test_the_planted_defect_is_found(name: str) -> None:
    assert found(DEFECTS[name], 5000, 1)


def test_findings_come_worst_first_and_the_severity_is_the_worst() -> None:
    result = audit(DEFECTS["reward in the context"].make(1000, 0))
    ranks = [SEVERITIES.index(f.severity) for f in result.findings]
    assert ranks == sorted(ranks, reverse=True)
    assert result.severity == result.findings[0].severity == "stop"
    assert (result.n, result.unit) == (1000, "rows")


def test_every_check_has_a_finding_even_when_all_is_well() -> None:
    names = {f.check.partition(":")[0] for f in audit(as_log(clean_columns(2000, 0))).findings}
    assert names >= {
        "propensity calibration", "propensity calibration by segment", "propensity calibration over time",
        "sample ratio", "logging drift", "reward leakage", "column after action", "reward maturity", "overlap",
        "heavy tails", "propensity values", "log hygiene",
    }  # fmt: skip


def test_every_finding_worse_than_ok_has_a_remedy() -> None:
    for name, defect in DEFECTS.items():
        log = defect.make(1500, 0)
        for finding in audit(log, defect.policies(log)).findings:
            assert finding.remedy or finding.severity == "ok", (name, finding.message)
            assert finding.n == log.n


def test_the_verdict_is_a_sentence_for_every_mix() -> None:
    assert verdict([of("ok", "sample ratio")]) == "The log can be trusted: every check passed."
    assert verdict([of("note", "logging drift")]) == "The log can be trusted; notes on logging drift."
    assert (
        verdict([of("warning", "heavy tails: a"), of("ok", "sample ratio"), of("ok", "reward maturity")])
        == "The log can be trusted for the split of its actions and its rewards, except: heavy tails of 'a'."
    )
    assert verdict([of("warning", "sample ratio")]) == "The log can be used, except: sample ratio."
    assert (
        verdict([of("stop", "overlap: uniform"), of("warning", "log hygiene: repeated rows")])
        == "The log cannot value every candidate (overlap of 'uniform'); take care with repeated rows."
    )
    assert verdict(
        [of("stop", "sample ratio"), of("stop", "overlap: x"), of("warning", "logging drift")]
    ) == (
        "Do not value policies from this log before these are mended: sample ratio; then see to logging drift."
    )


def test_policies_may_be_specifications_and_a_bad_one_is_refused_or_reported() -> None:
    log = as_log(clean_columns(800, 0))
    result = audit(log, ("uniform", "always:2"))
    assert [f.check for f in result.of("overlap")] and len(result.of("overlap")) == 2
    unknown = audit(log, ("always:9",))
    assert unknown.severity == "stop" and "never holds the action '9'" in unknown.findings[0].message
    with pytest.raises(ConfigError, match="is not a policy"):
        audit(log, ("sometimes",))


def test_the_result_is_repeatable_saves_loads_and_shows(tmp_path: Path) -> None:
    log = as_log(clean_columns(1000, 0, "adaptive"))
    result = audit(log, rng=3)
    assert result.to_dict() == audit(log, rng=3).to_dict()
    loaded = AuditResult.load(result.save(tmp_path / "audit.json"))
    assert loaded.to_dict() == result.to_dict()
    frame = result.to_frame()
    assert frame.height == len(result.findings) and {"severity", "check", "message", "remedy"} <= set(
        frame.columns
    )
    assert str(result).startswith(result.verdict) and "<table>" in result._repr_html_()


def test_the_log_is_not_changed() -> None:
    columns = pl.DataFrame(clean_columns(500, 0))
    before = columns.clone()
    log = as_log(columns.to_dict(as_series=False))
    print_before = log.fingerprint
    audit(log)
    assert columns.equals(before) and log.fingerprint == print_before


def test_two_rows_one_unit_and_no_roles_are_survived() -> None:
    tiny = Rounds({"a": [0, 1], "y": [0.0, 1.0]}, action="a", reward="y")
    assert audit(tiny).severity == "stop"
    single = Rounds({"a": [0], "y": [0.0]}, action="a", reward="y", propensity=1.0)
    assert audit(single).severity == "stop"
    gen = np.random.default_rng(0)
    one = Rounds(
        {"a": gen.integers(0, 2, 50), "y": gen.random(50), "u": np.zeros(50, int), "t": np.zeros(50)},
        action="a", reward="y", propensity=0.5, unit="u", time="t", segment="u",
    )  # fmt: skip
    assert audit(one).findings


def test_text_boolean_and_gappy_columns_are_survived() -> None:
    gen = np.random.default_rng(0)
    columns = {
        "a": gen.choice(["left", "right"], 300), "y": gen.random(300) < 0.3, "b": gen.random(300) < 0.5,
        "g": [None if i % 3 else float(i) for i in range(300)], "e": [None] * 300, "f": [None] * 300,
        "t": [f"2026-01-{1 + i // 30:02d}" for i in range(300)],
    }  # fmt: skip
    frame = pl.DataFrame(columns, schema_overrides={"e": pl.String, "f": pl.Float64})
    log = Rounds(
        frame,
        action="a",
        reward="y",
        propensity="uniform",
        context=["b", "g", "e", "f"],
        time="t",
        segment="b",
    )
    assert not [f for f in audit(log).findings if f.severity == "stop"]


def test_rewards_and_weights_of_any_size_overflow_nothing() -> None:
    columns = clean_columns(500, 0)
    large = audit(as_log({**columns, "y": columns["y"] * 1e300}))
    assert not large.worst("warning")
    assert audit(as_log({**columns, "p": np.full(500, 1e-300)})).worst("warning")


def test_pandas_polars_and_arrow_give_one_answer() -> None:
    frame = pl.DataFrame(clean_columns(400, 0))
    roles = {
        "action": "a",
        "reward": "y",
        "propensity": "p",
        "context": ["x", "c"],
        "segment": "c",
        "time": "t",
    }
    answers = [audit(Rounds(f, **roles)).to_dict() for f in (frame, frame.to_arrow())]  # type: ignore[arg-type]
    assert answers[0] == answers[1]
    pd = pytest.importorskip("pandas")
    assert audit(Rounds(pd.DataFrame(clean_columns(400, 0)), **roles)).to_dict() == answers[0]  # type: ignore[arg-type]


def test_the_quick_study_passes() -> None:
    study = run()
    assert study.mode == "quick" and study.passed, study.records()


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "hillstrom").exists(), reason="needs COUNTERLOG_DATA")
def test_the_hillstrom_experiment_is_sound() -> None:
    context = ["recency", "history_segment", "history", "mens", "womens", "zip_code", "newbie", "channel"]
    frame = pl.read_csv(DATA / "hillstrom/hillstrom.csv.gz", infer_schema_length=None)
    log = Rounds(
        frame, action="segment", reward=["spend", "visit", "conversion"],
        propensity="uniform", context=context, segment="zip_code",
    )  # fmt: skip
    result = audit(log)
    assert not result.worst("warning")
    leaky = Rounds(
        frame, action="segment", reward="visit", propensity="uniform",
        context=[*context, "conversion"],
    )  # fmt: skip
    assert [f.check for f in audit(leaky).worst("warning")] == ["reward leakage", "column after action"]


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "open-bandit").exists(), reason="needs COUNTERLOG_DATA")
@pytest.mark.parametrize("campaign", ["all", "men", "women"])
def test_open_bandit_logs_are_told_apart(campaign: str) -> None:
    def read(behaviour: str) -> Rounds:
        frame = pl.read_csv(
            DATA / f"open-bandit/{behaviour}/{campaign}/{campaign}.csv.gz", try_parse_dates=True
        )
        return Rounds(
            frame, action="item_id", reward="click", propensity="propensity_score", time="timestamp",
            context=[f"user_feature_{i}" for i in range(4)], segment="position", position="position",
        )  # fmt: skip

    assert not audit(read("random")).worst("warning")
    bandit = audit(read("bts"))
    assert not [f for f in bandit.worst("warning") if f.check != "propensity values"]
    assert [f.severity for f in bandit.of("logging drift")] == ["note"]
    assert any("multiples of 5e-06" in f.message for f in bandit.of("propensity values"))
