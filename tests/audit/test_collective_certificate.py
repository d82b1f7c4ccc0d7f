"""The collective certificate against every choice of corrupted models, and against the radii it refines."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from counterlog.audit.collective_certificate import CollectiveCertificate, collective_certificate
from counterlog.audit.run_off_election import certify, from_votes
from counterlog.core.errors import ConfigError, LogError


def worst(votes, classes, budget):
    """Most predictions that any `budget` models can turn, each voting as it likes on each input."""
    was = certify(from_votes(votes, classes), "dpa").prediction
    most = 0
    for models in itertools.combinations(range(votes.shape[1]), budget):
        turned = np.zeros(len(votes), dtype=bool)
        for c in range(classes):
            attacked = votes.copy()
            attacked[:, models] = c  # all corrupted models for one rival is the strongest attack on one input
            turned |= certify(from_votes(attacked, classes), "dpa").prediction != was
        most = max(most, int(turned.sum()))
    return most


def test_two_inputs_that_no_single_model_serves():
    # each input stands on one model's vote, but not on the same one: one record flips one of them, never both
    votes = np.array([[0, 0, 0, 1, 1, 2], [1, 1, 2, 0, 0, 0]])
    alone = certify(from_votes(votes, 3), "dpa").radius
    assert alone.tolist() == [0, 0]
    found = collective_certificate(from_votes(votes, 3), 1)
    assert found.alone == 2
    assert found.flipped == worst(votes, 3, 1) == 1


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_the_bound_is_the_worst_choice_of_models(budget):
    gen = np.random.default_rng(budget)
    smaller = 0
    for _ in range(8):
        votes = gen.choice(3, size=(12, 7), p=[0.6, 0.25, 0.15])
        found = collective_certificate(from_votes(votes, 3), budget)
        assert found.exact
        assert found.flipped == worst(votes, 3, budget)
        radius = certify(from_votes(votes, 3), "dpa").radius
        assert found.alone == int((radius < budget).sum())
        smaller += found.flipped < found.alone
    assert budget == 3 or smaller >= 1  # three of seven models turn everything


def test_without_budget_nothing_flips_and_with_all_models_everything(tmp_path):
    scores = np.random.default_rng(0).normal(size=(9, 5, 3))
    assert collective_certificate(scores, 0).flipped == 0
    every = collective_certificate(scores, 5)
    assert every.flipped == every.n == 9
    assert CollectiveCertificate.load(every.save(tmp_path / "c.json")) == every


def test_a_spread_is_bounded_by_its_radii():
    scores = np.random.default_rng(1).normal(size=(15, 8, 3)) + np.array([0.8, 0, 0])
    radius = certify(scores, "fa", shifts=(0, 3)).radius
    for budget in (1, 2):
        found = collective_certificate(scores, budget, shifts=(0, 3))
        assert found.alone == int((radius < budget).sum())
        assert found.flipped <= found.alone


def test_bad_budgets_and_scores_are_refused():
    with pytest.raises(ConfigError, match="budget = -1"):
        collective_certificate(np.zeros((2, 3, 2)), -1)
    with pytest.raises(LogError, match="not finite in rows 0, 1"):
        collective_certificate(np.full((2, 3, 2), np.nan), 1)
