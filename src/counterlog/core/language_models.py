"""Causal language models of `transformers`: opened by folder or name, adapted with LoRA, saved as safetensors."""

from __future__ import annotations

import copy
import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from counterlog.core.errors import ConfigError, LogError, message, need_extra

DROPOUTS = ("attention_dropout", "dropout", "activation_dropout", "hidden_dropout", "attn_dropout")


@dataclass
class LanguageModel:
    """A model with its tokenizer (None when responses are token numbers only) and the tokens that matter here."""

    model: Any
    tokenizer: Any
    pad: int
    end: int | None

    @property
    def vocabulary(self) -> int:
        """How many tokens the model knows."""
        return int(self.model.get_input_embeddings().weight.shape[0])


def open_language_model(model: Any, tokenizer: Any = None, *, in_place: bool = False) -> LanguageModel:
    """A model folder, a Hugging Face name, or a loaded model (copied unless `in_place`). Weights are safetensors.

    Raises `ConfigError` when it cannot be opened, `LogError` without a pad token.
    """
    transformers = need_extra("transformers", "language")
    if isinstance(model, (str, os.PathLike)):
        name = os.fspath(model)
        try:
            loaded = transformers.AutoModelForCausalLM.from_pretrained(name, use_safetensors=True)
        except (OSError, ValueError) as cause:
            first = str(cause).strip().splitlines()[0]
            msg = message(
                f"{name!r} cannot be opened as a causal language model ({first})",
                expected="a folder that save_pretrained wrote, or a model's name",
            )
            raise ConfigError(msg) from cause
        if tokenizer is None:
            try:
                tokenizer = transformers.AutoTokenizer.from_pretrained(name)
            except (OSError, ValueError):
                tokenizer = None
    else:
        loaded = model if in_place else copy.deepcopy(model)
    without_dropout(loaded)
    pad, end = _special(loaded, tokenizer)
    return LanguageModel(loaded, tokenizer, pad, end)


def _special(model: Any, tokenizer: Any) -> tuple[int, int | None]:
    """Pad and end-of-text token: the tokenizer's, else the model's."""
    end = getattr(tokenizer, "eos_token_id", None)
    end = model.config.eos_token_id if end is None else end
    if isinstance(end, list):
        end = end[0]
    pad = getattr(tokenizer, "pad_token_id", None)
    pad = getattr(model.config, "pad_token_id", None) if pad is None else pad
    pad = end if pad is None else pad
    if pad is None:
        msg = message(
            "the model has neither a pad token nor an end-of-text token",
            hint="set tokenizer.pad_token, or model.config.pad_token_id",
        )
        raise LogError(msg)
    return int(pad), None if end is None else int(end)


def without_dropout(model: nn.Module) -> nn.Module:
    """Dropout set to zero everywhere: the probabilities that are trained must be those that are sampled from."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in DROPOUTS:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def with_lora(model: Any, *, rank: int, alpha: float, targets: Sequence[str], rng: int = 0) -> Any:
    """The model under a fresh LoRA adapter, whose start is the model itself; only the adapter is trained."""
    peft = need_extra("peft", "language")
    wanted: Any = list(targets)
    if len(wanted) == 1:
        wanted = wanted[0]
    settings = peft.LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=wanted, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    with (
        torch.random.fork_rng(),
        warnings.catch_warnings(),
    ):  # peft asks transformers for a property by its old name
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(rng)
        return peft.get_peft_model(model, settings)


def save_language_model(found: LanguageModel, folder: str | os.PathLike[str], *, merge: bool = False) -> Path:
    """`save_pretrained` of model and tokenizer; an adapter alone, unless it is merged into the model."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    model = found.model
    if merge and hasattr(model, "merge_and_unload"):
        model = copy.deepcopy(model).merge_and_unload()
    model.save_pretrained(target, safe_serialization=True)
    if found.tokenizer is not None:
        found.tokenizer.save_pretrained(target)
    return target


def weights_fingerprint(model: nn.Module) -> str:
    """SHA-256 of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def texts_of(found: LanguageModel, ids: torch.Tensor, mask: torch.Tensor) -> list[str]:
    """Token rows as text; as numbers when there is no tokenizer."""
    rows = [row[m.bool()].tolist() for row, m in zip(ids, mask, strict=True)]
    if found.tokenizer is None:
        return [" ".join(map(str, r)) for r in rows]
    return list(found.tokenizer.batch_decode(rows, skip_special_tokens=True))
