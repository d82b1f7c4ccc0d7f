from __future__ import annotations

import numpy as np
import pytest

from counterlog.core.errors import ConfigError, SupportError
from counterlog.core.policies import Table
from counterlog.core.rounds import Rounds
from counterlog.core.saved_policies import load_policy
from counterlog.learn.softmax_policy import (
    Lesson,
    Settings,
    SoftmaxLearner,
    SoftmaxLearnerConfig,
    choose,
    crossfit_policy,
    divergence_terms,
    doubly_robust_terms,
    entropy_terms,
    masked_softmax,
    objective_terms,
    ratio_terms,
    train,
    weighted_terms,
)

FAST = SoftmaxLearnerConfig(steps=300, batch=256, learning_rate=0.05)


def small(seed=0, b=8, k=3):
    gen = np.random.default_rng(seed)
    f = gen.normal(size=(b, k))
    return f, gen.integers(k, size=b), gen.uniform(0.1, 0.9, b), gen.normal(size=b), gen.normal(size=(b, k))


def slope_of(f, value):
    """Finite differences of the mean of value(f) by every score."""
    found = np.empty_like(f)
    for place in np.ndindex(f.shape):
        up, down = f.copy(), f.copy()
        up[place] += 1e-6
        down[place] -= 1e-6
        found[place] = (value(up) - value(down)) / 2e-6
    return found


def log_of(n=3000, seed=0, actions=3, shift=0.0, available=None, **roles):
    """Action k is best where x points to it; logging favours action 0."""
    gen = np.random.default_rng(seed)
    x = gen.normal(size=(n, 2))
    chance = np.array([0.6, 0.3, 0.1]) if actions == 3 else np.full(actions, 1 / actions)
    action = gen.choice(actions, size=n, p=chance)
    best = (x[:, 0] > 0).astype(int) + ((x[:, 0] > 0) & (x[:, 1] > 0))
    reward = (action == best) + 0.3 * gen.standard_normal(n) + shift
    columns = {
        "x0": x[:, 0],
        "x1": x[:, 1],
        "a": action,
        "r": reward,
        "p": chance[action],
        "u": np.arange(n) // 2,
    }
    return Rounds(columns, action="a", reward="r", propensity="p", context=["x0", "x1"], **roles), best


def test_the_weighted_terms_by_hand():
    p = np.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]])
    psi, gradient = weighted_terms(p, np.array([1, 2]), np.array([0.5, 0.1]), np.array([4.0, 2.0]), cap=3.0)
    np.testing.assert_allclose(psi, [0.5 * 4, 3.0 * 2])  # 0.25/0.5, and 0.6/0.1 = 6 capped at 3
    np.testing.assert_allclose(gradient[0], 2.0 * np.array([-0.5, 0.75, -0.25]))
    np.testing.assert_array_equal(gradient[1], 0.0)  # a capped row has no gradient


@pytest.mark.parametrize("name", ["ips", "banditnet", "dr"])
def test_gradients_match_finite_differences(name):
    f, action, propensity, reward, q = small()

    def terms(scores):
        p = masked_softmax(scores, None)
        if name == "dr":
            return doubly_robust_terms(p, action, propensity, reward, q, 50.0)
        return weighted_terms(p, action, propensity, reward, 50.0, 0.7 if name == "banditnet" else 0.0)

    numeric = slope_of(f, lambda g: terms(g)[0].mean())
    np.testing.assert_allclose(terms(f)[1] / len(f), numeric, atol=1e-6)


def test_the_ratio_gradient_is_that_of_snips():
    f, action, propensity, reward, _ = small(1)

    def snips(scores):
        w = masked_softmax(scores, None)[np.arange(len(action)), action] / propensity
        return (w * reward).sum() / w.sum()

    gradient = ratio_terms(masked_softmax(f, None), action, propensity, reward, 50.0)[1]
    np.testing.assert_allclose(gradient / len(f), slope_of(f, snips), atol=1e-6)


