"""Nearest pairs: brute force, a hand example, ties, a share of the rows, many columns, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from counterlog.core.errors import ConfigError  # noqa: E402
from counterlog.core.nearest_pairs import NearestPairs  # noqa: E402

pytestmark = pytest.mark.torch


def explicit(state, action, query_state, query_action, beta):
    """(queries, rows) squared distances in double precision."""
    state, action, query_state, query_action = (
        x.double().numpy() for x in (state, action, query_state, query_action)
    )
    far = ((query_state[:, None] - state[None]) ** 2).sum(axis=2)
    return beta**2 * far + ((query_action[:, None] - action[None]) ** 2).sum(axis=2)


def rows_of(n, d, k, rng=0):
    gen = torch.Generator().manual_seed(rng)
    return torch.randn(n, d, generator=gen), torch.rand(n, k, generator=gen) * 2 - 1


def test_the_neighbour_by_hand() -> None:
    """From (0.4, 0.9): beta 0.5 gives 0.85 and 0.10, beta 3 gives 2.25 and 3.25."""
    state, action = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [1.0]])
    asked = torch.tensor([[0.4]]), torch.tensor([[0.9]])
    for beta, row, squared in ((0.5, 1, 0.10), (3.0, 0, 2.25)):
        found = NearestPairs(state, action, beta=beta).of_pairs(*asked)
        assert found.row.tolist() == [[row]]
        assert found.squared.item() == pytest.approx(squared)


@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
@pytest.mark.parametrize(("d", "width"), [(3, 2), (17, 6)])
def test_the_search_equals_brute_force(beta, d, width) -> None:
    state, action = rows_of(500, d, width)
    other, asked = rows_of(200, d, width, rng=1)
    row = torch.arange(0, 400, 2)
    index = NearestPairs(state, action, beta=beta)
    wanted = explicit(state, action, other, asked, beta)
    assert (index.of_pairs(other, asked).row[:, 0].numpy() == wanted.argmin(axis=1)).all()
    wanted = explicit(state, action, state[row], asked, beta)
    found = index.of_rows(row, asked, 3)
    assert (found.row.numpy() == wanted.argsort(axis=1, kind="stable")[:, :3]).all()
    one = index.of_rows(row, asked)
    assert (one.row[:, 0].numpy() == wanted.argmin(axis=1)).all()
    assert one.squared[:, 0].numpy() == pytest.approx(wanted.min(axis=1), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("by_tree", [True, False])
@pytest.mark.parametrize(("d", "k"), [(2, 1), (2, 3), (17, 1), (17, 3)])
def test_the_tree_and_the_product_agree_with_brute_force(monkeypatch, by_tree, d, k) -> None:
    monkeypatch.setattr("counterlog.core.nearest_pairs.BLOCK", 512)
    state, action = rows_of(2900, d, 2)
    other, asked = rows_of(70, d, 2, rng=1)
    index = NearestPairs(state, action, beta=0.4)
    search = index._tree_search if by_tree else index._product_search
    wanted = explicit(state, action, other, asked, 0.4).argsort(axis=1, kind="stable")[:, :k]
    assert search(torch.cat([0.4 * other, asked], dim=1), k).tolist() == wanted.tolist()


def test_the_faster_way_is_chosen_and_answers_do_not_depend_on_it(monkeypatch) -> None:
    state, action = rows_of(3000, 3, 1)
    _, asked = rows_of(300, 3, 1, rng=2)
    index, row, ways = NearestPairs(state, action, beta=0.3), torch.arange(300), []
    for way, name in enumerate(("_tree_search", "_product_search")):
        search = getattr(index, name)
        monkeypatch.setattr(index, name, lambda *a, way=way, search=search: (ways.append(way), search(*a))[1])
    found = []
    for cost in ([1.0, 2.0], [2.0, 1.0]):
        index._cost = list(cost)
        found.append(index.of_rows(row, asked))
    assert ways == [0, 1]
    assert torch.equal(found[0].row, found[1].row)
    assert torch.equal(found[0].squared, found[1].squared)
    index._searches, index._cost = 49, [0.0, 9.0]
    index.of_rows(row, asked)
    assert ways[2:] == [1]  # the slower one is tried again
    assert index._cost[1] < 9.0


@pytest.mark.parametrize("d", [2, 20])
def test_ties_go_to_the_lowest_row(d) -> None:
    """Every pair stands in the log twenty times."""
    state, action = rows_of(30, d, 1)
    _, asked = rows_of(30, d, 1, rng=4)
    state, action = state.repeat(20, 1), action.repeat(20, 1)
    for by_tree in (True, False):
        for beta in (0.0, 0.5, 3.0):
            index = NearestPairs(state, action, beta=beta)
            search = index._tree_search if by_tree else index._product_search
            query = torch.cat([beta * state[570:], asked], dim=1)
            wanted = explicit(state[:30], action[:30], state[570:], asked, beta).argmin(axis=1).tolist()
            assert search(query, 1)[:, 0].tolist() == wanted
            assert search(query, 3).tolist() == [[w, w + 30, w + 60] for w in wanted]


def test_no_weight_of_states_is_the_distance_to_the_set_of_actions() -> None:
    state, _ = rows_of(90, 2, 1)
    action = torch.tensor([-0.9, 0.0, 0.9]).repeat(30)[:, None]
    index = NearestPairs(state, action, beta=0.0)
    found = index.of_rows(torch.tensor([4, 9]), torch.tensor([[0.3], [0.46]]))
    assert action[found.row[:, 0], 0].tolist() == pytest.approx([0.0, 0.9])
    assert found.squared[:, 0].tolist() == pytest.approx([0.09, 0.44**2], rel=1e-5)


def test_only_rows_among_the_chosen_are_found() -> None:
    state, action = rows_of(300, 3, 1)
    _, asked = rows_of(300, 3, 1, rng=1)
    among = np.arange(5, 300, 7)
    found = NearestPairs(state, action, beta=1.0, among=among).of_rows(torch.arange(300), asked)
    wanted = among[explicit(state[among], action[among], state, asked, 1.0).argmin(axis=1)]
    assert (found.row[:, 0].numpy() == wanted).all()


def test_the_losing_beta_is_where_the_own_pair_stops_being_nearest() -> None:
    state, action = rows_of(300, 3, 1)
    _, asked = rows_of(20, 3, 1, rng=1)
    row = torch.arange(20)
    losing = NearestPairs(state, action, beta=7.0).losing_betas(row, asked)
    for i, beta in enumerate(losing.tolist()):
        for factor, own in ((1.001, True), (0.999, False)):
            index = NearestPairs(state, action, beta=factor * beta)
            assert (index.of_rows(row[i : i + 1], asked[i : i + 1]).row.item() == i) is own


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 20.0), st.sampled_from([1, 2, 9]))
def test_any_log_gives_the_smallest_distance(rng, beta, d) -> None:
    gen = torch.Generator().manual_seed(rng)
    state = torch.randint(-2, 3, (60, d), generator=gen).float()
    action = torch.randint(-2, 3, (60, 1), generator=gen).float() / 2
    asked = torch.rand(60, 1, generator=gen) * 2 - 1
    found = NearestPairs(state, action, beta=beta).of_rows(torch.arange(60), asked)
    wanted = explicit(state, action, state, asked, beta).min(axis=1)
    assert found.squared[:, 0].numpy() == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_what_is_refused() -> None:
    state, action = rows_of(10, 2, 1)
    with pytest.raises(ConfigError, match="11 neighbours"):
        NearestPairs(state, action, beta=1.0).of_pairs(state, action, 11)
    with pytest.raises(ConfigError, match="as many actions as states"):
        NearestPairs(state, action[:5], beta=1.0)
    with pytest.raises(ConfigError, match="one row or more"):
        NearestPairs(state, action, beta=1.0, among=np.array([], np.int64))


def test_the_rows_own_pair_bounds_the_search_and_changes_no_answer() -> None:
    state, action = rows_of(2000, 3, 2)
    state, action = torch.cat([state, state[:50]]), torch.cat([action, action[:50]])  # ties too
    row = torch.cat([torch.arange(150), torch.arange(2000, 2050)])
    gen = torch.Generator().manual_seed(5)
    for spread in (0.0, 0.01, 0.5):
        asked = action[row] + spread * torch.randn(200, 2, generator=gen)
        index = NearestPairs(state, action, beta=1.0)
        index._cost = [0.0, 9.0]  # the tree
        found = index.of_rows(row, asked)
        wanted = explicit(state, action, state[row], asked, 1.0)
        assert (found.row[:, 0].numpy() == wanted.argmin(axis=1)).all()
