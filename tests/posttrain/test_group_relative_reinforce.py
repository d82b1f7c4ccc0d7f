from __future__ import annotations

import json

import narwhals as nw
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", reason="transformers is not installed (extra language)")

from counterlog.core.errors import ConfigError, LogError, SupportError  # noqa: E402
from counterlog.core.token_batches import TokenBatch  # noqa: E402
from counterlog.core.tuning_result import TuningReport  # noqa: E402
from counterlog.datasets import chain_sum  # noqa: E402
from counterlog.posttrain.group_relative_reinforce import (  # noqa: E402
    PRESETS,
    GroupRelativeLoss,
    GroupRelativeReinforce,
    GroupRelativeReinforceConfig,
    balanced,
    consistency_loss,
    pairwise_advantage,
)

pytestmark = pytest.mark.language
SMALL = {"prompts": 4, "responses": 4, "longest": 4, "lr": 1e-3, "samples": 2, "save_every": 2}


def model(rng=0):
    return chain_sum.untrained_model(rng)


def contract_example(frame):
    table = nw.from_native(frame, eager_only=True).head(24)
    rows = [
        {"prompt": [1, 5 + int(x > 0), 3], "completion": [5 + int(c), 2], "reward": float(c), "group": i % 6}
        for i, (x, c) in enumerate(zip(table["x"].to_list(), table["click"].to_list(), strict=True))
    ]
    rows = [{**r, "prompt": [1, 5 + r["group"], 3]} for r in rows]
    config = GroupRelativeReinforceConfig.preset("asymre", steps=2, **{**SMALL, "samples": 1})
    return GroupRelativeReinforce(config).tune(model(), rows, rng=3)


def batch(rewards, logp, old=None, *, group=None, mask=None, weights=None):
    logp = torch.as_tensor(logp)
    b, t = logp.shape
    mask = torch.ones(b, t, dtype=logp.dtype) if mask is None else mask
    return TokenBatch(
        input_ids=torch.arange(b * (t + 1)).reshape(b, t + 1),
        attention_mask=torch.ones(b, t + 1, dtype=torch.int64),
        response_mask=mask,
        rewards=torch.as_tensor(rewards, dtype=logp.dtype),
        group=torch.zeros(b, dtype=torch.int64) if group is None else torch.as_tensor(group),
        version=torch.zeros(b, dtype=torch.int64),
        weights=torch.ones(b, dtype=logp.dtype) if weights is None else weights,
        old_logprobs=None if old is None else torch.as_tensor(old),
    )


def gradient(preset, rewards, logp, old, *, group=None, mask=None, advantage=None, **settings_):
    """d loss / d logp, in float64."""
    loss = GroupRelativeLoss(GroupRelativeReinforceConfig.preset(preset, **settings_))
    x = torch.as_tensor(logp, dtype=torch.float64).clone().requires_grad_(True)
    whole = loss.prepared(batch(rewards, x.detach(), old, group=group, mask=mask), 0).counted()
    whole.advantage = whole.advantage.double() if advantage is None else advantage
    value, _ = loss.loss(x, torch.zeros_like(x), whole)
    (found,) = torch.autograd.grad(value, x)
    return found


# ------------------------------------------------------------------------------------------------ the derivation


def test_one_step_on_the_consistency_loss_is_group_relative_reinforce_whoever_sampled():
    gen = torch.Generator().manual_seed(0)
    tau, K, V = 0.7, 5, 7
    for _ in range(100):
        logits = torch.randn(V, generator=gen, dtype=torch.float64).requires_grad_(True)
        y, r = torch.randint(V, (K,), generator=gen), torch.randn(K, generator=gen, dtype=torch.float64)
        logp = logits.log_softmax(0)[y]
        (found,) = torch.autograd.grad(consistency_loss(logp, logp.detach(), r, tau), logits)
        logp = logits.log_softmax(0)[y]
        (expected,) = torch.autograd.grad(((r - r.mean()) * logp).mean(), logits)
        assert (found + 2 * tau / (1 + tau) ** 2 * expected).abs().max() < 1e-12