def test_penalty_gradients_match_finite_differences():
    f, *_ = small(2)
    reference = masked_softmax(np.random.default_rng(3).normal(size=f.shape), None)
    kl = slope_of(f, lambda g: divergence_terms(masked_softmax(g, None), reference)[0].mean())
    h = slope_of(f, lambda g: entropy_terms(masked_softmax(g, None))[0].mean())
    p = masked_softmax(f, None)
    np.testing.assert_allclose(divergence_terms(p, reference)[1] / len(f), kl, atol=1e-6)
    np.testing.assert_allclose(entropy_terms(p)[1] / len(f), h, atol=1e-6)


def test_the_whole_objective_with_every_penalty_matches_finite_differences():
    f, action, propensity, reward, q = small(4)
    reference = masked_softmax(np.random.default_rng(5).normal(size=f.shape), None)
    lesson = Lesson(np.zeros((8, 1)), action, propensity, reward, 3, q=q, reference=reference)
    config = SoftmaxLearnerConfig(variance=0.4, entropy=0.2)
    chosen, n = Settings(50.0, 0.3, 0.0), 100

    def value(scores):
        p = masked_softmax(scores, None)
        psi = doubly_robust_terms(p, action, propensity, reward, q, 50.0)[0]
        penalty = 0.4 * psi.std() / np.sqrt(n) + 0.3 * divergence_terms(p, reference)[0].mean()
        return psi.mean() - penalty + 0.2 * entropy_terms(p)[0].mean()

    _, gradient = objective_terms(masked_softmax(f, None), lesson, config, chosen, n)
    np.testing.assert_allclose(gradient / len(f), slope_of(f, value), atol=1e-6)


def test_gradients_match_torch_autograd():
    torch = pytest.importorskip("torch")
    f, action, propensity, reward, q = small(6)
    g = torch.tensor(f, requires_grad=True)
    p = torch.softmax(g, dim=1)
    w = p[np.arange(8), action] / torch.tensor(propensity)
    value = (p * torch.tensor(q)).sum(1) + w * (torch.tensor(reward) - torch.tensor(q[np.arange(8), action]))
    value.mean().backward()
    ours = doubly_robust_terms(masked_softmax(f, None), action, propensity, reward, q, np.inf)[1] / 8
    np.testing.assert_allclose(ours, g.grad.numpy(), atol=1e-6)


def enumerated():
    """2 contexts x 3 levels, every pair once with its expected reward; weights make the counts those of the logging."""
    mean = np.array([[0.2, 0.9, 0.4], [0.7, 0.1, 0.5]])
    logging = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])
    counts = (100 * logging).astype(int)
    context = np.repeat([0, 0, 0, 1, 1, 1], counts.ravel())
    action = np.repeat([0, 1, 2, 0, 1, 2], counts.ravel())
    return mean, logging, context, action


@pytest.mark.parametrize("q", [np.zeros((2, 3)), np.ones((2, 3)), np.arange(6.0).reshape(2, 3)])
def test_ips_and_dr_objectives_are_the_true_value_in_an_enumerated_world(q):
    mean, logging, context, action = enumerated()
    p = masked_softmax(np.random.default_rng(0).normal(size=(2, 3)), None)
    arrays = (p[context], action, logging[context, action], mean[context, action])
    true = (p * mean).sum() / 2
    assert weighted_terms(*arrays, np.inf)[0].mean() == pytest.approx(true, abs=1e-12)
    assert doubly_robust_terms(*arrays, q[context], np.inf)[0].mean() == pytest.approx(true, abs=1e-12)


@pytest.mark.parametrize("objective", ["ips", "snips", "dr"])
def test_training_reaches_the_best_deterministic_policy_of_the_enumerated_world(objective):
    mean, logging, context, action = enumerated()
    lesson = Lesson(
        np.eye(2)[context], action, logging[context, action], mean[context, action], 3, q=np.zeros((200, 3))
    )
    config = SoftmaxLearnerConfig(objective=objective, learning_rate=0.2, batch=256, steps=1500)
    weights, bias = train(lesson, config, Settings(20.0, 0.0, 0.0), rng=0)[0]
    p = masked_softmax(weights + bias, None)
    assert (p * mean).sum() / 2 >= 0.999 * mean.max(axis=1).mean()


