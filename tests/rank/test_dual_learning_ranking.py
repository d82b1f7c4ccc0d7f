"""The dual learning algorithm: its fixed point, its gradients, its limits, truth by simulation, resume, refusals."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.clicks import Clicks  # noqa: E402
from counterlog.core.errors import ConfigError, ConvergenceError, LogError, SupportError  # noqa: E402
from counterlog.core.ranking_metrics import mean, ndcg  # noqa: E402
from counterlog.datasets.click_logs import simulated_queries  # noqa: E402
from counterlog.rank.click_audit import IdentifiabilityWarning  # noqa: E402
from counterlog.rank.click_losses import list_loss, softmax_gradient, softmax_loss  # noqa: E402
from counterlog.rank.click_simulators import PositionBased  # noqa: E402
from counterlog.rank.click_training import ListSampler, RankingNet, scaling  # noqa: E402
from counterlog.rank.dual_learning_ranking import (  # noqa: E402
    DualLearner,
    DualLearningRanking,
    DualLearningRankingConfig,
    examination_weights,
    relevance_weights,
)
from counterlog.rank.examination_models import ExaminationTable, inverse_ratio  # noqa: E402
from counterlog.rank.ranking_report import RankingReport  # noqa: E402
from counterlog.rank.saved_rankers import load_ranker  # noqa: E402

pytestmark = pytest.mark.torch
THETA = torch.tensor(PositionBased().examination(10))
GAMMA = torch.tensor([0.3, 0.9, 0.2, 0.5, 0.1, 0.7, 0.4, 0.16, 0.52, 0.28], dtype=torch.float64)
ALL = torch.ones(1, 10, dtype=torch.bool)
SMALL = DualLearningRankingConfig(steps=60, batch=32, hidden=(4,), replicates=20, log_every=20)


def lists_of(frame: Any) -> Clicks:
    """The shared small log as lists of three."""
    table = nw.from_native(frame, eager_only=True)
    n = len(table) // 3 * 3
    columns = {
        "view": np.arange(n) // 3,
        "place": np.arange(n) % 3 + 1,
        "hit": table["click"].to_numpy()[:n],
        "x": table["x"].to_numpy()[:n],
        "b": (table["item"].to_numpy()[:n] == "b").astype(float),
    }
    return Clicks.read(columns, list="view", position="place", click="hit", features=["x", "b"])


def contract_example(frame: Any) -> RankingReport:
    return DualLearningRanking(SMALL).fit(lists_of(frame), rng=3).report


def population(lists: int = 20_000, **kwargs: Any) -> tuple[Any, Clicks]:
    pop = simulated_queries(0, queries=400, test=100)
    return pop, pop.log(lists, **kwargs)


# ------------------------------------------------------------------------------------------------ equations


def test_weights_by_hand() -> None:
    z = torch.tensor([[0.0, np.log(0.5), np.log(0.25)]])
    shown = torch.ones(1, 3, dtype=torch.bool)
    c = DualLearningRankingConfig()
    assert examination_weights(z, shown, c).tolist()[0] == pytest.approx([1, 2, 4])
    capped = DualLearningRankingConfig(max_weight=3)
    assert relevance_weights(z, shown, capped).tolist()[0] == pytest.approx([1, 2, 3])
    middle = DualLearningRankingConfig(reference="mean")
    assert relevance_weights(z, shown, middle).tolist()[0] == pytest.approx([0.5, 1, 2])
    part = torch.tensor([[True, True, False]])
    assert relevance_weights(z, part, middle).tolist()[0][:2] == pytest.approx([0.5**0.5, 2**0.5])
    s = 1 / (1 + np.exp(-(z.numpy() - z.numpy().mean())))
    by_sigmoid = inverse_ratio(z, shown, link="sigmoid", reference="first", most=None)
    assert by_sigmoid.numpy() == pytest.approx(s[:, :1] / s)


def test_the_truth_is_a_fixed_point_and_is_found_from_either_side() -> None:
    expected = (THETA * GAMMA)[None]
    for known, wanted in ((GAMMA, THETA), (THETA, GAMMA)):
        weighted = expected * inverse_ratio(
            known.log()[None], ALL, link="softmax", reference="first", most=None
        )
        at_truth = softmax_gradient(wanted.log()[None], weighted, ALL)
        assert float(at_truth.abs().max()) < 1e-10
        gen = torch.Generator().manual_seed(0)
        z = torch.randn(1, 10, generator=gen, dtype=torch.float64)
        for _ in range(20_000):
            z -= softmax_gradient(z, weighted, ALL)
        assert torch.softmax(z, 1)[0].numpy() == pytest.approx((wanted / wanted.sum()).numpy(), abs=1e-6)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_the_gradient_is_autograd_s_and_the_weights_have_none(dtype: Any, close: float) -> None:
    gen = torch.Generator().manual_seed(1)
    s = torch.randn(6, 10, generator=gen, dtype=dtype, requires_grad=True)
    g = torch.randn(6, 10, generator=gen, dtype=dtype, requires_grad=True)
    click = (torch.rand(6, 10, generator=gen) < 0.4).to(dtype)
    shown = torch.rand(6, 10, generator=gen) < 0.8
    shown[:, 0] = True
    click = click * shown
    c = DualLearningRankingConfig()
    w, v = examination_weights(g, shown, c), relevance_weights(s, shown, c)
    rank, exam = softmax_loss(s, click * w, shown), softmax_loss(g, click * v, shown)
    (by_s,) = torch.autograd.grad(rank, s, retain_graph=True)
    assert float((by_s - softmax_gradient(s.detach(), click * w, shown)).abs().max()) < close
    assert torch.autograd.grad(rank, g, allow_unused=True, retain_graph=True)[0] is None
    assert torch.autograd.grad(exam, s, allow_unused=True)[0] is None


def test_losses_by_hand() -> None:
    s = torch.tensor([[1.0, 0.0, 2.0]], dtype=torch.float64)
    c, shown = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64), torch.tensor([[True, True, False]])
    w = torch.tensor([[2.0, 3.0, 9.0]], dtype=torch.float64)
    assert float(list_loss("softmax", s, c, w, shown)) == pytest.approx(np.log1p(np.exp(-1)))
    assert float(list_loss("pairwise", s, c, w, shown)) == pytest.approx(np.log1p(np.exp(-1)))
    by_hand = (np.log1p(np.e) - 2 * 1.0 + np.log(2)) / 2
    assert float(list_loss("sigmoid", s, c, w, shown)) == pytest.approx(by_hand)


def test_a_constant_added_to_scores_or_bias_changes_nothing() -> None:
    gen = torch.Generator().manual_seed(2)
    s, g = (torch.randn(4, 10, generator=gen, dtype=torch.float64) for _ in range(2))
    click = (torch.rand(4, 10, generator=gen) < 0.5).double()
    for config in (DualLearningRankingConfig(), DualLearningRankingConfig(reference="mean", link="sigmoid")):
        found = []
        for up in (0.0, 7.0):
            w = examination_weights(g + up, ALL.expand(4, -1), config)
            v = relevance_weights(s + up, ALL.expand(4, -1), config)
            found.append(softmax_loss(s + up, click * w, None) + softmax_loss(g + up, click * v, None))
        assert float(found[0] - found[1]) == pytest.approx(0, abs=1e-12)


def test_the_table_s_step_is_torch_s_adagrad_with_and_without_gaps() -> None:
    gen = torch.Generator().manual_seed(3)
    for whole in (True, False):
        table = ExaminationTable(1, 5, lr=0.5, clip=5.0, pull=0.0, dtype=torch.float64)
        g = torch.zeros(5, dtype=torch.float64, requires_grad=True)
        opt = torch.optim.Adagrad([g], lr=0.5)
        for _ in range(20):
            shown = torch.ones(8, 5, dtype=torch.bool)
            if not whole:
                shown = torch.rand(8, 5, generator=gen) < 0.7
                shown[:, 0] = True
            cv = torch.rand(8, 5, generator=gen, dtype=torch.float64) * shown
            opt.zero_grad()
            softmax_loss(g.expand(8, -1), cv, shown).backward()
            opt.step()
            table.step(cv, shown, torch.zeros(8, dtype=torch.long), whole)
        assert table.logits()[0].numpy() == pytest.approx(g.detach().numpy(), abs=1e-10)


# ------------------------------------------------------------------------------------------------ limits


def test_a_constant_bias_is_plain_training_and_a_true_one_oracle_weighting() -> None:
    _, log = population(2_000)
    for logits in (torch.zeros(10), THETA.log().float()):
        c = DualLearningRankingConfig(steps=50)
        learner = DualLearner(log, c, rng=4)
        sampler = ListSampler(log, c, learner.scaled)
        learner.examination.weight[:] = logits.numpy()  # type: ignore[union-attr]
        learner.examination.lr = 0.0  # type: ignore[union-attr]
        net = RankingNet(20, c, rng=4)
        w = torch.exp(logits[0] - logits)
        for step in range(50):
            batch = sampler.draw(c.batch, (4, step))
            learner.step(batch)
            net.descend(softmax_loss(net.scores(batch.x), batch.click * w, None))
        for ours, plain in zip(learner.net.weights, net.weights, strict=True):
            assert torch.allclose(ours, plain, rtol=0, atol=1e-7)


def test_padding_changes_neither_loss_nor_gradient() -> None:
    gen = torch.Generator().manual_seed(5)
    s = torch.randn(3, 4, generator=gen, dtype=torch.float64)
    click = torch.tensor([[1, 0, 1, 0]] * 3, dtype=torch.float64)
    wide_s = torch.cat([s, torch.full((3, 2), 9.0, dtype=torch.float64)], 1)
    wide_c, none = (
        torch.cat([click, torch.zeros(3, 2, dtype=torch.float64)], 1),
        torch.zeros(3, 2, dtype=torch.bool),
    )
    held = torch.ones(3, 4, dtype=torch.bool)
    wide_shown = torch.cat([held, none], 1)
    for kind in ("softmax", "sigmoid", "pairwise"):
        a = list_loss(kind, s, click, click + 1, held)
        b = list_loss(kind, wide_s, wide_c, wide_c + 1, wide_shown)
        assert float(a - b) == pytest.approx(0, abs=1e-12)
    wide = softmax_gradient(wide_s, wide_c, wide_shown)
    assert wide[:, 4:].abs().max() == 0
    assert torch.equal(wide[:, :4], softmax_gradient(s, click, held))


# ------------------------------------------------------------------------------------------------ truth


def test_it_finds_order_and_bias_that_plain_training_misses() -> None:
    pop, log = population(30_000)
    config = DualLearningRankingConfig(steps=500)
    fitted = DualLearningRanking(config).fit(log, rng=1)
    test = pop.test
    quality = mean(ndcg(fitted.score(test.features), test.label, test.offsets))
    net, scaled = RankingNet(20, config, rng=1), scaling(log, True)
    sampler = ListSampler(log, config, scaled)
    for step in range(500):
        batch = sampler.draw(256, (1, step))
        net.descend(softmax_loss(net.scores(batch.x), batch.click, None))
    plain = net.ranker(scaled, ())
    naive = mean(ndcg(plain.score(test.features), test.label, test.offsets))
    assert quality > naive + 0.1
    truth = (THETA / THETA[0]).numpy()
    assert np.abs(fitted.report.curve() - truth).max() < 0.12
    seen = fitted.report.calibration
    assert sum(r.predicted for r in seen) == pytest.approx(log.click.sum())
    assert max(abs(r.predicted - r.observed) for r in seen) < 0.02 * log.click.sum()


def test_segments_have_curves_of_their_own() -> None:
    models = (PositionBased(), PositionBased(severity=2))
    _, log = population(30_000, segment_models=models)
    report = DualLearningRanking(DualLearningRankingConfig(steps=400)).fit(log).report
    slow, steep = report.curve("segment 0"), report.curve("segment 1")
    assert (steep[2:] < slow[2:]).all()
    learnt = {s: [p.learnt for p in report.propensity if p.segment == s] for s in ("segment 0", "segment 1")}
    assert learnt["segment 1"][4] < learnt["segment 0"][4]


def test_online_updates_follow_a_change_of_the_bias() -> None:
    pop, first = population(256 * 100)
    learner = DualLearningRanking().online(first, rng=2)
    learner.update(first)
    before = learner.learnt()[0, -1]
    metrics = learner.update(pop.log(256 * 100, PositionBased(severity=0), rng=9), passes=2)
    assert before < 0.25 < 0.5 < learner.learnt()[0, -1]
    assert metrics["step"] == 300


# ------------------------------------------------------------------------------------------------ use


def test_killed_and_resumed_is_as_never_stopped(tmp_path: Path) -> None:
    _, log = population(1_000)
    base = {"batch": 32, "log_every": 10, "save_every": 20, "replicates": 20}
    once = DualLearningRanking(DualLearningRankingConfig(steps=60, **base)).fit(log, rng=5)
    DualLearningRanking(DualLearningRankingConfig(steps=40, **base)).fit(log, rng=5, folder=tmp_path)
    again = DualLearningRanking(DualLearningRankingConfig(steps=60, **base)).fit(log, rng=5, folder=tmp_path)
    assert once.report.to_dict()["propensity"] == again.report.to_dict()["propensity"]
    assert [p.step for p in again.report.training] == [10, 20, 30, 40, 50, 60]
    with pytest.raises(ConfigError, match="another log, seed or configuration"):
        DualLearningRanking(DualLearningRankingConfig(steps=60, **base)).fit(log, rng=6, folder=tmp_path)
    with pytest.raises(ConfigError, match="has gone 60 steps"):
        DualLearningRanking(DualLearningRankingConfig(steps=20, **base)).fit(log, rng=5, folder=tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden": ()},
        {"loss": "pairwise"},
        {"loss": "sigmoid"},
        {"examination_model": "elu_layer"},
        {"examination_model": "elu_network"},
        {"link": "sigmoid"},
        {"reference": "mean"},
        {"on_clickless": "resample", "max_weight": 5.0, "clip": 0.1},
    ],
)
def test_every_option_trains(settings: dict[str, Any], tmp_path: Path) -> None:
    _, log = population(500)
    fitted = DualLearningRanking(
        DualLearningRankingConfig(steps=30, batch=64, replicates=20, **settings)
    ).fit(log)
    assert np.isfinite(fitted.report.curve()).all()
    x = log.features[:50]
    assert np.allclose(load_ranker(fitted.save(tmp_path / "r.safetensors")).score(x), fitted.score(x))
    assert fitted.report.plot().data


def test_a_module_of_your_own_ranks() -> None:
    _, log = population(500)
    torch.manual_seed(0)
    fitted = DualLearningRanking(DualLearningRankingConfig(steps=30, replicates=20)).fit(
        log, module=torch.nn.Linear(20, 1)
    )
    assert sorted(fitted.rank(log.features[:6]).tolist()) == list(range(6))
    with pytest.raises(ConfigError, match="no file format"):
        fitted.save("never")


def test_ragged_lists_and_lists_without_position_one() -> None:
    _, log = population(600)
    keep = (np.arange(log.n) % 10 != 9) | (np.arange(log.n) // 10 % 2 == 0)
    frame = {
        "v": np.repeat(np.arange(600), 10)[keep],
        "p": log.position[keep],
        "c": log.click[keep],
        "f": log.features[log.doc][keep].tolist(),
    }
    cut = Clicks.read(frame, list="v", position="p", click="c", features="f")
    config = DualLearningRankingConfig(steps=30, replicates=20)
    assert np.isfinite(DualLearningRanking(config).fit(cut).report.curve()).all()
    late = {k: [v for v, p in zip(col, frame["p"], strict=True) if p > 1] for k, col in frame.items()}
    moved = Clicks.read(late, list="v", position="p", click="c", features="f")
    with pytest.raises(LogError, match=r"(?s)600 lists do not show position 1.*reference=mean"):
        DualLearningRanking(config).fit(moved)


def test_refusals() -> None:
    _, log = population(300)
    with pytest.raises(LogError, match=r"(?s)goes down to 10.*list_size=5"):
        DualLearningRanking(DualLearningRankingConfig(list_size=5)).fit(log)
    from dataclasses import replace

    silent = replace(log, click=np.zeros_like(log.click))
    with pytest.raises(SupportError, match="position 1 has 0 clicks"):
        DualLearningRanking().fit(silent)
    with pytest.raises(SupportError, match="below 10000"):
        DualLearningRanking(DualLearningRankingConfig(min_clicks=10_000)).fit(log)
    with pytest.raises(LogError, match="those of the first log"):
        DualLearningRanking().online(log).update(replace(log, segments=("a", "b")))
    wild = DualLearningRankingConfig(steps=20, lr=1e30, clip=0.0, log_every=1)
    with pytest.raises(ConvergenceError, match="max_weight"), np.errstate(all="ignore"):
        DualLearningRanking(wild).fit(log)


def test_a_good_old_ranker_that_moved_nothing_warns() -> None:
    pop = simulated_queries(0, queries=300, test=50, skill=1.0)
    log = pop.log(20_000)
    with pytest.warns(IdentifiabilityWarning, match="swap neighbouring items"):
        DualLearningRanking(DualLearningRankingConfig(steps=20, replicates=20)).fit(log)
    weak = simulated_queries(0, queries=300, test=50).log(20_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DualLearningRanking(DualLearningRankingConfig(steps=20, replicates=20)).fit(weak)


def test_trees_refuse_a_folder(tmp_path: Path) -> None:
    log = simulated_queries(0, queries=20, test=2).log(200)
    with pytest.raises(ConfigError, match="trees keep no state"):
        DualLearningRanking(DualLearningRankingConfig(ranker="trees")).fit(log, folder=tmp_path)


@pytest.mark.trees
def test_trees_learn_the_order_and_save_as_text(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    pop, log = population(10_000)
    config = DualLearningRankingConfig(ranker="trees", trees=30, replicates=20)
    fitted = DualLearningRanking(config).fit(log, validation=pop.test)
    assert fitted.report.training[-1].quality > 0.75
    path = fitted.save(tmp_path / "ranker.txt")
    assert path.read_text().startswith("tree\n")
    assert np.array_equal(load_ranker(path).score(log.features), fitted.score(log.features))
