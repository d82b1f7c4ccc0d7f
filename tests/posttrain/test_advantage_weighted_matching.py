from __future__ import annotations

import json

import narwhals as nw
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers", reason="diffusers is not installed (extra diffusion)")

from counterlog.core.errors import ConfigError, ConvergenceError, LogError, SupportError  # noqa: E402
from counterlog.core.image_batches import ImageBatch  # noqa: E402
from counterlog.core.image_tuning import scaled_advantage  # noqa: E402
from counterlog.core.image_walks import clipped_steps  # noqa: E402
from counterlog.core.noise_paths import NoisePath, broad  # noqa: E402
from counterlog.core.tuning_result import TuningReport  # noqa: E402
from counterlog.datasets import digit_images  # noqa: E402
from counterlog.posttrain.advantage_weighted_matching import (  # noqa: E402
    AdvantageWeightedMatching,
    AdvantageWeightedMatchingConfig,
    MatchingLoss,
    elbo_weight,
    noisy_target,
    stratified_times,
    weighted,
)

pytestmark = pytest.mark.torch
SMALL = {
    "prompts": 3, "images": 4, "sampling_steps": 3, "times": 2, "samples": 2, "shown_steps": 2, "save_every": 1,
}  # fmt: skip


def config(**more):
    return AdvantageWeightedMatchingConfig(**{**SMALL, **more})


def model(rng=0):
    return digit_images.untrained_model(rng, layers=1, heads=2)


def tuned(steps=3, out=None, rng=0, start=None, **more):
    system = AdvantageWeightedMatching(config(steps=steps, **more))
    return system.tune(start or model(), reward=digit_images.ink, rng=rng, out=out)


def weights(found):
    return torch.cat([p.detach().flatten() for p in found.model.net.parameters()])


def contract_example(frame):
    table = nw.from_native(frame, eager_only=True).head(24)
    gen = np.random.default_rng(0)
    images = gen.random((24, 64))
    rows = [
        {"prompt": i % 3, "image": images[i].tolist(), "reward": float(c) + float(x)}
        for i, (x, c) in enumerate(zip(table["x"].to_list(), table["click"].to_list(), strict=True))
    ]
    return AdvantageWeightedMatching(config(steps=2)).tune(model(), rows, rng=3)


def linear(gen, m=3, b=4):
    """A denoiser of one matrix in float64, and rows for it."""
    w = (0.1 * torch.randn(4, 4, generator=gen, dtype=torch.float64)).requires_grad_(True)

    def now(x, t, prompt):
        return (x.flatten(1) @ w + t[:, None]).reshape(x.shape)

    batch = ImageBatch(
        torch.randn(b, 1, 2, 2, generator=gen, dtype=torch.float64), torch.zeros(b).long(), torch.zeros(b),
        torch.zeros(b).long(), torch.randn(b, generator=gen, dtype=torch.float64), torch.ones(b),
        torch.zeros(b).long(), times=torch.rand(b, m, generator=gen, dtype=torch.float64) * 0.9 + 0.05,
        eps=torch.randn(b, m, 1, 2, 2, generator=gen, dtype=torch.float64), total=b,
    )  # fmt: skip
    return w, now, batch


def gradient(batch, now, w, **more):
    policy = MatchingLoss(config(beta=0.0, ema_beta=0.0, **more), NoisePath())
    value, _ = policy.loss(now, batch, None, None)
    return torch.autograd.grad(value, w)[0]


def errors(batch, now):
    """(b, m) by a plain loop."""
    rows = []
    for i in range(len(batch)):
        for j in range(batch.times.shape[1]):
            t, eps, x0 = batch.times[i, j], batch.eps[i, j], batch.x0[i]
            said = now(((1 - t) * x0 + t * eps)[None], t[None], None)[0]
            rows.append((said - (eps - x0)).square().mean())
    return torch.stack(rows).reshape(len(batch), -1)


# ------------------------------------------------------------------------------------------------ the equations


@pytest.mark.parametrize("weighting", ["uniform", "t", "t-square", "huber", "ghuber"])
def test_on_policy_the_gradient_is_the_matching_loss_weighted_by_the_advantage(weighting):
    w, now, batch = linear(torch.Generator().manual_seed(0))
    found = gradient(batch, now, w, weighting=weighting)
    g = weighted(errors(batch, now), batch.times, weighting)
    expected = torch.autograd.grad((batch.advantage[:, None] * g).mean(), w)[0]
    assert (found - expected).abs().max() < 1e-10


def test_advantage_one_is_pre_training_and_minus_one_its_opposite():
    w, now, batch = linear(torch.Generator().manual_seed(1))
    expected = torch.autograd.grad(errors(batch, now).mean(), w)[0]
    for sign in (1.0, -1.0):
        batch.advantage = torch.full((4,), sign, dtype=torch.float64)
        assert (gradient(batch, now, w, weighting="uniform") - sign * expected).abs().max() < 1e-10