@pytest.mark.parametrize("objective", ["ips", "banditnet", "snips", "dr"])
def test_a_learnt_policy_beats_the_log_and_every_fixed_action(objective):
    log, _ = log_of()
    policy = SoftmaxLearner(
        SoftmaxLearnerConfig(objective=objective, steps=400, batch=256, learning_rate=0.05)
    ).fit(log)
    fresh, fresh_best = log_of(seed=9)
    hit = policy.probs(fresh)[np.arange(3000), fresh_best].mean()
    assert hit > np.bincount(fresh_best).max() / 3000 + 0.15


def test_adding_a_constant_draws_plain_ips_away_from_what_self_normalisation_keeps():
    """Propensity overfitting: positive rewards push IPS to rare actions, negative ones away from the logged ones."""
    mass = {}
    for shift in (-5.0, 5.0):
        for objective in ("ips", "snips", "dr"):
            log, _ = log_of(n=400, shift=shift)
            config = SoftmaxLearnerConfig(
                objective=objective, centre=False, steps=600, batch=256, learning_rate=0.05, hidden=(16,)
            )
            policy = SoftmaxLearner(config).fit(log, rng=1)
            mass[objective, shift] = float((policy.logged_probs(log) / log.propensity).mean())
    assert mass["ips", 5.0] > 1.1 > 0.9 > mass["ips", -5.0]
    for objective in ("snips", "dr"):
        assert abs(mass[objective, 5.0] - mass[objective, -5.0]) < 0.5 * (
            mass["ips", 5.0] - mass["ips", -5.0]
        )


def test_centred_learning_does_not_see_a_constant_added_to_every_reward():
    plain, moved = (SoftmaxLearner(FAST).fit(log_of(shift=s)[0]) for s in (0.0, 5.0))
    log, _ = log_of()
    np.testing.assert_allclose(plain.probs(log), moved.probs(log), atol=1e-3)


def test_unavailable_actions_are_never_chosen():
    gen = np.random.default_rng(0)
    lists = np.where(gen.random(3000) < 0.5, "0|1|2", "0|1")
    log, _ = log_of()
    frame = log.table.with_columns(available=np.where(log.action == 2, "0|1|2", lists))
    limited = Rounds(
        frame, action="a", reward="r", propensity="p", context=["x0", "x1"], available="available"
    )
    policy = SoftmaxLearner(SoftmaxLearnerConfig(steps=100, batch=256, explore=0.1)).fit(limited)
    probs = policy.probs(limited)
    assert (probs[~limited.available] == 0).all()
    np.testing.assert_allclose(probs.sum(axis=1), 1.0, atol=1e-12)


def test_an_action_without_a_logged_row_is_left_alone():
    log, _ = log_of()
    frame = log.table.with_columns(every=np.full(3000, "0|1|2|3"))
    wider = Rounds(frame, action="a", reward="r", propensity="p", context=["x0", "x1"], available="every")
    policy = SoftmaxLearner(FAST).fit(wider)
    assert policy.probs(wider)[:, 3].max() == 0.0


def test_ordinal_scores_are_quadratic_in_the_level():
    log, _ = log_of()
    policy = SoftmaxLearner(SoftmaxLearnerConfig(ordinal=True, steps=100, batch=256)).fit(log)
    f = policy.scores(log.context)
    np.testing.assert_allclose(f[:, 1], 0.0, atol=1e-12)  # rank 0: the middle of three levels


def test_a_penalty_on_divergence_keeps_the_policy_near_its_reference():
    log, _ = log_of()
    reference = Table("production", np.tile([0.6, 0.3, 0.1], (3000, 1)))
    gaps = []
    for kl in (0.0, 1.0, 10.0):
        config = SoftmaxLearnerConfig(kl=(kl,), steps=300, batch=256, learning_rate=0.05)
        p = SoftmaxLearner(config).fit(log, reference=reference).probs(log)
        gaps.append(float(divergence_terms(p, reference.matrix)[0].mean()))
    assert gaps[0] > gaps[1] > gaps[2] >= 0.0
    assert gaps[2] < 0.01


def test_held_out_value_picks_among_listed_settings():
    log, _ = log_of()
    config = SoftmaxLearnerConfig(kl=(0.0, 100.0), steps=200, batch=256, learning_rate=0.05)
    policy = SoftmaxLearner(config).fit(log)
    assert policy.origin["chosen"]["kl"] == 0.0
    assert len(policy.origin["tried"]) == 2


