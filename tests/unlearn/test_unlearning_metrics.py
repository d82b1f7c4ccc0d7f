"""Metrics by hand, attacks that find nothing where there is nothing and much where there is much."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from counterlog.core.errors import LogError, SupportError
from counterlog.core.torch_models import mlp, outputs
from counterlog.core.torch_training import TrainConfig, train
from counterlog.unlearn.fine_tune import FineTune, FineTuneConfig
from counterlog.unlearn.influence_approximation_unlearning import IAU
from counterlog.unlearn.retrain import Retrain, RetrainConfig
from counterlog.unlearn.unlearning_metrics import (
    ATTACKS,
    UnlearningMetrics,
    attack_features,
    confidence_logit,
    evaluate,
    lira,
    loss_auc,
    svc_attack,
)

pytestmark = pytest.mark.torch


def rows(n: int, *, rng: int, classes: int = 4, noise: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    gen = np.random.default_rng(rng)
    y = gen.integers(classes, size=n)
    x = gen.normal(size=(n, 12)) + 1.5 * np.eye(classes, 12)[y]
    shown = gen.integers(classes, size=n) if noise else y
    return torch.from_numpy(x), torch.from_numpy(shown)


def identity() -> nn.Module:
    """A model whose logits are its inputs."""
    model = nn.Linear(2, 2, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
        model.bias.zero_()
    return model


def test_features_by_hand() -> None:
    found = attack_features(np.array([[0.8, 0.2], [0.5, 0.5]]), np.array([1, 0]))
    np.testing.assert_allclose(found["confidence"][:, 0], [0.2, 0.5])
    np.testing.assert_allclose(found["correctness"][:, 0], [0, 1])
    np.testing.assert_allclose(found["entropy"][:, 0], [-0.8 * np.log(0.8) - 0.2 * np.log(0.2), np.log(2)])
    wanted = [-(0.8 * np.log(0.2)) - 0.8 * np.log(0.2), np.log(2)]
    np.testing.assert_allclose(found["modified_entropy"][:, 0], wanted)
    assert set(found) == set(ATTACKS)


def test_loss_auc_by_hand() -> None:
    # pairs (.1,.2) (.1,.3) win, (.2,.2) ties, (.2,.3) wins: 3.5 of 4
    assert loss_auc(np.array([0.1, 0.2]), np.array([0.2, 0.3])) == 3.5 / 4


def test_lira_by_hand() -> None:
    seen, unseen = np.array([[3.0], [5.0]]), np.array([[0.0], [2.0]])
    # both sides have deviation sqrt 2, means 4 and 1; at 4: 0 - (-9 / 2 / 2)
    assert lira(np.array([4.0]), seen, unseen)[0] == pytest.approx(9 / 4)
    with pytest.raises(SupportError, match="1 shadow models"):
        lira(np.array([4.0]), seen[:1], unseen)


def test_confidence_logit_by_hand() -> None:
    found = confidence_logit(identity(), torch.tensor([[2.0, -1.0]]).double(), torch.tensor([0]))
    assert found[0] == pytest.approx(3.0)


def test_accuracies_and_gaps_by_hand() -> None:
    model = identity()
    x = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1], [2, 0], [0, 3]]).double()
    y = torch.tensor([0, 0, 0, 1, 1, 0])
    flipped = identity()
    with torch.no_grad():
        flipped.weight.copy_(torch.eye(2).flip(0))
    test = (x[:4] + 0.1, torch.tensor([0, 1, 0, 0]))
    found = evaluate(model, x, y, [0, 1], test=test, retrained=flipped)
    assert (found.ua, found.ra, found.ta) == (0.5, 0.5, 0.75)
    # the flipped model is right where this one is wrong: UA .5, RA .5, TA .25
    assert found.gaps["ua"] == 0
    assert found.gaps["ta"] == 0.5
    assert found.tow == pytest.approx(0.5)
    assert found.average_gap == pytest.approx((0.5 + abs(found.gaps["mia"])) / 4)
    assert found.weight_distance == pytest.approx(2.0)
    p = 1 / (1 + np.exp(-1))
    # on both forgotten rows the logits are one apart: probabilities (p, 1-p) against (1-p, p)
    assert found.kl_forget == pytest.approx((2 * p - 1) * np.log(p / (1 - p)))
    assert found.activation_distance == pytest.approx(np.sqrt(2) * (2 * p - 1))


def test_a_model_against_itself_has_no_gap() -> None:
    x, y = rows(100, rng=0)
    model = mlp((12, 8, 4), rng=0, dtype=torch.float64)
    found = evaluate(model, x, y, np.arange(10), test=rows(60, rng=1), retrained=model)
    assert found.needs_gap() == 0
    assert found.tow == 1
    assert found.kl_forget == found.weight_distance == found.activation_distance == 0


def test_on_a_model_that_saw_nothing_every_attack_is_a_coin() -> None:
    right: dict[str, list[float]] = {a: [] for a in (*ATTACKS, "auc")}
    for seed in range(20):
        (x, y), (test_x, test_y) = rows(400, rng=100 + seed), rows(400, rng=900 + seed)
        model = mlp((12, 8, 4), rng=seed, dtype=torch.float64)
        member, other = (
            attack_features(outputs(model, a).softmax(dim=1).numpy(), b.numpy())
            for a, b in ((x, y), (test_x, test_y))
        )
        for a in ATTACKS:
            parts = member[a][:200], other[a][:200]
            hit, alarm = 1 - svc_attack(*parts, member[a][200:]), svc_attack(*parts, other[a][200:])
            right[a].append((hit + alarm) / 2)
        found = evaluate(model, x, y, np.arange(200), test=(test_x, test_y), rng=seed)
        right["auc"].append(found.loss_auc)
    for attack, accuracy in right.items():
        assert np.mean(accuracy) == pytest.approx(0.5, abs=0.02), attack


def test_a_net_that_learnt_noise_by_heart_gives_its_members_away() -> None:
    x, y = rows(300, rng=0, noise=True)
    model = train(mlp((12, 256, 4), rng=0, dtype=torch.float64), x, y, TrainConfig(epochs=150, lr=5e-3))
    found = evaluate(model, x, y, np.arange(50), test=rows(250, rng=1, noise=True))
    assert found.ua == 0
    assert 1 - found.mia["confidence"] >= 0.9
    assert found.loss_auc >= 0.85


def test_row_order_changes_nothing() -> None:
    x, y = rows(300, rng=0)
    model = train(mlp((12, 32, 4), rng=0, dtype=torch.float64), x, y, TrainConfig(epochs=10, lr=0.01))
    test = rows(120, rng=1)
    forget = np.arange(40)
    one = evaluate(model, x, y, forget, test=test, retrained=mlp((12, 32, 4), rng=9, dtype=torch.float64))
    order = np.random.default_rng(3).permutation(300)
    place = np.argsort(order)
    back = torch.arange(119, -1, -1)
    two = evaluate(
        model,
        x[order],
        y[order],
        place[forget],
        test=(test[0][back], test[1][back]),
        retrained=mlp((12, 32, 4), rng=9, dtype=torch.float64),
    )
    assert one.mia == two.mia
    assert (one.ua, one.ra, one.ta, one.loss_auc) == pytest.approx((two.ua, two.ra, two.ta, two.loss_auc))
    assert one.kl_forget == pytest.approx(two.kl_forget)


def test_only_the_attacks_asked_for_run_and_confidence_always() -> None:
    x, y = rows(100, rng=0)
    model = mlp((12, 4), rng=0, dtype=torch.float64)
    test = rows(60, rng=1)
    every = evaluate(model, x, y, [1, 2], test=test)
    some = evaluate(model, x, y, [1, 2], test=test, attacks=("entropy",))
    assert some.mia == {k: every.mia[k] for k in ("confidence", "entropy")}


def test_outputs_do_not_depend_on_the_pass_size() -> None:
    x, _ = rows(100, rng=0)
    model = mlp((12, 8, 4), rng=0, dtype=torch.float64)
    torch.testing.assert_close(outputs(model, x, rows=7), outputs(model, x, rows=100), rtol=0, atol=1e-14)


def test_constant_features_tell_nothing() -> None:
    assert svc_attack(np.ones((5, 1)), np.ones((5, 1)), np.ones((3, 1))) == 0.5


def test_a_gap_without_a_retrained_model_is_refused() -> None:
    x, y = rows(100, rng=0)
    found = evaluate(mlp((12, 4), rng=0, dtype=torch.float64), x, y, [1, 2], test=rows(60, rng=1))
    with pytest.raises(SupportError, match="no average gap without a retrained model"):
        found.needs_gap()
    assert np.isnan(found.tow)


def test_a_retrained_model_of_other_rows_is_refused() -> None:
    x, y = rows(100, rng=0)
    start = mlp((12, 4), rng=0, dtype=torch.float64)
    other = Retrain(RetrainConfig(epochs=1), start=start).forget(start, x, y, [5])
    made = IAU().forget(start, x, y, [1, 2])
    with pytest.raises(LogError, match="the Retrain model forgot other rows"):
        evaluate(made, x, y, [1, 2], test=rows(60, rng=1), retrained=other)


def test_a_whole_class_is_warned_of() -> None:
    x, y = rows(100, rng=0)
    with pytest.warns(UserWarning, match="no kept row has class 2"):
        found = evaluate(
            mlp((12, 4), rng=0, dtype=torch.float64), x, y, (y == 2).numpy(), test=rows(60, rng=1)
        )
    assert "class 2" in found.notes[0]


def test_targets_that_are_no_classes_are_refused() -> None:
    x, _ = rows(20, rng=0)
    with pytest.raises(LogError, match="y holds no class numbers"):
        evaluate(
            nn.Linear(12, 1, dtype=torch.float64),
            x,
            x[:, 0],
            [1],
            test=(x, x[:, 0]),
            loss=lambda m, a, b: (m(a)[:, 0] - b) ** 2,
        )


def test_metrics_are_saved_and_read(tmp_path) -> None:  # type: ignore[no-untyped-def]
    x, y = rows(100, rng=0)
    made = FineTune(FineTuneConfig(epochs=1)).forget(mlp((12, 4), rng=0, dtype=torch.float64), x, y, [1, 2])
    found = evaluate(made, x, y, [1, 2], test=rows(60, rng=1), retrained=made)
    assert UnlearningMetrics.load(found.save(tmp_path / "m.json")) == found
    assert found.to_frame()["mia"][0] == found.mia["confidence"]