def test_its_minimum_is_the_tilted_policy():
    r = torch.tensor([0.0, 1.0, 0.3, -0.5], dtype=torch.float64)
    start = torch.tensor([0.2, -1.0, 0.5, 0.0], dtype=torch.float64)
    logits = start.clone().requires_grad_(True)
    lbfgs = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16)

    def closure():
        lbfgs.zero_grad()
        value = consistency_loss(logits.log_softmax(0), start.log_softmax(0), r, 0.7)
        value.backward()
        return value

    for _ in range(5):
        lbfgs.step(closure)
    expected = (start + r / 0.7).softmax(0)
    assert 0.5 * (logits.softmax(0) - expected).abs().sum() < 1e-6


# ------------------------------------------------------------------------------------------------ the losses


def sample(seed=0, b=8, t=5):
    gen = torch.Generator().manual_seed(seed)
    logp = -torch.rand(b, t, generator=gen, dtype=torch.float64) * 3
    old = logp + 0.5 * torch.randn(b, t, generator=gen, dtype=torch.float64).clamp(-2, 2)
    rewards = torch.randint(0, 2, (b,), generator=gen).double()
    rewards[0], rewards[1] = 1.0, 0.0
    return rewards, logp, old.clamp(max=0)


def test_the_loss_by_hand():
    logp = torch.tensor([[-1.0, -2.0], [-0.5, -9.0]], dtype=torch.float64)
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    loss = GroupRelativeLoss(GroupRelativeReinforceConfig.preset("reinforce"))
    value, _ = loss(logp, batch([1.0, 0.0], logp, mask=mask))
    # A = (.5, -.5); -(.5 * -1 + .5 * -2 + -.5 * -.5) / 3
    assert float(value) == pytest.approx((0.5 + 1.0 - 0.25) / 3)


def test_one_side_with_importance_weights_has_the_gradient_of_ppo():
    rewards, logp, old = sample()
    ours = gradient("rec-oneside-is", rewards, logp, old)
    ppo = gradient("grpo", rewards, logp, old, advantage=None, dual_clip=0.0)
    scale = GroupRelativeLoss(GroupRelativeReinforceConfig.preset("grpo"))
    a = scale.advantage(rewards, torch.zeros(8, dtype=torch.int64)).double()
    mean = GroupRelativeLoss(GroupRelativeReinforceConfig())
    b = mean.advantage(rewards, torch.zeros(8, dtype=torch.int64)).double()
    same = gradient("rec-oneside-is", rewards, logp, old, advantage=a)
    assert (same - ppo).abs().max() < 1e-12
    assert (ours - gradient("grpo", rewards, logp, old, advantage=b, dual_clip=0.0)).abs().max() < 1e-12
    assert (ours == 0).any() and (ours != 0).any()


def test_the_dual_clip_bounds_what_a_bad_token_can_do():
    logp = torch.tensor([[-0.1], [-0.1]], dtype=torch.float64)
    old = torch.tensor([[-3.0], [-0.1]], dtype=torch.float64)
    rewards = torch.tensor([0.0, 1.0], dtype=torch.float64)  # ratio 18 on the bad one
    assert gradient("grpo", rewards, logp, old, dual_clip=0.0)[0, 0] > 0
    assert gradient("grpo", rewards, logp, old)[0, 0] == 0


ON_POLICY = [
    "rec-oneside-nois", "rec-oneside-is", "rec-oneside-nois-wide",
    "rec-twoside-nois", "rec-twoside-is", "rec-ring-nois",
]  # fmt: skip


@pytest.mark.parametrize("preset", ON_POLICY)
def test_on_policy_they_are_all_reinforce(preset):
    rewards, logp, _ = sample(1)
    plain = gradient("reinforce", rewards, logp, None)
    assert (gradient(preset, rewards, logp, logp) - plain).abs().max() < 1e-12


