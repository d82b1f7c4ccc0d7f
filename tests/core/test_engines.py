"""One question, one answer: Polars, DuckDB, Dask and Spark give a unit one bucket, and a policy one value."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import md5
from itertools import pairwise
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from counterlog.core import buckets, engine_scan, engines
from counterlog.core.buckets import ROW_BUCKETS, bucket_expression, row_bucket
from counterlog.core.column_predictions import ColumnPredictions
from counterlog.core.engine_scan import expressible, keyed
from counterlog.core.engines import batches, text_code, text_codes, with_row_number, with_text_code
from counterlog.core.errors import ConfigError, LogError, MissingExtraError, SupportError
from counterlog.core.evaluate import Evaluation, evaluate
from counterlog.core.frames import open_frame
from counterlog.core.intervals import BUCKETS
from counterlog.core.rounds import Rounds
from counterlog.estimate.doubly_robust import DR, SNDR, SwitchDR

ENGINES = ("polars", "duckdb", "dask", "spark")
ROLES: dict[str, Any] = {"action": "item", "reward": {"click": "clicks", "money": "euros"}, "propensity": "p"}
POLICIES = ["column:new", "column:old", "uniform", "always:b", "logged"]
EVERY = [pytest.param(e, marks=pytest.mark.spark if e == "spark" else ()) for e in ENGINES]
OTHERS = EVERY[1:]
QUIET = [
    "ignore::pandas.errors.Pandas4Warning",
    "ignore:Dask support is moving out of Narwhals:FutureWarning",
    "ignore:PySpark does not yet fully support pandas:FutureWarning",
    "ignore::ResourceWarning",
    "ignore::DeprecationWarning:pyspark",
]
pytestmark = [pytest.mark.filterwarnings(q) for q in QUIET]


def decisions(n: int = 3000, seed: int = 0, users: int = 400) -> pl.DataFrame:
    """Decisions with two candidates, predictions, users by number and by name, a segment and two rewards."""
    gen = np.random.default_rng(seed)
    p, user = gen.uniform(0.1, 0.9, n), gen.integers(0, users, n)
    return pl.DataFrame(
        {
            "item": gen.choice(["a", "b", "c"], n),
            "click": (gen.random(n) < 0.3).astype(int),
            "money": gen.gamma(2.0, 3.0, n),
            "p": p,
            "new": gen.random(n),
            "old": gen.random(n),
            "q": gen.random(n),
            "v_new": gen.random(n),
            "v_old": gen.random(n),
            "x": gen.normal(size=n),
            "device": gen.choice(["phone", "desk"], n),
            "user": user,
            "name": [f"Zoë-{u:04d}" for u in user],
        }
    )


def spark() -> Any:
    """A session on this machine, small."""
    from pyspark.sql import SparkSession

    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": "1",
        "spark.driver.memory": "1g",
    }
    return SparkSession.builder.master("local[1]").config(map=settings).getOrCreate()


def held_by(engine: str, path: Path) -> Any:
    """A Parquet file or folder as the engine's own table."""
    if engine == "duckdb":
        import duckdb

        return duckdb.connect().read_parquet(str(path))
    if engine == "dask":
        import dask.dataframe as dd

        return dd.read_parquet(str(path))
    return spark().read.parquet(str(path)) if engine == "spark" else pl.scan_parquet(path)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    decisions().write_parquet(path)
    return path


@pytest.fixture(scope="module")
def frames(file: Path) -> Iterator[dict[str, Any]]:
    """Tables of the engines that were asked for, opened once."""
    opened: dict[str, Any] = {}

    class Opened(dict[str, Any]):
        def __missing__(self, engine: str) -> Any:
            if engine in ("dask", "spark"):
                pytest.importorskip("dask.dataframe" if engine == "dask" else "pyspark")
            self[engine] = held_by(engine, file)
            return self[engine]

    yield Opened(opened)


def buckets_of(frame: Any, unit: str) -> dict[Any, int]:
    """Every unit's bucket, as the engine computes it."""
    log = Rounds(frame, **ROLES, unit=unit)
    name, opened = unit, log.frame
    if unit == "name":
        name = "__counterlog_key"
        opened = with_text_code(opened, unit, name)
    lazy = opened.select(unit, bucket=bucket_expression(nw.col(name).cast(nw.Int64), BUCKETS)).unique()
    return dict(lazy.collect("polars").to_native().iter_rows())


