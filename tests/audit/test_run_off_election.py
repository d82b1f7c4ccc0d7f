"""Run-off election: equations by hand, the certificate against every attack there is, retraining, refusals."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from counterlog.audit.certified_predictions import Certificates
from counterlog.audit.partition_ensemble import PartitionEnsemble, digest_hash, shifts_of, sum_hash
from counterlog.audit.run_off_election import (
    KEPT_OUT,
    LOST_FINAL,
    RunOffElection,
    RunOffElectionConfig,
    boost,
    certified_accuracy,
    certify,
    count_votes,
    fewest,
    finalists,
    first_choice,
    from_votes,
    lead,
    preferring,
    touched,
    two_rivals,
)
from counterlog.core.errors import ConfigError, LogError, NotFittedError
from counterlog.core.rounds import Rounds

RANKS = {c: np.array(list(itertools.permutations(range(c))), dtype=float) for c in (2, 3, 4)}


def contract_example(frame):
    log = Rounds(frame, action="item", reward=["click", "money"], propensity="p", context=["x"], unit="user")
    X = np.column_stack([log.context["x"].to_numpy(), log.reward_of("money")])
    check = RunOffElection(RunOffElectionConfig(parts=5)).check
    return check(X, log.reward.astype(int), X[:30], log.reward[:30].astype(int), base=GaussianNB(), rng=3)


def digits():
    X, y = load_digits(return_X_y=True)
    return X[:1200], y[:1200], X[1200:1400], y[1200:1400]


# --- equations by hand ---------------------------------------------------------------------------------------------


def test_votes_gaps_and_finalists_by_hand():
    # five models, three classes: first choices 2, 0, 1, 2, 0 (the third ties 1 and 2: the smaller class)
    s = np.array([[[0, 1, 2], [3, 1, 0], [0, 4, 4], [1, 0, 9], [5, 5, 5]]], dtype=float)
    choice = first_choice(s)
    assert choice.tolist() == [[2, 0, 1, 2, 0]]
    votes = count_votes(choice, 3)
    assert votes.tolist() == [[2, 1, 2]]
    assert [int(f[0]) for f in finalists(votes)] == [0, 2]
    assert lead(votes, np.array([0])).tolist() == [[0, 2, 1]]  # ties go to class 0: one more for 1 and 2
    assert lead(votes, np.array([2])).tolist() == [[0, 1, 0]]
    # class 0 over class 1: models 2 and 5 (a tie); over class 2: models 2, 4 no, 5 (a tie) and none else
    assert preferring(s, np.array([0]))[0, 1:].tolist() == [3, 2]
    assert preferring(s, np.array([2]))[0, :2].tolist() == [3, 2]


def test_radius_by_hand_of_a_clear_vote():
    # 5 votes against 2 and 0: gap 3 + 1 = 4 for class 1 -> ceil(4/2) - 1 = 1; two flips make it 3 against 4
    s = from_votes(np.array([[0, 0, 0, 0, 0, 1, 1]]), 3)
    found = certify(s, "dpa")
    assert (found.prediction[0], found.radius[0], found.runner_up[0]) == (0, 1, 1)
    assert found.rivals.tolist() == [[1, -1]]


def test_a_run_off_overturns_the_plurality():
    # first choices 0: 3, 1: 2, 2: 2, but those who chose 2 prefer 1 to 0: the final is 4 against 3 for class 1
    s = np.array([[[2, 1, 0]] * 3 + [[0, 2, 1]] * 2 + [[0, 1, 2]] * 2], dtype=float)
    assert certify(s, "dpa").prediction[0] == 0
    found = certify(s, "dpa+roe")
    assert (found.prediction[0], found.runner_up[0], found.radius[0]) == (1, 0, 0)


def test_the_binding_attack_is_named():
    # 0 leads with 3 of 5, loses to nobody in a final easily, but two rivals with one vote each can both pass it
    s = np.array([[[9, 5, 4]] * 3 + [[8, 9, 0], [8, 0, 9]]], dtype=float)
    found = certify(s, "dpa+roe")
    assert found.prediction[0] == 0
    assert found.binding[0] in (KEPT_OUT, LOST_FINAL)
    if found.binding[0] == KEPT_OUT:
        assert sorted(found.rivals[0]) == [1, 2]
    assert found.radius[0] == min(int(two_rivals(np.array(3), np.array(3))), 3) - 1 == 1


def test_the_closed_form_is_the_dynamic_programme():
    most = 200
    table = np.zeros((most + 1, most + 1), dtype=int)
    for i in range(most + 1):
        for j in range(most + 1):
            if i or j:
                steps = [(max(i - 2, 0), max(j - 1, 0)), (max(i - 1, 0), max(j - 2, 0))]
                table[i, j] = 1 + min(table[a, b] for a, b in steps)
    i, j = np.indices(table.shape)
    np.testing.assert_array_equal(two_rivals(i, j), table)


def test_fewest_buckets_by_hand():
    power = np.array([1, 4, 0, 2])
    assert [int(fewest(power, np.array(g))) for g in (-1, 0, 1, 4, 5, 6, 7, 8)] == [0, 0, 1, 1, 2, 2, 3, 5]


def test_a_bucket_touches_its_shifted_models():
    # four models, offsets 0 and 3: bucket 1 trains models 1 and (1 + 3) mod 4 = 0
    assert touched(np.array([1, 10, 100, 1000]), (0, 3)).tolist() == [1001, 11, 110, 1100]


# --- the certificate against every attack --------------------------------------------------------------------------


def true_radius(s, method, most, shifts=None):
    """Fewest corrupted buckets that change the prediction, minus 1, by trying every ranking of every subset."""
    m, classes = s.shape
    was = certify(s[None], method, shifts=shifts).prediction[0]
    for r in range(1, most + 1):
        attacked = []
        for buckets in itertools.combinations(range(m), r):
            models = sorted({(b + h) % m for b in buckets for h in (shifts or (0,))})
            many = np.array(list(itertools.product(range(len(RANKS[classes])), repeat=len(models))))
            block = np.repeat(s[None], len(many), axis=0)
            block[:, models] = 10.0 * RANKS[classes][many]
            attacked.append(block)
        if (certify(np.concatenate(attacked), method, shifts=shifts).prediction != was).any():
            return r - 1
    return most


@pytest.mark.parametrize(("classes", "models", "most"), [(3, 5, 3), (3, 6, 3), (4, 5, 2)])
@pytest.mark.parametrize("method", ["dpa", "dpa+roe"])
def test_no_attack_beats_the_certificate_and_nearly_always_one_reaches_it(classes, models, most, method):
    gen, reached = np.random.default_rng(classes * models), 0
    for case in range(24):
        s = gen.normal(size=(models, classes)) + 1.5 * gen.random(classes)
        if case % 4 == 0:
            s = np.rint(s)  # ties
        radius = int(certify(s[None], method).radius[0])
        truth = true_radius(s, method, most)
        assert min(radius, most) <= truth
        reached += min(radius, most) == truth
    # a run-off's bound asks both rounds of an attack apart; now and then no single model serves both
    assert reached >= (24 if method == "dpa" else 22)


@pytest.mark.parametrize("method", ["fa", "fa+roe"])
def test_no_attack_beats_the_certificate_of_finite_aggregation(method):
    gen, reached = np.random.default_rng(5), 0
    for case in range(16):
        shifts = shifts_of(3, 2, case)
        s = gen.normal(size=(6, 3)) + 2.0 * gen.random(3)
        if case % 4 == 0:
            s = np.rint(s)
        radius, truth = (
            int(certify(s[None], method, shifts=shifts).radius[0]),
            true_radius(s, method, 2, shifts),
        )
        assert radius <= truth
        reached += radius == truth
    assert reached >= 8  # shared models make the count generous to the attacker, seldom by much


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(2, 9), st.booleans())
def test_finite_aggregation_without_spread_is_partition_aggregation(seed, classes, models, ties):
    s = np.random.default_rng(seed).normal(size=(5, models, classes))
    s = np.rint(s) if ties else s
    for suffix in ("", "+roe"):
        one, other = certify(s, "dpa" + suffix), certify(s, "fa" + suffix, shifts=(0,))
        np.testing.assert_array_equal(one.prediction, other.prediction)
        np.testing.assert_array_equal(one.radius, other.radius)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12))
def test_with_two_classes_the_run_off_changes_nothing(seed, models):
    s = np.random.default_rng(seed).normal(size=(8, models, 2))
    one, other = certify(s, "dpa"), certify(s, "dpa+roe")
    np.testing.assert_array_equal(one.prediction, other.prediction)
    np.testing.assert_array_equal(one.radius, other.radius)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_order_of_models_and_scale_of_a_model_do_not_matter(seed):
    gen = np.random.default_rng(seed)
    s = gen.normal(size=(6, 8, 4))
    moved = s[:, gen.permutation(8)] * gen.uniform(0.1, 9, size=(1, 8, 1)) + gen.normal(size=(1, 8, 1))
    for method in ("dpa", "dpa+roe"):
        np.testing.assert_array_equal(certify(s, method).radius, certify(moved, method).radius)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_one_corrupted_model_costs_at_most_one(seed):
    gen = np.random.default_rng(seed)
    s = gen.normal(size=(6, 9, 4)) + gen.random(4)
    for method, shifts in (("dpa+roe", None), ("fa+roe", (0, 4, 7))):
        before = certify(s, method, shifts=shifts)
        after = s.copy()
        bucket = int(gen.integers(9))
        for h in shifts or (0,):
            after[:, (bucket + h) % 9] = gen.normal(size=(6, 4))
        now = certify(after, method, shifts=shifts)
        sure = before.radius >= 1
        np.testing.assert_array_equal(before.prediction[sure], now.prediction[sure])


def test_an_attack_of_one_model_more_than_the_radius_flips_the_vote():
    gen = np.random.default_rng(1)
    votes = gen.choice(4, size=(40, 15), p=[0.55, 0.2, 0.15, 0.1])
    found = certify(from_votes(votes, 4), "dpa")
    for i in range(40):
        p, r, rival = found.prediction[i], found.radius[i], found.rivals[i, 0]
        own = np.flatnonzero(votes[i] == p)
        attacked = votes[i].copy()
        attacked[own[: r + 1]] = rival
        assert certify(from_votes(attacked[None], 4), "dpa").prediction[0] != p
        many = np.repeat(votes[i][None], 1000, axis=0)
        chosen = gen.random((1000, 15)).argsort(axis=1)[:, :r]
        np.put_along_axis(many, chosen, gen.integers(0, 4, chosen.shape), axis=1)
        assert (certify(from_votes(many, 4), "dpa").prediction == p).all()


def test_relabelled_classes_permute_the_predictions():
    s = np.random.default_rng(0).normal(size=(50, 11, 5))
    order = np.array([3, 0, 4, 1, 2])
    for method in ("dpa", "dpa+roe"):
        one, other = certify(s, method), certify(s[:, :, order], method)
        decided = (np.sort(one.votes, axis=1)[:, 1:] != np.sort(one.votes, axis=1)[:, :-1]).all(axis=1)
        assert decided.any()
        np.testing.assert_array_equal(order[other.prediction][decided], one.prediction[decided])


def test_chunks_change_nothing(monkeypatch):
    s = np.random.default_rng(0).normal(size=(37, 12, 5))
    whole = certify(s, "fa+roe", shifts=(0, 5))
    monkeypatch.setattr("counterlog.audit.run_off_election.CHUNK", 200)
    parts = certify(s, "fa+roe", shifts=(0, 5))
    np.testing.assert_array_equal(whole.radius, parts.radius)
    np.testing.assert_array_equal(whole.rivals, parts.rivals)


def test_the_official_certificates_are_matched():
    folder = os.environ.get("COUNTERLOG_REFS", "")
    if not folder or not (Path(folder) / "run-off-election").is_dir():
        pytest.skip("COUNTERLOG_REFS names no folder of reference values")
    with np.load(Path(folder) / "run-off-election" / "dpa_roe_synthetic.npz") as ref:
        for method, name in (("dpa", "dpa"), ("dpa+roe", "roe")):
            found = certify(ref["scores"], method)
            np.testing.assert_array_equal(found.prediction, ref[f"pred_{name}"])
            np.testing.assert_array_equal(found.radius, ref[f"cert_{name}"])
    with np.load(Path(folder) / "run-off-election" / "fa_roe_synthetic.npz") as ref:
        for method, name in (("fa", "fa"), ("fa+roe", "fa_roe")):
            found = certify(ref["scores"], method, shifts=ref["shifts"])
            kept = np.where(found.prediction == ref["labels"], found.radius, -1)
            np.testing.assert_array_equal(kept, ref[f"cert_{name}_or_minus1"])


def test_certified_accuracy_by_hand():
    got = certified_accuracy([0, 3, 5, 9], [1, 1, 2, 0], [1, 1, 2, 1], [0, 3, 4, 6])
    assert got.tolist() == [0.75, 0.5, 0.25, 0.0]


# --- training ------------------------------------------------------------------------------------------------------


def poison(X, y, r, gen):
    """Remove some rows and add others with odd labels: r changes in all."""
    gone = gen.choice(len(X), size=gen.integers(0, r + 1), replace=False)
    added = r - len(gone)
    new = X[gen.integers(0, len(X), added)] + gen.integers(0, 2, (added, X.shape[1]))
    return np.vstack([np.delete(X, gone, axis=0), new]), np.r_[np.delete(y, gone), gen.integers(0, 10, added)]


@pytest.mark.parametrize("spread", [1, 2])
def test_retraining_after_poison_keeps_what_was_certified(spread):
    X, y, new, labels = digits()
    config = RunOffElectionConfig(parts=8, spread=spread, hash="sum")
    clean = RunOffElection(config).check(X, y, new, labels, base=GaussianNB(var_smoothing=1e-3))
    gen = np.random.default_rng(0)
    assert max(clean.radius) >= 3
    for r in (1, 2, 3):
        again = RunOffElection(config).check(
            *poison(X, y, r, gen), new, labels, base=GaussianNB(var_smoothing=1e-3)
        )
        sure = np.array(clean.radius) >= r
        assert sure.any()
        np.testing.assert_array_equal(np.array(clean.prediction)[sure], np.array(again.prediction)[sure])


def test_row_order_leaves_every_model_bit_identical():
    X, y, new, _ = digits()
    X = np.vstack([X[:400], X[:20]])
    y = np.r_[y[:400], y[:20]]  # duplicates as well
    order = np.random.default_rng(3).permutation(len(X))
    base = MLPClassifier(8, max_iter=5, batch_size=1000)
    made = [PartitionEnsemble(5, base=base, rng=1).fit(X[i], y[i]) for i in (np.arange(len(X)), order)]
    assert made[0].digests() == made[1].digests()
    assert len(set(made[0].digests())) == 5
    np.testing.assert_array_equal(made[0].scores(new), made[1].scores(new))


def test_one_added_record_changes_the_models_of_its_bucket_alone():
    X, y, _, _ = digits()
    for spread in (1, 3):
        clean = PartitionEnsemble(4, spread=spread, base=GaussianNB()).fit(X, y)
        more = PartitionEnsemble(4, spread=spread, base=GaussianNB()).fit(
            np.vstack([X, X[:1] + 1]), np.r_[y, 0]
        )
        changed = {j for j, (a, b) in enumerate(zip(clean.digests(), more.digests(), strict=True)) if a != b}
        bucket = int(more.buckets[-1])
        assert changed == {(bucket + s) % clean.models for s in clean.shifts}
        assert len(changed) == spread


def test_jobs_and_versions_give_the_same_and_more_scores():
    X, y, new, _ = digits()
    base = MLPClassifier(4, max_iter=3, batch_size=2000)
    one = PartitionEnsemble(3, base=base, versions=2).fit(X[:300], y[:300]).scores(new)
    two = PartitionEnsemble(3, base=base, versions=2, jobs=2).fit(X[:300], y[:300]).scores(new)
    np.testing.assert_array_equal(one, two)
    first = PartitionEnsemble(3, base=base).fit(X[:300], y[:300]).scores(new)
    assert not np.array_equal(first, one)
    np.testing.assert_allclose(boost([first, one - first]), one)


def test_kept_scores_let_a_killed_run_go_on(tmp_path):
    X, y, new, _ = digits()
    base = GaussianNB()
    plain = PartitionEnsemble(6, base=base).fit(X, y).scores(new)
    kept = PartitionEnsemble(6, base=base).fit(X, y, folder=tmp_path)
    np.testing.assert_array_equal(kept.scores(new), plain)
    files = sorted(tmp_path.glob("*.npy"))
    assert len(files) == 6
    files[0].unlink()  # as a kill would leave it
    marks = {f: f.stat().st_mtime_ns for f in files[1:]}
    np.testing.assert_array_equal(kept.scores(new), plain)
    assert len(list(tmp_path.glob("*.npy"))) == 6
    assert all(f.stat().st_mtime_ns == t for f, t in marks.items())
    PartitionEnsemble(6, base=base).fit(X[1:], y[1:], folder=tmp_path).scores(new)
    assert len(list(tmp_path.glob("*.npy"))) == 7  # one record less: one model trained again


def test_units_share_a_part_and_are_what_a_radius_counts():
    X, y, new, labels = digits()
    users = np.arange(len(X)) // 3
    ensemble = PartitionEnsemble(7, base=GaussianNB()).fit(X, y, units=users)
    assert all(len(set(ensemble.buckets[users == u])) == 1 for u in range(50))
    config = RunOffElectionConfig(parts=7)
    found = RunOffElection(config).check(X, y, new, labels, base=GaussianNB(), units=users)
    assert found.unit == "training units"


def test_hashes_by_hand():
    X = np.array([[1.0, 2.0], [0.0, 3.0], [-0.0, 3.0]])
    assert sum_hash(X).tolist() == [3, 3, 3]
    a, b, c = digest_hash(X, 0)
    assert b == c != a
    assert (digest_hash(X, 1) != digest_hash(X, 0)).all()
    counts = np.bincount(digest_hash(np.arange(4000.0)[:, None], 0) % 20)
    assert ((counts - 200) ** 2 / 200).sum() < 43.8  # chi-square, 19 degrees, 0.1%


def test_parts_without_a_class_or_without_rows_have_constant_models():
    X, y = np.arange(6.0)[:, None], np.array([0, 1, 0, 1, 2, 2])
    with pytest.warns(UserWarning, match="of 4 models see no record"):
        ensemble = PartitionEnsemble(4, base=GaussianNB(), hash="sum").fit(X[:3], y[:3], classes=(0, 1, 2))
    scores = ensemble.scores(X[:2])
    assert scores[:, 3].tolist() == [[0, 0, 0]] * 2
    assert scores[:, 1].tolist() == [[0, 1, 0]] * 2
    assert any("one class only" in note for note in ensemble.notes)


def test_a_class_that_a_part_never_saw_is_never_first_and_not_always_last():
    X = np.array([[0.0], [4.0], [1.0], [5.0]])
    with pytest.warns(UserWarning, match="one class"):
        ensemble = PartitionEnsemble(4, base=GaussianNB(), hash="sum").fit(X, np.array([0, 1, 2, 2]))
    scores = ensemble.scores(X)
    np.testing.assert_allclose(scores[:, 0, 2], scores[:, 0, :2].mean(axis=1))
    assert (scores[:, 0].argmax(axis=1) != 2).all()


# --- results and refusals ------------------------------------------------------------------------------------------


def test_the_result_names_classes_and_travels(tmp_path):
    X, y, new, labels = digits()
    names = np.array([f"digit {i}" for i in range(10)])
    config = RunOffElectionConfig(parts=8)
    found = RunOffElection(config).check(X, names[y], new, names[labels], base=GaussianNB())
    assert found.prediction[0].startswith("digit")
    assert found.accuracy == np.mean(np.array(found.prediction) == names[labels])
    assert found.certified_accuracy([0])[0] == found.accuracy
    assert [r["certified_accuracy"] for r in found.curve()] == list(
        found.certified_accuracy(range(len(found.curve())))
    )
    assert found.replacements == tuple(r // 2 for r in found.radius)
    assert found.to_frame().height == 200
    assert Certificates.load(found.save(tmp_path / "c.json")) == found
    without = RunOffElection(config).check(X, names[y], new, base=GaussianNB())
    assert without.radius == found.radius
    with pytest.raises(LogError, match="without labels"):
        without.certified_accuracy([0])


def test_bad_scores_are_refused():
    s = np.zeros((3, 4, 2))
    with pytest.raises(LogError, match="votes alone"):
        certify(np.zeros((3, 4), dtype=int))
    with pytest.raises(LogError, match="two classes or more"):
        certify(np.zeros((3, 4, 1)))
    bad = s.copy()
    bad[1, 2, 0] = np.nan
    with pytest.raises(LogError, match="not finite in row 1"):
        certify(bad)
    with pytest.raises(LogError, match="numbers"):
        certify(np.array([[["a", "b"]]]))
    with pytest.raises(LogError, match="one shape"):
        boost([s, s[:1]])
    with pytest.raises(LogError, match="one each an input"):
        certified_accuracy([1], [1, 2], [1], [0])
    with pytest.raises(LogError, match=r"votes outside 0\.\.1 in row 0"):
        from_votes(np.array([[0, 2]]), 2)
    with pytest.raises(LogError, match="class numbers"):
        from_votes(np.array([0.5]), 2)


def test_bad_offsets_and_methods_are_refused():
    s = np.zeros((3, 4, 2))
    with pytest.raises(ConfigError, match="one of dpa, fa"):
        certify(s, "vote")
    with pytest.raises(ConfigError, match="without offsets"):
        certify(s, "fa")
    with pytest.raises(ConfigError, match="distinct modulo the 4 models"):
        certify(s, "fa", shifts=(0, 4))
    with pytest.raises(ConfigError, match="4 models with 3 offsets"):
        certify(s, "fa", shifts=(0, 1, 2))
    with pytest.raises(ConfigError, match="use 'fa'"):
        certify(s, "dpa+roe", shifts=(0, 1))
    with pytest.raises(ConfigError, match="parts"):
        RunOffElectionConfig(parts=1)
    with pytest.raises(ConfigError, match="parts >= 2"):
        PartitionEnsemble(1)


def test_hashes_that_break_the_proof_are_refused():
    X, y, _, _ = digits()
    with pytest.raises(ConfigError, match="other rows or on its position"):
        PartitionEnsemble(4, base=GaussianNB(), hash=lambda rows: np.arange(len(rows))).fit(X, y)
    with pytest.raises(ConfigError, match="whole numbers"):
        PartitionEnsemble(4, base=GaussianNB(), hash=lambda rows: rows[:, 0]).fit(X, y)
    with pytest.raises(LogError, match="fractions"):
        PartitionEnsemble(4, base=GaussianNB(), hash="sum").fit(X + 0.5, y)
    own = PartitionEnsemble(4, base=GaussianNB(), hash=lambda rows: rows.sum(axis=1).astype(int)).fit(X, y)
    np.testing.assert_array_equal(own.buckets, X.sum(axis=1) % 4)


def test_learners_that_break_the_proof_are_refused():
    X, y, _, _ = digits()
    scaler = StandardScaler().fit(X)
    with pytest.raises(ConfigError, match="crosses parts"):
        PartitionEnsemble(4, base=make_pipeline(FrozenEstimator(scaler), LogisticRegression()))
    seeds = itertools.count()
    with pytest.raises(ConfigError, match="two models for one part"):
        PartitionEnsemble(
            4, base=lambda seed: MLPClassifier(4, max_iter=2, batch_size=9999, random_state=next(seeds))
        ).fit(X, y)
    with pytest.raises(ConfigError, match="function seed -> classifier"):
        PartitionEnsemble(4, base="forest")
    with pytest.raises(ConfigError, match="cannot be kept"):
        PartitionEnsemble(4).fit(X, y, folder="scores")


def test_bad_training_sets_are_refused():
    X, y, new, _ = digits()
    ensemble = PartitionEnsemble(4, base=GaussianNB())
    with pytest.raises(NotFittedError, match="fit"):
        ensemble.scores(new)
    with pytest.raises(LogError, match="one label a row"):
        ensemble.fit(X, y[:-1])
    with pytest.raises(LogError, match="missing or infinite in row 2"):
        ensemble.fit(np.where(np.arange(len(X))[:, None] == 2, np.nan, X), y)
    with pytest.raises(LogError, match="not numbers"):
        ensemble.fit([["a"]], [0])
    with pytest.raises(LogError, match="1 class in y"):
        ensemble.fit(X, np.zeros(len(X)))
    with pytest.raises(LogError, match="outside the 2 classes in rows 2"):
        ensemble.fit(X, y, classes=(0, 1))
    with pytest.raises(LogError, match="unit ids"):
        ensemble.fit(X, y, units=[1])
    with pytest.raises(LogError, match="63 features in the new inputs, 64"):
        ensemble.fit(X, y).scores(new[:, 1:])
    with pytest.raises(LogError, match="labels have shape"):
        RunOffElection(RunOffElectionConfig(parts=4)).check(X, y, new, [1], base=GaussianNB())
    with pytest.raises(LogError, match="labels hold 77"):
        RunOffElection(RunOffElectionConfig(parts=4)).check(X, y, new, np.full(200, 77), base=GaussianNB())
