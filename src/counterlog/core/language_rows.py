"""Causal language models on rows of text: token rows, their losses, label draws and masks, for Hugging Face models.

A row is (tokens) padded on the right; labels are -100 where a token is not to be predicted (the prompt, padding).
Causal attention never looks right, so padding needs no attention mask.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from counterlog.core.errors import CounterlogError, LogError, message, need_extra
from counterlog.core.row_tasks import Task

IGNORED = -100


@dataclass(frozen=True)
class TextRow:
    """One text: the loss counts the completion's tokens; without a prompt it counts all."""

    prompt: str
    completion: str

    @property
    def text(self) -> str:
        """The whole."""
        return self.prompt + self.completion


def read_texts(path: str | os.PathLike[str]) -> list[TextRow]:
    """JSON lines with `text`, or `prompt` and `completion`. Raises `LogError` naming the line."""
    file, out = Path(path), []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as cause:
        raise LogError(message(f"{file} cannot be read ({cause})")) from cause
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as cause:
            raise LogError(message(f"{file} line {number} is not JSON ({cause})")) from cause
        fields = row if isinstance(row, dict) else {}
        prompt, text = fields.get("prompt", ""), fields.get("completion", fields.get("text"))
        if not isinstance(text, str) or not isinstance(prompt, str) or not (prompt + text):
            msg = message(
                f"{file} line {number} has {', '.join(map(repr, fields)) or 'no fields'}",
                expected='"text", or "prompt" and "completion", as non-empty strings',
            )
            raise LogError(msg)
        out.append(TextRow(prompt, text))
    if not out:
        raise LogError(message(f"{file} has no line", expected="one JSON object a line"))
    return out


def token_rows(rows: Sequence[TextRow], tokenizer: Any, length: int) -> tuple[Tensor, Tensor]:
    """Tokens (n, t) and labels (n, t), cut to `length` and padded on the right. Raises `LogError` for a row without
    a token to predict."""
    tokens, labels = [], []
    for i, row in enumerate(rows):
        before = _encode(tokenizer, row.prompt) if row.prompt else []
        whole = (before + _encode(tokenizer, row.completion))[:length]
        known = len(before)
        if len(whole) < 2 or known >= len(whole):
            msg = message(
                f"row {i} has {len(whole)} tokens, {known} of them the prompt's",
                expected="at least one token to predict after another",
                hint="raise max_tokens, or drop the row",
            )
            raise LogError(msg)
        tokens.append(whole)
        labels.append([IGNORED] * known + whole[known:])
    width = max(map(len, tokens))
    pad = int(next((v for v in (tokenizer.pad_token_id, tokenizer.eos_token_id) if v is not None), 0))
    x = torch.tensor([t + [pad] * (width - len(t)) for t in tokens])
    y = torch.tensor([t + [IGNORED] * (width - len(t)) for t in labels])
    lengths = torch.tensor([len(t) for t in tokens])
    # the end of the text is carried by the labels' second plane, so that a mask can be made from (x, y) alone
    real = torch.arange(width)[None] < lengths[:, None]
    return x, torch.stack([y, real.long()], dim=1)


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    call: Any = model
    found = call(input_ids=x, use_cache=False) if hasattr(model, "config") else call(x)
    logits: Tensor = found if isinstance(found, Tensor) else found.logits
    return logits


def token_losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(b, t - 1) nats: the loss of predicting token j + 1 from those up to j; 0 where it is not counted."""
    labels = y[:, 0, 1:]
    logits = _logits(model, x)[:, :-1].float()
    each = functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED
    )
    return each.reshape(labels.shape)


def text_loss_rows(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(b,) nats: minus the log-probability of the row's counted tokens."""
    return token_losses(model, x, y).sum(dim=1)


def drawn_tokens(model: nn.Module, x: Tensor, y: Tensor, gen: torch.Generator) -> Tensor:
    """Labels drawn token by token from the model's own next-token distribution, where a token is counted."""
    with torch.no_grad():
        probs = _logits(model, x)[:, :-1].float().softmax(dim=-1)
    drawn = (
        torch.multinomial(probs.flatten(0, 1).cpu(), 1, generator=gen).reshape(probs.shape[:2]).to(x.device)
    )
    out = y.clone()
    out[:, 0, 1:] = torch.where(y[:, 0, 1:] == IGNORED, y[:, 0, 1:], drawn)
    return out


def real_tokens(x: Tensor, y: Tensor) -> Tensor:
    """(b, t) True where a token is not padding."""
    return y[:, 1].bool()


TEXT_TASK = Task(loss=text_loss_rows, draw=drawn_tokens, mask=real_tokens)


def load_text_model(folder: str | os.PathLike[str]) -> tuple[nn.Module, Any]:
    """(model, tokenizer) of a folder that `save_pretrained` wrote: safetensors only, nothing fetched, no code run.

    Raises `MissingExtraError` without the extra `language`, `CounterlogError` for a folder that cannot be read.
    """
    transformers = need_extra("transformers", "language")
    place = Path(folder)
    if not (place / "config.json").exists():
        msg = message(f"{place} holds no config.json", expected="a folder that save_pretrained wrote")
        raise CounterlogError(msg)
    kept = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, **kept)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            place, use_safetensors=True, dtype=torch.float32, **kept
        )
    except (OSError, ValueError, KeyError, ImportError) as cause:
        msg = message(
            f"{place} cannot be loaded ({str(cause).splitlines()[0]})",
            expected="model.safetensors and a tokenizer beside config.json",
            hint="model.save_pretrained(folder); tokenizer.save_pretrained(folder)",
        )
        raise CounterlogError(msg) from cause
    return model.eval(), tokenizer


def default_layers(model: nn.Module) -> tuple[str, ...]:
    """Patterns of the feed-forward layers of a transformer, as the paper traces; none when no name tells."""
    names = [n for n, _ in model.named_modules()]
    found = [p for p in ("*mlp*", "*feed_forward*", "*ffn*") if any(f".{p.strip('*')}" in n for n in names)]
    return tuple(found[:1])


def token_texts(tokenizer: Any, tokens: Sequence[int]) -> tuple[str, ...]:
    """Each token as text."""
    return tuple(tokenizer.decode([int(t)]) for t in np.asarray(tokens).tolist())


class ByteTokenizer:
    """A token a byte of UTF-8, 256 in all: for small models trained from nothing."""

    pad_token_id, eos_token_id, vocab_size = 0, 0, 256

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Bytes of the text."""
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of the bytes; half a character becomes a mark."""
        return bytes(tokens).decode(errors="replace")
