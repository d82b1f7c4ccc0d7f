"""Values that can be worked by hand on four rows, and what the sums alone give: no peer is needed to run this."""

import math

import numpy as np
import polars as pl
import pytest

from counterlog.core.derive import derive
from counterlog.core.engine_scan import ROWS_IN_MEMORY, scan_log
from counterlog.core.evaluate import evaluate
from counterlog.core.policies import LoggedColumn, Table
from counterlog.core.rounds import Rounds
from counterlog.estimate.direct_method import DM
from counterlog.estimate.doubly_robust import (
    DR,
    SGDR,
    SNDR,
    DRos,
    DRosConfig,
    SGDRConfig,
    SwitchDR,
    SwitchDRConfig,
)
from counterlog.estimate.importance_weighting import IPS, SNIPS, SubGaussianIPS, SubGaussianIPSConfig
from counterlog.estimate.large_action_spaces import MIPS, MIPSConfig

# weights pi(a|x)/p = 2, 0.5, 1, 4; rewards 1, 2, 0, 3
ACTION, REWARD, PROPENSITY = [0, 1, 0, 1], [1.0, 2.0, 0.0, 3.0], [0.4, 0.6, 0.5, 0.2]
PI = np.array([[0.8, 0.2], [0.7, 0.3], [0.5, 0.5], [0.2, 0.8]])
Q = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 2.0]])
# v = 0.8, 0.3, 1, 1.6; r - q = 0, 1, -1, 1
EXPECTED = {
    "IPS": (2 * 1 + 0.5 * 2 + 1 * 0 + 4 * 3) / 4,
    "SNIPS": 15 / 7.5,
    "DM": 3.7 / 4,
    "DR": (0.8 + (0.3 + 0.5) + (1 - 1) + (1.6 + 4)) / 4,
    "SNDR": 3.7 / 4 + (0.5 - 1 + 4) / 7.5,
    "SwitchDR(2)": (0.8 + (0.3 + 0.5) + (1 - 1) + 1.6) / 4,
    "DRos(2)": (3.7 + 1 / 2.25 - 2 / 3 + 8 / 18) / 4,
    "SubGaussianIPS(0.5)": (2 / 1.5 * 1 + 0.5 / 0.75 * 2 + 0 + 4 / 2.5 * 3) / 4,
    "SGDR(0.5)": (3.7 + 0.5 / 0.75 - 1 + 4 / 2.5) / 4,
    "MIPS(e)": sum(REWARD) / 4,  # both actions have one description: every weight is 1
}


def log(**columns: object) -> Rounds:
    source = {"a": ACTION, "r": REWARD, "p": PROPENSITY, "e": ["same"] * 4, **columns}
    return Rounds(source, action="a", reward="r", propensity="p")


def test_every_estimator_has_the_value_worked_by_hand() -> None:
    lams = (
        SwitchDR(SwitchDRConfig(lam=2.0)),
        DRos(DRosConfig(lam=2.0)),
        SubGaussianIPS(SubGaussianIPSConfig(lam=0.5)),
        SGDR(SGDRConfig(lam=0.5)),
        MIPS(MIPSConfig(embedding=("e",), weights="exact")),
    )
    found = evaluate(log(), [Table("pi", PI)], [IPS(), SNIPS(), DM(), DR(), SNDR(), *lams], q={"r": Q})
    assert {e.estimator: e.value for e in found.estimates} == pytest.approx(EXPECTED, rel=1e-14)


def test_the_standard_error_of_snips_is_the_delta_formula_worked_by_hand() -> None:
    moves = np.array([2 * (1 - 2), 0.5 * (2 - 2), 1 * (0 - 2), 4 * (3 - 2)])
    by_hand = math.sqrt(4 / 3 * float(moves @ moves)) / 7.5
    assert SNIPS().estimate(log(), Table("pi", PI)).se == pytest.approx(by_hand, rel=1e-14)


def test_a_column_of_chances_and_the_matrix_it_comes_from_give_one_answer() -> None:
    chances = [0.8, 0.3, 0.5, 0.8]
    scanned = evaluate(log(chance=chances), [LoggedColumn("chance")], [IPS(), SNIPS()]).estimates
    matrix = evaluate(log(), [Table("pi", PI)], [IPS(), SNIPS()]).estimates
    for left, right in zip(scanned, matrix, strict=True):
        assert (left.value, left.se, left.ess) == pytest.approx((right.value, right.se, right.ess), rel=1e-13)


def test_sums_alone_give_the_same_values_and_t_intervals_as_buckets() -> None:
    gen = np.random.default_rng(0)
    n = 20_000
    source = pl.DataFrame(
        {
            "a": gen.integers(0, 2, n),
            "r": gen.standard_normal(n),
            "p": np.full(n, 0.5),
            "chance": gen.uniform(0.1, 0.9, n),
            "s": gen.choice(["x", "y", "z"], n),
        }
    )
    rounds = Rounds(source, action="a", reward="r", propensity="p", segment="s")
    question = (rounds, [LoggedColumn("chance")], [IPS(), SNIPS()], ("r",), ("s",))
    alone, buckets = scan_log(*question, sums_only=True), scan_log(*question)
    assert alone.frame.height == 4
    for left, right in zip(derive(alone), derive(buckets), strict=True):
        assert (left.policy, left.estimator, left.segment) == (right.policy, right.estimator, right.segment)
        expected = (right.value, right.lo, right.hi, right.ess)
        assert (left.value, left.lo, left.hi, left.ess) == pytest.approx(expected, rel=1e-11)


def test_a_streamed_log_agrees_with_one_in_memory() -> None:
    gen = np.random.default_rng(1)
    n = ROWS_IN_MEMORY + 1
    source = pl.DataFrame(
        {
            "a": gen.integers(0, 2, n),
            "r": gen.random(n),
            "p": np.full(n, 0.5),
            "chance": gen.uniform(0.1, 0.9, n),
        }
    )
    found = evaluate(
        Rounds(source, action="a", reward="r", propensity="p"), [LoggedColumn("chance")], [IPS(), SNIPS()]
    ).estimates
    w = source["chance"].to_numpy() / 0.5
    term = w * source["r"].to_numpy()
    assert found[0].value == pytest.approx(term.mean(), rel=1e-12)
    assert found[0].se == pytest.approx(term.std(ddof=1) / math.sqrt(n), rel=1e-11)
    assert found[1].value == pytest.approx(term.sum() / w.sum(), rel=1e-12)
    assert found[0].ess == pytest.approx(w.sum() ** 2 / (w @ w), rel=1e-12)
