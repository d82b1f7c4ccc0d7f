"""Influence by eigenvalue-corrected Kronecker factors: reference scores, oracles, invariances, refusals."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from counterlog.core.errors import ConfigError, ConvergenceError, LogError
from counterlog.core.newton_products import explicit_hessian, row_gradients
from counterlog.core.row_tasks import Task, token_cross_entropy_rows
from counterlog.core.torch_models import cross_entropy_rows, mlp, squared_error_rows
from counterlog.core.torch_training import TrainConfig, train
from counterlog.trace.ekfac_influence import EKFACInfluence, EKFACInfluenceConfig
from counterlog.trace.network_scores import InfluenceScores

pytestmark = pytest.mark.torch


def contract_example(frame: Any) -> InfluenceScores:
    table = nw.from_native(frame, eager_only=True)
    x = np.column_stack([table["x"].to_numpy(), table["day"].to_numpy()]).astype(np.float32)
    y = np.unique(table["item"].to_numpy().astype(str), return_inverse=True)[1]
    return EKFACInfluence(mlp((2, 8, 3), rng=0), x, y, rng=3).score(x[:3], y[:3], k=4)


def classes(n: int = 40, q: int = 6, *, rng: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    gen = np.random.default_rng(rng)
    y = gen.integers(3, size=n + q)
    x = torch.from_numpy(gen.normal(size=(n + q, 4)) + np.eye(3, 4)[y]).to(dtype)
    y = torch.from_numpy(y)
    return x[:n], y[:n], x[n:], y[n:]


def scored(model: nn.Module, data: Any, task: Task | None = None, **settings: Any) -> np.ndarray:
    settings = {"fisher": "empirical", **settings}
    x, y, xq, yq = data
    return EKFACInfluence(model, x, y, task=task, config=EKFACInfluenceConfig(**settings)).explain(xq, yq)


class Sequence(nn.Module):
    """The reference's sequence model."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.f1, self.f2 = nn.Embedding(11, 12), nn.Linear(12, 16), nn.Linear(16, 11)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.f2(torch.tanh(self.f1(self.emb(x))))


TOKENS = Task(loss=token_cross_entropy_rows)


def sentences(n: int = 20, t: int = 5, *, rng: int = 1) -> Any:
    gen = np.random.default_rng(rng)
    x = torch.from_numpy(gen.integers(11, size=(n + 4, t)))
    y = torch.from_numpy(gen.integers(11, size=(n + 4, t)))
    return x[:n], y[:n], x[n:], y[n:]


def sequence_model(rng: int = 0) -> Sequence:
    with torch.random.fork_rng():
        torch.manual_seed(rng)
        return Sequence()


# ------------------------------------------------------------------------------------------------ the reference


def reference(name: str) -> Any:
    folder = os.environ.get("COUNTERLOG_REFS", "")
    path = Path(folder) / "ekfac-influence" / name
    if not folder or not path.exists():
        pytest.skip(f"COUNTERLOG_REFS names no folder with ekfac-influence/{name}")
    return np.load(path)


@pytest.mark.parametrize(
    ("key", "settings", "tolerance"),
    [
        ("ekfac_emp_d1e-3", {"damping": 1e-3}, 1e-3),
        ("ekfac_emp_dheur", {}, 2e-3),
        ("identity_emp_d1e-3", {"strategy": "identity"}, 1e-3),
    ],
)
def test_scores_of_the_authors_library_on_digits(key: str, settings: Any, tolerance: float) -> None:
    z = reference("digits_mlp.npz")
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, 10))
    model.load_state_dict({k[2:]: torch.tensor(z[k]) for k in z if k.startswith("w_")})
    x, y = load_digits(return_X_y=True)
    x, rows, asked = (x / 16).astype(np.float32), z["train_idx"], z["query_idx"]
    found = scored(model, (x[rows], y[rows], x[asked], y[asked]), **settings).T
    assert np.abs(found - z[key]).max() < tolerance * np.abs(z[key]).max()


@pytest.fixture
def sequences() -> Any:
    z = reference("seq_tokens.npz")
    model = Sequence()
    model.load_state_dict({k[2:]: torch.tensor(z[k]) for k in z if k.startswith("w_")})
    rows = [torch.from_numpy(z[k]) for k in ("x_train", "t_train", "x_query", "t_query")]
    return z, model, rows


