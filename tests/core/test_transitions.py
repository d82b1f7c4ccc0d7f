"""From trajectories to learners' rows: successors, time limits, scales, bounds, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.episodes import Episodes, EpisodeWarning  # noqa: E402
from counterlog.core.errors import ConfigError, LogError, SupportError  # noqa: E402
from counterlog.core.replay import Replay  # noqa: E402
from counterlog.core.scaling import ActionBounds, StateScale  # noqa: E402
from counterlog.core.seed_streams import SeedStreams  # noqa: E402
from counterlog.core.transition_rows import Columns  # noqa: E402
from counterlog.core.transitions import (  # noqa: E402
    Transitions,
    best_trajectories,
    returns_to_go,
    shaped_rewards,
)

pytestmark = pytest.mark.torch


def log(final=True, **changes):
    """Two trajectories: 3 steps that terminate, 2 steps that are cut."""
    given = {
        "offsets": [0, 3, 5],
        "state": np.array([[0.0, 1.0], [1.0, 3.0], [2.0, 1.0], [5.0, 2.0], [6.0, 0.0]]),
        "action": np.array([[0.1], [0.2], [0.3], [0.4], [-0.5]]),
        "reward": np.array([1.0, 2.0, 4.0, 1.0, 3.0]),
        "terminated": [0, 0, 1, 0, 0],
        "truncated": [0, 0, 0, 0, 1],
        "final_state": np.array([[9.0, 9.0], [7.0, 1.0]]) if final else None,
        **changes,
    }
    return Episodes(**given)


def test_successors_are_stored_and_a_cut_row_without_one_is_left_out() -> None:
    data = Transitions.from_episodes(log(), states="none", gamma=0.5)
    assert data.column("state").tolist() == log().state.tolist()
    assert data.column("next_state").tolist() == [[1, 3], [2, 1], [9, 9], [6, 0], [7, 1]]
    assert data.column("next_action")[:, 0].tolist() == pytest.approx([0.2, 0.3, 0.3, -0.5, -0.5])
    assert data.column("terminated").tolist() == [0, 0, 1, 0, 0]
    assert data.column("return_to_go").tolist() == pytest.approx([1 + 1 + 1, 2 + 2, 4, 1 + 1.5, 3])
    assert data.starts.tolist() == [[0, 1], [5, 2]]
    with pytest.warns(EpisodeWarning, match="1 of 5 steps have no known successor"):
        shorter = Transitions.from_episodes(log(final=False), states="none")
    assert shorter.column("reward").tolist() == [1, 2, 4, 1]
    assert shorter.trajectory.tolist() == [0, 0, 0, 1]


def test_states_are_scaled_by_the_log_and_actions_by_their_bounds() -> None:
    data = Transitions.from_episodes(log(), states="td3", low=-2, high=2)
    state = log().state
    expected = (state - state.mean(axis=0)) / (state.std(axis=0) + 1e-3)
    assert np.allclose(data.column("state").numpy(), expected, atol=1e-6)
    assert np.allclose(data.column("action").numpy(), log().action / 2, atol=1e-7)
    assert np.allclose(data.bounds.outwards(data.column("action").numpy()), log().action, atol=1e-6)
    assert data.bounds.outwards([[1.7]]).tolist() == [[2.0]]
    assert data.bounds.log_volume == pytest.approx(np.log(2))


def test_codes_become_one_hot_and_actions_stay_codes() -> None:
    codes = log(state=[0, 1, 2, 1, 0], action=[0, 1, 1, 0, 1], final_state=[-1, 3], actions=2)
    data = Transitions.from_episodes(codes)
    assert data.state_size == 4
    assert data.column("state")[2].tolist() == [0, 0, 1, 0]
    assert data.column("next_state")[4].tolist() == [0, 0, 0, 1]
    batch = data.batch(torch.tensor([[1, 4]]))
    assert batch.action.tolist() == [[1, 1]]
    assert batch.action.dtype == torch.int64
    with pytest.raises(LogError, match="integers below 4"):
        data.scale.transform([4])


def test_a_batch_is_the_rows_that_were_drawn() -> None:
    data = Transitions.from_episodes(log(), states="none")
    index = torch.tensor([[0, 3, 3], [4, 2, 1]])
    batch = data.batch(index)
    assert batch.shape == (2, 3)
    assert batch.state[1, 0].tolist() == [6, 0]
    assert batch.reward.tolist() == [[1, 1, 1], [3, 4, 2]]
    changed = batch.with_(reward=torch.zeros(2, 3))
    assert float(changed.reward.abs().max()) == 0
    assert batch.reward.tolist() == [[1, 1, 1], [3, 4, 2]]
    assert not batch.has("log_propensity")
    with pytest.raises(LogError, match="no 'log_propensity'"):
        _ = batch.log_propensity
    with pytest.raises(AttributeError):
        _ = batch.nothing


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("none", [0, 1]),
        ("antmaze_minus1", [-1, 0]),
        ("antmaze_odice", [-3, 0]),
        ("antmaze_prdc", [-1, 9999]),
        ("cql_antmaze", [-5, 5]),
        ("iql_locomotion", [0, 1000]),
        ("standard", [-0.5 / 0.501, 0.5 / 0.501]),
    ],
)
def test_reward_presets(preset, expected) -> None:
    two = Episodes(
        offsets=[0, 1, 2],
        state=np.zeros((2, 1)),
        action=np.zeros((2, 1)),
        reward=[0.0, 1.0],
        terminated=[1, 1],
    )
    assert shaped_rewards(two, preset).tolist() == pytest.approx(expected)


def test_returns_to_go_start_anew_with_every_trajectory() -> None:
    found = returns_to_go(np.array([1.0, 2.0, 4.0, 1.0, 3.0]), np.array([0, 3, 5]), 1.0)
    assert found.tolist() == [7, 6, 4, 4, 3]


def test_the_best_share_of_trajectories() -> None:
    assert best_trajectories(log(), 0.5).returns().tolist() == [7.0]
    assert best_trajectories(log(), 0.01).n == 1
    assert best_trajectories(log(), 1.0).n == 2
    # discounted by 0.1 the first earns 1.24 and the second 1.3
    assert best_trajectories(log(), 0.5, 0.1).returns().tolist() == [4.0]


def test_what_is_refused() -> None:
    with pytest.raises(LogError, match=r"actions outside \[-0.3\] to \[0.3\] in 2 rows: rows 3, 4"):
        Transitions.from_episodes(log(), low=-0.3, high=0.3)
    with pytest.raises(LogError, match="finite, low below high"):
        Transitions.from_episodes(log(), low=1, high=1)
    with pytest.raises(SupportError, match="every reward is 0"):
        Transitions.from_episodes(log(reward=np.zeros(5)))
    endless = {"terminated": np.zeros(5, bool), "truncated": np.array([0, 0, 1, 0, 1], bool)}
    with pytest.raises(SupportError, match="every reward is 1"), pytest.warns(EpisodeWarning):
        Transitions.from_episodes(log(reward=np.ones(5), final_state=None, **endless))
    # a step survived is worth something where tasks end
    assert len(Transitions.from_episodes(log(reward=np.ones(5))))
    with pytest.raises(LogError, match="trajectory 0 has 3 steps; expected at most 2"):
        Transitions.from_episodes(log(), longest=2)
    with pytest.raises(LogError, match="state is missing or not finite in 1 of 5 rows: row 1"):
        state = log().state.copy()
        state[1, 0] = np.nan
        log(state=state)
    with pytest.raises(ConfigError, match="reward preset"):
        Transitions.from_episodes(log(), reward="twice")
    with pytest.raises(ConfigError, match="state scale"):
        Transitions.from_episodes(log(), states="max")
    with pytest.raises(LogError, match="no 'reward'"):
        Transitions.from_episodes(log(reward=None))
    assert not Transitions.from_episodes(log(reward=None), reward_needed=False).columns.widths.get(
        "reward", 0
    )


def test_a_constant_column_is_named_and_a_far_state_refused_when_acting() -> None:
    state = np.column_stack([log().state[:, 0], np.full(5, 4.0)])
    with pytest.warns(EpisodeWarning, match=r"columns \[1\] never change"):
        scale = StateScale.fit(log(state=state, final_state=None))
    scale.check_near(scale.transform([[1.0, 4.0]]))
    with pytest.raises(SupportError, match="state column 1 of row 0"):
        scale.check_near(scale.transform([[1.0, 6.0]]))
    with pytest.raises(SupportError, match="state column 0 of row 0"):
        scale.check_near(scale.transform([[np.nan, 4.0]]))


def test_bounds_are_one_when_actions_fit_and_the_logged_range_otherwise() -> None:
    assert ActionBounds.fit(log()).low == (-1.0,)
    wide = log(action=log().action * 10)
    assert ActionBounds.fit(wide).high == (4.0,)


COLUMNS = Columns({"state": 2, "action": 1, "reward": 0, "next_state": 2, "terminated": 0})


def rows(first, n, seeds=2):
    values = torch.arange(first, first + n).float().expand(seeds, n) + 100 * torch.arange(seeds)[:, None]
    return {
        "state": values[..., None].expand(-1, -1, 2),
        "action": values[..., None],
        "reward": values,
        "next_state": values[..., None].expand(-1, -1, 2),
        "terminated": torch.zeros(seeds, n),
    }


def test_a_replay_keeps_the_newest_rows_of_every_seed() -> None:
    replay = Replay(COLUMNS, seeds=2, capacity=4)
    with pytest.raises(SupportError, match="empty"):
        replay.sample(SeedStreams((0, 1)), 2)
    replay.add(rows(0, 3))
    assert len(replay) == 3
    replay.add(rows(3, 3))
    found = replay.gather(torch.arange(4).expand(2, 4)).reward
    assert sorted(found[0].tolist()) == [2, 3, 4, 5]
    assert sorted(found[1].tolist()) == [102, 103, 104, 105]
    drawn = replay.sample(SeedStreams((0, 1)), 500)
    assert set(drawn.reward[0].tolist()) == {2, 3, 4, 5}
    assert torch.equal(drawn.state[..., 0], drawn.reward)


def test_a_replay_goes_on_from_its_state_and_relabels_what_it_gives() -> None:
    replay = Replay(COLUMNS, seeds=2, capacity=4, relabel=lambda b: b.with_(reward=-b.reward))
    replay.add(rows(0, 3))
    again = Replay(COLUMNS, seeds=2, capacity=4)
    again.restore(replay.state())
    for one in (replay, again):
        one.add(rows(3, 2))
    index = torch.arange(4).expand(2, 4)
    assert torch.equal(replay.gather(index).rows, again.gather(index).rows)
    assert float(replay.sample(SeedStreams((0, 1)), 9).reward.max()) <= 0


def test_a_replay_refuses_numbers_that_are_not_finite() -> None:
    bad = rows(0, 3)
    bad["reward"] = torch.tensor([[0.0, float("nan"), 0.0], [0.0, 0.0, 0.0]])
    with pytest.raises(LogError, match="reward is not finite in row 1 of seed 0"):
        Replay(COLUMNS, seeds=2, capacity=4).add(bad)
    with pytest.raises(LogError, match="roles"):
        Replay(COLUMNS, seeds=2, capacity=4).add({"state": torch.zeros(2, 1, 2)})
    with pytest.raises(ConfigError, match="capacity 0"):
        Replay(COLUMNS, seeds=2, capacity=0)
