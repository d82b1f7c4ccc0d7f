"""Factors by hand, products of row gradients against their dense form, sums on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra torch)")

from counterlog.core import kronecker_factors as kf  # noqa: E402
from counterlog.core.errors import ConfigError  # noqa: E402
from counterlog.core.factor_store import FactorStore, cut  # noqa: E402
from counterlog.core.layer_rows import EmbeddingRows, NormRows, OuterRows  # noqa: E402

pytestmark = pytest.mark.torch


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_covariances_divide_by_the_tokens_that_count() -> None:
    # one row of two tokens, the second masked: A = a a' of the first alone
    a = torch.tensor([[[1.0, 2.0], [0.0, 0.0]]]).double()
    s = torch.tensor([[[3.0], [0.0]]]).double()
    A, S = kf.covariances(kf.covariance_sums({"f": OuterRows(a, s, 1.0)}), "f")
    assert A.tolist() == [[1.0, 2.0], [2.0, 4.0]]
    assert S.tolist() == [[9.0]]


def test_solving_undoes_multiplying() -> None:
    _, left = kf.eigenbasis(normal(3, 3) @ normal(3, 3).T)
    _, right = kf.eigenbasis(normal(4, 4, seed=1) @ normal(4, 4, seed=1).T)
    f = kf.LayerFactors(normal(3, 4, seed=2).abs(), left, right, 0.1)
    v = normal(5, 3, 4, seed=3)
    assert torch.allclose(f.multiply(f.solve(v)), v)
    turned = kf.LayerFactors(f.curvature, -left, right, 0.1)  # the sign of an eigenvector does not matter
    assert torch.allclose(turned.solve(v), f.solve(v))


def test_the_heuristic_damping_is_a_tenth_of_the_mean() -> None:
    assert kf.heuristic_damping(torch.tensor([[1.0, 3.0]])) == pytest.approx(0.2)


ROWS = {
    "one token": OuterRows(normal(6, 1, 4), normal(6, 1, 3, seed=1)),
    "tokens": OuterRows(normal(6, 5, 4), normal(6, 5, 3, seed=1)),
    "many tokens": OuterRows(normal(6, 40, 4), normal(6, 40, 3, seed=1)),
    "norm": NormRows(normal(6, 5, 4), normal(6, 5, 4, seed=1), True),
    "embedding": EmbeddingRows(
        torch.randint(0, 7, (6, 5), generator=torch.Generator().manual_seed(0)), normal(6, 5, 3, seed=1), 7
    ),
}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("block", [2**24, 1])
def test_products_equal_those_of_dense_gradients(
    kind: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("counterlog.core.layer_rows.BLOCK", block)
    rows = ROWS[kind]
    g = rows.gradients()
    assert rows.size_of_gradient == g[0].numel()
    v, weights = normal(2, *g.shape[1:], seed=4), normal(2, len(g), seed=5)
    expected = {
        "dot": torch.einsum("qpm,bpm->qb", v, g),
        "squares": g.square().sum(dim=0),
        "norms": g.square().sum(dim=(1, 2)),
        "kernel": torch.einsum("apm,bpm->ab", g, g),
        "weighted": torch.einsum("qb,bpm->qpm", weights, g),
        "quadratic": (g.square() * v[0]).sum(dim=(1, 2)),
    }
    found = {
        "dot": rows.dot(v),
        "squares": rows.squares(),
        "norms": rows.norms(),
        "kernel": rows.kernel(rows),
        "weighted": rows.weighted(weights),
        "quadratic": rows.quadratic(v[0]),
    }
    for name, wanted in expected.items():
        assert torch.allclose(found[name], wanted), name
    assert torch.allclose(rows.by_token(v).sum(dim=2), expected["dot"])
    assert torch.allclose(rows.part(slice(1, 3)).dot(v), expected["dot"][:, 1:3])
    joined = type(rows).joined([rows, rows])
    assert torch.allclose(joined.gradients(), 2 * g)


@pytest.mark.parametrize("kind", ["one token", "tokens", "many tokens"])
def test_rotated_squares_take_the_cheaper_way_to_one_answer(kind: str) -> None:
    rows, left, right = ROWS[kind], normal(3, 3, seed=6), normal(4, 4, seed=7)
    assert isinstance(rows, OuterRows)
    wanted = (left.T @ rows.gradients() @ right).square().sum(dim=0)
    assert torch.allclose(rows.rotated_squares(left, right), wanted)


def test_parts_on_disk_are_not_made_twice(tmp_path: Path) -> None:
    made = []

    def sums(start: int, stop: int) -> dict[str, torch.Tensor]:
        made.append((start, stop))
        return {"s": torch.tensor([float(stop - start)])}

    parts = cut(10, 4)
    assert parts == [(0, 4), (4, 8), (8, 10)]
    for _ in range(2):
        assert FactorStore(tmp_path, {"n": 10}).summed("x", parts, sums)["s"].tolist() == [10.0]
    assert made == parts
    FactorStore(tmp_path, {"n": 10}).part("x", 1).unlink()  # type: ignore[union-attr]
    assert FactorStore(tmp_path, {"n": 10}).summed("x", parts, sums)["s"].tolist() == [10.0]
    assert made == [*parts, (4, 8)]
    with pytest.raises(ConfigError, match=r"fitted with n = 10, and now it is 11[\s\S]*empty folder"):
        FactorStore(tmp_path, {"n": 11})