def test_one_ratio_a_time_or_a_sample_agree_on_policy_only():
    w, now, batch = linear(torch.Generator().manual_seed(2))
    a, b = (gradient(batch, now, w, ratio=r) for r in ("each-time", "each-sample"))
    assert (a - b).abs().max() < 1e-12
    assert (gradient(batch, now, w, ratio="none") - a).abs().max() < 1e-12
    batch.old = torch.randn(4, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    a, b = (gradient(batch, now, w, ratio=r) for r in ("each-time", "each-sample"))
    assert (a - b).abs().max() > 1e-3


def test_weightings_by_hand():
    error = torch.tensor([[0.04]], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([[0.5]], dtype=torch.float64)
    (slope,) = torch.autograd.grad(weighted(error, t, "ghuber", 0.25).sum(), error)
    assert float(slope) == pytest.approx(0.5 * 0.04**-0.75, abs=1e-4)
    assert float(slope) == pytest.approx(5.590170, abs=1e-4)
    error = error.detach()
    assert float(weighted(error, t, "ghuber", 1.0)) == pytest.approx(float(weighted(error, t, "t")))
    assert float(weighted(error, t, "t-square")) == pytest.approx(0.01)
    assert float(weighted(error, t, "huber")) == pytest.approx(0.5 * (0.2 - 1e-5), abs=1e-8)
    assert float(elbo_weight(torch.tensor(0.5))) == pytest.approx(0.5 / (2 * 0.49 * 0.5))


def test_the_clip_by_hand():
    logp = torch.tensor([[0.0], [0.5], [0.5], [-0.5]], requires_grad=True)
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0])
    loss, ratio, held = clipped_steps(logp, torch.zeros(4, 1), advantage, 0.2)
    assert held.flatten().tolist() == [0, 1, 0, 1]
    e = float(np.exp(0.5))
    assert loss.flatten().tolist() == pytest.approx([-1.0, -1.2, e, 0.8])
    assert ratio.flatten().tolist() == pytest.approx([1, e, e, 1 / e])


def test_the_noisy_target_has_the_same_mean_and_more_variance():
    gen, n = torch.Generator().manual_seed(0), 400_000
    path, t = NoisePath(), torch.full((n,), 0.6)
    ratios = []
    for s in (0.1, 0.3, 0.55):
        x0, z, noise = (torch.randn(n, 1, generator=gen) for _ in range(3))
        at = torch.full((n,), s)
        x_s = path.noised(x0, z, at)
        (a_t, s_t), (a_s, s_s) = path.scales(t), path.scales(at)
        b = (s_t.square() - (a_t / a_s * s_s).square()).sqrt()
        x_t = broad(a_t / a_s, x_s) * x_s + broad(b, x_s) * noise
        noisy = noisy_target(path, x_t, x_s, t, at)
        spread = float(a_t[0] ** 2 + s_t[0] ** 2)
        known = float(s_t[0]) / spread * x_t  # E[eps | x_t] of Gaussian data
        apart = (noisy - known).squeeze()
        error = float(apart.std()) / n**0.5
        assert abs(float(apart.mean())) < 3 * error
        assert abs(float((apart * x_t.squeeze()).mean())) < 3 * float((apart * x_t.squeeze()).std()) / n**0.5
        clean = float(a_t[0] ** 2) / spread  # Var(eps | x_t)
        ratios.append(float(apart.var()) / clean)
    assert 1 < ratios[0] < ratios[1] < ratios[2]


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 999),
    st.integers(1, 8),
    st.integers(2, 14),
    st.sampled_from(["discrete", "uniform", "logit-normal"]),
)
def test_times_cover_their_strata_and_lie_inside(seed, m, steps, choice):
    c = config(times=m, sampling_steps=steps, time_choice=choice, time_share=1.0)
    t = stratified_times(c, NoisePath().grid(steps), 5, torch.Generator().manual_seed(seed))
    assert t.shape == (5, m)
    assert bool(((t > 0) & (t <= 1)).all())
    order = t.diff(dim=1)
    assert bool((order <= 0).all() or (order >= 0).all())


def test_as_many_strata_as_times_gives_every_time_once():
    c = config(times=9, sampling_steps=10, time_share=1.0)
    grid = NoisePath().grid(10)
    t = stratified_times(c, grid, 4, torch.Generator().manual_seed(0))
    assert torch.equal(t, grid[1:10].expand(4, 9))