@pytest.mark.parametrize("engine", EVERY)
@pytest.mark.parametrize("unit", ["user", "name"])
def test_a_unit_falls_into_one_bucket_on_every_engine(
    engine: str, unit: str, frames: dict[str, Any], file: Path
) -> None:
    def code(value: Any) -> int:
        number = value if unit == "user" else int(md5(value.encode()).hexdigest()[:15], 16)
        number %= 2_147_483_647
        for factor, shift in ((48_271, 11), (69_621, 7_919)):
            number = (number * factor + shift) % 2_147_483_647
        return int(number % BUCKETS)

    units = pl.read_parquet(file)[unit].unique().to_list()
    assert buckets_of(frames[engine], unit) == {u: code(u) for u in units}


@pytest.mark.parametrize("engine", EVERY)
def test_rows_are_numbered_in_the_order_of_reading(engine: str, frames: dict[str, Any], file: Path) -> None:
    made = with_row_number(open_frame(frames[engine]), "number").select("money", "number").collect("polars")
    assert made["number"].to_list() == list(range(3000))
    assert made["money"].to_list() == pl.read_parquet(file)["money"].to_list()


@pytest.mark.parametrize("engine", EVERY)
def test_batches_hold_every_row_once_and_in_order(engine: str, frames: dict[str, Any], file: Path) -> None:
    pieces = list(batches(open_frame(frames[engine]), ["name", "money"], 700))
    assert max(p.height for p in pieces) <= 1000 and len(pieces) >= 3
    assert pl.concat(pieces).equals(pl.read_parquet(file).select("name", "money"))


def close(first: Evaluation, second: Evaluation, rel: float = 1e-9, *, notes: bool = True) -> None:
    """The same estimates, their numbers to `rel`."""
    assert len(first.estimates) == len(second.estimates) > 0
    for a, b in zip(first.estimates, second.estimates, strict=True):
        for name in (
            "policy",
            "estimator",
            "reward",
            "segment",
            "unit",
            "n",
            "valid",
            *(("notes",) if notes else ()),
        ):
            assert getattr(a, name) == getattr(b, name)
        numbers = ("value", "lo", "hi", "se", "ess")
        assert [getattr(a, k) for k in numbers] == pytest.approx([getattr(b, k) for k in numbers], rel=rel)
        assert f"{a.value:.6g} {a.lo:.6g} {a.hi:.6g}" == f"{b.value:.6g} {b.lo:.6g} {b.hi:.6g}"


QUESTIONS: dict[str, dict[str, Any]] = {
    "rows": {},
    "users": {"unit": "user"},
    "names": {"unit": "name"},
}


@pytest.fixture(scope="module")
def reference(file: Path) -> dict[tuple[str, str], Evaluation]:
    """Answers from arrays in memory, which share no line of the scan with an engine but the sums."""
    answers = {}
    for kind, roles in QUESTIONS.items():
        log = Rounds(pl.read_parquet(file), **ROLES, **roles, segment="device")
        for interval in ("t", "bootstrap"):
            answers[kind, interval] = evaluate(
                log, POLICIES, ["IPS", "SNIPS"], interval=interval, on_error="record"
            )
    return answers


@pytest.mark.parametrize("engine", EVERY)
@pytest.mark.parametrize("kind", QUESTIONS)
def test_values_and_intervals_agree_across_engines(
    engine: str, kind: str, frames: dict[str, Any], reference: dict[tuple[str, str], Evaluation]
) -> None:
    log = Rounds(frames[engine], **ROLES, **QUESTIONS[kind], segment="device")
    found = evaluate(log, POLICIES, ["IPS", "SNIPS"])
    assert "table" not in log.__dict__  # nothing but sums was collected
    close(found, reference[kind, "t"])
    close(found.again(interval="bootstrap"), reference[kind, "bootstrap"])


@pytest.mark.parametrize("engine", EVERY)
def test_predictions_in_columns_put_dr_into_the_scan(engine: str, frames: dict[str, Any], file: Path) -> None:
    columns = ColumnPredictions("q", {"column:new": "v_new", "column:old": "v_old"})
    q = {"click": columns, "money": columns}
    log = Rounds(frames[engine], **ROLES, unit="user")
    found = evaluate(log, ["column:new", "column:old"], ["DR", "SNDR", "DM", "SwitchDR"], q=q)
    assert "table" not in log.__dict__
    rows = pl.read_parquet(file)
    w, r, pq, v = (rows[c].to_numpy() for c in ("new", "money", "q", "v_new"))
    w = w / rows["p"].to_numpy()
    cap = SwitchDR().config.lam
    assert found.find("column:new", "DR", reward="money").value == pytest.approx(
        (v + w * (r - pq)).mean(), rel=1e-12
    )
    sn = v.mean() + (w * (r - pq)).sum() / w.sum()
    assert found.find("column:new", "SNDR", reward="money").value == pytest.approx(sn, rel=1e-12)
    switch = (v + np.where(w <= cap, w, 0) * (r - pq)).mean()
    name = SwitchDR().label
    assert found.find("column:new", name, reward="money").value == pytest.approx(switch, rel=1e-12)
    direct = found.find("column:new", "DM", reward="money")
    assert direct.value == pytest.approx(v.mean(), rel=1e-12)
    assert direct.notes == ("the interval leaves out the error of the reward model",)