def test_an_empty_list_of_settings_is_refused():
    with pytest.raises(ConfigError, match="empty"):
        choose(
            Lesson(np.zeros((2, 1)), np.array([0, 1]), np.ones(2), np.ones(2), 2),
            SoftmaxLearnerConfig(cap=()),
            np.array([True, False]),
            rng=0,
        )


def test_the_same_rng_gives_the_same_policy_and_another_one_another():
    log, _ = log_of()
    first, again, other = (SoftmaxLearner(FAST).fit(log, rng=r).layers[0][0] for r in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-6


def test_a_saved_policy_answers_as_before(tmp_path):
    log, _ = log_of()
    policy = SoftmaxLearner(SoftmaxLearnerConfig(hidden=(8,), steps=100, batch=256)).fit(log)
    back = load_policy(policy.save(tmp_path / "policy.safetensors"))
    np.testing.assert_array_equal(back.probs(log), policy.probs(log))
    assert back.origin["config"]["hidden"] == [8]


def test_crossfit_probabilities_of_a_unit_do_not_depend_on_its_own_rewards():
    log, _ = log_of(unit="u")
    before, whole = crossfit_policy(log, FAST, folds=2, rng=0)
    changed = log.table["r"].to_numpy().copy()
    mine = log.unit == log.unit[10]
    changed[mine] = 50.0
    table = log.table.with_columns(r=changed)
    other = Rounds(table, action="a", reward="r", propensity="p", context=["x0", "x1"], unit="u")
    after, _ = crossfit_policy(other, FAST, folds=2, rng=0)
    np.testing.assert_array_equal(before.matrix[mine], after.matrix[mine])
    assert np.abs(before.matrix - after.matrix).max() > 1e-9
    assert before.name == whole.name == "learnt"
    np.testing.assert_allclose(before.matrix.sum(axis=1), 1.0, atol=1e-12)


def test_the_value_of_a_policy_learnt_from_noise_is_not_flattered():
    """Learnt and valued on the same rows, noise looks like gain; cross-fitted it does not."""
    flattered, honest = [], []
    for seed in range(6):
        gen = np.random.default_rng(seed)
        n = 300
        x = gen.normal(size=(n, 5))
        columns = {f"x{i}": x[:, i] for i in range(5)}
        columns |= {"a": gen.integers(3, size=n), "r": gen.standard_normal(n)}
        log = Rounds(columns, action="a", reward="r", propensity=1 / 3, context=[f"x{i}" for i in range(5)])
        table, whole = crossfit_policy(log, FAST, folds=3, rng=seed)
        flattered.append((whole.logged_probs(log) * 3 * log.reward).mean())
        honest.append((table.logged_probs(log) * 3 * log.reward).mean())
    assert np.mean(flattered) > 0.1
    assert abs(np.mean(honest)) < 0.1


def test_a_deterministic_log_is_refused_with_the_way_out():
    log, _ = log_of()
    certain = log.copy_with(propensity=1.0)
    with pytest.raises(SupportError, match=r"every propensity is 1[\s\S]*explore"):
        SoftmaxLearner(FAST).fit(certain)


def test_a_log_with_one_action_is_refused():
    log = Rounds(
        {"a": [1, 1], "r": [0.0, 1.0], "x": [0.0, 1.0]}, action="a", reward="r", propensity=0.5, context=["x"]
    )
    with pytest.raises(SupportError, match="same action"):
        SoftmaxLearner(FAST).fit(log)


def test_a_given_reward_needs_its_own_model():
    log, _ = log_of()
    with pytest.raises(ConfigError, match="pass its out-of-fold predictions"):
        SoftmaxLearner(SoftmaxLearnerConfig(model="linear")).fit(log, reward=log.reward)


@pytest.mark.parametrize("model", ["linear", "boosting"])
def test_other_reward_models_serve_too(model):
    log, _ = log_of(n=600)
    policy = SoftmaxLearner(SoftmaxLearnerConfig(model=model, steps=50, batch=256)).fit(log)
    assert policy.probs(log).shape == (600, 3)


@pytest.mark.parametrize(
    ("name", "value"), [("objective", "mle"), ("batch", 16), ("steps", 0), ("cap", (0.0,))]
)
def test_settings_outside_their_bounds_are_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        SoftmaxLearnerConfig(**{name: value})
