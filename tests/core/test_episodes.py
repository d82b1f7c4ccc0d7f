import sys
import types

import numpy as np
import polars as pl
import pytest

from counterlog.core.episode_files import d4rl_episodes, read_d4rl, read_minari
from counterlog.core.episodes import Episodes, EpisodeWarning
from counterlog.core.errors import LogError, MissingExtraError, PropensityError

ROLES = {
    "trajectory": "id",
    "t": "t",
    "state": "s",
    "action": "a",
    "reward": "r",
    "propensity": "p",
    "terminated": "end",
    "truncated": "cut",
}


def table(**changes):
    columns = {
        "id": [7, 7, 7, 3, 3],
        "t": [0, 1, 2, 0, 1],
        "s": [0, 1, 0, 1, 1],
        "a": [1, 0, 1, 0, 1],
        "r": [1.0, 2.0, 4.0, 0.5, 0.25],
        "p": [0.5, 0.5, 0.25, 1.0, 0.5],
        "end": [0, 0, 1, 0, 0],
        "cut": [0, 0, 0, 0, 1],
    }
    return columns | changes


def read(columns, **roles):
    return Episodes.from_table(columns, **(ROLES | roles))


def small(**changes):
    arrays = {
        "offsets": [0, 3, 5],
        "state": np.array([0, 1, 0, 1, 1]),
        "action": np.array([1, 0, 1, 0, 1]),
        "reward": [1.0, 2.0, 4.0, 0.5, 0.25],
        "propensity": [0.5] * 5,
        "terminated": [0, 0, 1, 0, 0],
        "truncated": [0, 0, 0, 0, 1],
    }
    return Episodes(**(arrays | changes))


def test_a_long_table_becomes_ragged_trajectories_in_the_order_of_their_names():
    log = read(table())
    assert log.offsets.tolist() == [0, 2, 5] and log.n == 2 and log.rows == 5
    assert log.reward.tolist() == [0.5, 0.25, 1.0, 2.0, 4.0]
    assert log.steps.tolist() == [0, 1, 0, 1, 2]
    assert log.terminated.tolist() == [False, False, False, False, True]
    assert log.propensity == pytest.approx([1.0, 0.5, 0.5, 0.5, 0.25])


def test_the_order_of_the_rows_does_not_matter():
    frame = pl.DataFrame(table())
    assert read(frame.sample(fraction=1.0, shuffle=True, seed=1)).fingerprint == read(frame).fingerprint


def test_pandas_polars_arrow_and_columns_give_one_log():
    pytest.importorskip("pandas")
    frame = pl.DataFrame(table())
    prints = {read(x).fingerprint for x in (frame, frame.to_arrow(), frame.to_pandas(), table())}
    assert len(prints) == 1


def test_returns_discount_the_first_step_by_one():
    assert small().returns(0.5).tolist() == [1.0 + 1.0 + 1.0, 0.5 + 0.125]


def test_text_actions_get_codes_in_order_and_declared_labels_keep_their_place():
    columns = table(a=["b", "a", "b", "a", "b"])
    assert read(columns).actions == ("a", "b") and read(columns).action.tolist() == [0, 1, 1, 0, 1]
    assert read(columns, actions=("b", "z", "a")).action.tolist() == [2, 0, 0, 2, 0]


def test_several_columns_are_features_and_continuous_actions():
    log = read(table(x=[0.5] * 5), state=["s", "x"], action=["r"], reward="r", propensity=None)
    assert log.state.shape == (5, 2) and log.action.shape == (5, 1) and not log.discrete


def test_a_density_above_one_is_fine_for_continuous_actions_only():
    assert small(action=np.ones((5, 2)), propensity=[3.0] * 5).log_propensity == pytest.approx(np.log(3))
    with pytest.raises(PropensityError, match=r"5 of 5 rows: rows 0, 1, 2, 3, 4"):
        small(propensity=[3.0] * 5)


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.5, float("nan"), None])
def test_a_bad_propensity_is_refused_with_count_and_first_rows(bad):
    columns = table(p=[0.5, bad, 0.25, 1.0, bad])
    with pytest.raises(PropensityError, match=r"wrong in 2 of 5 rows"):
        read(columns)


