"""A log read in batches: the same answer as in memory, with a bounded sample to fit on and nothing kept of a batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import SGDClassifier, SGDRegressor

from counterlog.core import evaluate as evaluating
from counterlog.core import streamed
from counterlog.core.engine_scan import scan_log
from counterlog.core.errors import ConfigError, SupportError
from counterlog.core.evaluate import Evaluation, evaluate
from counterlog.core.policies import Function, LoggedColumn, Table
from counterlog.core.rounds import Rounds
from counterlog.core.row_sample import row_sample
from counterlog.estimate.importance_weighting import IPS

ROLES: dict[str, Any] = {
    "action": "item",
    "reward": ["click", "money"],
    "propensity": "p",
    "context": ["x", "device"],
    "segment": "device",
}
POLICIES = ["logged", "always:b", "best-fixed", "uniform"]
FOUR = ["IPS", "SNIPS", "DM", "DR"]


def decisions(n: int = 4000, seed: int = 0) -> pl.DataFrame:
    gen = np.random.default_rng(seed)
    x, action = gen.normal(size=n), gen.integers(0, 3, n)
    return pl.DataFrame(
        {
            "item": np.array(list("abc"))[action],
            "click": (gen.random(n) < 0.2 + 0.2 * (action == 1) * (x > 0)).astype(int),
            "money": gen.gamma(2.0, 2.0, n) * (1 + action) + x,
            "p": np.full(n, 1 / 3),
            "mine": gen.random(n),
            "x": x,
            "device": gen.choice(["phone", "desk"], n),
            "user": gen.integers(0, n // 6, n),
        }
    )


def close(first: Evaluation, second: Evaluation, rel: float) -> None:
    assert len(first.estimates) == len(second.estimates) > 0
    for a, b in zip(first.estimates, second.estimates, strict=True):
        for name in ("policy", "estimator", "reward", "segment", "n", "valid", "notes"):
            assert getattr(a, name) == getattr(b, name)
        ends = [(e.value, e.lo, e.hi, e.se) for e in (a, b)]
        assert ends[0] == pytest.approx(ends[1], rel=rel)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 700 rows, so that a small log has several."""
    monkeypatch.setitem(streamed.scan_streamed.__kwdefaults__, "batch", 700)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("unit", [None, "user"])
@pytest.mark.parametrize("interval", ["t", "bootstrap"])
def test_batches_give_the_answer_of_the_whole(unit: str | None, interval: str) -> None:
    log = Rounds(decisions(), **ROLES, unit=unit)
    ask: dict[str, Any] = {"model": "linear", "interval": interval}
    close(
        evaluate(log, POLICIES, FOUR, streamed=True, **ask),
        evaluate(log, POLICIES, FOUR, streamed=False, **ask),
        1e-12,
    )


@pytest.mark.filterwarnings("ignore:Dask support is moving:FutureWarning")
@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")
@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("engine", ["duckdb", "dask"])
def test_batches_of_another_engine_give_the_same_answer(engine: str, tmp_path: Path) -> None:
    pytest.importorskip("dask.dataframe" if engine == "dask" else "duckdb")
    decisions().write_parquet(tmp_path / "log.parquet")
    answers = []
    for name in ("polars", engine):
        log = Rounds(tmp_path / "log.parquet", **ROLES, unit="user", engine=name)
        answers.append(evaluate(log, POLICIES, FOUR, model="linear", streamed=True))
        assert "table" not in log.__dict__
    close(*answers, 1e-12)


@pytest.mark.usefixtures("small_batches")
def test_policies_of_every_kind_answer_batch_by_batch() -> None:
    frame = decisions()
    matrix = np.random.default_rng(1).dirichlet(np.ones(3), len(frame))

    def by_x(context: pl.DataFrame, actions: Any) -> Any:
        return np.eye(3)[(context["x"].to_numpy() > 0).astype(int)]

    log = Rounds(frame, **ROLES)
    policies = [Table("given", matrix), Function(by_x), "always:c"]
    close(
        evaluate(log, policies, ["SNIPS", "DR"], model="linear", streamed=True),
        evaluate(log, policies, ["SNIPS", "DR"], model="linear", streamed=False),
        1e-12,
    )
    column = LoggedColumn("mine")
    close(
        evaluate(log, [column], ["SNIPS"], streamed=True),
        evaluate(log, [column], ["SNIPS"], streamed=False),
        1e-12,
    )