def test_on_policy_ppo_opmd_and_asymre_reduce_too():
    rewards, logp, _ = sample(2)
    plain = gradient("reinforce", rewards, logp, None)
    ppo = gradient("grpo", rewards, logp, logp, advantage=(rewards - rewards.mean()))
    assert (ppo - plain).abs().max() < 1e-12
    assert (gradient("reinforce", rewards, logp, None, step_tau=0.5) * 1.5 - plain).abs().max() < 1e-12
    assert (
        gradient("opmd", rewards, logp, logp) - plain
    ).abs().max() < 1e-12  # k2 has no slope at the anchor
    shifted = gradient("asymre", rewards, logp, None)
    kl = gradient("reinforce", rewards, logp, None, regularizer="forward-kl", regularizer_coef=0.1)
    assert (shifted - kl).abs().max() < 1e-7  # the advantage is float32


def test_the_ring_keeps_what_moved_far_in_the_wrong_direction_and_drops_the_band():
    ratio = torch.tensor([[0.3, 0.6, 1.0, 1.5, 4.0]], dtype=torch.float64)
    old = torch.full((1, 5), -2.0, dtype=torch.float64)
    logp = torch.cat([old + ratio.log()] * 2)
    rewards = torch.tensor([1.0, 0.0])
    found = gradient("rec-ring-nois", rewards, logp, torch.cat([old, old])) != 0
    assert found[0].tolist() == [True, False, True, False, False]
    assert found[1].tolist() == [False, False, True, False, True]
    two = gradient("rec-twoside-nois", rewards, logp, torch.cat([old, old])) != 0
    assert two.tolist() == [[False, False, True, False, False]] * 2
    one = gradient("rec-oneside-nois", rewards, logp, torch.cat([old, old])) != 0
    assert one.tolist() == [[True, True, True, False, False], [False, False, True, True, True]]


def test_sequence_weights_go_with_every_clip_mode():
    rewards, logp, old = sample(3)
    for mode in ("none", "one-side", "two-side", "ring", "seq-one-side"):
        found = gradient("reinforce", rewards, logp, old, clip_mode=mode, weight="seq-importance")
        assert found.isfinite().all()


def test_gspo_masks_whole_responses():
    rewards, logp, old = sample(4)
    found = gradient("gspo", rewards, logp, old, eps_low=0.1, eps_high=0.1) != 0
    assert (found.all(1) | ~found.any(1)).all()
    assert found.any() and not found.all()


def test_asymre_in_expectation_is_the_forward_kl():
    gen = torch.Generator().manual_seed(0)
    old = torch.randn(6, generator=gen, dtype=torch.float64).softmax(0)
    logits = torch.randn(6, generator=gen, dtype=torch.float64).requires_grad_(True)
    (a,) = torch.autograd.grad(-(old * logits.log_softmax(0)).sum(), logits)
    (b,) = torch.autograd.grad((old * (old.log() - logits.log_softmax(0))).sum(), logits)
    assert (a - b).abs().max() < 1e-10


def test_k2_is_twice_the_kl_to_second_order():
    gen = torch.Generator().manual_seed(0)
    logits = torch.randn(6, generator=gen, dtype=torch.float64)
    direction = torch.randn(6, generator=gen, dtype=torch.float64)
    old, new = logits.log_softmax(0), (logits + 1e-3 * direction / direction.norm()).log_softmax(0)
    k2 = (old.exp() * (new - old).square()).sum()
    assert 0.99 < k2 / (2 * (old.exp() * (old - new)).sum()) < 1.01


def test_red_drop_evens_out_the_two_kinds():
    rewards = torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 1])
    group = torch.zeros(8, dtype=torch.int64)
    keep = balanced(rewards, group, torch.arange(8))
    assert keep.sum() == 4
    assert keep[rewards == 1].all()
    loss = GroupRelativeLoss(GroupRelativeReinforceConfig.preset("red-drop"))
    found = loss.prepared(batch(rewards, torch.zeros(8, 2)), 0).advantage
    assert sorted(found.tolist()) == [-0.5, -0.5, 0, 0, 0, 0, 0.5, 0.5]
    assert balanced(torch.ones(8), group, torch.arange(8)).all()