def test_advantages_are_relative_to_the_prompt():
    rewards = torch.tensor([1.0, 3, 5, 5, 0, 0])
    group = torch.tensor([0, 0, 1, 1, 2, 2])
    found = scaled_advantage(rewards, group, config())
    spread = float(rewards.double().std(correction=0)) + 1e-4
    assert found.tolist() == pytest.approx([-1 / spread / 5, 1 / spread / 5, 0, 0, 0, 0])
    own = scaled_advantage(rewards, group, config(advantage="zscore", adv_clip=0.5, adv_max=2.0))
    assert own.tolist() == pytest.approx([-2, 2, 0, 0, 0, 0])


# ------------------------------------------------------------------------------------------------ whole runs


def test_it_learns_what_is_paid_for():
    found = tuned(24, lr=3e-3, updates=1, prompts=10, images=8, times=4, ema_beta=0.1, weighting="uniform")
    rewards = found.report.column("reward")
    assert np.mean(rewards[-4:]) > np.mean(rewards[:4]) + 0.03


def test_same_rng_same_weights_and_the_callers_model_stays():
    start = model()
    before = {k: v.clone() for k, v in start[0].state_dict().items()}
    a, b = tuned(start=start), tuned(start=start)
    assert torch.equal(weights(a), weights(b))
    assert not torch.equal(weights(a), weights(tuned(rng=1)))
    assert all(torch.equal(before[k], v) for k, v in start[0].state_dict().items())


def test_the_size_of_a_part_does_not_change_the_step():
    a, b = tuned(2), tuned(2, micro_batch=4)
    assert (weights(a) - weights(b)).abs().max() < 1e-5
    assert a.report.metrics[1]["distance_average"] == pytest.approx(
        b.report.metrics[1]["distance_average"], rel=1e-3
    )


@pytest.mark.parametrize("stop", [1, 2])
def test_stopped_and_resumed_it_ends_where_it_would_have(tmp_path, stop):
    whole = tuned(4, out=tmp_path / "a")
    tuned(stop, out=tmp_path / "b")
    half = tuned(4, out=tmp_path / "b")
    assert torch.equal(weights(whole), weights(half))
    assert whole.report.metrics == half.report.metrics


def test_the_first_update_is_on_policy_and_the_second_is_not():
    first, second, third = tuned(3, lr=1e-2).report.metrics
    assert first["ratio"] == 1 and third["ratio"] == 1
    assert abs(second["ratio"] - 1) > 1e-6
    assert (first["staleness"], second["staleness"]) == (0, 1)


def test_the_run_folder_holds_the_model_the_average_and_images(tmp_path):
    from counterlog.core.image_models import open_image_model
    from counterlog.report.tuning_page import write_page

    found = tuned(2, out=tmp_path)
    again = open_image_model(tmp_path / "model")
    assert torch.equal(weights(found), torch.cat([p.detach().flatten() for p in again.net.parameters()]))
    assert not torch.equal(
        weights(found),
        torch.cat([p.flatten() for p in open_image_model(tmp_path / "averaged").net.parameters()]),
    )
    assert TuningReport.load(tmp_path / "result.json") == found.report
    assert json.loads((tmp_path / "run.json").read_text())["slug"] == "advantage-weighted-matching"
    assert [p for p in tmp_path.rglob("*") if p.suffix in (".pkl", ".bin", ".pt")] == []
    page = write_page(tmp_path).read_text()
    assert page.count('<img src="data:image/png;base64,') == 4
    assert "squared distance" in page


def test_reward_weighted_regression_is_a_preset_of_positive_rows():
    c = AdvantageWeightedMatchingConfig.preset("rwr", **SMALL)
    policy = MatchingLoss(c, NoisePath())
    assert policy.advantage(torch.tensor([0.0, 1.0]), torch.zeros(2), torch.zeros(2))[0] == 0
    assert policy.old(None, None) is None and not policy.follows and not policy.reference


def test_a_ddpm_network_takes_the_same_loss():
    net = digit_images.untrained_model(prediction="epsilon", layers=1, heads=2)
    found = tuned(2, start=net, distance_weight="elbo")
    assert np.isfinite(found.report.metrics[1]["loss"])


def test_an_adapter_starts_at_the_model_and_needs_no_copy(tmp_path):
    pytest.importorskip("peft", reason="peft is not installed (extra language)")
    found = tuned(3, out=tmp_path, lora_rank=2)
    assert found.report.metrics[0]["distance_reference"] == 0
    assert found.report.metrics[2]["distance_reference"] > 0
    assert (tmp_path / "model" / "adapter" / "adapter_model.safetensors").exists()


# ------------------------------------------------------------------------------------------------ logs


def rows(n=12, **more):
    gen = np.random.default_rng(0)
    return [
        {"prompt": i % 3, "image": gen.random(64).tolist(), "reward": float(gen.random()), **more}
        for i in range(n)
    ]


def from_log(log, **more):
    return AdvantageWeightedMatching(config(steps=2, **more)).tune(model(), log)