@pytest.mark.parametrize("strategy", ["ekfac", "kfac"])
def test_scores_of_the_authors_library_on_sequences(sequences: Any, strategy: str) -> None:
    z, model, (x, y, xq, yq) = sequences
    config = EKFACInfluenceConfig(strategy=strategy, fisher="empirical", damping=float(z["damping"]))
    way = EKFACInfluence(model, x, y, task=TOKENS, config=config)

    def close(found: np.ndarray, key: str) -> None:
        wanted = z[f"{strategy}_{key}"]
        assert np.abs(found.reshape(wanted.shape) - wanted).max() < 1e-3 * np.abs(wanted).max()

    close(way.explain(xq, yq).T, "pair_all_modules")
    for name, found in way.by_layer(xq, yq).items():
        close(found.T, f"permodule_{name}")
    close(way.by_token(xq, yq), "token_all_modules")
    close(way.aggregate(xq, yq), "aggq_all_modules")
    close(way.self_influence(), "self")
    with pytest.warns(UserWarning, match="raise query_rank"):
        low = way.using(query_rank=3).explain(xq, yq).T
    close(low, "lowrank3_all_modules")


def test_factors_of_the_authors_library_on_sequences(sequences: Any) -> None:
    z, model, (x, y, *_) = sequences
    factors = EKFACInfluence(
        model, x, y, task=TOKENS, config=EKFACInfluenceConfig(fisher="empirical", damping=0.0)
    ).factors
    for name in ("f1", "f2"):
        wanted = np.sort(z[f"lambda_{name}"].ravel())
        assert np.abs(np.sort(factors[name].curvature.numpy().ravel()) - wanted).max() < 1e-3 * wanted.max()
        a, basis = torch.tensor(z[f"A_{name}"]), factors[name].right
        turned = basis.T @ a @ basis
        off = turned - torch.diag(turned.diagonal())
        assert off.abs().max() < 1e-3 * turned.diagonal().max()


# ------------------------------------------------------------------------------------------------ oracles


def test_linear_regression_is_exact() -> None:
    gen = np.random.default_rng(0)
    x = torch.from_numpy(gen.normal(size=(30, 3)))
    y = torch.from_numpy(gen.normal(size=30))
    model = nn.Linear(3, 1, dtype=torch.float64)
    # the true Fisher of half the squared error is X'X/n exactly when the drawn residual has square 1
    unit = Task(loss=squared_error_rows, draw=lambda m, a, b, g: m(a).detach().reshape(b.shape) + 1)
    full = torch.cat([x, torch.ones(30, 1, dtype=torch.float64)], dim=1)
    residual = (model(x)[:, 0] - y).detach()
    gradients = residual[:, None] * full
    G = full.T @ full / 30 + 0.3 * torch.eye(4, dtype=torch.float64)
    exact = gradients @ torch.linalg.solve(G, gradients[:5].T)
    for strategy in ("ekfac", "kfac"):
        found = scored(model, (x, y, x[:5], y[:5]), unit, fisher="true", damping=0.3, strategy=strategy)
        assert np.abs(found - exact.numpy()).max() < 1e-8 * float(exact.abs().max())


def test_by_hand_one_weight() -> None:
    # y ~ theta x, theta = 1, half squared error: x = (1, 2), y = (2, 0); gradients (theta x - y) x = (-1, 4)
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, 1.0)
    x, y = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([2.0, 0.0]).double()
    found = scored(model, (x, y, x[:1], y[:1]), Task(loss=squared_error_rows), damping=1.5)
    # Lambda = (1 + 16) / 2 = 8.5, plus 1.5: -1 * -1 / 10 and -1 * 4 / 10
    assert found[:, 0] == pytest.approx([0.1, -0.4])


def test_leaving_a_row_out_of_softmax_regression_is_predicted() -> None:
    x, y, xq, yq = classes(120, 5)
    l2 = 0.02

    def fitted(rows: torch.Tensor) -> nn.Module:
        model = mlp((4, 3), rng=0, dtype=torch.float64)
        weights = list(model.parameters())
        solver: Any = torch.optim.LBFGS(
            weights, max_iter=300, tolerance_grad=1e-11, line_search_fn="strong_wolfe"
        )

        def objective() -> torch.Tensor:
            solver.zero_grad()
            value = cross_entropy_rows(model, x[rows], y[rows]).sum() / len(x)
            value = value + l2 / 2 * sum(w.square().sum() for w in weights)
            value.backward()
            return value

        solver.step(objective)
        return model

    every = torch.arange(len(x))
    model = fitted(every)
    way = EKFACInfluence(model, x, y, config=EKFACInfluenceConfig(damping=l2, draws=50), rng=1)
    predicted = way.explain(xq, yq)[:15] / len(x)
    with torch.no_grad():
        before = cross_entropy_rows(model, xq, yq)
        truth = np.stack(
            [(cross_entropy_rows(fitted(every[every != i]), xq, yq) - before).numpy() for i in range(15)]
        )
    assert np.corrcoef(predicted.ravel(), truth.ravel())[0, 1] > 0.95  # factored
    H = explicit_hessian(model, x, y, l2=l2)
    g, gq = (row_gradients(model, *d)(0, len(d[0])).detach() for d in ((x, y), (xq, yq)))
    exact = (g[:15] @ torch.linalg.solve(H, gq.T)).numpy() / len(x)
    assert np.corrcoef(exact.ravel(), truth.ravel())[0, 1] > 0.98
    assert np.polyfit(exact.ravel(), truth.ravel(), 1)[0] == pytest.approx(1, abs=0.1)


