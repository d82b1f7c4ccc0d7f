"""PRDC: its limits are TD3+BC and the distance to a set; gradients, neighbours, explanations, resuming, refusals."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from counterlog.core.episodes import Episodes, EpisodeWarning  # noqa: E402
from counterlog.core.errors import (  # noqa: E402
    ConfigError,
    ConvergenceError,
    LogError,
    NotFittedError,
    SupportError,
)
from counterlog.core.rl_evaluation import evaluate_policy  # noqa: E402
from counterlog.datasets.pendulum import Pendulum, pendulum_log  # noqa: E402
from counterlog.learn.prdc import PRDC, PRDCConfig, Support, borrowed_action  # noqa: E402
from counterlog.learn.td3_bc import TD3BC, TD3BCConfig, actor_loss  # noqa: E402

pytestmark = pytest.mark.torch
SMALL = {"hidden": (16, 16), "batch": 32, "steps": 40, "gamma": 0.97, "log_every": 10}


def contract_example(frame):
    import narwhals as nw

    table = nw.from_native(frame, eager_only=True)
    x = table["x"].to_numpy()[:60]
    log = Episodes(
        offsets=[0, 20, 40, 60],
        state=np.column_stack([x, np.sin(x)]),
        action=np.tanh(x)[:, None],
        reward=table["click"].to_numpy()[:60],
        truncated=np.arange(60) % 20 == 19,
    )
    learner = PRDC(PRDCConfig(**SMALL))
    learner.fit(log, rng=1)
    return learner.explain(log.state[:3], k=2)


def started(config, log=None, rng=0):
    learner = PRDC(config)
    return learner.start(learner.prepare(log or pendulum_log("pendulum-mix", 2000), -2, 2), rng=rng)


def test_a_large_beta_is_td3_bc() -> None:
    ours = started(PRDCConfig(beta=1e4, seeds=2, **SMALL))
    plain = TD3BC(TD3BCConfig(seeds=2, **SMALL))
    plain.start(plain.prepare(pendulum_log("pendulum-mix", 2000), -2, 2))
    for _ in range(20):
        a, b = ours.update(ours.draw()), plain.update(plain.draw())
        if "neighbour_gap" in a:
            assert torch.equal(a["neighbour_gap"], b["action_distance"])
            assert a["self_match"].tolist() == [1.0, 1.0]
    for one, other in ((ours.actor, plain.actor), (ours.critic, plain.critic)):
        assert float((one.flat - other.flat).abs().max()) < 1e-6


def test_without_states_the_pull_is_twice_the_way_to_the_nearest_action() -> None:
    learner = started(PRDCConfig(beta=0.0, **SMALL))
    action = torch.tensor([[[0.3], [0.46]]], requires_grad=True)
    learner.actions = torch.tensor([-0.9, 0.0, 0.9]).repeat(20)[:, None]
    from counterlog.core.nearest_pairs import NearestPairs

    index = NearestPairs(torch.randn(60, 3), learner.actions, beta=0.0)
    found = index.of_rows(torch.tensor([0, 1]), action.detach()[0])
    target = learner.actions[found.row[:, 0]].view(1, 2, 1)
    assert target.flatten().tolist() == pytest.approx([0.0, 0.9])
    _, pull = actor_loss(torch.ones(1, 2), action, target, 2.5)
    (grad,) = torch.autograd.grad(pull.sum(), action)
    assert grad.flatten().tolist() == pytest.approx([0.3, -0.44])  # 2 (p - n) / 2


def test_the_distance_to_the_set_has_that_gradient_by_finite_differences() -> None:
    """The envelope: d/dp min_i |p - a_i|^2 = 2 (p - n), and the neighbour need not be differentiated."""
    gen = torch.Generator().manual_seed(0)
    actions = torch.rand(50, 2, generator=gen, dtype=torch.float64) * 2 - 1
    p = torch.rand(30, 2, generator=gen, dtype=torch.float64) * 2 - 1

    def least(q):
        return (q[:, None] - actions).square().sum(dim=2).min(dim=1)

    nearest = actions[least(p).indices]
    step = 1e-7
    for j in range(2):
        e = torch.zeros(2, dtype=torch.float64)
        e[j] = step
        slope = (least(p + e).values - least(p - e).values) / (2 * step)
        assert (slope - 2 * (p - nearest)[:, j]).abs().max() < 1e-6


def test_autograd_equals_finite_differences_only_with_the_neighbour_frozen() -> None:
    """Mean of k neighbours: a moving target changes the slope where the set of neighbours changes."""
    actions = torch.linspace(-1, 1, 21, dtype=torch.float64)[:, None]
    p = torch.tensor([[[0.449]]], dtype=torch.float64, requires_grad=True)

    def target(q):
        rows = (q.detach()[0] - actions).abs()[:, 0].argsort()[:1]
        return actions[rows][None]

    frozen = target(p)
    q = torch.ones(1, 1, dtype=torch.float64)
    (grad,) = torch.autograd.grad(actor_loss(q, p, frozen, 2.5)[1].sum(), p)
    step = torch.full_like(p, 0.002)

    def slope(at):
        up, down = (actor_loss(q, p + d, at(p + d), 2.5)[1] for d in (step, -step))
        return float(((up - down) / 0.004).detach())

    assert slope(lambda x: frozen) == pytest.approx(float(grad), rel=1e-4)
    assert slope(target) != pytest.approx(float(grad), rel=0.1)


def test_what_k_neighbours_give_by_hand() -> None:
    logged, distance = torch.tensor([[[0.0], [1.0]]]), torch.tensor([[0.0, 0.1]])
    assert borrowed_action(logged, distance, "kth", 0.1).tolist() == [[1.0]]
    assert borrowed_action(logged, distance, "mean", 0.1).tolist() == [[0.5]]
    assert borrowed_action(logged, distance, "softmax", 0.1).item() == pytest.approx(1 / (1 + np.e))


@pytest.mark.parametrize("options", [{}, {"k": 3, "k_mode": "mean"}, {"k": 4, "k_mode": "softmax"}])
def test_the_way_of_searching_never_changes_what_is_learnt(options) -> None:
    actors = []
    for cost in ([0.0, 1e9], [1e9, 0.0]):  # of the tree, of the product: one way alone, but for trials
        learner = started(PRDCConfig(beta=0.7, seeds=2, **options, **SMALL))
        for _ in range(30):
            learner.index._cost = list(cost)
            learner.update(learner.draw())
        actors.append(learner.actor.flat)
    assert torch.equal(*actors)


def test_fewer_matches_are_the_row_itself_when_beta_falls() -> None:
    shares = []
    for beta in (0.25, 1.0, 4.0, 32.0, 1e4):
        learner = started(PRDCConfig(beta=beta, **{**SMALL, "batch": 256}))
        learner.update(learner.draw())
        shares.append(float(learner.update(learner.draw())["self_match"]))
    assert shares == sorted(shares)
    assert shares[0] < 0.2
    assert shares[-1] == 1.0


def test_borrowed_actions_come_from_the_best_rows_alone() -> None:
    learner = started(PRDCConfig(beta=0.5, candidates=0.1, **SMALL))
    worth = learner.data.column("return_to_go")
    batch = learner.draw()
    found = learner.index.of_rows(batch.index.flatten(), batch.action.flatten(0, 1))
    assert learner.index.size == len(learner.data) // 10
    assert float(worth[found.row].min()) >= float(worth.sort(descending=True).values[learner.index.size - 1])


def test_weights_of_states_equal_states_that_were_scaled() -> None:
    log = pendulum_log("pendulum-mix", 2000)
    learner = started(PRDCConfig(beta=1.0, state_weights=(1.0, 0.0, 3.0), **SMALL), log)
    state = learner.data.column("state")
    by_hand = state * torch.tensor([1.0, 0.0, 3.0])
    asked = torch.zeros(50, 1)
    rows = torch.arange(50)
    wanted = ((by_hand[rows][:, None] - by_hand) ** 2).sum(2) + learner.actions[:, 0] ** 2
    assert torch.equal(learner.index.of_rows(rows, asked).row[:, 0], wanted.argmin(dim=1))


def test_an_explanation_names_the_nearest_rows_of_the_log(tmp_path) -> None:
    log = pendulum_log("pendulum-mix", 2000)
    learner = PRDC(PRDCConfig(seeds=2, **SMALL))
    policy = learner.fit(log, low=-2, high=2)
    asked = log.state[[3, 700]]
    found = learner.explain(asked, k=3, seed=1)
    assert found.n == 2
    assert len(found.to_frame()) == 6
    acted = policy.act(asked, seed=1)
    scaled = policy.scale.transform(log.state).astype(np.float64)
    for i in range(2):
        records = [r for r in found.records() if r["state"] == i]
        assert records[0]["action_0"] == pytest.approx(acted[i, 0], abs=1e-5)
        d2 = 4 * ((scaled - scaled[[3, 700][i]]) ** 2).sum(1) + ((log.action - acted[i]) ** 2).sum(1) / 4
        rows = [int(log.offsets[r["trajectory"]] + r["step"]) for r in records]
        assert rows == np.argsort(d2, kind="stable")[:3].tolist()
        assert [r["distance"] for r in records] == pytest.approx(np.sqrt(d2[rows]), rel=1e-3)
        assert [r["logged_0"] for r in records] == pytest.approx(log.action[rows, 0], abs=1e-5)
        assert [r["reward"] for r in records] == pytest.approx(log.reward[rows], rel=1e-5)
    assert Support.load(found.save(tmp_path / "support.json")) == found


def test_a_stack_of_seeds_equals_seeds_one_by_one() -> None:
    log = pendulum_log("pendulum-mix", 2000)
    settings = {**SMALL, "hidden": (8, 8), "steps": 100}
    together = PRDC(PRDCConfig(seeds=3, **settings)).fit(log, low=-2, high=2, rng=4)
    for k in range(3):
        alone = PRDC(PRDCConfig(**settings)).fit(log, low=-2, high=2, rng=4 + k)
        assert float((together.take(k).actor.flat - alone.actor.flat).abs().max()) < 1e-5


def test_a_killed_run_resumes_to_the_same_result(tmp_path) -> None:
    log = pendulum_log("pendulum-mix", 2000)

    class Dying(PRDC):
        def update(self, batch):
            if self.updates == 27:
                raise KeyboardInterrupt
            return super().update(batch)

    def run(kind, folder=None):
        return kind(PRDCConfig(seeds=2, **SMALL)).fit(
            log, low=-2, high=2, rng=1, folder=folder, save_every=10
        )

    Dying.__name__ = "PRDC"
    whole = run(PRDC)
    with pytest.raises(KeyboardInterrupt):
        run(Dying, tmp_path)
    resumed = run(PRDC, tmp_path)
    assert torch.equal(whole.actor.flat, resumed.actor.flat)
    assert whole.report.metrics == resumed.report.metrics


def test_the_same_rng_gives_the_same_policy_and_another_gives_another() -> None:
    log = pendulum_log("pendulum-mix", 2000)
    a, b, c = (PRDC(PRDCConfig(**SMALL)).fit(log, low=-2, high=2, rng=r).actor.flat for r in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.slow
def test_on_a_mostly_random_log_it_earns_more_than_td3_bc() -> None:
    log = pendulum_log("pendulum-mix")
    settings = {
        "hidden": (64, 64),
        "batch": 64,
        "steps": 2500,
        "gamma": 0.97,
        "seeds": 2,
        "lr": 1e-3,
        "tau": 0.01,
    }
    score = [
        evaluate_policy(learner.fit(log, low=-2, high=2), Pendulum, gamma=0.97).value
        for learner in (PRDC(PRDCConfig(**settings)), TD3BC(TD3BCConfig(**settings)))
    ]
    assert score[0] > score[1] + 300


def test_it_says_when_it_is_td3_bc_and_which_beta_is_not() -> None:
    learner = started(PRDCConfig(beta=1e4, **SMALL))
    learner.updates = 499
    with pytest.warns(EpisodeWarning, match=r"PRDC is TD3\+BC here. Lower beta \(at \d"):
        learner.update(learner.draw())


def test_a_column_that_decides_every_distance_is_named() -> None:
    log = pendulum_log("pendulum-mix", 2000)
    wide = Episodes(
        offsets=log.offsets,
        state=log.state * np.array([1.0, 1.0, 1e5]),
        action=log.action,
        reward=log.reward,
        truncated=log.truncated,
        final_state=log.final_state * np.array([1.0, 1.0, 1e5]),
    )
    with pytest.warns(EpisodeWarning, match="state column 2 varies"):
        started(PRDCConfig(states="none", **SMALL), wide)


def test_what_is_refused() -> None:
    with pytest.raises(NotFittedError):
        PRDC().explain([[0.0]])
    for bad in ({"beta": -1.0}, {"beta": float("nan")}, {"k": 0}, {"k_mode": "median"}, {"candidates": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            PRDCConfig(**bad)
    discrete = Episodes(
        offsets=[0, 2], state=[0, 1], action=[0, 1], reward=[0, 1], truncated=[0, 1], final_state=[0]
    )
    with pytest.raises(ConfigError, match="continuous actions"):
        PRDC(PRDCConfig(**SMALL)).fit(discrete)
    with pytest.raises(ConfigError, match="k = 3000 neighbours"):
        started(PRDCConfig(k=3000, **SMALL))
    with pytest.raises(ConfigError, match="2 state_weights; expected 3"):
        started(PRDCConfig(state_weights=(1.0, 1.0), **SMALL))
    log = pendulum_log("pendulum-mix", 2000)
    with pytest.raises(LogError, match="actions outside"):
        PRDC(PRDCConfig(**SMALL)).fit(log, low=-1, high=1)
    fields = {"offsets": log.offsets, "state": log.state, "truncated": log.truncated}
    flat = Episodes(action=np.full((log.rows, 1), 0.5), reward=log.reward, **fields)
    with pytest.raises(LogError, match=r"action column 0 is 0\.25 in every row"):
        PRDC(PRDCConfig(**SMALL)).fit(flat, low=-2, high=2)
    same = Episodes(action=log.action, reward=np.ones(log.rows), **fields)
    with pytest.raises(SupportError, match="every reward"):
        PRDC(PRDCConfig(**SMALL)).fit(same, low=-2, high=2)
    learner = started(PRDCConfig(**SMALL))
    with pytest.raises(SupportError, match="after scaling"):
        learner.explain([[0.0, 0.0, 1e9]])
    with pytest.raises(SupportError, match="no states"):
        learner.explain(np.zeros((0, 3)))
    with pytest.raises(ConfigError, match="seed 1"):
        learner.explain(log.state[:1], seed=1)
    huge = Episodes(action=log.action, reward=1e30 * log.reward, **fields)
    with pytest.raises(ConvergenceError):
        PRDC(PRDCConfig(**SMALL)).fit(huge, low=-2, high=2)
