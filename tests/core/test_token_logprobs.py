from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra language)")

from counterlog.core.generation import generate, generate_many, repeated  # noqa: E402
from counterlog.core.language_models import with_lora, without_dropout  # noqa: E402
from counterlog.core.reference_models import (  # noqa: E402
    AdapterOff,
    Averaged,
    CheckpointPool,
    FrozenCopy,
    cached_logprobs,
    log_logprobs,
    reference_of,
)
from counterlog.core.rollouts import Rollouts  # noqa: E402
from counterlog.core.token_batches import join, ragged, token_batch  # noqa: E402
from counterlog.core.token_logprobs import TokenLogProbs, selected_from_logits, selected_logprobs  # noqa: E402
from counterlog.core.token_losses import aggregate  # noqa: E402
from counterlog.datasets import chain_sum  # noqa: E402

pytestmark = pytest.mark.language


@pytest.fixture(scope="module")
def model():
    return chain_sum.untrained_model()


def some(n=6, rng=0):
    """Prompts and responses of unequal length."""
    gen = np.random.default_rng(rng)
    prompts = [gen.integers(3, 105, gen.integers(1, 7)).tolist() for _ in range(n)]
    answers = [gen.integers(3, 105, gen.integers(1, 6)).tolist() for _ in range(n)]
    return token_batch(ragged(prompts, np.int64), ragged(answers, np.int64), pad=0)


def test_values_and_gradients_are_those_of_the_plain_softmax_in_any_chunks():
    gen = torch.Generator().manual_seed(0)
    h, w, b = (torch.randn(s, generator=gen) for s in ((11, 4), (7, 4), (7,)))
    y = torch.randint(7, (11,), generator=gen)
    found = []
    for size in (None, 10**6, 3 * 7 * 4, 1):
        inputs = [t.clone().requires_grad_(True) for t in (h, w, b)]
        if size is None:
            pair = selected_from_logits(inputs[0] @ inputs[1].T + inputs[2], y, temperature=0.7, entropy=True)
        else:
            pair = selected_logprobs(
                inputs[0], inputs[1], y, bias=inputs[2], temperature=0.7, entropy=True, chunk_bytes=size
            )
        (pair[0] * torch.arange(11) + 0.3 * pair[1]).sum().backward()
        found.append([*pair, *(t.grad for t in inputs)])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert torch.allclose(a, b, atol=2e-5)


def test_padding_and_company_do_not_matter(model):
    scorer, batch = TokenLogProbs(model), some(16)
    together = scorer(batch, entropy=True)
    for i in range(16):
        alone = scorer(batch.part(torch.tensor([i])), entropy=True)
        n = alone[0].shape[1]
        for a, b in zip(alone, together, strict=True):
            assert (a[0] - b[i, :n]).abs().max() < 2e-5
    assert (together[0][batch.response_mask == 0] == 0).all()


def test_they_are_the_cross_entropy_of_transformers(model):
    batch = some(1)
    labels = batch.input_ids.clone()
    labels[:, : batch.prompt_width] = -100
    loss = model(input_ids=batch.input_ids, labels=labels).loss
    logp, _ = TokenLogProbs(model)(batch)
    mine = aggregate(-logp, batch.response_mask, tokens=float(batch.response_mask.sum()), rows=1)
    assert abs(float((mine - loss).detach())) < 1e-6


TINY = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
OTHERS = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    ),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**TINY, num_key_value_heads=2)),
    "gemma2": lambda: transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(**TINY, num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5)
    ),
    "granite": lambda: transformers.GraniteForCausalLM(
        transformers.GraniteConfig(**TINY, num_key_value_heads=2, logits_scaling=4.0)
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "linear"), [("gpt2", True), ("qwen2", True), ("gemma2", False), ("granite", False)]
)
def test_other_models_by_the_path_that_their_head_allows(name, linear):
    torch.manual_seed(0)
    other = OTHERS[name]().eval()
    for p in other.get_output_embeddings().parameters():
        torch.nn.init.normal_(p, std=0.5)
    scorer = TokenLogProbs(other)
    assert scorer.linear_head == linear
    prompts, answers = ragged([[3, 4, 5], [6, 7, 8]], np.int64), ragged([[9, 10], [11, 12]], np.int64)
    batch = token_batch(prompts, answers, pad=0)
    logits = other(input_ids=batch.input_ids).logits[:, 2:-1].log_softmax(-1)
    expected = logits.gather(-1, batch.input_ids[:, 3:, None])[..., 0]
    assert (scorer(batch)[0] - expected).abs().max() < 1e-5


