from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from counterlog.core.group_advantages import group_advantage, spread_share  # noqa: E402
from counterlog.core.kl_estimators import KINDS, adapted, kl  # noqa: E402
from counterlog.core.off_policy import BINS, REACH, Watch, histogram_quantiles, off_policy_metrics  # noqa: E402
from counterlog.core.token_losses import aggregate, masked_quantiles, sequence_log_ratio  # noqa: E402

pytestmark = pytest.mark.torch


def two_policies():
    gen = torch.Generator().manual_seed(0)
    logits = torch.randn(50, generator=gen, dtype=torch.float64)
    ref = (logits + 0.4 * torch.randn(50, generator=gen, dtype=torch.float64)).log_softmax(0)
    return logits.requires_grad_(True), ref


def test_k1_and_k3_have_the_right_value_and_k2_does_not():
    logits, ref = two_policies()
    logp = logits.log_softmax(0).detach()
    truth = float((logp.exp() * (logp - ref)).sum())
    mean = {k: float((logp.exp() * kl(logp, ref, k)).sum()) for k in KINDS}
    spread = {
        k: float((logp.exp() * kl(logp, ref, k).square()).sum() - mean[k] ** 2) for k in ("k1", "k2", "k3")
    }
    assert mean["k1"] == pytest.approx(truth, abs=1e-12)
    assert mean["k3"] == pytest.approx(truth, abs=1e-12)
    assert mean["low-var-k3"] == pytest.approx(truth, abs=1e-12)
    assert abs(mean["k2"] - truth) > 1e-4
    assert spread["k3"] < spread["k2"] < spread["k1"]
    assert (kl(logp, ref, "k3") >= 0).all()


def expected_gradient(kind):
    """E over the policy's own samples of the gradient of the estimator."""
    logits, ref = two_policies()
    logp = logits.log_softmax(0)
    value = (logp.detach().exp() * kl(logp, ref, kind)).sum()
    return torch.autograd.grad(value, logits)[0]


def test_what_their_gradients_are_gradients_of():
    logits, ref = two_policies()
    logp = logits.log_softmax(0)
    reverse = torch.autograd.grad((logp.exp() * (logp - ref)).sum(), logits)[0]
    logp = logits.log_softmax(0)
    forward = torch.autograd.grad((ref.exp() * (ref - logp)).sum(), logits)[0]
    assert expected_gradient("k1").abs().max() < 1e-12
    assert (expected_gradient("k2") - reverse).abs().max() < 1e-12
    assert (expected_gradient("k3") - forward).abs().max() < 1e-12
    assert (expected_gradient("k3-with-k2-gradient") - reverse).abs().max() < 1e-12


def test_a_stale_sampler_is_corrected_and_the_coefficient_adapts():
    logp, ref = torch.tensor([-1.0]), torch.tensor([-2.0])
    assert float(kl(logp, ref, "k1", ratio=torch.tensor([5.0]))) == 2.0
    assert adapted(0.1, 0.2, 0.1, 100, 1000) == pytest.approx(0.1 * 1.02)
    assert adapted(0.1, 0.0, 0.1, 100, 1000) == pytest.approx(0.1 * 0.98)


R, G = torch.tensor([1.0, 0.0, 3.0, 0.0, 2.0]), torch.tensor([7, 7, 2, 7, 2])


def test_advantages_by_hand_in_any_order():
    assert torch.allclose(group_advantage(R, G), torch.tensor([2 / 3, -1 / 3, 0.5, -1 / 3, -0.5]))
    assert torch.allclose(group_advantage(R, G, "leave-one-out"), torch.tensor([1, -0.5, 1, -0.5, -1.0]))
    z = group_advantage(R, G, "zscore", ddof=1, eps=0)
    assert torch.allclose(z[[2, 4]], torch.tensor([1, -1]) / math.sqrt(2))
    assert float(group_advantage(R, G, "zscore", ddof=0, eps=0)[2]) == pytest.approx(1)
    known = torch.tensor([1.0, 0, 0])
    expected = math.log((math.exp(2) + 2) / 3) / 2
    soft = group_advantage(known, torch.zeros(3), "log-average-exp", tau=0.5)
    assert float(soft[0]) == pytest.approx(1 - expected)
    assert torch.allclose(group_advantage(R, G, "quantile", quantile=1.0), torch.tensor([0, -1.0, 0, -1, -1]))
    assert float(group_advantage(R, G, "batch").sum()) == pytest.approx(0, abs=1e-6)


def test_rewards_that_nobody_gave_are_left_out():
    r = torch.tensor([1.0, float("nan"), 0.0, 5.0])
    found = group_advantage(r, torch.tensor([0, 0, 0, 1]))
    assert found.tolist() == [0.5, 0.0, -0.5, 0.0]
    alike, alone = spread_share(r, torch.tensor([0, 0, 0, 1]))
    assert (alike, alone) == (0.5, 0.25)
    assert group_advantage(torch.ones(4), torch.zeros(4), "zscore").abs().max() == 0


def test_aggregations_by_hand():
    loss = torch.tensor([[1.0, 3.0], [4.0, 9.0]])
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    given = {"tokens": 3.0, "rows": 2.0, "longest": 4}
    assert float(aggregate(loss, mask, **given)) == pytest.approx(8 / 3)
    assert float(aggregate(loss, mask, "seq-mean-token-mean", **given)) == pytest.approx(3)
    assert float(aggregate(loss, mask, "seq-mean-token-sum", **given)) == pytest.approx(4)
    assert float(aggregate(loss, mask, "seq-mean-token-sum-norm", **given)) == pytest.approx(1)
    assert sequence_log_ratio(loss, mask).tolist() == [[2.0], [4.0]]
    assert masked_quantiles(loss, mask, (0.0, 0.5, 1.0)).tolist() == [1, 3, 4]


def test_quantiles_of_the_histogram_are_right_to_half_a_bin():
    gen = torch.Generator().manual_seed(0)
    shift = 0.3 * torch.randn(10_000, generator=gen)
    counts = torch.histc(shift, bins=BINS, min=-REACH, max=REACH)
    at = (0.01, 0.5, 0.99)
    for found, q in zip(histogram_quantiles(counts, at), at, strict=True):
        assert math.log(found) == pytest.approx(float(shift.quantile(q)), abs=REACH / BINS + 2e-3)
    assert math.isnan(histogram_quantiles(torch.zeros(BINS), (0.5,))[0])


def test_the_watch_adds_up_and_travels():
    watch = Watch()
    watch.add({"histogram": torch.ones(BINS)}, torch.tensor([3, 5]), 5)
    said = watch.add({}, torch.tensor([3, 5]), 7)
    assert said == {"staleness": 3.0, "staleness_max": 4.0}
    again = Watch()
    again.load_state(watch.state())
    assert again.report() == watch.report()
    assert again.report()["staleness"] == {"0": 1, "2": 2, "4": 1}


def test_sample_size_by_hand():
    sums = {
        "tokens": 2.0, "entropy": 1.0, "responses": 2.0, "ratio": 4.0, "ratio_square": 10.0, "sequence_ratio": 4.0,
        "sequence_ratio_square": 10.0, "k1": 0.2, "k3": 0.4, "histogram": torch.ones(BINS),
        "positive_tokens": 4.0, "negative_tokens": 0.0, "positive_clipped": 1.0, "negative_clipped": 0.0,
    }  # fmt: skip
    found = off_policy_metrics(sums)
    assert found["ess_tokens"] == 0.8 and found["kl_behaviour"] == 0.2 and found["clip_positive"] == 0.25
    assert "clip_negative" not in found