def test_the_sample_is_bounded_and_a_function_of_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    log, seen = Rounds(decisions(6000), **ROLES, unit="user"), []
    fit = streamed.fit_folds

    def counted(model: Any, x: Any, *rest: Any, **more: Any) -> Any:
        seen.append(len(x))
        return fit(model, x, *rest, **more)

    monkeypatch.setattr(streamed, "fit_folds", counted)
    made = [
        streamed.scan_streamed(
            log, ["best-fixed"], evaluating.default_estimators(log), ["click"], (), sample=1500, batch=batch,
            model="linear",
        )
        for batch in (500, 6000)
    ]  # fmt: skip
    assert seen[0] == seen[1]
    assert abs(seen[0] - 1500) < 5 * np.sqrt(1500)
    first, second = (t.frame.drop("group", "level").to_numpy() for t in made)
    np.testing.assert_allclose(first, second, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("reward", ["click", "money"])
def test_models_that_learn_by_partial_fit_see_every_batch(reward: str) -> None:
    log = Rounds(decisions(12_000), **{**ROLES, "reward": reward})
    model = (
        SGDClassifier(loss="log_loss", random_state=0) if reward == "click" else SGDRegressor(random_state=0)
    )
    found = evaluate(log, ["always:b"], ["DR", "IPS"], model=model, streamed=True)
    plain = evaluate(log, ["always:b"], ["DR"], model="linear", streamed=False)
    dr, ips = found.find("always:b", "DR"), found.find("always:b", "IPS")
    assert dr.value == pytest.approx(plain.find("always:b", "DR").value, abs=2 * dr.se)
    assert dr.se < ips.se  # the model explains some of the reward


@pytest.mark.usefixtures("small_batches")
def test_a_policy_that_agrees_with_a_row_in_one_batch_only_has_a_value() -> None:
    frame = decisions(1400).with_columns(
        item=pl.Series(["a", "b"] * 350 + ["a"] * 350 + ["c"] * 350),
        mine=pl.Series([0.0] * 700 + [0.5] * 700),
    )
    log = Rounds(frame, **ROLES)
    close(
        evaluate(log, ["always:c", "column:mine"], ["IPS"], streamed=True, segments=False),
        evaluate(log, ["always:c", "column:mine"], ["IPS"], streamed=False, segments=False),
        1e-12,
    )
    nothing = Rounds(frame.with_columns(mine=0.0), **ROLES)
    with pytest.raises(SupportError, match="no logged decision agrees with policy 'column:mine': all 1,400"):
        evaluate(nothing, ["column:mine"], ["IPS"], streamed=True)


def test_what_needs_the_whole_log_is_refused_in_batches() -> None:
    log = Rounds(decisions(200), **ROLES)
    for more in ({"bounds": (0.0, 3.0)}, {"q": {"click": np.zeros((200, 3)), "money": np.zeros((200, 3))}}):
        with pytest.raises(ConfigError, match="cannot be answered batch by batch"):
            evaluate(log, ["uniform"], ["DM"], streamed=True, **more)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cannot be answered batch by batch"):
        evaluate(log, ["uniform"], ["MRDR"], streamed=True)


def test_a_large_log_is_streamed_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluating, "ROWS_AS_ARRAYS", 3000)
    log = Rounds(decisions(4000), **ROLES)
    said: list[str] = []
    evaluate(log, ["best-fixed"], ["DR"], model="linear", progress=lambda text, _: said.append(text))
    assert "table" not in log.__dict__
    assert said[-1] == "estimating"


@pytest.mark.parametrize("unit", [None, "user"])
def test_a_sample_of_rows_holds_whole_units_and_is_the_same_on_every_engine(
    unit: str | None, tmp_path: Path
) -> None:
    decisions(9000).write_parquet(tmp_path / "log.parquet")
    small = []
    for engine in ("polars", "duckdb"):
        log = Rounds(tmp_path / "log.parquet", **ROLES, unit=unit, engine=engine)
        assert row_sample(log) is log
        small.append(row_sample(log, most=5000, sample=3000))
    assert small[0].fingerprint == small[1].fingerprint
    assert abs(small[0].n - 3000) < 400
    if unit:
        whole = decisions(9000)
        kept = small[0].table["user"].unique()
        assert whole.filter(pl.col("user").is_in(kept.implode())).height == small[0].n


PEAK = """
import resource, sys
import numpy as np, polars as pl
from counterlog.core.evaluate import evaluate
from counterlog.core.rounds import Rounds
log = Rounds(sys.argv[1], action="item", reward="click", propensity="p", context=["x"])
evaluate(log, ["best-fixed", "always:b"], ["SNIPS", "DR"], model="linear", folds=2, streamed=True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_of_streaming_does_not_grow_with_the_log(tmp_path: Path) -> None:
    gen, peaks = np.random.default_rng(0), []
    for n in (1_000_000, 4_000_000):
        action = gen.integers(0, 3, n)
        pl.DataFrame(
            {
                "item": action.astype(np.int8),
                "click": (gen.random(n) < 0.3).astype(np.int8),
                "p": np.full(n, 1 / 3),
                "x": gen.normal(size=n),
            }
        ).with_columns(item=pl.format("a{}", "item").replace({"a1": "b"})).write_parquet(
            tmp_path / "log.parquet", row_group_size=100_000
        )
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(tmp_path / "log.parquet")],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.3 * peaks[0]


def test_a_scan_and_arrays_make_tables_that_add_up() -> None:
    log = Rounds(decisions(2000), **ROLES, unit="user")
    policy = LoggedColumn("mine")
    scanned = scan_log(log, [policy], [IPS()], ("click", "money"), ("device",))
    arrays = evaluate(log, [policy], ["IPS"], on_error="record").table
    both = scanned + arrays
    assert both.part()["n"].sum() == 4000
    assert both.part()["c1_mean"].sum() == pytest.approx(2 * scanned.part()["c1_mean"].sum(), rel=1e-12)