def test_predictions_in_columns_are_checked() -> None:
    log = Rounds(decisions(200).with_columns(q=pl.lit(float("nan"))), **{**ROLES, "reward": "click"})
    with pytest.raises(LogError, match="prediction column 'q' is no number in 200 of 200 rows"):
        evaluate(log, ["logged"], [DR()], q={"click": ColumnPredictions("q")})
    with pytest.raises(ConfigError, match="no column holds the predicted value of policy 'column:new'"):
        evaluate(log, ["column:new"], [DR()], q={"click": ColumnPredictions("p")})
    with pytest.raises(ConfigError, match="'device' is of type String"):
        evaluate(log, ["logged"], [DR()], q={"click": ColumnPredictions("device")})
    with pytest.raises(ConfigError, match="predictions in columns can be used only where"):
        evaluate(log, ["best-fixed"], [SNDR()], q={"click": ColumnPredictions("p")})


def test_a_log_may_use_the_short_names_that_a_scan_once_kept_for_itself() -> None:
    frame = decisions(500).rename({"click": "w0", "money": "q1", "new": "w0_sum", "user": "__key", "p": "W0"})
    plain = Rounds(decisions(500), **ROLES, unit="user")
    renamed = Rounds(frame, action="item", reward={"w0": "clicks", "q1": "euros"}, propensity="W0",
                     unit="__key")  # fmt: skip
    for estimators in (["IPS", "SNIPS"], ["SNIPS", "DM"]):
        first = evaluate(plain.copy_with(context=["x"]), ["uniform"], estimators, model="linear")
        second = evaluate(renamed.copy_with(context=["x"]), ["uniform"], estimators, model="linear")
        assert [e.value for e in first.estimates] == [e.value for e in second.estimates]
    taken = evaluate(renamed, ["column:w0_sum"], ["IPS"]).estimates[0].value
    assert taken == evaluate(plain, ["column:new"], ["IPS"]).estimates[0].value
    with pytest.raises(LogError, match="would be read as the library's own"):
        Rounds(decisions(5).rename({"p": "__counterlog_w0"}), **{**ROLES, "propensity": "__counterlog_w0"})


def test_sums_alone_give_the_same_values_and_t_intervals() -> None:
    log = Rounds(decisions(), **ROLES, segment="device")
    whole = evaluate(log, ["column:new"], ["IPS", "SNIPS"])
    alone = evaluate(log, ["column:new"], ["IPS", "SNIPS"], sums_only=True)
    assert alone.table.part().height == 1
    close(whole, alone, rel=1e-12, notes=False)  # without buckets there is no note on heavy tails
    assert set(alone.estimates[0].notes) <= set(whole.estimates[0].notes)
    with pytest.raises(ConfigError, match="'bootstrap' needs buckets"):
        evaluate(log, ["column:new"], ["IPS"], sums_only=True, interval="bootstrap")
    with pytest.raises(ConfigError, match="belong to units needs its buckets"):
        evaluate(log.copy_with(unit="user"), ["column:new"], ["IPS"], sums_only=True)
    with pytest.raises(ConfigError, match="sums_only can be used only where"):
        evaluate(log, ["best-fixed"], ["IPS"], sums_only=True)


@pytest.mark.parametrize("engine", EVERY)
def test_a_partitioned_folder_is_read_with_the_columns_in_its_names(engine: str, tmp_path: Path) -> None:
    if engine in ("dask", "spark"):
        pytest.importorskip("dask.dataframe" if engine == "dask" else "pyspark")
    frame = decisions(600)
    for day in (1, 2, 3):
        folder = tmp_path / "log" / f"day={day}"
        folder.mkdir(parents=True)
        frame[200 * (day - 1) : 200 * day].write_parquet(folder / "part.parquet")
    (tmp_path / "log" / "_temporary").mkdir()
    (tmp_path / "log" / "_temporary" / "half.parquet").write_bytes(b"not yet")
    log = Rounds(tmp_path / "log", **ROLES, unit="user", segment="day", engine=engine)
    found = evaluate(log, ["column:new"], ["IPS"])
    whole = frame.with_columns(day=pl.Series(np.repeat([1, 2, 3], 200)))
    close(found, evaluate(Rounds(whole, **ROLES, unit="user", segment="day"), ["column:new"], ["IPS"]))
    assert {e.segment for e in found.estimates} == {"", "day=1", "day=2", "day=3"}