# ------------------------------------------------------------------------------------------------ decompositions


@pytest.mark.parametrize("strategy", ["ekfac", "kfac", "diagonal", "identity"])
def test_layers_tokens_and_queries_add_up(strategy: str) -> None:
    x, y, xq, yq = sentences()
    kinds = ("linear",) if strategy == "kfac" else ("linear", "embedding")
    config = EKFACInfluenceConfig(strategy=strategy, kinds=kinds, batch=7, fisher="empirical")
    way = EKFACInfluence(sequence_model(), x, y, task=TOKENS, config=config)
    whole = way.explain(xq, yq)
    scale = np.abs(whole).max()
    assert np.abs(sum(way.by_layer(xq, yq).values()) - whole).max() < 1e-5 * scale
    assert np.abs(way.by_token(xq, yq).sum(axis=2).T - whole).max() < 1e-5 * scale
    assert np.abs(way.aggregate(xq, yq) - whole.sum(axis=1)).max() < 1e-5 * scale * 4
    assert np.abs(way.self_influence() - np.diag(way.explain(x, y))).max() < 1e-4 * scale * 10


@pytest.mark.filterwarnings("ignore:a rank of:UserWarning")
def test_full_rank_is_the_whole_and_error_falls_with_rank() -> None:
    data = sentences()
    whole = scored(sequence_model(), data, TOKENS)
    errors = [
        np.abs(scored(sequence_model(), data, TOKENS, query_rank=rank) - whole).mean()
        for rank in (1, 3, 6, 10)
    ]
    assert errors == sorted(errors, reverse=True)
    assert (
        np.abs(scored(sequence_model(), data, TOKENS, query_rank=11) - whole).max()
        < 1e-4 * np.abs(whole).max()
    )
    with pytest.warns(UserWarning, match="raise query_rank"):
        scored(sequence_model(), data, TOKENS, query_rank=1)


def test_batches_order_and_duplicates_change_nothing() -> None:
    x, y, xq, yq = data = classes()
    model = mlp((4, 6, 3), rng=0, dtype=torch.float64)
    whole = scored(model, data)
    assert scored(model, data, batch=7) == pytest.approx(whole, rel=1e-8)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    assert scored(model, (x[order], y[order], xq, yq)) == pytest.approx(whole[order.numpy()], rel=1e-6)
    twice = scored(model, (torch.cat([x, x]), torch.cat([y, y]), xq, yq))
    assert twice[: len(x)] == pytest.approx(whole, rel=1e-6)


def test_small_memory_gives_the_same_scores() -> None:
    data = classes()
    model = mlp((4, 6, 3), rng=0, dtype=torch.float64)
    assert scored(model, data, memory_mb=0.001) == pytest.approx(scored(model, data), rel=1e-8)


def test_topk_is_the_end_of_the_ranking() -> None:
    x, y, xq, yq = classes()
    way = EKFACInfluence(mlp((4, 6, 3), rng=0), x.float(), y, config=EKFACInfluenceConfig(batch=9), rng=1)
    dense = way.explain(xq.float(), yq)
    (up, gains), (_, harms) = way.topk(xq.float(), yq, 5)
    assert np.array_equal(up, np.argsort(-dense, axis=0)[:5].T)
    assert gains[2] == pytest.approx(dense[up[2], 2])
    assert harms[0] == pytest.approx(np.sort(dense[:, 0])[:5])
    result = way.score(xq.float(), yq, k=5)
    assert result.queries[2].helpful == pytest.approx(tuple(gains[2] / len(x)))
    some = way.over(np.arange(10)).score(xq.float(), yq, k=2).queries[1].helpful
    assert some == pytest.approx(tuple(np.sort(dense[:10, 1])[::-1][:2] / len(x)))
    assert sum(result.queries[0].layer_share) == pytest.approx(1)
    assert result.to_frame().height == 2 * 5 * len(xq)
    assert "nats" in result.unit
    assert result.plot().data


