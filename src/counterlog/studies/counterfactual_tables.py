"""Off-policy estimates against the exact truth, on outcomes of real language models.

Tables      prompts: LLaMA-2-7B-chat on GSM8K questions under six prompts | models: four models on the GSM8K test
            questions | priced: the same with the models' prices taken off, so that no single model is always right
Policies    made on one half of the questions, before any log is drawn: the best single action, a ridge router's best
            action, and the same router exploring by inverse gap (gamma 20)
Logs        questions of the other half drawn with replacement, so that its mean is the exact truth; actions drawn
            from 0.7 softmax of a score of the question's length + 0.3 uniform: known, unequal, dependent on context
Measured    bias, root mean squared error, mean width and coverage of the 95% intervals of IPS, SNIPS, DR and SNDR
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from counterlog.core.evaluate import evaluate
from counterlog.core.policies import Policy
from counterlog.core.rounds import Rounds
from counterlog.core.study import Check, Clock, Study, Table, versions
from counterlog.datasets.prompt_routing import CounterfactualTable, models, prompts
from counterlog.online.exploration import softmax, uniform
from counterlog.online.exploring_policy import ExplorationRule, RegressionOraclePolicy
from counterlog.online.regression_oracle_bandits import RegressionOracleBandit, RegressionOracleBanditConfig

ESTIMATORS = ("IPS", "SNIPS", "DR", "SNDR")
PRICES = (0.0, 0.05, 0.10, 0.30)
HASHED = 8
WORST_COVERAGE = 0.92


def run(*, full: bool = False, rng: int = 0) -> Study:
    """The study. Raises `DatasetError` with one line when the tables are not here."""
    clock = Clock()
    logs, rows = (400, 1_000) if full else (40, 600)
    tables = {"prompts": prompts("train", hashed=HASHED), "models": models(hashed=HASHED)}
    if full:
        tables["priced"] = models(price=PRICES, hashed=HASHED)
    results: list[dict[str, Any]] = []
    truths: list[dict[str, Any]] = []
    for name, table in tables.items():
        half = np.random.default_rng(rng).permutation(table.n) < table.n // 2
        made, population = table.take(half), table.take(~half)
        policies = routers(made, rng=rng)
        truth = {p.name: population.value(_probs(p, population)) for p in policies}
        truths += [{"table": name, "policy": k, "exact value": v} for k, v in truth.items()]
        truths.append({"table": name, "policy": "uniform", "exact value": float(population.reward.mean())})
        truths.append({"table": name, "policy": "best of every question", "exact value": population.oracle()})
        found = Parallel(n_jobs=2 if full else None)(
            delayed(one_log)(population, policies, rows, rng + 1 + i) for i in range(logs)
        )
        results += _summary(name, truth, found)
    return Study(
        slug="counterfactual-tables",
        mode="full" if full else "quick",
        rng=rng,
        unit="reward a question",
        n=logs,
        tables=(
            Table(title="error and coverage", rows=tuple(results), unit="reward a question"),
            Table(title="exact values on the questions the logs are drawn from", rows=tuple(truths)),
        ),
        checks=tuple(_claims(results, full=full)),
        notes=(
            f"{logs} logs of {rows:,} questions a table; coverage has a standard error of about "
            f"{math.sqrt(0.95 * 0.05 / logs):.3f}",
        ),
        seconds=clock.seconds(),
        versions=versions("numpy", "scikit-learn", "polars"),
    )


def logging_probs(table: CounterfactualTable) -> Any:
    """(n, k) 0.7 softmax of cos(a + 2 z) + 0.3 uniform, z the standardised number of words."""
    words = table.context["words"].to_numpy()
    z = (words - 46.0) / 18.0
    score = np.cos(np.arange(len(table.actions))[None, :] + 2.0 * z[:, None])
    everything = np.ones(score.shape, bool)
    return 0.7 * softmax(score, everything, temperature=0.7) + 0.3 * uniform(everything)


def routers(table: CounterfactualTable, *, rng: int) -> list[Policy]:
    """Three policies made from a uniform log of the table's questions."""
    log = table.draw_log(np.full(table.reward.shape, 1.0 / len(table.actions)), rng=rng)
    lo, hi = min(0.0, float(log.reward.min())), max(1.0, float(log.reward.max()))
    config = RegressionOracleBanditConfig(
        regressor="ridge", gamma_rule="fixed", gamma=20.0, reward_lo=lo, reward_hi=hi, shift_auc=False
    )
    explores = RegressionOracleBandit(config).improve(log, rng=rng)
    explores.name = "router, IGW 20"
    greedy = RegressionOraclePolicy(
        explores.model, ExplorationRule("greedy"), explores.actions, explores.encoder, name="router"
    )
    best = table.best_fixed()[0]
    return [_Fixed(best), greedy, explores]