def test_a_month_of_days_is_one_scan_of_the_month(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (
        buckets,
        engine_scan,
    ):  # so that users of a day keep buckets of their own, and a month's do not
        monkeypatch.setattr(module, "UNITS_A_BUCKET", 2)
    month = decisions(20_000, users=400_000)
    cuts = np.linspace(0, 20_000, 31).astype(int)
    total: Evaluation | None = None
    for day, (lo, hi) in enumerate(pairwise(cuts)):
        log = Rounds(month[lo:hi], **ROLES, unit="name", segment="device")
        result = evaluate(log, ["column:new", "uniform"], ["IPS", "SNIPS"])
        assert result.table.exact
        saved = result.save(tmp_path / f"{day}.result")
        total = Evaluation.load(saved) if total is None else total + Evaluation.load(saved)
    month.write_parquet(tmp_path / "month.parquet")
    whole = Rounds(tmp_path / "month.parquet", **ROLES, unit="name", segment="device")
    once = evaluate(whole, ["column:new", "uniform"], ["IPS", "SNIPS"])
    assert total is not None and not total.table.exact and not once.table.exact
    close(total, once, rel=1e-12)
    close(total.again(interval="bootstrap"), once.again(interval="bootstrap"), rel=1e-12)


def test_days_of_rows_add_up_to_the_month_in_values_and_t_intervals() -> None:
    month = decisions(3000)
    days = [
        evaluate(Rounds(month[lo : lo + 500], **ROLES), ["column:new"], ["IPS", "SNIPS"])
        for lo in range(0, 3000, 500)
    ]
    total = days[0]
    for day in days[1:]:
        total = total + day
    once = evaluate(Rounds(month, **ROLES), ["column:new"], ["IPS", "SNIPS"])
    close(total, once, rel=1e-12, notes=False)  # rows are numbered anew every day, so buckets differ


@pytest.mark.parametrize("streamed", [None, True])
def test_a_large_log_records_the_policy_that_no_row_agrees_with(
    streamed: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("counterlog.core.evaluate.ROWS_AS_ARRAYS", 100)
    log = Rounds(decisions(500).with_columns(never=pl.lit(0.0)), **ROLES)
    asked = ["column:new", "column:never"]
    found = evaluate(log, asked, ["IPS", "SNIPS"], on_error="record", streamed=streamed)
    alone = evaluate(log, ["column:new"], ["IPS", "SNIPS"], streamed=streamed)
    assert [e.value for e in found.estimates if e.policy == "column:new"] == [
        e.value for e in alone.estimates
    ]
    dropped = [e for e in found.estimates if e.policy == "column:never"]
    assert {e.reward for e in dropped} == {"click", "money"} and not any(e.valid for e in dropped)
    assert all("all 500 weights are 0" in e.reason for e in dropped)
    with pytest.raises(SupportError, match="agrees with policy 'column:never'"):
        evaluate(log, asked, ["IPS"], streamed=streamed)
    with pytest.raises(SupportError, match="agrees with policy 'column:never'"):
        evaluate(log, ["column:never"], ["IPS"], on_error="record", streamed=streamed)


@pytest.mark.parametrize("engine", ["polars", "duckdb"])
@pytest.mark.parametrize("value", [float("nan"), None, 1.5, -0.1])
def test_a_policy_column_that_holds_no_probability_is_counted_and_refused(
    engine: str, value: float | None, tmp_path: Path
) -> None:
    wrong = pl.when(pl.int_range(pl.len()) < 3).then(pl.lit(value, pl.Float64)).otherwise("new")
    decisions(300).with_columns(new=wrong).write_parquet(tmp_path / "log.parquet")
    log = Rounds(held_by(engine, tmp_path / "log.parquet"), **ROLES)
    with pytest.raises(LogError, match="'column:new' gives no probability in 3 of 300 rows"):
        evaluate(log, ["column:new"], ["IPS"])


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text(max_size=12), min_size=1, max_size=20))
def test_text_codes_are_those_of_the_text(texts: list[str]) -> None:
    made = text_codes(pl.Series("unit", texts))
    assert made.to_list() == [text_code(t) for t in texts]
    assert made.min() >= 0 and made.max() < 2**60  # type: ignore[operator]