def test_the_sampler_records_what_the_scorer_finds(model):
    prompts = repeated(chain_sum.prompts_of(chain_sum.operands(5, np.random.default_rng(0))), 4)
    for temperature in (1.0, 0.6):
        batch = generate(model, prompts, pad=0, end=2, longest=6, temperature=temperature, seed=3)
        logp, _ = TokenLogProbs(model)(batch, temperature)
        assert (logp - batch.old_logprobs).abs().max() < 1e-4
    assert torch.equal(
        batch.input_ids, generate(model, prompts, pad=0, end=2, longest=6, temperature=0.6, seed=3).input_ids
    )


def test_transition_scores_of_transformers_agree(model):
    prompts = chain_sum.prompts_of(chain_sum.operands(4, np.random.default_rng(0)))
    batch = generate(model, prompts, pad=0, end=None, longest=3, seed=0)
    out = model.generate(
        input_ids=batch.input_ids[:, :6], max_new_tokens=3, do_sample=False, output_logits=True,
        return_dict_in_generate=True, pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    theirs = model.compute_transition_scores(out.sequences, out.logits, normalize_logits=True)
    greedy = generate(model, prompts, pad=0, end=None, longest=3, greedy=True)
    assert torch.equal(out.sequences, greedy.input_ids)
    assert (theirs - greedy.old_logprobs).abs().max() < 1e-5


def test_a_response_counts_up_to_its_end_and_chunks_join(model):
    batch = generate_many(
        model, repeated(chain_sum.prompts_of(chain_sum.operands(30, np.random.default_rng(1))), 2),
        seed=1, chunk=7, pad=0, end=2, longest=30,
    )  # fmt: skip
    width = batch.prompt_width
    assert len(batch) == 60
    ended = 0
    for row, mask in zip(batch.input_ids[:, width:], batch.response_mask, strict=True):
        n = int(mask.sum())
        assert mask[:n].all() and not mask[n:].any()
        assert (row[: n - 1] != 2).all()
        ended += int(row[n - 1] == 2)
    assert ended > 5


def test_batches_join_and_part(model):
    a, b = some(3, 1), some(5, 2)
    whole = join([a, b], 0)
    scorer = TokenLogProbs(model)
    parts = [scorer(x)[0].sum(1) for x in (a, b)]
    assert (scorer(whole)[0].sum(1) - torch.cat(parts)).abs().max() < 5e-5


# ------------------------------------------------------------------------------------------------ references


def test_an_adapter_starts_as_the_model_and_its_reference_is_the_model(model):
    batch = some()
    frozen = FrozenCopy(model)
    lora = TokenLogProbs(with_lora(chain_sum.untrained_model(), rank=2, alpha=4, targets=["all-linear"]))
    off = AdapterOff(lora)
    assert (lora(batch)[0] - frozen.logprobs(batch)).abs().max() < 1e-6
    for p in lora.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p)
    assert (lora(batch)[0] - frozen.logprobs(batch)).abs().max() > 1e-2
    assert (off.logprobs(batch) - frozen.logprobs(batch)).abs().max() < 1e-6
    assert isinstance(reference_of("start", lora), AdapterOff)
    assert reference_of("none", lora) is None


def test_averages_and_pools(model):
    one, two = TokenLogProbs(chain_sum.untrained_model(0)), TokenLogProbs(chain_sum.untrained_model(1))
    average = Averaged(one, decay=0.75)
    average.follow(two)
    a, b, c = (next(m.parameters()) for m in (one, two, average.scorer))
    assert torch.allclose(c, 0.75 * a + 0.25 * b)
    pool = CheckpointPool(one, "last", largest=4)
    for _ in range(4):
        pool.add(two)
    assert pool.choose(np.random.default_rng(0)) == len(pool.states) - 1
    assert torch.equal(next(pool.scorer.parameters()), b)
    pool.strategy = "initial"
    assert pool.choose(np.random.default_rng(0)) == 0
    assert torch.equal(next(pool.scorer.parameters()), a)


def test_the_cache_knows_the_model_and_the_tokens(model, tmp_path, monkeypatch):
    rows = [{"prompt": [1, 5 + i], "completion": list(range(5, 6 + i))} for i in range(5)]
    log = Rollouts(rows).encode(None, vocabulary=105)
    scorer = TokenLogProbs(model)
    first = cached_logprobs(scorer, log, tmp_path, pad=0)
    plain = log_logprobs(scorer, log, pad=0, rows=2)
    assert np.allclose(first[0], plain[0], atol=2e-5)
    monkeypatch.setattr("counterlog.core.reference_models.log_logprobs", None)
    assert np.array_equal(cached_logprobs(scorer, log, tmp_path, pad=0)[0], first[0])
    with pytest.raises(TypeError):  # another model has to score
        cached_logprobs(TokenLogProbs(chain_sum.untrained_model(1)), log, tmp_path, pad=0)


def test_dropout_is_off():
    net = torch.nn.Sequential(torch.nn.Dropout(0.5))
    assert without_dropout(net)[0].p == 0