def test_a_copy_of_the_query_helps_most_after_training() -> None:
    x, y, *_ = classes(60)
    model = train(mlp((4, 16, 3), rng=0, dtype=torch.float64), x, y, TrainConfig(epochs=40, lr=0.01))
    found = scored(model, (x, y, x[:10], y[:10]))
    assert (np.diag(found[:10]) > 0).all()


def test_layers_beside_linear_match_automatic_gradients() -> None:
    class Picture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
            self.norm, self.out = nn.LayerNorm(6), nn.Linear(6, 3)
            self.act = nn.ReLU(inplace=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.norm(self.act(self.conv(x)).mean(dim=(2, 3))))

    gen = torch.Generator().manual_seed(0)
    x, y = torch.randn(9, 4, 6, 6, generator=gen, dtype=torch.float64), torch.arange(9) % 3
    model = Picture().double()
    found = scored(model, (x, y, x[:4], y[:4]), strategy="identity", kinds=("linear", "conv", "norm"))
    g = row_gradients(model, x, y)(0, 9).detach()
    assert found == pytest.approx((g @ g[:4].T).numpy(), rel=1e-8)
    assert np.isfinite(scored(model, (x, y, x[:4], y[:4]), kinds=("linear", "conv", "norm"))).all()


def test_a_shared_layer_adds_its_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.out = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.tanh(self.f(torch.tanh(self.f(x)))))

    x, y, xq, yq = data = classes()
    model = Twice().double()
    with pytest.raises(ConfigError, match=r"called 2 times[\s\S]*shared=True"):
        scored(model, data)
    g, gq = (row_gradients(model, *d)(0, len(d[0])).detach() for d in ((x, y), (xq, yq)))
    found = scored(model, data, strategy="identity", shared=True)
    assert found == pytest.approx((g @ gq.T).numpy(), rel=1e-8)


def test_embedding_gradients_add_repeated_tokens() -> None:
    x, y, xq, yq = data = sentences(6, 4)
    model = sequence_model().double()
    g, gq = (
        row_gradients(model, *d, token_cross_entropy_rows)(0, len(d[0])).detach() for d in ((x, y), (xq, yq))
    )
    found = scored(model, data, TOKENS, strategy="identity", kinds=("linear", "embedding"))
    assert found == pytest.approx((g @ gq.T).numpy(), rel=1e-6)
    diagonal = scored(model, data, TOKENS, strategy="diagonal", kinds=("linear", "embedding"), damping=1e-3)
    exact = g @ (gq / (g.square().mean(dim=0) + 1e-3)).T
    assert diagonal == pytest.approx(exact.numpy(), rel=1e-6)


def test_measurement_is_any_function() -> None:
    x, y, xq, yq = classes()
    model = mlp((4, 3), rng=0, dtype=torch.float64)
    doubled = Task(measure=lambda m, a, b: 2 * cross_entropy_rows(m, a, b))
    assert scored(model, (x, y, xq, yq), doubled) == pytest.approx(2 * scored(model, (x, y, xq, yq)))


# ------------------------------------------------------------------------------------------------ disk and seeds


def test_a_killed_fit_resumes_to_the_same_scores(tmp_path: Path) -> None:
    x, y, xq, yq = classes(50, dtype=torch.float32)
    model, config = mlp((4, 6, 3), rng=0), EKFACInfluenceConfig(batch=5)

    class KilledError(Exception):
        pass

    def kill(stage: str, done: int, _: int) -> None:
        if stage == "squares" and done == 2:
            raise KilledError

    make: Any = lambda **kw: EKFACInfluence(model, x, y, config=config, rng=4, **kw)  # noqa: E731
    with pytest.raises(KilledError):
        make(folder=tmp_path / "a", progress=kill).explain(xq, yq)
    assert list((tmp_path / "a").glob("squares-*"))
    resumed = make(folder=tmp_path / "a").explain(xq, yq)
    whole = make(folder=tmp_path / "b").explain(xq, yq)
    assert np.array_equal(resumed, whole)
    assert make().explain(xq, yq) == pytest.approx(whole, rel=1e-3, abs=1e-5 * np.abs(whole).max())


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    x, y, xq, yq = classes(20, dtype=torch.float32)
    EKFACInfluence(mlp((4, 3), rng=0), x, y, folder=tmp_path).explain(xq, yq)
    for model, rows, word in ((mlp((4, 3), rng=1), x, "model"), (mlp((4, 3), rng=0), x + 1, "rows")):
        with pytest.raises(ConfigError, match=rf"fitted with {word}[\s\S]*empty folder"):
            EKFACInfluence(model, rows, y, folder=tmp_path).explain(xq, yq)