def test_consecutive_rows_spread_evenly_and_a_log_that_repeats_itself_does_not_repeat_in_the_buckets() -> (
    None
):
    frame = nw.from_native(pl.DataFrame({"k": np.arange(1_000_000)}).lazy())
    b = frame.select(b=row_bucket(nw.col("k"))).collect("polars")["b"].to_numpy()
    assert stats.chisquare(np.bincount(b, minlength=ROW_BUCKETS)).pvalue > 1e-4
    for period in (2, 3, 5, 7, 10, 12, 24, 60, 100, 1000, 1024):
        share = np.bincount(b[::period], minlength=ROW_BUCKETS)
        assert stats.chisquare(share).pvalue > 1e-4


def test_what_no_engine_can_do_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decisions(50).write_parquet(tmp_path / "log.parquet")
    decisions(50).write_csv(tmp_path / "log.csv")
    with pytest.raises(ConfigError, match="'oracle' is not an engine"):
        Rounds(tmp_path / "log.parquet", **ROLES, engine="oracle")
    with pytest.raises(ConfigError, match="duckdb reads Parquet files"):
        Rounds(tmp_path / "log.csv", **ROLES, engine="duckdb")
    with pytest.raises(ConfigError, match="reads files, and the log is a DataFrame"):
        Rounds(decisions(50), **ROLES, engine="duckdb")
    with pytest.raises(ConfigError, match="dask cannot read a DuckDB table"):
        Rounds("a.duckdb::t", **ROLES, engine="dask")
    monkeypatch.setitem(engines.__dict__, "_HASH", {})
    with pytest.raises(LogError, match="a log held by polars cannot hash text"):
        with_text_code(open_frame(decisions(5)), "name", "k")


@pytest.mark.spark
@pytest.mark.parametrize("name", ["p.new", "p`new"])
def test_a_name_that_spark_splits_is_refused_only_where_it_is_used(name: str) -> None:
    pytest.importorskip("pyspark")
    plain = spark().createDataFrame(decisions(50).drop("day", strict=False).to_pandas())
    frame = plain.withColumnRenamed("new", name)
    with pytest.raises(LogError, match=f"policy column '{name}' would be read as a field inside a column"):
        evaluate(Rounds(frame, **ROLES), [f"column:{name}"], ["IPS"])
    with pytest.raises(LogError, match="context column"):
        Rounds(frame, **ROLES, context=[name])
    unused = evaluate(Rounds(frame, **ROLES), ["uniform"], ["IPS"])
    close(unused, evaluate(Rounds(plain, **ROLES), ["uniform"], ["IPS"]))


@pytest.mark.spark
def test_without_java_the_install_step_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    sql = pytest.importorskip("pyspark.sql")

    def fails(*_: Any) -> None:
        text = "[JAVA_GATEWAY_EXITED] Java gateway process exited before sending its port number."
        raise RuntimeError(text)

    monkeypatch.setattr(sql.SparkSession, "getActiveSession", lambda: None)
    monkeypatch.setattr(sql.SparkSession.Builder, "getOrCreate", fails)
    with pytest.raises(MissingExtraError, match="openjdk-17-jre-headless"):
        engines.spark_session()


def test_units_that_engines_write_differently_are_not_hashed_by_one() -> None:
    dates = decisions(50).with_columns(day=pl.date(2026, 1, 1))
    assert not expressible(Rounds(dates, **ROLES, unit="day"), [], [])
    assert expressible(Rounds(dates, **ROLES, unit="name"), [], [])


def test_a_few_units_have_a_bucket_each() -> None:
    frame, bucket, exact = keyed(Rounds(decisions(500), **ROLES, unit="name"))
    made = frame.select(b=bucket).collect("polars")["b"]
    assert exact and set(made.to_list()) == {text_code(t) for t in decisions(500)["name"]}


def test_columns_are_read_from_a_relation_that_lives_in_memory() -> None:
    duckdb = pytest.importorskip("duckdb")
    rows = decisions(300)
    relation = duckdb.connect().from_arrow(rows.to_arrow())
    log = Rounds(relation, **ROLES)
    close(evaluate(log, ["column:new"], ["IPS"]), evaluate(Rounds(rows, **ROLES), ["column:new"], ["IPS"]))


def test_threads_do_not_change_the_digits_of_duckdb(file: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    answers = []
    for threads in (1, 4, 4):
        relation = duckdb.connect(config={"threads": threads}).read_parquet(str(file))
        log = Rounds(relation, **ROLES, unit="user", segment="device")
        answers.append(evaluate(log, POLICIES, ["IPS", "SNIPS"], interval="bootstrap"))
    close(answers[0], answers[1], rel=1e-12)
    close(answers[1], answers[2], rel=1e-12)