@pytest.mark.parametrize("bad", [0.1, float("nan"), float("-inf")])
def test_a_bad_log_propensity_is_refused(bad):
    with pytest.raises(PropensityError, match=r"1 of 5 rows: row 2.*logarithm"):
        small(propensity=None, log_propensity=[-1, -1, bad, -1, -1])


def test_a_repeated_step_is_refused_by_row():
    with pytest.raises(LogError, match=r"1 pairs \(id, t\) stand twice: row 2"):
        read(table(t=[0, 1, 1, 0, 1]))


def test_a_gap_in_the_steps_is_refused_by_row():
    with pytest.raises(LogError, match=r"1 gaps in 't': steps are missing before row 2"):
        read(table(t=[0, 1, 3, 0, 1]))


def test_a_trajectory_that_starts_late_is_refused():
    with pytest.raises(LogError, match=r"1 trajectories start later than 't' = 0: row 3"):
        read(table(t=[0, 1, 2, 1, 2]))


def test_steps_counted_from_one_are_fine():
    assert read(table(t=[1, 2, 3, 1, 2])).steps.tolist() == [0, 1, 0, 1, 2]


@pytest.mark.parametrize(("column", "role"), [("r", "reward"), ("s", "state"), ("a", "action")])
def test_missing_values_are_refused_by_role_and_row(column, role):
    columns = table()
    columns[column] = [*columns[column][:3], None, *columns[column][4:]]
    with pytest.raises(LogError, match=rf"{role} is missing or not finite in 1 of 5 rows: row 3"):
        read(columns)


def test_a_missing_last_flag_counts_as_truncation_with_a_warning():
    with pytest.warns(
        EpisodeWarning, match=r"1 of 2 trajectories do not say how they ended \(trajectory 1\)"
    ):
        log = small(truncated=None)
    assert log.truncated.tolist() == [False] * 4 + [True]


def test_both_flags_count_as_terminated_with_a_warning():
    with pytest.warns(EpisodeWarning, match="both terminated and truncated"):
        log = small(truncated=[0, 0, 1, 0, 1])
    assert log.terminated[2] and not log.truncated[2]


def test_steps_after_an_end_are_refused():
    with pytest.raises(LogError, match=r"1 steps end their trajectory although more steps follow: row 1"):
        small(terminated=[0, 1, 1, 0, 0])


@pytest.mark.parametrize("offsets", [[0, 3, 3, 5], [1, 5], [0], [0.0, 5.0], [0, 5, 3]])
def test_offsets_that_mark_no_trajectories_are_refused(offsets):
    with pytest.raises(LogError, match="offsets do not mark trajectories"):
        small(offsets=offsets)


def test_an_action_code_beyond_the_declared_number_is_refused():
    with pytest.raises(LogError, match=r"action codes of 1 and more in 3 rows: rows 0, 2, 4"):
        small(actions=1)


def test_unknown_columns_and_empty_logs_are_refused():
    with pytest.raises(LogError, match="no column 'x' for reward"):
        read(table(), reward="x")
    with pytest.raises(LogError, match="0 rows"):
        read(pl.DataFrame(table()).head(0))


def test_need_names_the_role_that_is_missing():
    log = small(propensity=None)
    with pytest.raises(LogError, match="no 'propensity'"):
        log.need("reward", "propensity")
    with pytest.raises(LogError, match="not a role"):
        log.need("colour")


def test_the_input_is_never_changed_and_the_log_is_read_only():
    reward = np.arange(5.0)
    log = small(reward=reward)
    assert reward.flags.writeable and not log.reward.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        log.reward[0] = 9


