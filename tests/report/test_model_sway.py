"""BoostIn on the report's reward model: the exact slope is what refitting the leaves gives, and the words follow it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from counterlog.core.crossfit import action_features, reward_model
from counterlog.core.features import Encoder
from counterlog.core.policies import Table, parse_policy
from counterlog.core.tree_models import read_trees
from counterlog.report.model_sway import ModelSway, model_sway
from counterlog.report.model_sway_section import agreement_words, estimate_words
from counterlog.trace.boosting_path import trained
from counterlog.trace.leaf_derivatives import refitted


@pytest.fixture(scope="module")
def case(simulated):
    log = simulated(500)
    kept = []
    reward_model(log, kept=kept)
    probs = np.random.default_rng(0).dirichlet([1, 1, 1], log.n)
    policy = Table("soft", probs)
    own = np.random.default_rng(1).normal(size=log.n)
    return log, kept, policy, own


def made(case, estimator):
    log, kept, policy, own = case
    return model_sway(log, policy, parse_policy("logged", log), kept, own, estimator=estimator, unit="sales")


def answer(log, fold, weights, c):
    """What the model alone, and the model with its correction, say: from leaves refitted under row weights (n, B)."""
    trees, x = read_trees(fold.model), Encoder.fit(log.context).transform(log.context)
    data = trained(trees, fold.features, log.reward[fold.fit].astype(int))
    leaves, out = trees.leaves(fold.features), 0.0
    for a in range(3):
        phi = action_features(x[fold.rest], np.full(len(fold.rest), a), 3, interact=False)
        p = trees.link(refitted(data, leaves, trees.leaves(phi), weights))[..., 0]
        out = out + c[fold.rest, a] @ p
    return out


@pytest.mark.parametrize("estimator", ["DM", "DR"])
def test_the_exact_slope_is_that_of_refitted_leaves(case, estimator):
    log, kept, policy, _ = case
    found = made(case, estimator)
    c = policy.matrix / log.n
    if estimator == "DR":
        w = policy.matrix[np.arange(log.n), log.action] / log.propensity
        c = c - (log.action[:, None] == np.arange(3)) * (w / log.n)[:, None]
    for r in found.rows[:3]:
        slope = 0.0
        for fold in kept:
            if (place := np.flatnonzero(fold.fit == r.row)).size:
                weights = np.ones((len(fold.fit), 2))
                weights[place[0]] += [1e-4, -1e-4]
                high, low = answer(log, fold, weights, c)
                slope += (high - low) / 2e-4
        assert r.within_estimate == pytest.approx(slope, rel=1e-5, abs=1e-10)
        if estimator == "DM":
            assert r.exact == r.within_estimate


def test_weights_cancel_most_of_it_and_boostin_orders_rows_alike(case):
    found = made(case, "DR")
    assert found.exactness > 0.6
    assert 0.3 < found.cancelled < 1
    assert made(case, "DM").cancelled == 0
    assert made(case, "SNIPS").cancelled == 1
    assert len(found.rows) == 10
    sizes = [abs(r.boostin) for r in found.rows]
    assert sizes == sorted(sizes, reverse=True)


def test_models_that_are_no_trees_have_none(simulated, case):
    log = simulated(300)
    kept = []
    reward_model(log, model="linear", kept=kept)
    given = {"estimator": "DM", "unit": "sales"}
    logged = parse_policy("logged", log)
    assert model_sway(log, parse_policy("always:a", log), logged, kept, np.ones(log.n), **given) is None
    still = model_sway(log, logged, logged, case[1][:0], np.ones(log.n), **given)
    assert still is None


def test_words_say_what_the_two_lists_mean():
    bare = ModelSway(first="a", second="b", estimator="DR", unit="sales", n=10, shared=1)
    assert "disagree" in agreement_words(replace(bare, agreement=0.1))
    assert "in part" in agreement_words(replace(bare, agreement=0.5))
    assert "agree (" in agreement_words(replace(bare, agreement=0.9))
    assert "97.7%" in estimate_words(replace(bare, cancelled=0.977))
    assert "uses no model" in estimate_words(replace(bare, estimator="SNIPS"))
    assert "the model's own" in estimate_words(replace(bare, estimator="DM"))


def test_the_report_has_the_section(report):
    assert report.rewards[0].model_sway.rows
    assert "Which rows sway it through the reward model?" in report.html()