class _Fixed(Policy):
    """One action everywhere, named before the log is drawn."""

    def __init__(self, action: str) -> None:
        self.action, self.name = action, f"always {action}"

    def probs(self, log: Rounds) -> Any:
        """1 for the action."""
        return np.tile([float(a == self.action) for a in log.actions], (log.n, 1))


def one_log(
    table: CounterfactualTable, policies: list[Policy], rows: int, seed: int
) -> list[tuple[str, str, float, float, float]]:
    """(policy, estimator, value, lo, hi) of every estimate on one drawn log."""
    log = table.draw_log(logging_probs(table), rows=rows, rng=seed)
    found = evaluate(log, policies, ESTIMATORS, model="linear", folds=2, rng=seed)
    return [(e.policy, e.estimator, e.value, e.lo, e.hi) for e in found.estimates]


def _probs(policy: Policy, table: CounterfactualTable) -> Any:
    """(n, k) in the order of the table's actions."""
    log = table.draw_log(np.full(table.reward.shape, 1.0 / len(table.actions)))
    order = [log.actions.index(a) for a in table.actions]
    return policy.probs(log)[:, order]


def _summary(name: str, truth: dict[str, float], found: list[Any]) -> list[dict[str, Any]]:
    rows = []
    for policy, exact in truth.items():
        for estimator in ESTIMATORS:
            hits = [(v, lo, hi) for log in found for p, e, v, lo, hi in log if (p, e) == (policy, estimator)]
            value, lo, hi = np.array(hits).T
            error = value - exact
            rows.append(
                {
                    "table": name,
                    "policy": policy,
                    "estimator": estimator,
                    "exact": exact,
                    "bias": float(error.mean()),
                    "bias se": float(error.std(ddof=1) / math.sqrt(len(error))),
                    "rmse": float(np.sqrt((error**2).mean())),
                    "width": float((hi - lo).mean()),
                    "coverage": float(((lo <= exact) & (exact <= hi)).mean()),
                }
            )
    return rows


def _claims(rows: list[dict[str, Any]], *, full: bool) -> list[Check]:
    bar = WORST_COVERAGE if full else 0.8
    checks = []
    for estimator in ESTIMATORS:
        mine = [r for r in rows if r["estimator"] == estimator]
        worst = min(mine, key=lambda r: r["coverage"])
        where = f"{worst['table']}, {worst['policy']}"
        checks.append(
            Check(
                claim=f"{estimator}: smallest coverage of the 95% interval over tables and policies",
                measured=worst["coverage"],
                bar=f">= {bar:g}",
                passed=worst["coverage"] >= bar,
                note=where,
            )
        )
        off = max(mine, key=lambda r: abs(r["bias"]) / r["bias se"])
        z = abs(off["bias"]) / off["bias se"]
        checks.append(
            Check(
                claim=f"{estimator}: largest |bias| in standard errors over tables and policies",
                measured=z,
                bar="< 3.5",
                passed=z < 3.5,
                note=f"{off['table']}, {off['policy']}: bias {off['bias']:+.4f}",
            )
        )
    rmse = {(r["table"], r["policy"], r["estimator"]): r["rmse"] for r in rows}
    ratio = {k[:2]: rmse[*k[:2], "DR"] / v for k, v in rmse.items() if k[2] == "IPS"}
    worst_cell = max(ratio, key=lambda k: ratio[k])
    checks.append(
        Check(
            claim="DR's error is smaller than IPS's for every policy on every table: largest ratio of RMSE",
            measured=ratio[worst_cell],
            bar="< 1" if full else "< 1.1",
            passed=ratio[worst_cell] < (1.0 if full else 1.1),
            note=", ".join(worst_cell),
        )
    )
    return checks
