from __future__ import annotations

import sys
import types

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", reason="transformers is not installed (extra language)")

from counterlog.core.errors import ConfigError, MissingExtraError  # noqa: E402
from counterlog.posttrain.trl_trainer import make_trl_trainer  # noqa: E402

pytestmark = pytest.mark.language


def test_without_trl_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(MissingExtraError, match="pip install trl"):
        make_trl_trainer()


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", types.SimpleNamespace(__version__="2.0.0"))
    with pytest.raises(ConfigError, match=r"trl 2\.0\.0"):
        make_trl_trainer()


def test_what_trl_cannot_tell_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", types.SimpleNamespace(__version__="1.16.0", GRPOTrainer=object))
    with pytest.raises(ConfigError, match="drop=balance"):
        make_trl_trainer("red-drop")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["bnpo", "dr_grpo", "grpo"])
def test_ppo_presets_have_the_loss_and_gradient_of_trl(kind, tmp_path):
    trl = pytest.importorskip("trl", reason="trl is not installed")
    import datasets

    from counterlog.datasets import chain_sum

    rows = datasets.Dataset.from_list([{"prompt": "1 2 3 4 ="}] * 8)
    aggregation = {"bnpo": "token-mean", "dr_grpo": "seq-mean-token-sum-norm", "grpo": "seq-mean-token-mean"}[
        kind
    ]
    ours = make_trl_trainer("grpo", aggregation=aggregation, dual_clip=0.0, longest=4)
    args = trl.GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=8, num_generations=4, max_completion_length=4,
        loss_type=kind, report_to=[], use_cpu=True, bf16=False,
    )  # fmt: skip
    gen = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 105, (8, 4), generator=gen)
    mask = torch.ones(8, 4, dtype=torch.int64)
    mask[0, 2:] = 0
    prompts = torch.randint(5, 105, (8, 5), generator=gen)
    inputs = {
        "prompt_ids": prompts, "prompt_mask": torch.ones_like(prompts), "completion_ids": ids,
        "completion_mask": mask, "advantages": torch.randn(8, generator=gen),
        "old_per_token_logps": torch.full((8, 4), -4.6) + 0.3 * torch.randn(8, 4, generator=gen),
    }  # fmt: skip
    found = []
    for make in (trl.GRPOTrainer, ours):
        trainer = make(
            model=chain_sum.untrained_model(), reward_funcs=chain_sum.reward, args=args,
            train_dataset=rows, processing_class=chain_sum.number_tokenizer(),
        )  # fmt: skip
        trainer.current_gradient_accumulation_steps = 1
        loss = trainer._compute_loss(trainer.model, inputs)
        loss.backward()
        found.append((float(loss), torch.cat([p.grad.flatten() for p in trainer.model.parameters()])))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    assert (found[0][1] - found[1][1]).abs().max() < 1e-5