def test_take_selects_whole_trajectories_with_repeats():
    log = small().take([1, 0, 1])
    assert log.lengths.tolist() == [2, 3, 2] and log.reward.tolist() == [0.5, 0.25, 1, 2, 4, 0.5, 0.25]
    assert small().take(np.array([False, True])).rows == 2


def test_successors_follow_and_a_recorded_final_state_ends_a_cut_trajectory():
    assert small().continues.tolist() == [True, True, False, True, False]
    log = small(final_state=[-1, 0])
    assert log.next_state.tolist() == [1, 0, 0, 1, 0]
    assert log.continues.tolist() == [True, True, False, True, True]


def test_npz_gives_the_same_log_back(tmp_path):
    log = small(final_state=[-1, 0])
    assert Episodes.from_npz(log.to_npz(tmp_path / "log.npz")).fingerprint == log.fingerprint


def test_other_archives_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", offsets=[0, 1], state=[0])
    with pytest.raises(LogError, match="no array 'action'"):
        Episodes.from_npz(tmp_path / "x.npz")
    (tmp_path / "y.npz").write_bytes(b"no archive")
    with pytest.raises(LogError, match="not a NumPy archive"):
        Episodes.from_npz(tmp_path / "y.npz")


def d4rl(**changes):
    content = {
        "observations": np.arange(12.0).reshape(6, 2),
        "actions": np.zeros((6, 1)),
        "rewards": np.arange(6.0),
        "terminals": np.array([0, 0, 1, 0, 0, 0]),
        "timeouts": np.array([0, 0, 0, 0, 1, 0]),
    }
    return {k: v for k, v in (content | changes).items() if v is not None}


def test_d4rl_ends_an_episode_at_a_terminal_or_a_timeout():
    with pytest.warns(EpisodeWarning, match="1 of 3 trajectories"):
        log = d4rl_episodes(d4rl())
    assert log.offsets.tolist() == [0, 3, 5, 6]
    assert log.terminated.tolist() == [0, 0, 1, 0, 0, 0] and log.truncated.tolist() == [0, 0, 0, 0, 1, 1]
    assert log.continues.tolist() == [1, 1, 0, 1, 0, 0]


def test_d4rl_next_observations_keep_the_state_after_a_timeout():
    following = np.arange(12.0).reshape(6, 2) + 2
    with pytest.warns(EpisodeWarning):
        log = d4rl_episodes(d4rl(next_observations=following))
    assert log.next_state[4].tolist() == following[4].tolist() and log.continues[4]


def test_d4rl_without_timeouts_needs_the_time_limit():
    with pytest.raises(LogError, match="episodes cannot be separated"):
        d4rl_episodes(d4rl(timeouts=None, terminals=np.zeros(6)))
    log = d4rl_episodes(d4rl(timeouts=None, terminals=np.zeros(6)), longest=2)
    assert log.offsets.tolist() == [0, 2, 4, 6] and log.truncated.sum() == 3


def test_readers_name_the_extra_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(MissingExtraError, match=r"counterlog\[rl\]"):
        read_d4rl("x.hdf5")
    with pytest.raises(MissingExtraError, match=r"counterlog\[rl\]"):
        read_minari("a/b-v0")


def test_minari_episodes_have_one_observation_more_than_actions():
    episode = types.SimpleNamespace(
        observations={"b": np.arange(3.0), "a": np.arange(6.0).reshape(3, 2)},
        actions=np.array([0, 1]),
        rewards=[1.0, 2.0],
        terminations=[False, True],
        truncations=[False, True],
        infos=None,
    )
    space = types.SimpleNamespace(n=2)
    log = read_minari(
        types.SimpleNamespace(iterate_episodes=lambda: iter([episode, episode]), action_space=space)
    )
    assert log.state[:2].tolist() == [[0, 1, 0], [2, 3, 1]] and log.final_state[0].tolist() == [4, 5, 2]
    assert log.lengths.tolist() == [2, 2] and log.terminated.tolist() == [0, 1, 0, 1]
