"""A2PR: TD3 and TD3+BC as limits, four updates against plain modules, the table of guides, its gradient, verdicts."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

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
from counterlog.learn.a2pr import (  # noqa: E402
    A2PR,
    GUIDES,
    A2PRConfig,
    Verdicts,
    chosen,
    guided_pull,
    reconstruction_error,
    value_errors,
)
from counterlog.learn.td3_bc import TD3BC, TD3BCConfig  # noqa: E402

pytestmark = pytest.mark.torch
BASE = {"hidden": (16, 16), "batch": 32, "steps": 40, "gamma": 0.97, "log_every": 10}
SMALL = {**BASE, "critic_hidden": (16, 16), "vae_hidden": (24, 24)}


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
    learner = A2PR(A2PRConfig(**SMALL))
    learner.fit(log, rng=1)
    return learner.verdicts(draws=2)


def started(rng=0, log=None, **options):
    learner = A2PR(A2PRConfig(**{**SMALL, **options}))
    return learner.start(learner.prepare(log or pendulum_log("pendulum-mix", 2000), -2, 2), rng=rng)


@pytest.mark.parametrize(
    ("options", "constraint"),
    [({"guide": "data", "threshold": -1e9}, True), ({"pull": 0.0}, False), ({"guide": "none"}, False)],
)
def test_copying_every_row_is_td3_bc_and_no_pull_is_td3(options, constraint) -> None:
    ours = started(seeds=2, **options)
    plain = TD3BC(TD3BCConfig(seeds=2, constraint=constraint, **BASE))
    plain.start(plain.prepare(pendulum_log("pendulum-mix", 2000), -2, 2))
    for _ in range(20):
        ours.update(ours.draw())
        plain.update(plain.draw())
    for one, other in ((ours.actor, plain.actor), (ours.critic, plain.critic)):
        assert float((one.flat - other.flat).abs().max()) < 1e-6


def modules(net, member=None):
    """A stacked network of one seed as plain layers with the same weights."""
    layers = []
    for i in range(net.layers):
        w, b = net[f"weight{i}"][0], net[f"bias{i}"][0]
        w, b = (w, b) if member is None else (w[member], b[member])
        layer = nn.Linear(*w.shape)
        layer.load_state_dict({"weight": w.detach().T.clone(), "bias": b.detach()[0].clone()})
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_four_updates_equal_plain_modules_stepped_as_the_authors_do() -> None:
    """The order counts: which critic, which V, and what is held constant."""
    c = A2PRConfig(**SMALL, pull=0.7, vae_weight=1.5)
    ours = started(pull=0.7, vae_weight=1.5)
    actor, v = modules(ours.actor), modules(ours.value)
    q1, q2 = modules(ours.critic, 0), modules(ours.critic, 1)
    encoder, decoder = modules(ours.encoder), modules(ours.decoder)
    actor_t, q1_t, q2_t = (copy.deepcopy(m) for m in (actor, q1, q2))
    adam_a, adam_v = (torch.optim.Adam(m.parameters(), lr=c.lr) for m in (actor, v))
    adam_q = torch.optim.Adam([*q1.parameters(), *q2.parameters()], lr=c.lr)
    adam_e = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=c.vae_lr)
    smoothing, latents = (type(ours.smoothing)(s.seeds, s.role) for s in (ours.smoothing, ours.latents))

    def step(adam, loss):
        adam.zero_grad()
        loss.backward()
        adam.step()

    def through(state, action):
        mean, log_std = encoder(torch.cat([state, action], 1)).chunk(2, 1)
        std = log_std.clamp(-4, 15).exp()
        z = mean + std * latents.normal(len(state), 2)[0]
        return torch.tanh(decoder(torch.cat([state, z], 1))), mean, std

    for t in range(1, 5):
        batch = ours.draw()
        s, a, s2 = batch.state[0], batch.action[0], batch.next_state[0]
        r, going = batch.reward[0][:, None], 1 - batch.terminated[0][:, None]
        with torch.no_grad():
            noise = (smoothing.normal(*a.shape)[0] * c.policy_noise).clamp(-c.noise_clip, c.noise_clip)
            x2 = torch.cat([s2, (torch.tanh(actor_t(s2)) + noise).clamp(-1, 1)], 1)
            y_target = r + c.gamma * going * torch.min(q1_t(x2), q2_t(x2))
        x = torch.cat([s, a], 1)
        step(adam_q, functional.mse_loss(q1(x), y_target) + functional.mse_loss(q2(x), y_target))
        with torch.no_grad():
            y_online = r + c.gamma * going * torch.min(q1(x2), q2(x2))
        before = v(s)
        step(adam_v, functional.mse_loss(before, torch.min(y_online, y_target)))
        before = before.detach()
        rebuilt, mean, std = through(s, a)
        good = c.vae_weight * (q1(x).detach() > before)
        kl = -0.5 * (1 + (std**2).log() - mean**2 - std**2).mean()
        step(adam_e, (good * (rebuilt - a) ** 2).mean() + c.kl_weight * kl)
        if t % 2 == 0:
            p = torch.tanh(actor(s))
            q = q1(torch.cat([s, p], 1))
            g, _, _ = through(s, p)
            better, logged = q1(torch.cat([s, g], 1)) - before, q1(x) - before
            target = g * (better >= logged) + a * (logged > better)
            active = ((better >= 0) | (logged > 0)).float()
            pull = ((p - target) ** 2 * active).mean()
            step(adam_a, -c.alpha / q.abs().mean().detach() * q.mean() + c.pull * pull)
            with torch.no_grad():
                for slow, fast in ((q1_t, q1), (q2_t, q2), (actor_t, actor)):
                    for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
                        old.lerp_(new, c.tau)
        ours.update(batch)
    pairs = [
        (modules(ours.actor), actor), (modules(ours.value), v), (modules(ours.critic, 1), q2),
        (modules(ours.encoder), encoder), (modules(ours.decoder), decoder), (modules(ours.actor_target), actor_t),
        (modules(ours.critic_target, 0), q1_t),
    ]  # fmt: skip
    for one, other in pairs:
        for x, y in zip(one.parameters(), other.parameters(), strict=True):
            assert float((x - y).detach().abs().max()) < 2e-6


@pytest.mark.parametrize(
    ("proposed", "logged", "wanted"),
    [(1, 2, "logged"), (2, 1, "proposed"), (-1, -2, "none"), (0, -1, "proposed"), (-1, 0, "none"), (1, 1, "proposed")],
)  # fmt: skip
def test_the_table_of_guides(proposed, logged, wanted) -> None:
    advantage = torch.tensor([[[float(proposed)]], [[float(logged)]]])
    winner, active = chosen(advantage, GUIDES["both"], 0.0)
    p = torch.tensor([[[0.2]]], requires_grad=True)
    targets = torch.tensor([0.9, -0.5])
    target = targets[winner][..., None]
    pull = guided_pull(p, target, active)
    (slope,) = torch.autograd.grad(pull.sum(), p)
    aim = {"logged": -0.5, "proposed": 0.9}
    if wanted == "none":
        assert pull.item() == 0
        assert slope.item() == 0
    else:
        assert pull.item() == pytest.approx((0.2 - aim[wanted]) ** 2)
        assert slope.item() == pytest.approx(2 * (0.2 - aim[wanted]))


def test_one_source_and_three_by_hand() -> None:
    three = torch.tensor([[[1.0, -1.0, 0.0]], [[2.0, -1.0, 0.0]], [[3.0, -0.5, 0.0]]])
    winner, active = chosen(three, GUIDES["all"], 0.0)
    assert winner.tolist() == [[2, 2, 0]]
    assert active.tolist() == [[True, False, True]]
    assert chosen(three[2:], GUIDES["data"], 0.0)[1].tolist() == [[True, False, False]]
    assert chosen(three[:1], GUIDES["vae"], 0.5)[1].tolist() == [[True, False, False]]


def test_the_pull_and_the_reconstruction_are_means_over_all_rows() -> None:
    p, target = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]]), torch.tensor([[[1.0, 2.0], [0.0, 0.0]]])
    assert guided_pull(p, target, torch.tensor([[True, False]])).item() == pytest.approx(5 / 4)
    assert reconstruction_error(p, target, torch.tensor([[0.0, 1.5]])).item() == pytest.approx(1.5 / 4)


def test_v_follows_the_smaller_target_and_an_expectile_of_it() -> None:
    v, y = torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 1.0]])
    assert value_errors(v, y, 0.5).item() == pytest.approx((1 + 4) / 2)
    assert value_errors(v, y, 0.9).item() == pytest.approx((1.8 * 1 + 0.2 * 4) / 2)
    learner = started(policy_noise=0.0)
    batch = learner.draw()
    for descent in (learner.critic_descent, learner.actor_descent):
        descent.lr = 0.0
    learner.value_descent.lr = 0.01
    with torch.no_grad():
        after = learner.actor.mode(batch.next_state)
        wanted = batch.reward + 0.97 * learner.critic.least(batch.next_state, after)
        learner.critic_target.flat[:] = learner.critic.flat
    for _ in range(400):
        loss = learner.update(batch)["value_loss"]
    assert float(loss) < 0.05
    assert float(learner.value.values(batch.state).detach().mean()) == pytest.approx(
        float(wanted.mean()), abs=0.1
    )
    with torch.no_grad():  # an online critic that is lower by 5 everywhere lowers the target by 0.97 x 5
        learner.critic["bias2"].sub_(5.0)
    for _ in range(400):
        learner.update(batch)
    lower = float(wanted.mean()) - 0.97 * 5
    assert float(learner.value.values(batch.state).detach().mean()) == pytest.approx(lower, abs=0.15)


@pytest.mark.parametrize("filtered", [True, False])
def test_the_vae_proposes_what_was_good(filtered) -> None:
    """Actions are -0.8 or 0.8 with even chances, and the positive ones are good."""
    learner = started(vae_filter=filtered, batch=128)
    gen = torch.Generator().manual_seed(0)
    for _ in range(400):
        batch = learner.draw()
        side = torch.where(torch.rand(1, 128, 1, generator=gen) < 0.5, -0.8, 0.8)
        batch = batch.with_(action=side)
        learner.vae_step(batch, (side[..., 0] > 0).float())
    with torch.no_grad():
        drawn = learner.vae.from_prior(batch.state, torch.randn(1, 128, 2, generator=gen))
    if filtered:
        assert 0.7 < float(drawn.mean()) < 0.9
    else:
        assert abs(float(drawn.mean())) < 0.1 or float(drawn.std()) > 0.5


def in_doubles(*nets):
    for net in nets:
        net.flat, net.leaves = net.flat.double(), {}
        net._cut(trainable=True)


@pytest.mark.parametrize("detached", [False, True])
def test_the_gradient_of_the_pull_passes_through_the_proposal_unless_it_is_held(detached) -> None:
    learner = started()
    in_doubles(learner.encoder, learner.decoder)
    gen = torch.Generator().manual_seed(1)
    state = torch.randn(1, 6, 3, generator=gen, dtype=torch.float64)
    p = (torch.rand(1, 6, 1, generator=gen, dtype=torch.float64) * 2 - 1).requires_grad_()
    noise = torch.randn(1, 6, 2, generator=gen, dtype=torch.float64)
    active = torch.tensor([[True, True, False, True, False, True]])

    def pull(action, held=None):
        target = learner.proposed(state, action, noise) if held is None else held
        return guided_pull(action, target, active).sum()

    held = learner.proposed(state, p, noise).detach() if detached else None
    (slope,) = torch.autograd.grad(pull(p, held), p)
    if detached:
        assert torch.allclose(slope, 2 * active[..., None] * (p - held) / 6)
    for i in range(6):
        step = torch.zeros_like(p)
        step[0, i] = 1e-6
        with torch.no_grad():
            found = float(pull(p + step, held) - pull(p - step, held)) / 2e-6
        assert float(slope[0, i]) == pytest.approx(found, rel=1e-3, abs=1e-9)


def test_holding_the_proposal_changes_the_actors_step_and_nothing_else() -> None:
    a, b = started(threshold=-100.0), started(threshold=-100.0, detach_guide=True)
    for one in (a, b):
        one.actor_descent.eps = one.actor_descent.lr = 1.0  # along the gradient, not its sign
        for _ in range(2):
            one.update(one.draw())
    assert torch.equal(a.critic.flat, b.critic.flat)
    assert torch.equal(a.encoder.flat, b.encoder.flat)
    assert not torch.equal(a.actor.flat, b.actor.flat)


@pytest.mark.parametrize(
    "options",
    [
        {"guide": "all"}, {"guide": "vae"}, {"guide_latent": "prior"}, {"caution": 1.0, "critics": 4},
        {"expectile": 0.7}, {"vae_every": 3}, {"latent": 5},
    ],
)  # fmt: skip
def test_every_option_trains_and_reports_where_targets_come_from(options) -> None:
    learner = started(seeds=2, **options)
    for _ in range(6):
        found = learner.update(learner.draw())
    shares = sum(v for k, v in found.items() if k.startswith("guided_")) + found["unguided"]
    assert shares.tolist() == pytest.approx([1.0, 1.0])
    assert all(torch.isfinite(v).all() and v.shape == (2,) for v in found.values())
    rows = learner.judge(learner.data.scale.mean * np.ones((3, 3)), np.zeros((3, 1))).records()
    for row in rows:
        assert sum(row[n] for n in (*learner.sources, "ignored")) == pytest.approx(1.0, abs=1e-5)


def test_caution_lowers_what_an_action_is_worth() -> None:
    bold, careful = started(critics=4), started(critics=4, caution=1.5)
    batch = bold.draw()
    q = bold.critic.values(batch.state, batch.action)
    wanted = q.mean(dim=1) - 1.5 * (q - q.mean(dim=1, keepdim=True)).square().mean(dim=1).sqrt()
    assert torch.allclose(bold.judged(batch.state, batch.action), q[:, 0], atol=1e-6)
    assert torch.allclose(careful.judged(batch.state, batch.action), wanted, atol=1e-6)


def test_verdicts_name_the_rows_and_follow_the_advantages(tmp_path) -> None:
    log = pendulum_log("pendulum-eps", 2000)
    learner = A2PR(A2PRConfig(seeds=2, **SMALL))
    learner.fit(log, low=-2, high=2)
    found = learner.verdicts(draws=3)
    assert found.n == log.rows
    rows = found.records()
    assert [(r["trajectory"], r["step"]) for r in rows[198:202]] == [(0, 198), (0, 199), (1, 0), (1, 1)]
    assert [r["logged_0"] for r in rows] == pytest.approx(log.action[:, 0].tolist(), abs=1e-5)
    batch = learner.data.batch(torch.arange(len(rows)).expand(2, -1))
    with torch.no_grad():
        q = learner.critic.first(batch.state, batch.action) - learner.value.values(batch.state)
    assert [r["advantage_logged"] for r in rows] == pytest.approx(q.mean(dim=0).tolist(), abs=1e-4)
    poor = (q <= 0).all(dim=0).tolist()
    assert all(r["logged"] == 0 for r, p in zip(rows, poor, strict=True) if p)
    assert sum(poor) > 0
    again = learner.judge(log.state[:5], log.action[:5], draws=3).records()
    assert [r["advantage_logged"] for r in again] == pytest.approx(
        [r["advantage_logged"] for r in rows[:5]], abs=1e-5
    )
    assert Verdicts.load(found.save(tmp_path / "verdicts.json")) == found
    assert found == learner.verdicts(draws=3)


def test_a_stack_of_seeds_equals_seeds_one_by_one() -> None:
    log = pendulum_log("pendulum-mix", 2000)
    settings = {**SMALL, "hidden": (8, 8), "steps": 100}
    together = A2PR(A2PRConfig(seeds=3, **settings)).fit(log, low=-2, high=2, rng=4)
    for k in range(3):
        alone = A2PR(A2PRConfig(**settings)).fit(log, low=-2, high=2, rng=4 + k)
        assert float((together.take(k).actor.flat - alone.actor.flat).abs().max()) < 1e-5


def test_a_killed_run_resumes_to_the_same_result(tmp_path) -> None:
    log = pendulum_log("pendulum-mix", 2000)

    class Dying(A2PR):
        def update(self, batch):
            if self.updates == 27:
                raise KeyboardInterrupt
            return super().update(batch)

    def run(kind, folder=None):
        learner = kind(A2PRConfig(seeds=2, **SMALL))
        return learner, learner.fit(log, low=-2, high=2, rng=1, folder=folder, save_every=10)

    Dying.__name__ = "A2PR"
    one, whole = run(A2PR)
    with pytest.raises(KeyboardInterrupt):
        run(Dying, tmp_path)
    other, resumed = run(A2PR, tmp_path)
    assert torch.equal(whole.actor.flat, resumed.actor.flat)
    assert torch.equal(one.decoder.flat, other.decoder.flat)
    assert torch.equal(one.watch.flat, other.watch.flat)
    assert whole.report.metrics == resumed.report.metrics


def test_the_same_rng_gives_the_same_policy_and_another_gives_another() -> None:
    log = pendulum_log("pendulum-mix", 2000)
    a, b, c = (A2PR(A2PRConfig(**SMALL)).fit(log, low=-2, high=2, rng=r).actor.flat for r in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.slow
def test_on_a_noisy_controllers_log_it_earns_more_than_td3_bc() -> None:
    log = pendulum_log("pendulum-eps")
    base = {
        "hidden": (64, 64),
        "batch": 64,
        "steps": 2500,
        "gamma": 0.97,
        "seeds": 2,
        "lr": 1e-3,
        "tau": 0.01,
    }
    ours = A2PR(A2PRConfig(critic_hidden=(64, 64), vae_hidden=(128, 128), **base))
    score = [
        evaluate_policy(learner.fit(log, low=-2, high=2), Pendulum, gamma=0.97).value
        for learner in (ours, TD3BC(TD3BCConfig(**base)))
    ]
    assert score[0] > score[1] + 250


def test_it_says_when_advantages_have_one_sign() -> None:
    learner = started()
    learner.updates = 999
    learner.watch.flat.fill_(999.0)
    with pytest.warns(EpisodeWarning, match="positive advantage in the last 1,000 updates"):
        learner.update(learner.draw())
    assert learner.watch.flat.tolist() == [0.0]


def test_a_narrow_latent_is_warned_of() -> None:
    log = pendulum_log("pendulum-mix", 2000)
    wide = Episodes(
        offsets=log.offsets,
        state=log.state,
        action=np.repeat(log.action, 2, axis=1),
        reward=log.reward,
        truncated=log.truncated,
    )
    with pytest.warns(EpisodeWarning, match="1 latent numbers for 2 action columns"):
        started(log=wide, latent=1)


def test_what_is_refused() -> None:
    for bad in ({"pull": -1.0}, {"vae_weight": -1.0}, {"guide": "best"}, {"expectile": 1.0}, {"critics": 1}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            A2PRConfig(**bad)
    discrete = Episodes(
        offsets=[0, 2], state=[0, 1], action=[0, 1], reward=[0, 1], truncated=[0, 1], final_state=[0]
    )
    with pytest.raises(ConfigError, match="continuous actions"):
        A2PR(A2PRConfig(**SMALL)).fit(discrete)
    with pytest.raises(NotFittedError):
        A2PR().verdicts()
    log = pendulum_log("pendulum-mix", 2000)
    with pytest.raises(LogError, match="actions outside"):
        A2PR(A2PRConfig(**SMALL)).fit(log, low=-1, high=1)
    fields = {"offsets": log.offsets, "state": log.state, "truncated": log.truncated, "action": log.action}
    with pytest.raises(SupportError, match="every reward"):
        A2PR(A2PRConfig(**SMALL)).fit(Episodes(reward=np.ones(log.rows), **fields), low=-2, high=2)
    with pytest.raises(ConvergenceError):
        A2PR(A2PRConfig(**SMALL)).fit(Episodes(reward=1e30 * log.reward, **fields), low=-2, high=2)
    learner = started()
    with pytest.raises(LogError, match=r"actions of shape \(1, 2\)"):
        learner.judge(log.state[:1], [[0.0, 0.0]])
    with pytest.raises(LogError, match="1 actions outside the bounds"):
        learner.judge(log.state[:1], [[2.1]])
    with pytest.raises(SupportError, match="after scaling"):
        learner.judge([[0.0, 0.0, 1e9]], [[0.0]])
    with pytest.raises(ConfigError, match="0 draws"):
        learner.judge(log.state[:1], [[0.0]], draws=0)
    with pytest.raises(ConfigError, match="guide = none"):
        started(guide="none").verdicts()