@pytest.mark.slow
def test_processes_give_the_same_factors(tmp_path: Path) -> None:
    x, y, xq, yq = classes(40, dtype=torch.float32)
    model = mlp((4, 6, 3), rng=0)
    one, two = (
        EKFACInfluence(model, x, y, config=EKFACInfluenceConfig(batch=10, jobs=j), rng=2).explain(xq, yq)
        for j in (1, 2)
    )
    assert one == pytest.approx(two, rel=1e-3, abs=1e-5 * np.abs(one).max())


def test_the_seed_decides_the_drawn_labels() -> None:
    x, y, xq, yq = classes(dtype=torch.float32)
    model = mlp((4, 6, 3), rng=0)
    a, b, c = (EKFACInfluence(model, x, y, rng=r).explain(xq, yq) for r in (0, 0, 1))
    assert np.array_equal(a, b)
    assert not np.allclose(a, c)


def test_the_model_is_left_as_it_was() -> None:
    x, y, xq, yq = classes(dtype=torch.float32)
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    a, b = (EKFACInfluence(model, x, y).explain(xq, yq) for _ in range(2))
    assert np.array_equal(a, b)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


# ------------------------------------------------------------------------------------------------ refusals


def test_losses_that_average_are_refused() -> None:
    x, y, *_ = classes()
    model = mlp((4, 3), rng=0, dtype=torch.float64)
    mean = Task(loss=lambda m, a, b: cross_entropy_rows(m, a, b).mean())
    with pytest.raises(ConfigError, match=r"one loss a row[\s\S]*reduction"):
        EKFACInfluence(model, x, y, task=mean)
    spread = Task(loss=lambda m, a, b: cross_entropy_rows(m, a, b) / len(a))
    with pytest.raises(ConfigError, match=r"when other rows join[\s\S]*unreduced"):
        EKFACInfluence(model, x, y, task=spread)


def test_layers_that_cannot_be_traced_are_refused() -> None:
    x, y, xq, yq = classes()
    model = mlp((4, 6, 3), rng=0, dtype=torch.float64)
    with pytest.raises(ConfigError, match=r"no layer is tracked[\s\S]*0 \(Linear\)"):
        scored(model, (x, y, xq, yq), include=("nothing",))
    model[0].requires_grad_(False)
    with pytest.raises(ConfigError, match="is frozen"):
        scored(model, (x, y, xq, yq), include=("*",))

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.f, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
            self.head.weight = self.emb.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.tanh(self.f(self.emb(x))))

    data = sentences()
    with pytest.raises(ConfigError, match="shares its weight with emb"):
        scored(Tied(), data, TOKENS, include=("head",))
    assert EKFACInfluence(Tied(), *data[:2], task=TOKENS).layers[0].name == "f"

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.f.weight.T

    with pytest.raises(ConfigError, match="'f' is never called as a module"):
        scored(Functional().double(), (x, y, xq, yq))


def test_queries_masks_and_gradients_that_cannot_be_read_are_refused() -> None:
    x, y, xq, yq = classes()
    model = mlp((4, 3), rng=0, dtype=torch.float64)
    with pytest.raises(LogError, match="there is no query"):
        scored(model, (x, y, xq[:0], yq[:0]))
    with pytest.raises(ConfigError, match="damping"):
        EKFACInfluenceConfig(damping=-1.0)
    with pytest.raises(ConfigError, match="no draw"):
        scored(model, (x, y, xq, yq), Task(loss=lambda m, a, b: cross_entropy_rows(m, a, b)), fisher="true")
    data = sentences()
    for mask, said in (
        (lambda a, b: torch.ones(a.shape), "float32"),
        (lambda a, b: torch.zeros(a.shape, dtype=torch.bool), "no token"),
        (lambda a, b: torch.ones(len(a), 3, dtype=torch.bool), "mask 3"),
    ):
        with pytest.raises(LogError, match=said):
            scored(sequence_model(), data, Task(loss=token_cross_entropy_rows, mask=mask))
    bad = Task(loss=lambda m, a, b: cross_entropy_rows(m, a, b) / (a[:, 0] > 1e9).double())
    with pytest.raises(ConvergenceError, match=r"layer '0' is not finite in rows 0 to 39"):
        scored(model, (x, y, xq, yq), Task(loss=bad.loss))
