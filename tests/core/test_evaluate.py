"""`evaluate`: policies by estimators by rewards by segments, from one scan; sums over days; refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from counterlog.core.errors import ConfigError, CounterlogError, LogError, SupportError
from counterlog.core.estimators import Estimator, Parts, Row
from counterlog.core.evaluate import (
    Evaluation,
    default_estimators,
    estimator_classes,
    evaluate,
    make_estimator,
)
from counterlog.core.policies import Function, Policy, Table
from counterlog.core.rounds import Rounds

N = 300
GEN = np.random.default_rng(1)
X = GEN.normal(size=N)
A = GEN.integers(0, 3, N)
CLICK = (GEN.random(N) < 0.2 + 0.2 * (A == 2)).astype(float)
SPEND = GEN.exponential(2.0, N) * (1 + (A == 0))
FRAME = pl.DataFrame(
    {
        "x": X,
        "a": A,
        "click": CLICK,
        "spend": SPEND,
        "user": GEN.integers(0, 40, N),
        "day": np.where(np.arange(N) < 140, "mon", "tue"),
        "site": np.where(X > 0, "north", "south"),
    }
)
Q = {"click": GEN.random((N, 3)), "spend": GEN.random((N, 3))}
TARGET = Function(lambda context, actions: np.tile([0.2, 0.3, 0.5], (context.height, 1)), name="target")
FIXED = ("IPS", "SNIPS", "DM", "DR", "SNDR", "SwitchDR", "DRos", "SGDR", "ClippedIPS", "SubGaussianIPS")


def log(rows: slice | np.ndarray = slice(None), **roles: object) -> Rounds:
    usual = {"action": "a", "reward": ("click", "spend"), "propensity": "uniform", "context": ("x",)}
    frame = FRAME[rows] if isinstance(rows, slice) else FRAME.filter(pl.Series(rows))
    return Rounds(frame, **{**usual, **roles})  # type: ignore[arg-type]


def q_of(rows: slice | np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[rows] for name, values in Q.items()}


@pytest.mark.parametrize("unit", [None, "user"])
def test_monday_plus_tuesday_is_both_days(unit: str | None) -> None:
    def made(rows: slice) -> Evaluation:
        return evaluate(log(rows, unit=unit), [TARGET, "uniform"], FIXED, q=q_of(rows))

    both, whole = made(slice(0, 140)) + made(slice(140, N)), made(slice(None))
    assert both.n == whole.n == N
    for one, other in zip(both.estimates, whole.estimates, strict=True):
        assert (one.policy, one.estimator, one.reward, one.n) == (
            other.policy,
            other.estimator,
            other.reward,
            other.n,
        )
        assert one.value == pytest.approx(other.value, abs=1e-12)
        assert (one.se, one.lo, one.hi) == pytest.approx((other.se, other.lo, other.hi), abs=1e-12)


def test_a_segment_is_what_its_rows_alone_would_say() -> None:
    whole = evaluate(log(segment=("site", "day")), [TARGET], FIXED, q=Q)
    for column in ("site", "day"):
        for level in FRAME[column].unique():
            rows = (FRAME[column] == level).to_numpy()
            alone = evaluate(log(rows), [TARGET], FIXED, q=q_of(rows))
            for e in alone.estimates:
                inside = whole.find("target", e.estimator, reward=e.reward, segment=f"{column}={level}")
                assert inside.value == pytest.approx(e.value, abs=1e-12)
                assert inside.se == pytest.approx(e.se, rel=1e-9)
                assert (inside.n, inside.ess) == (e.n, pytest.approx(e.ess, rel=1e-12))


def test_a_segment_in_clusters_is_what_its_rows_alone_would_say() -> None:
    rows = (FRAME["site"] == "north").to_numpy()
    alone = evaluate(log(rows, unit="user"), [TARGET], ["SNIPS"]).estimates[0]
    whole = evaluate(log(segment="site", unit="user"), [TARGET], ["SNIPS"])
    inside = whole.find("target", "SNIPS", segment="site=north")
    assert (inside.value, inside.se, inside.n) == (
        pytest.approx(alone.value, abs=1e-12),
        pytest.approx(alone.se, rel=1e-9),
        alone.n,
    )


def test_many_rows_of_one_user_make_the_interval_wider() -> None:
    again = pl.concat([FRAME] * 5).with_columns(user=pl.Series(np.tile(np.arange(N), 5)))
    roles = {"action": "a", "reward": "click", "propensity": "uniform", "context": ("x",)}
    loose = evaluate(Rounds(again, **roles), [TARGET], ["IPS"]).estimates[0]  # type: ignore[arg-type]
    tight = evaluate(Rounds(again, unit="user", **roles), [TARGET], ["IPS"]).estimates[0]  # type: ignore[arg-type]
    once = evaluate(log(reward="click"), [TARGET], ["IPS"]).estimates[0]
    assert (tight.value, tight.se, tight.n) == (
        pytest.approx(once.value, abs=1e-12),
        pytest.approx(once.se, rel=1e-9),
        N,
    )
    assert tight.se / loose.se == pytest.approx(np.sqrt(5), rel=0.01)


def test_text_users_and_number_users_are_the_same_clusters() -> None:
    text = FRAME.with_columns(pl.format("user-{}", "user").alias("user"))
    roles = {"action": "a", "reward": "click", "propensity": "uniform", "unit": "user"}
    one = evaluate(Rounds(FRAME, **roles), ["uniform"], ["SNIPS"]).estimates[0]  # type: ignore[arg-type]
    two = evaluate(Rounds(text, **roles), ["uniform"], ["SNIPS"]).estimates[0]  # type: ignore[arg-type]
    assert (one.value, one.se) == (pytest.approx(two.value, abs=1e-12), pytest.approx(two.se, rel=1e-9))


def test_saved_results_load_and_go_on(tmp_path: Path) -> None:
    made = evaluate(log(), [TARGET], ["IPS", "DR"], q=Q)
    loaded = Evaluation.load(made.save(tmp_path / "e.parquet"))
    assert loaded.estimates == made.estimates
    assert (loaded + loaded).n == 2 * N
    assert Evaluation.load(tmp_path / "e.parquet", level=0.8).estimates[0].level == 0.8


def test_other_intervals_come_from_the_same_sums() -> None:
    made = evaluate(log(), [TARGET], ["IPS"])
    direct = evaluate(log(), [TARGET], ["IPS"], interval="bootstrap", level=0.9, rng=3)
    assert made.again(interval="bootstrap", level=0.9, rng=3).estimates == direct.estimates


def test_every_reward_has_its_own_best_fixed_action() -> None:
    made = evaluate(log(), ["best-fixed", "always:0", "always:2"], ["SNIPS"])
    for reward, action in (("click", 2), ("spend", 0)):
        best, fixed = (made.find(p, "SNIPS", reward=reward) for p in ("best-fixed", f"always:{action}"))
        assert best.value == pytest.approx(fixed.value, rel=0.05)


def test_rewards_may_be_chosen_and_keep_their_units() -> None:
    made = evaluate(
        log(reward={"click": "clicks", "spend": "US dollars"}), [TARGET], ["IPS"], rewards=["spend"]
    )
    assert [(e.reward, e.unit) for e in made.estimates] == [("spend", "US dollars")]


def test_records_and_find_name_what_they_hold() -> None:
    made = evaluate(log(), [TARGET, "logged"], ["IPS"])
    assert {r["policy"] for r in made.records()} == {"target", "logged"}
    with pytest.raises(CounterlogError, match="there is no estimate of 'target' by 'DR'"):
        made.find("target", "DR")


def test_defaults_are_ips_snips_and_dr_with_context() -> None:
    assert [e.label for e in default_estimators(log())] == ["IPS", "SNIPS", "DR"]
    assert [e.label for e in default_estimators(log(context=()))] == ["IPS", "SNIPS"]


def test_every_estimator_has_a_name_and_default_settings() -> None:
    for name, kind in estimator_classes().items():
        assert make_estimator(name.lower()).label
        assert isinstance(make_estimator(name), kind)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'IPW' is not an estimator; expected one of .*SNIPS"):
        evaluate(log(), [TARGET], ["IPW"])
    with pytest.raises(ConfigError, match="'best' is not a policy"):
        evaluate(log(), ["best"], ["IPS"])


def test_two_policies_of_one_name_are_refused() -> None:
    twin = Function(lambda context, actions: np.tile([1.0, 0, 0], (context.height, 1)), name="target")
    with pytest.raises(ConfigError, match="two policies are named 'target'"):
        evaluate(log(), [TARGET, twin], ["IPS"])
    assert len(evaluate(log(), [TARGET, TARGET], ["IPS"], rewards=["click"]).estimates) == 2


def test_errors_may_be_recorded_instead_of_raised() -> None:
    never = np.zeros((N, 3))
    never[np.arange(N), (A + 1) % 3] = 1.0
    made = evaluate(log(), [Table("never", never), TARGET], ["IPS"], rewards=["click"], on_error="record")
    assert [(e.policy, e.valid) for e in made.estimates] == [("target", False), ("never", False)] or [
        e.policy for e in made.estimates
    ] == ["target", "never"]
    lost = made.estimates[-1]
    assert np.isnan(lost.value)
    assert "no logged decision agrees" in lost.reason
    with pytest.raises(SupportError, match="no logged decision agrees"):
        evaluate(log(), [Table("never", never)], ["IPS"], on_error="record")


def test_a_refused_estimator_leaves_no_half_policy_behind() -> None:
    made = evaluate(log(), ["uniform", TARGET], ["IPS"], rewards=["click"], on_error="record")
    assert [e.policy for e in made.estimates] == ["uniform", "target"]


def test_a_log_with_one_action_or_one_row_is_refused() -> None:
    with pytest.raises(SupportError, match="every row has the same action"):
        evaluate(log(A == 1), ["uniform"], ["IPS"])
    with pytest.raises(SupportError, match="1 row"):
        evaluate(log(slice(0, 1)), ["uniform"], ["IPS"])


def test_a_segment_without_support_says_so_and_the_rest_stands() -> None:
    only = np.zeros((N, 3))
    only[:, 0] = 1.0
    north = X > 0
    only[north] = 0.0
    only[np.flatnonzero(north), (A[north] + 1) % 3] = 1.0  # never what was logged in the north
    made = evaluate(log(segment="site"), [Table("t", only)], ["SNIPS"], rewards=["click"])
    assert np.isnan(made.find("t", "SNIPS", segment="site=north").value)
    assert np.isfinite(made.find("t", "SNIPS", segment="site=south").value)


def test_estimated_propensities_are_labelled() -> None:
    made = evaluate(log(propensity="estimate"), [TARGET], ["IPS"], rewards=["click"])
    assert made.estimates[0].notes == ("propensities were estimated from the context",)


def test_a_log_without_propensities_is_refused_with_the_remedy() -> None:
    with pytest.raises(LogError, match="propensity='uniform' or 'estimate'"):
        evaluate(log(propensity=None), [TARGET], ["IPS"])


def test_an_estimator_may_bring_weights_terms_notes_and_a_unit() -> None:
    class Own(Estimator):
        name = ""

        def prepare(
            self, log: Rounds, policy: Policy, *, q: object = None, rng: int = 0
        ) -> dict[str, object]:
            ones = np.ones(log.n)
            return {
                "w": 2 * ones,
                "parts": Parts(top=log.reward, bottom=ones),
                "notes": ("hello",),
                "unit": "cents",
            }

    e = evaluate(log(), [TARGET], [Own()], rewards=["spend"]).estimates[0]
    assert (e.value, e.ess) == (pytest.approx(SPEND.mean(), abs=1e-12), pytest.approx(N))
    assert (e.notes[0], e.unit) == ("hello", "cents")


def test_an_estimator_may_bring_its_own_model() -> None:
    class Own(Estimator):
        name = ""

        def parts(self, row: Row) -> Parts:
            return Parts(mean=row.v + row.w * (row.r - row.q))

        def prepare(
            self, log: Rounds, policy: Policy, *, q: object = None, rng: int = 0
        ) -> dict[str, object]:
            return {"q": np.zeros(log.n), "v": np.ones(log.n)}

    own, ips = evaluate(log(), [TARGET], [Own(), "IPS"], rewards=["click"]).estimates
    assert own.value == pytest.approx(1 + ips.value, abs=1e-12)


def test_pandas_polars_and_arrow_give_one_answer() -> None:
    roles = {"action": "a", "reward": "click", "propensity": "uniform", "context": ("x",)}
    sources = [FRAME, FRAME.to_arrow(), FRAME.to_dict(as_series=False)]
    try:
        import pandas as pd

        sources.append(pd.DataFrame(FRAME.to_dict(as_series=False)))
    except ImportError:
        pass
    values = {evaluate(Rounds(s, **roles), [TARGET], ["SNIPS"]).estimates[0].value for s in sources}  # type: ignore
    assert len(values) == 1


def test_the_same_seed_gives_the_same_result() -> None:
    one, two = (evaluate(log(), [TARGET], ["DR"], model="linear", rng=5).estimates for _ in range(2))
    assert one == two


@pytest.mark.parametrize("unit", [None, "user"])
def test_a_file_scanned_where_it_lies_gives_the_answer_of_the_arrays(
    tmp_path: Path, unit: str | None
) -> None:
    FRAME.write_parquet(tmp_path / "log.parquet")
    roles = {
        "action": "a",
        "reward": ("click", "spend"),
        "propensity": "uniform",
        "segment": "site",
        "unit": unit,
    }
    lazy = Rounds(str(tmp_path / "log.parquet"), **roles)  # type: ignore[arg-type]
    even = Function(lambda context, actions: np.full((N, 3), 1 / 3), name="uniform")
    two = Function(lambda context, actions: np.tile([0.0, 0, 1], (N, 1)), name="always:2")
    names = ("IPS", "SNIPS", "ClippedIPS", "SubGaussianIPS")
    scanned = evaluate(lazy, ["uniform", "always:2"], names)
    arrays = evaluate(log(segment="site", unit=unit), [even, two], names)
    assert len(scanned.estimates) == len(arrays.estimates)
    for e in scanned.estimates:
        other = arrays.find(e.policy, e.estimator, reward=e.reward, segment=e.segment)
        assert (e.value, e.se, e.ess) == pytest.approx((other.value, other.se, other.ess), rel=1e-9)
        assert e.n == other.n


def test_a_file_scanned_where_it_lies_refuses_what_the_arrays_refuse(tmp_path: Path) -> None:
    listed = FRAME.with_columns(
        can=pl.when(pl.col("a") == 2).then(pl.lit("0|1|2|3")).otherwise(pl.lit("0|1|3")),
        zero=pl.lit(0.0),
        odd=pl.lit(1.5),
    )
    listed.write_parquet(tmp_path / "log.parquet")
    path, roles = str(tmp_path / "log.parquet"), {"action": "a", "reward": "click", "propensity": "uniform"}
    plain = Rounds(path, **roles)  # type: ignore[arg-type]
    restricted = Rounds(path, available="can", **roles)  # type: ignore[arg-type]
    with pytest.raises(SupportError, match="'column:zero': all 300 weights are 0"):
        evaluate(plain, ["column:zero"], ["IPS"])
    with pytest.raises(LogError, match="'column:odd' gives no probability in 300 of 300 rows"):
        evaluate(plain, ["column:odd"], ["SNIPS"])
    with pytest.raises(SupportError, match=r"on actions that were never logged \(3\)"):
        evaluate(restricted, ["uniform"], ["IPS"])
    with pytest.raises(SupportError, match="chooses an unavailable action"):
        evaluate(restricted, ["always:2"], ["IPS"])
