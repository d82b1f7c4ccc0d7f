"""`build` from end to end on a small log, its files, and its machine form."""

import json

import pytest

from counterlog.core.errors import LogError, SupportError
from counterlog.report.decision_report import DecisionReport, build
from counterlog.report.files import cell_text, csv_text


def test_the_report_holds_every_candidate_by_every_estimator(report):
    assert report.n == 2000 and report.unit == "rows"
    policies = {e.policy for e in report.policies}
    assert policies >= {"logged", "uniform", "best-fixed", "always:a", "always:b", "always:c"}
    assert {e.estimator for e in report.policies} == {"DM", "IPS", "SNIPS", "DR"}
    assert {e.reward for e in report.policies} == {"reward", "amount"}
    assert report.audit and report.verdict.splitlines()[0].startswith("reward: ")


def test_a_report_survives_saving_and_loading(report, tmp_path):
    report.save(tmp_path / "result.json")
    assert DecisionReport.load(tmp_path / "result.json").to_json() == report.to_json()


def test_the_folder_holds_page_result_run_and_tables(report, tmp_path):
    page = report.write(tmp_path / "out")
    assert page == tmp_path / "out" / "report.html"
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["command"] == "counterlog report log.parquet"
    assert run["data"]["sha256"] == report.log.fingerprint and run["rng"] == 0
    assert len((tmp_path / "out" / "policies.csv").read_text().splitlines()) == 1 + len(report.policies)


def test_the_machine_form_has_the_promised_keys(report):
    content = json.loads(json.dumps(report.to_json_content(), allow_nan=False))
    assert {"n", "policies", "audit", "verdict"} <= set(content)
    wanted = {"policy", "estimator", "value", "lo", "hi", "se", "ess", "n", "unit", "valid", "reason"}
    assert wanted <= set(content["policies"][0])


def test_the_same_seed_gives_the_same_report(simulated):
    log = simulated(600)
    first, second = (build(log, rng=3).to_dict() for _ in range(2))
    for made in (first, second):
        made.pop("seconds")
    assert first == second


def test_own_policies_and_estimators_replace_the_defaults(simulated):
    made = build(simulated(800), policies=["always:c"], estimators=["SNIPS"])
    assert {e.policy for e in made.policies} - {"learnt"} == {"logged", "best-fixed", "always:c"}
    assert {e.estimator for e in made.policies} == {"SNIPS"}


def test_a_candidate_that_cannot_be_valued_stays_with_its_reason(simulated):
    made = build(simulated(800), policies=["always:zebra"])
    lost = [e for e in made.policies if e.policy == "always:zebra"]
    assert lost and not lost[0].valid and "never holds the action" in lost[0].reason


def test_what_is_wrong_with_the_log_is_refused(simulated):
    with pytest.raises(SupportError, match="1 row"):
        build(simulated(50).take(simulated(50).action == 0).take(simulated(50).action[:1] >= 0))
    with pytest.raises(LogError, match="gives no propensity"):
        build(simulated(200, propensity=None))


def test_formulas_are_neutralised_and_numbers_are_not():
    assert cell_text("=HYPERLINK(1)") == "'=HYPERLINK(1)"
    assert cell_text("@x") == "'@x" and cell_text("\t=1") == "'\t=1"
    assert cell_text("-1.5e-3") == "-1.5e-3" and cell_text(-0.25) == "-0.25"
    assert cell_text("-cmd") == "'-cmd" and cell_text(None) == ""
    assert csv_text(["a", "=b"], [[1, "x,y"]]) == 'a,\'=b\r\n1,"x,y"\r\n'


def test_a_value_known_from_elsewhere_stands_beside_the_estimates(simulated):
    from counterlog.core.results import Estimate

    known = Estimate(
        value=0.5,
        lo=0.45,
        hi=0.55,
        unit="sales",
        n=400,
        policy="always:c",
        estimator="test of May",
        reward="reward",
    )
    made = build(simulated(800), policies=["always:c"], beside=[known])
    assert known in made.policies and made.rewards[0].beside == (known,)
    assert "test of May" in made.html() and "Known from elsewhere" in made.html()


def test_the_thompson_policy_of_the_open_bandit_log_is_valued_and_measured():
    from counterlog.core.evaluate import evaluate
    from counterlog.datasets.examples import Thompson, open_bandit

    policy = Thompson("men")
    earned = policy.earned()
    assert earned.value == pytest.approx(0.0069) and earned.n == 10_000
    log = open_bandit("men", "random")
    assert policy.probs(log).sum(axis=1) == pytest.approx(1.0)
    estimate = evaluate(log, [policy], ["SNIPS"], segments=False).estimates[0]
    assert estimate.valid and estimate.lo < earned.hi and estimate.hi > earned.lo


def test_progress_is_told_from_start_to_end(simulated):
    told = []
    build(simulated(400), progress=lambda text, share: told.append((text, share)))
    shares = [share for _, share in told]
    assert told[0] == ("auditing the log", 0.0) and told[-1] == ("done", 1.0) and shares == sorted(shares)


def test_many_actions_leave_the_single_ones_out_with_a_note(simulated):
    import numpy as np
    import polars as pl

    gen = np.random.default_rng(1)
    n = 1500
    frame = pl.DataFrame({"a": gen.integers(0, 15, n), "r": gen.random(n), "x": gen.normal(size=n)})
    made = build(type(simulated(50))(frame, action="a", reward="r", propensity="uniform", context=["x"]))
    assert {e.policy for e in made.policies} == {"logged", "best-fixed", "learnt"}
    assert "15 actions" in made.notes[0] and made.notes[0].split(".")[0] in made.html()
