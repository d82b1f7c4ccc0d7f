"""
What a clip mask keeps, and what it prevents
============================================

A small language model learns for 30 steps from responses that it sampled before the first. Without a mask the policy runs
away from the rows that it learns from; with one it stays where their rewards still say something.
"""

# %%
# Which ratios keep a gradient, by clip mode and by the sign of the advantage.
import numpy as np
import plotly.graph_objects as go
import torch

from counterlog.datasets import chain_sum
from counterlog.posttrain.group_relative_reinforce import (
    GroupRelativeReinforce,
    GroupRelativeReinforceConfig,
    clip_mask,
)

ratio = torch.linspace(0.1, 3.5, 35)
for mode in ("one-side", "two-side", "ring"):
    config = GroupRelativeReinforceConfig(clip_mode=mode)
    for sign in (1.0, -1.0):
        kept = clip_mask(ratio[None, :], torch.tensor([sign]), config)[0]
        print(f"{mode:9s} A {sign:+.0f}  " + "".join("#" if k else "." for k in kept.tolist()))


# %%
# All rows come from the untrained model; the reward is the share of small numbers in a response.
def small(completion_ids, **_):
    return [float(np.mean([token < 50 for token in ids])) for ids in completion_ids]


prompts = chain_sum.prompt_texts(chain_sum.operands(64, np.random.default_rng(0)))
fig = go.Figure()
for preset, colour in (("reinforce", "#D55E00"), ("rec-oneside-nois", "#0072B2"), ("opmd", "#009E73")):
    config = GroupRelativeReinforceConfig.preset(
        preset, steps=30, lr=3e-3, prompts=8, longest=4, sync_interval=0, samples=0
    )
    tuned = GroupRelativeReinforce(config).tune(
        chain_sum.untrained_model(), prompts=prompts, reward=small, tokenizer=chain_sum.number_tokenizer()
    )
    found = tuned.report.column("kl_behaviour")
    print(
        f"{preset}: KL to the sampler {found[-1]:.3f} nats a token, effective share {tuned.report.column('ess_tokens')[-1]:.2f}"
    )
    fig.add_trace(go.Scatter(y=found, mode="lines", name=preset, line={"color": colour}))
fig.update_layout(
    xaxis={"title": "optimiser step"},
    yaxis={"title": "KL(sampler || policy), nats a token", "type": "log"},
    legend={"x": 0.02, "y": 0.98},
)
fig  # noqa: B018