def test_red_drop_by_group():
    gen = np.random.default_rng(0)
    group = torch.from_numpy(gen.integers(0, 5, 60))
    rewards = torch.from_numpy((gen.random(60) < 0.25).astype(np.float32))
    keep = balanced(rewards, group, torch.from_numpy(gen.permutation(60)))
    for k in range(5):
        mine = group == k
        good, bad = (mine & (rewards == 1)).sum(), (mine & (rewards == 0)).sum()
        assert keep[mine & (rewards == 1)].all()
        expected = (
            bad if good == 0 else min(int(good), int(bad))
        )  # no reward at all: everybody is at the mean
        assert (keep & mine & (rewards == 0)).sum() == expected


def test_pairs_of_weight_one_are_k_times_the_plain_advantage():
    rewards = torch.tensor([0.3, 1.0, -0.2, 0.9])
    group = torch.zeros(4, dtype=torch.int64)
    found = pairwise_advantage(rewards, group, lambda r: torch.ones(4, 4))
    assert torch.allclose(found, 4 * (rewards - rewards.mean()))
    w = torch.tensor([1.0, 2.0, 0.5, 1.0])
    weighted = pairwise_advantage(rewards, group, lambda r: w[:, None] * w[None, :])
    assert torch.allclose(weighted, w * w.sum() * (rewards - (w * rewards).sum() / w.sum()), atol=1e-6)


@pytest.mark.filterwarnings("ignore:all groups")
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(sorted(set(PRESETS) - {"red-drop"})))
def test_neither_the_order_of_rows_nor_a_shift_of_all_rewards_matters(seed, preset):
    rewards, logp, old = sample(seed, b=12)
    group = torch.tensor([0, 1, 2] * 4)
    found = gradient(preset, rewards, logp, old, group=group)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    mixed = gradient(preset, rewards[order], logp[order], old[order], group=group[order])
    assert (mixed - found[order]).abs().max() < 1e-12
    assert (gradient(preset, rewards + 8, logp, old, group=group) - found).abs().max() < 1e-6


def test_red_drop_drops_the_same_rows_in_any_order():
    rewards, logp, _ = sample(5, b=12)
    loss = GroupRelativeLoss(GroupRelativeReinforceConfig.preset("red-drop"))
    whole = batch(rewards, logp)
    first = loss.prepared(whole, 0).advantage.clone()
    order = torch.randperm(12)
    assert torch.equal(loss.prepared(whole.part(order), 0).advantage, first[order])


def test_a_huge_advantage_does_not_overflow_its_weight():
    rewards, logp, _ = sample(6)
    found = gradient("red-weight", rewards * 1e4, logp, None)
    assert found.isfinite().all()


# ------------------------------------------------------------------------------------------------ refusals


def test_ratios_without_old_logprobs_are_refused_by_name():
    rewards, logp, _ = sample()
    with pytest.raises(SupportError, match=r"(?s)clip_mode=one-side needs.*recompute_old"):
        GroupRelativeLoss(GroupRelativeReinforceConfig())(logp, batch(rewards, logp))


def test_bad_thresholds_and_presets_are_refused():
    with pytest.raises(ConfigError, match="eps_low"):
        GroupRelativeReinforceConfig(eps_low=0.0)
    with pytest.raises(ConfigError, match="eps_high"):
        GroupRelativeReinforceConfig(eps_high=0.0)
    with pytest.raises(ConfigError, match="ring lies outside"):
        GroupRelativeReinforceConfig.preset("rec-ring-nois", ring_high=0.1)
    with pytest.raises(ConfigError, match="reinforce"):
        GroupRelativeReinforceConfig.preset("grop")
    with pytest.raises(ConfigError, match="optiimzer"):
        GroupRelativeReinforceConfig.from_dict({"optiimzer": 1})


