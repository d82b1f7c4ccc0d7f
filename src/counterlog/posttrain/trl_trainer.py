"""For users of TRL: a `GRPOTrainer` whose loss is one of this family. Sampling, data and everything else stay TRL's.

TRL keeps its loss in a private method of a closed list; this overrides that one method, so it is held to the versions
that it was tested with.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from counterlog.core.errors import ConfigError, MissingExtraError, message
from counterlog.core.token_batches import TokenBatch
from counterlog.posttrain.group_relative_reinforce import GroupRelativeLoss, GroupRelativeReinforceConfig

TESTED = ("1.16",)
SCALES = {"mean": "none", "zscore": "group"}


def make_trl_trainer(loss: str = "rec-oneside-nois", **settings: Any) -> type:
    """A subclass of TRL's GRPOTrainer with the loss of this preset; use it as you would use the trainer.

    The advantage is TRL's, without or with the group's spread as the preset has it. Raises `MissingExtraError` without
    TRL, `ConfigError` for another version and for what TRL's batches cannot tell (RED-Drop, other baselines).
    """
    try:
        trl: Any = import_module("trl")
    except ImportError as cause:
        msg = message("'trl' is not installed", hint="pip install trl==1.16.0")
        raise MissingExtraError(msg) from cause
    if not str(trl.__version__).startswith(TESTED):
        msg = message(
            f"trl {trl.__version__} is installed",
            expected=f"trl {' or '.join(TESTED)}, whose private loss method this replaces",
            hint="pip install trl==1.16.0, or use GroupRelativeReinforce",
        )
        raise ConfigError(msg)
    config = GroupRelativeReinforceConfig.preset(loss, **settings)
    if config.drop != "none" or config.advantage not in SCALES:
        msg = message(
            f"{loss!r} needs advantages of its own (drop={config.drop}, advantage={config.advantage})",
            hint="use GroupRelativeReinforce",
        )
        raise ConfigError(msg)
    policy = GroupRelativeLoss(config)

    class GroupRelativeTrainer(trl.GRPOTrainer):  # type: ignore[misc]
        """TRL's trainer with another loss."""

        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            self.scale_rewards = SCALES[config.advantage]
            if self.beta != 0.0:
                msg = message(
                    f"beta={self.beta}", expected="0", hint="use regularizer=k2, or GroupRelativeReinforce"
                )
                raise ConfigError(msg)

        def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
            return trl_loss(self, policy, model, inputs)

    return GroupRelativeTrainer


def trl_loss(trainer: Any, policy: GroupRelativeLoss, model: Any, inputs: dict[str, Any]) -> Any:
    """The loss of one of TRL's micro-batches."""
    answer, mask = inputs["completion_ids"], inputs["completion_mask"].float()
    ids = torch.cat([inputs["prompt_ids"], answer], dim=1)
    seen = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    logp, entropy, _ = trainer._get_per_token_logps_and_entropies(
        model, ids, seen, answer.size(1), compute_entropy=True
    )
    old = inputs.get("old_per_token_logps")
    n = len(ids)
    batch = TokenBatch(
        input_ids=ids,
        attention_mask=seen,
        response_mask=mask,
        rewards=torch.zeros(n),
        group=torch.zeros(n, dtype=torch.int64),
        version=torch.zeros(n, dtype=torch.int64),
        weights=torch.ones(n, device=ids.device),
        old_logprobs=logp.detach() if old is None else old,
        advantage=inputs["advantages"] - policy.config.baseline_shift,
    ).counted()
    value, sums = policy.loss(logp, entropy, batch)
    mode = "train" if trainer.model.training else "eval"
    for sign in ("positive", "negative"):
        clipped = float(sums[f"{sign}_clipped"]) / max(float(sums[f"{sign}_tokens"]), 1.0)
        trainer._metrics[mode][f"clip_{sign}"].append(clipped)
    trainer._metrics[mode]["entropy"].append(float((entropy * mask).sum() / mask.sum()))
    return value / (trainer.current_gradient_accumulation_steps if mode == "train" else 1.0)
