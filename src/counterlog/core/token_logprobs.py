"""Log-probabilities of given tokens under a causal language model, in bounded memory, one way everywhere.

The sampler's check, the old, the reference and the current policy all go through `TokenLogProbs`: hidden states at the
positions that predict a response token are multiplied with the output layer some rows at a time, in float32, so that
neither the logits of a whole batch nor their softmax are held. Masked positions are not computed at all.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from counterlog.core.token_batches import TokenBatch

CHUNK_BYTES = 256 * 2**20  # largest block of float32 logits
PROBE_TOLERANCE = 1e-3


class _Selected(torch.autograd.Function):  # type: ignore[misc]
    """log softmax(h W' + b)[target] and its entropy, by blocks of rows; a second product in the backward pass replaces
    the stored logits unless all of them fit one block."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        temperature: float,
        rows: int,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        n = len(hidden)
        logp, norm = hidden.new_empty(n, dtype=torch.float32), hidden.new_empty(n, dtype=torch.float32)
        spread = hidden.new_zeros(n, dtype=torch.float32)
        kept = None
        for start in range(0, n, rows):
            part = slice(start, min(start + rows, n))
            z = _logits(hidden[part], weight, bias, temperature)
            norm[part] = z.logsumexp(-1)
            z -= norm[part, None]
            logp[part] = z.gather(-1, target[part, None])[:, 0]
            if entropy:
                spread[part] = -(z.exp() * z).sum(-1)
            if n <= rows:
                kept = z
        ctx.save_for_backward(hidden, weight, target, norm, spread, kept, bias)
        ctx.temperature, ctx.rows, ctx.entropy = temperature, rows, entropy
        ctx.set_materialize_grads(False)
        return logp, spread

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        hidden, weight, target, norm, spread, kept, bias = ctx.saved_tensors
        grad_logp, grad_spread = grads
        if grad_logp is None:
            grad_logp = torch.zeros_like(norm)
        d_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        d_bias = torch.zeros_like(bias, dtype=torch.float32) if ctx.needs_input_grad[2] else None
        for start in range(0, len(hidden), ctx.rows):
            part = slice(start, min(start + ctx.rows, len(hidden)))
            z = kept
            if z is None:
                z = _logits(hidden[part], weight, bias, ctx.temperature) - norm[part, None]
            p = z.exp()
            d = p * -grad_logp[part, None]
            if ctx.entropy and grad_spread is not None:
                d -= grad_spread[part, None] * p * (z + spread[part, None])
            d.scatter_add_(-1, target[part, None], grad_logp[part, None])
            d /= ctx.temperature
            low = d.to(weight.dtype)
            if d_hidden is not None:
                d_hidden[part] = low @ weight
            if d_weight is not None:
                d_weight += (low.T @ hidden[part]).float()
            if d_bias is not None:
                d_bias += d.sum(0)
        d_weight = None if d_weight is None else d_weight.to(weight.dtype)
        d_bias = None if d_bias is None else d_bias.to(bias.dtype)
        return d_hidden, d_weight, d_bias, None, None, None, None


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    z = torch.nn.functional.linear(hidden, weight, bias).float()
    return z if temperature == 1.0 else z / temperature


def selected_logprobs(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    entropy: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, Tensor]:
    """Nats of `target` (n,) under softmax((h W' + b) / temperature), h (n, d), W (v, d); and the entropy, (n,) each.

    At most `chunk_bytes` of logits exist at once. Without `entropy` the second tensor is zero.
    """
    rows = max(1, chunk_bytes // (4 * len(weight)))
    logp, spread = _Selected.apply(hidden, weight, bias, target, temperature, rows, entropy)
    return logp, spread


def selected_from_logits(
    logits: Tensor, target: Tensor, *, temperature: float = 1.0, entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """The same from logits (n, v) that a model already made: for heads that are more than one linear layer."""
    z = logits.float() / temperature
    z = z - z.logsumexp(-1, keepdim=True)
    spread = -(z.exp() * z).sum(-1) if entropy else z.new_zeros(len(z))
    return z.gather(-1, target[:, None])[:, 0], spread


class TokenLogProbs(nn.Module):  # type: ignore[misc]
    """A causal language model as a map from a batch of tokens to the log-probabilities of its responses.

    Made once around the model (or its peft wrapper): this is what the loop wraps for data parallelism, so that every
    product with the output layer happens inside one forward pass. Models whose logits are not one linear layer of the
    last hidden state (soft-capped, scaled or adapted heads) are found by a probe and take the path through full logits.
    """

    def __init__(self, model: nn.Module, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        super().__init__()
        self.model = model
        self.chunk_bytes = chunk_bytes
        self.linear_head = self._probe()

    def _causal(self) -> Any:
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    def _body(self) -> Any:
        return self._causal().base_model

    def _probe(self) -> bool:
        """Whether hidden state times output layer gives this model's logits."""
        causal = self._causal()
        head = causal.get_output_embeddings()
        if not isinstance(head, nn.Linear):
            return False
        ids = torch.tensor([[0, 1]], device=head.weight.device)
        was = self.model.training
        self.model.eval()
        with torch.no_grad():
            try:
                hidden = self._body()(input_ids=ids).last_hidden_state
                difference = (head(hidden) - causal(input_ids=ids).logits).abs().max()
            except (AttributeError, RuntimeError, TypeError):
                return False
            finally:
                self.model.train(was)
        return bool(difference <= PROBE_TOLERANCE)

    def forward(
        self, batch: TokenBatch, temperature: float = 1.0, entropy: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Nats of every response token and the entropy of its distribution, (b, r) float32, zero where masked."""
        mask = batch.response_mask.bool()
        prompt = batch.prompt_width
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        body = self._body() if self.linear_head else self._causal()
        if "position_ids" in inspect.signature(body.forward).parameters:
            inputs["position_ids"] = (batch.attention_mask.cumsum(-1) - 1).clamp(min=0)
        output = body(**inputs, use_cache=False)
        predicts = output.last_hidden_state if self.linear_head else output.logits
        states = predicts[:, prompt - 1 : -1][mask]
        target = batch.input_ids[:, prompt:][mask]
        if self.linear_head:
            head = self._causal().get_output_embeddings()
            found = selected_logprobs(
                states,
                head.weight,
                target,
                bias=head.bias,
                temperature=temperature,
                entropy=entropy,
                chunk_bytes=self.chunk_bytes,
            )
        else:
            found = selected_from_logits(states, target, temperature=temperature, entropy=entropy)
        logp, spread = (torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, v) for v in found)
        return logp, spread