def test_a_group_of_one_teaches_nothing_and_only_such_groups_are_refused():
    logp = torch.zeros(3, 2)
    loss = GroupRelativeLoss(GroupRelativeReinforceConfig.preset("reinforce"))
    found = loss.prepared(batch([1.0, 0.0, 1.0], logp, group=[0, 0, 1]), 0)
    assert found.advantage.tolist() == [0.5, -0.5, 0.0]
    kept = GroupRelativeLoss(GroupRelativeReinforceConfig.preset("reinforce", singleton="keep"))
    assert kept.prepared(batch([1.0, 0.0, 1.0], logp, group=[0, 0, 1]), 0).advantage[2] == 1
    with pytest.raises(SupportError, match=r">= 2 responses"):
        loss.prepared(batch([1.0, 0.0, 1.0], logp, group=[0, 1, 2]), 0)


def test_equal_rewards_warn_and_give_zero_and_infinite_ones_are_refused():
    logp = torch.zeros(4, 2, requires_grad=True)
    loss = GroupRelativeLoss(GroupRelativeReinforceConfig.preset("grpo"))
    with pytest.warns(UserWarning, match="teaches nothing"):
        value, _ = loss(logp, batch([1.0] * 4, logp.detach(), logp.detach()))
    assert value == 0
    with pytest.raises(LogError, match="infinite"):
        loss.prepared(batch([1.0, torch.inf, 0, 0], logp.detach()), 0)
    with pytest.raises(LogError, match="masked"):
        batch([1.0, 0.0], torch.zeros(2, 2), mask=torch.zeros(2, 2)).counted()


# ------------------------------------------------------------------------------------------------ whole runs


def asked(n=12):
    return [{"prompt": t} for t in chain_sum.prompt_texts(chain_sum.operands(n, np.random.default_rng(0)))]


def easy(prompts, completion_ids, **_):
    """Pays for small tokens: an untrained model can learn it."""
    return [float(np.mean([t < 50 for t in ids])) for ids in completion_ids]


def tuned(steps, preset="rec-oneside-nois", out=None, rng=0, **more):
    config = GroupRelativeReinforceConfig.preset(preset, steps=steps, **{**SMALL, "sync_interval": 3, **more})
    system = GroupRelativeReinforce(config)
    tokens = chain_sum.number_tokenizer()
    return system.tune(model(), prompts=asked(), reward=easy, tokenizer=tokens, rng=rng, out=out)


def weights(found):
    return torch.cat([p.detach().flatten() for p in found.model.parameters()])


@pytest.mark.filterwarnings("ignore:all groups")
def test_it_learns_what_is_paid_for():
    found = tuned(25, lr=3e-3, sync_interval=1, prompts=8, responses=8)
    rewards = found.report.column("reward")
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.25
    assert all("on policy" in n for n in found.report.notes)


def test_same_rng_same_weights_and_the_callers_model_stays():
    start = model()
    before = {k: v.clone() for k, v in start.state_dict().items()}
    a, b = tuned(3), tuned(3)
    assert torch.equal(weights(a), weights(b))
    assert not torch.equal(weights(a), weights(tuned(3, rng=1)))
    config = GroupRelativeReinforceConfig.preset("reinforce", steps=1, **SMALL)
    GroupRelativeReinforce(config).tune(
        start, prompts=asked(), reward=easy, tokenizer=chain_sum.number_tokenizer()
    )
    assert all(torch.equal(before[k], v) for k, v in start.state_dict().items())


