"""
Ten small steps or one, and what a penalty does to the policy
=============================================================

Mirror descent policy optimisation plays a rollout, then takes several plain gradient steps, held near the last policy by a KL
penalty. With one step a rollout the penalty has no effect at all: its gradient is zero where the policy has not moved yet.
"""

# %%
# The exact step on a bandit with three actions, for growing step sizes: mirror descent tilts the last policy, Tsallis' index 2
# projects, and plays a dominated arm with probability exactly zero.
import plotly.graph_objects as go
import torch

from counterlog.core.learner_comparison import compare
from counterlog.online.mdpo import MDPO, MDPOConfig, mirror_step, projected_step
from counterlog.online.ppo import PPO, PPOConfig
from counterlog.online.trpo import TRPO, TRPOConfig

prior, advantage = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([1.0, 0.0, -1.0])
sizes = [0.1 * k for k in range(21)]
figure = go.Figure()
for name, step in (("KL", mirror_step), ("Tsallis, q 2", projected_step)):
    curves = torch.stack([step(prior, advantage, t) for t in sizes]).T
    for arm, curve in enumerate(curves.tolist()):
        figure.add_scatter(
            x=sizes, y=curve, name=f"{name}, arm {arm}", line={"dash": "dot" if "q" in name else "solid"}
        )
figure.update_layout(xaxis_title="step size t", yaxis_title="probability of the arm")
figure  # noqa: B018

# %%
# Balancing a pole, one seed and a small budget: ten gradient steps a rollout, one, and the two neighbours.
budget = {"steps": 8192, "horizon": 128, "copies": 4, "lr": 1e-3}
learners = {
    "MDPO, m 10": MDPO(MDPOConfig(m=10, **budget)),
    "MDPO, m 1": MDPO(MDPOConfig(m=1, **budget)),
    "TRPO": TRPO(TRPOConfig(**budget)),
    "PPO": PPO(PPOConfig(**budget)),
}
found = compare(learners, "CartPole-v1")
print(found.to_frame())
found.plot()