def test_a_log_of_images_teaches_with_ratios_of_one():
    found = from_log(rows())
    assert all(m["ratio"] == 1 for m in found.report.metrics)
    assert any("sampler is not known" in n for n in found.report.notes)


def test_a_step_on_a_log_divides_by_its_own_rows_not_the_logs():
    from counterlog.core.image_models import Denoiser, open_image_model
    from counterlog.core.image_tuning import ImageTrainee, Judge

    n, found = 40, open_image_model(model())
    c = config(prompts=2, images=3, updates=2, beta=0.0, ema_beta=0.0)
    log = ImageBatch(
        torch.randn(n, 1, 8, 8), torch.zeros(n).long(), torch.ones(n), torch.zeros(n).long(), torch.ones(n),
        torch.ones(n), torch.zeros(n).long(),
    )  # fmt: skip
    policy = MatchingLoss(c, found.path)
    trainee = ImageTrainee(Denoiser(found.net, found.path), found, Judge([0], {}, []), policy, c, 0, log)
    batch = trainee.batch(0, None)
    assert (len(batch), batch.total) == (3, 3)
    value, _ = trainee.loss(trainee.module, batch, 0)
    assert value.item() == pytest.approx(-1.0)  # the mean of -A rho, all A = rho = 1


def test_a_picture_on_disk_is_read_like_its_numbers(tmp_path):
    from PIL import Image

    from counterlog.core.image_logs import read_image_log

    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    log = [{"prompt": 0, "image": str(tmp_path / "a.png"), "reward": 1.0}]
    assert np.allclose(read_image_log(log, (1, 8, 8)).images[0, 0].numpy(), grey / 255)
    with pytest.raises(LogError, match="there is no file"):
        read_image_log([{**log[0], "image": "gone.png"}], (1, 8, 8))


def test_propensities_become_weights_of_mean_one():
    from counterlog.core.image_logs import read_image_log

    log = [{**r, "propensity": 0.5 if i % 2 else 0.25} for i, r in enumerate(rows())]
    weight = read_image_log(log, (1, 8, 8)).weight
    assert float(weight.mean()) == pytest.approx(1)
    assert float(weight[0] / weight[1]) == pytest.approx(2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reward": float("nan")}, "'reward' is not finite: row 0"),
        ({"image": [0.5] * 63}, "63 numbers"),
        ({"image": [1.5] * 64}, r"in \[0, 1\]"),
        ({"propensity": 0.0}, "'propensity' is 0"),
        ({"prompt": 10}, "a class from 0 to 9"),
    ],
)
def test_bad_logs_are_refused_by_column_and_row(change, words):
    log = rows()
    log = [{**r, "propensity": 0.5} for r in log] if "propensity" in change else log
    log = [{**log[0], **change}, *log[1:]]
    log.append({**log[0], "reward": 0.5})
    with pytest.raises(LogError, match=words):
        from_log(log)


def test_a_log_of_single_images_is_refused():
    with pytest.raises(SupportError, match="holds one image"):
        from_log(rows(3))


# ------------------------------------------------------------------------------------------------ refusals


def test_nothing_to_learn_from_and_groups_of_one_are_refused():
    with pytest.raises(ConfigError, match="nothing to learn from"):
        AdvantageWeightedMatching().tune(model())
    with pytest.raises(SupportError, match="images=1"):
        tuned(images=1)


def test_rewards_of_the_wrong_length_or_value_are_refused():
    system = AdvantageWeightedMatching(config(steps=1, samples=0))
    with pytest.raises(LogError, match="1 values for 12"):
        system.tune(model(), reward=lambda images: [1.0])
    with pytest.raises(LogError, match="nan"):
        system.tune(model(), reward=lambda images: [float("nan")] * len(images))


def test_bad_settings_are_refused_and_an_inactive_clip_warns():
    with pytest.raises(ConfigError, match="adv_clip"):
        config(adv_clip=0.0)
    with pytest.raises(ConfigError, match="paper, small, rwr"):
        AdvantageWeightedMatchingConfig.preset("papre")
    with pytest.warns(UserWarning, match="inactive"):
        config(clip_range=1.0)


def test_a_prediction_that_does_not_fit_the_schedule_is_refused():
    with pytest.raises(ConfigError, match="with a DDPM schedule"):
        NoisePath("flow", torch.linspace(0.99, 0.01, 10), 10)
    with pytest.raises(ConfigError, match="with a flow schedule"):
        NoisePath("epsilon")


def test_a_model_that_diverges_is_told():
    start = model()
    with torch.no_grad():
        next(start[0].parameters()).fill_(float("nan"))
    system = AdvantageWeightedMatching(config(steps=1, samples=0))
    with pytest.raises(ConvergenceError, match="loss is nan"):
        system.tune(start, reward=lambda images: np.arange(len(images)) * 1.0)