@pytest.mark.parametrize(
    "more", [{}, {"reference": "average", "kl_coef": 0.1}, {"lora_rank": 2, "sync_offset": 2}]
)
def test_stopped_and_resumed_it_ends_where_it_would_have(tmp_path, more):
    whole = tuned(7, out=tmp_path / "a", **more)
    tuned(4, out=tmp_path / "b", **more)
    half = tuned(7, out=tmp_path / "b", **more)
    assert torch.equal(weights(whole), weights(half))
    assert whole.report.metrics == half.report.metrics
    assert whole.report.off_policy == half.report.off_policy
    lines = (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(7))


def test_a_folder_of_another_run_is_refused(tmp_path):
    tuned(2, out=tmp_path)
    with pytest.raises(ConfigError, match="another model, log, configuration or rng"):
        tuned(2, out=tmp_path, rng=5)


def test_the_run_folder_holds_the_model_and_its_report(tmp_path):
    transformers = pytest.importorskip("transformers")
    found = tuned(2, out=tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(weights(found), torch.cat([p.detach().flatten() for p in again.parameters()]))
    assert TuningReport.load(tmp_path / "result.json") == found.report
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["slug"] == "group-relative-reinforce" and run["config"]["steps"] == 2
    assert [p.name for p in tmp_path.rglob("*") if p.suffix in (".pkl", ".bin", ".pt")] == []
    assert len(found.report.samples) == 2 and found.report.plot() is not None


def rows(n=6, k=4, **more):
    gen = np.random.default_rng(1)
    return [
        {**p, "completion": f"{gen.integers(20)} {gen.integers(20)}", "reward": float(gen.random()), **more}
        for p in asked(n)
        for _ in range(k)
    ]


def from_log(log, preset="rec-oneside-nois", **more):
    config = GroupRelativeReinforceConfig.preset(preset, steps=2, **SMALL, **more)
    return GroupRelativeReinforce(config).tune(model(), log, tokenizer=chain_sum.number_tokenizer())


def test_a_log_without_logprobs_teaches_by_losses_without_ratios_or_with_a_sampler():
    with pytest.raises(SupportError, match=r"clip_mode=one-side.*completion_logprobs"):
        from_log(rows())
    found = from_log(rows(), "asymre")
    assert "kl_behaviour" not in found.report.metrics[0] and found.report.n == 32
    again = from_log(rows(), recompute_old=True)
    assert again.report.metrics[0]["ratio_mean"] == pytest.approx(1, abs=1e-6)
    assert any("taken as the sampler" in n for n in again.report.notes)


def test_a_log_of_single_responses_is_refused():
    with pytest.raises(SupportError, match="one response"):
        from_log(rows(k=1), "asymre")


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(ConfigError, match="nothing to learn from"):
        GroupRelativeReinforce().tune(model(), prompts=asked())
    with pytest.raises(LogError, match="reward"):
        from_log([{k: v for k, v in r.items() if k != "reward"} for r in rows()], "asymre")


def test_what_was_sampled_and_logged_teaches_the_same(tmp_path):
    from counterlog.core.rollouts import Rollouts, rollouts_of

    kept = []

    class Keep:
        def on_step_end(self, *, step, metrics, model):
            kept.append(metrics)

    config = GroupRelativeReinforceConfig.preset("rec-oneside-is", steps=1, **{**SMALL, "prompts": 12})
    system, start = GroupRelativeReinforce(config), model()
    from counterlog.core import rollout_sources

    seen = []
    original = rollout_sources.SampledSource.next

    def spy(self, step, accelerator=None):
        out = original(self, step, accelerator)
        seen.append(out)
        return out

    rollout_sources.SampledSource.next = spy
    try:
        live = system.tune(
            start, prompts=asked(), reward=easy, tokenizer=chain_sum.number_tokenizer(), callbacks=(Keep(),)
        )
    finally:
        rollout_sources.SampledSource.next = original
    path = rollouts_of(seen[0]).save(tmp_path / "log.parquet")
    logged = system.tune(start, Rollouts(path), callbacks=(Keep(),))
    assert kept[0]["loss"] == pytest.approx(kept[1]["loss"], abs=1e-6)
    assert (weights(live) - weights(logged)).abs().max() < 1e-4
