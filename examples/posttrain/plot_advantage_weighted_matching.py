"""
Digits that learn to use more ink
=================================

A small flow model of handwritten digits is tuned on the mean pixel of what it samples. Advantage-weighted matching takes
the pre-training loss on its own images, weighted by how much more ink each has than the others of its class.
"""

# %%
# A base model, trained here for some seconds; the study uses one that is trained for longer.
import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from counterlog.core.image_models import Denoiser
from counterlog.core.image_samplers import Sampler, walk
from counterlog.datasets import digit_images
from counterlog.posttrain.advantage_weighted_matching import (
    AdvantageWeightedMatching,
    AdvantageWeightedMatchingConfig,
)

torch.set_num_threads(1)
base = digit_images.pretrain(digit_images.untrained_model(layers=2), steps=120)
config = AdvantageWeightedMatchingConfig.preset("small", steps=6, images=8, lr=3e-4, samples=0)
tuned = AdvantageWeightedMatching(config).tune(base, reward=digit_images.ink)
print(tuned.report.to_frame().select("step", "reward", "ratio", "distance_reference"))


# %%
# The ten classes from the same noise, before and after.
def sampled(net):
    denoiser, gen = Denoiser(net, tuned.model.path), torch.Generator().manual_seed(0)
    asked = {"class_labels": torch.arange(10)}
    noise = torch.randn(10, 1, 8, 8, generator=gen)
    went = walk(lambda x, t: denoiser(x, t, asked), denoiser.path, noise, Sampler("ode", 20), gen=gen)
    return ((went.x0 + 1) / 2).clamp(0, 1)[:, 0].numpy()


fig = make_subplots(rows=2, cols=1, subplot_titles=("before", "after"), vertical_spacing=0.12)
for row, net in ((1, base[0]), (2, tuned.model.net)):
    images = sampled(net)
    print(f"{'before' if row == 1 else 'after'}: ink {images.mean():.3f}")
    strip = np.hstack([np.pad(i, 1, constant_values=0.5) for i in images])
    fig.add_trace(
        go.Heatmap(z=strip[::-1], colorscale="gray", zmin=0, zmax=1, showscale=False), row=row, col=1
    )
fig.update_xaxes(visible=False)
fig.update_yaxes(visible=False)
fig.update_layout(height=320, margin={"l": 8, "r": 8, "t": 30, "b": 8})
fig  # noqa: B018
