"""Texts forgotten from a language model in a folder: by ascent, by fine-tuning on the rest, or by one signed step.

Rows are texts, padded token numbers (n, L) with -1 after the end; the loss of a row is the mean cross-entropy of its
tokens in nats. What needs labels or one gradient a row is refused; retraining is not known from a folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from counterlog.core.errors import ConfigError, CounterlogError, LogError, first_rows, message, need_extra
from counterlog.core.labelled_tables import require_columns
from counterlog.core.study import versions

METHODS = ("gradient-ascent", "fine-tune", "influence-approximation-unlearning")
MOST_TOKENS = 512
ROWS = 16


class Logits(nn.Module):  # type: ignore[misc]
    """A causal model as a map from padded token numbers to logits."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, ids: Tensor) -> Tensor:
        """(b, L) token numbers, -1 where a text has ended -> (b, L, vocabulary)."""
        mask = (ids >= 0).long()
        return cast(Tensor, self.inner(input_ids=ids.clamp(min=0), attention_mask=mask).logits)


def text_loss(model: nn.Module, ids: Tensor, _unused: Tensor) -> Tensor:
    """(b,) mean nats a token of each text, its first token apart."""
    logits, wanted = model(ids)[:, :-1], ids[:, 1:]
    found = nn.functional.cross_entropy(logits.transpose(1, 2), wanted.clamp(min=0), reduction="none")
    here = (wanted >= 0).to(found.dtype)
    return (found * here).sum(dim=1) / here.sum(dim=1)


def forget_text(
    folder: Path, frame: pl.DataFrame, gone: NDArray[np.int64], asked: pl.DataFrame | None, out: Path,
    *, method: str | None, options: Sequence[str], rng: int, say: Callable[[str, float], None],
) -> dict[str, Any]:  # fmt: skip
    """Forget texts (column `text`), write the model into `out/model`; what `UnlearningReport` needs of it.

    Raises `ConfigError` for another method or a folder without safetensors, `LogError` for texts that are missing.
    """
    from counterlog.core.torch_models import losses
    from counterlog.report.unlearning import unlearner
    from counterlog.unlearn.membership import loss_auc

    slug = method or "gradient-ascent"
    if slug not in METHODS:
        msg = message(f"a language model does not forget by {slug!r} here", expected=", ".join(METHODS))
        raise ConfigError(msg)
    given = {o.partition("=")[0].strip() for o in options}
    small = [f"{k}={v}" for k, v in SMALL[slug].items() if k not in given]
    system, config = unlearner(slug, [*small, *options], None)
    model, tokenizer = load_folder(folder)
    ids = tokens(frame, tokenizer, "the table")
    unseen = None if asked is None else tokens(asked, tokenizer, "the test table")
    say(f"forgetting {len(gone):,} texts by {slug}", 0.2)
    forgotten = system.forget(Logits(model), ids, torch.zeros(len(ids)), gone, loss=text_loss, rng=rng)
    say("measuring", 0.8)
    kept = np.setdiff1d(np.arange(len(ids)), gone)
    sets = {"forget": ids[gone], "kept": ids[kept], **({} if unseen is None else {"test": unseen})}

    def measured(net: nn.Module) -> dict[str, float]:
        rows = {k: losses(net, v, torch.zeros(len(v)), text_loss, rows=ROWS).numpy() for k, v in sets.items()}
        found = {f"{k}_loss": float(v.mean()) for k, v in rows.items()}
        if "test" in rows:
            found["attack_loss_auc"] = loss_auc(rows["forget"], rows["test"])
        return found

    before, after = measured(Logits(model)), measured(forgotten.model)
    forgotten.model.inner.save_pretrained(out / "model", safe_serialization=True)
    tokenizer.save_pretrained(out / "model")
    shutil.rmtree(out / "model" / ".cache", ignore_errors=True)
    r = forgotten.report
    return {
        "kind": "language model",
        "method": slug,
        "exact": False,
        "unit": "nats a token (mean over texts)",
        "tested": 0 if asked is None else asked.height,
        "before": before,
        "after": after,
        "retrained": {},
        "average_gap": float("nan"),
        "passes": r.passes,
        "moved": r.moved,
        "forget_seconds": r.cpu_seconds,
        "retrain_seconds": float("nan"),
        "file": "model",
        "model": {"folder": folder.name, "parameters": sum(p.numel() for p in model.parameters())},
        "settings": {**config, "method": slug},
        "versions": versions("counterlog", "torch", "transformers"),
        "notes": (*r.notes, f"texts are cut after {MOST_TOKENS} tokens"),
    }


SMALL: dict[str, dict[str, Any]] = {
    "gradient-ascent": {"lr": 1e-5, "epochs": 1, "optimiser": "adam", "batch": 4},
    "fine-tune": {"lr": 1e-5, "epochs": 1, "optimiser": "adam", "batch": 4},
    "influence-approximation-unlearning": {"lr": 1e-5, "rows": ROWS},
}


def load_folder(folder: str | os.PathLike[str]) -> tuple[nn.Module, Any]:
    """Model and tokenizer that `save_pretrained` wrote, safetensors only; nothing is downloaded and no code is run."""
    transformers = need_extra("transformers", "language")
    transformers.utils.logging.disable_progress_bar()
    path = Path(folder)
    if not any(path.glob("*.safetensors")):
        msg = message(f"{path} holds no safetensors", expected="a folder that save_pretrained wrote")
        raise ConfigError(message(msg, hint="pickled weights are not loaded: save the model again"))
    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(path, use_safetensors=True, **safe)
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, **safe)
    except (OSError, ValueError, KeyError) as cause:
        msg = message(
            f"{path} is no causal language model with its tokenizer ({str(cause).splitlines()[0][:200]})"
        )
        raise CounterlogError(msg) from cause
    return model.float(), tokenizer


def tokens(frame: pl.DataFrame, tokenizer: Any, where: str) -> Tensor:
    """(n, L) token numbers of the column `text`, -1 after the end. Raises `LogError` for texts below 2 tokens."""
    require_columns(frame, ["text"], where)
    texts = frame["text"].cast(pl.String).fill_null("").to_list()
    found = [tokenizer(t, truncation=True, max_length=MOST_TOKENS)["input_ids"] for t in texts]
    if bad := [i for i, row in enumerate(found) if len(row) < 2]:
        msg = message(
            f"{where} has texts of fewer than 2 tokens in {first_rows(bad)}", hint="drop these rows"
        )
        raise LogError(msg)
    out = torch.full((len(found), max(map(len, found))), -1)
    for i, row in enumerate(found):
        out[i, : len(row)] = torch.tensor(row)
    return out
