"""
Borrowing a good action from a similar state
============================================

A good controller of a pendulum is logged with seven tenths of its actions replaced by noise. Copying the action of the same row
copies the noise. PRDC pulls the policy to the nearest logged pair instead; `beta` says how much states count in "nearest". With a
large one the nearest pair is the row itself, and nothing is borrowed.
"""

# %%
# Two seeds for each beta, trained side by side and scored from the same starts.
import plotly.graph_objects as go

from counterlog.core.rl_evaluation import evaluate_policy
from counterlog.datasets.pendulum import Pendulum, pendulum_log
from counterlog.learn.prdc import PRDC, PRDCConfig

log = pendulum_log("pendulum-eps", 10_000)
betas, scores, shares = [0.5, 2.0, 20.0], [], []
for beta in betas:
    config = PRDCConfig(
        beta=beta, seeds=2, hidden=(32, 32), batch=64, steps=1200, gamma=0.97, lr=1e-3, tau=0.01
    )
    learner = PRDC(config)
    policy = learner.fit(log, low=-2, high=2)
    scores.append(evaluate_policy(policy, Pendulum, starts=10, gamma=0.97))
    shares.append(sum(policy.report.last("self_match")) / 2)
    print(beta, scores[-1].returns, shares[-1])

# %%
# The rows that stand behind a decision of the last policy.
print(learner.explain(log.state[:2], k=3).to_frame())

# %%
# Return, and the share of questions whose nearest pair is the row itself.
figure = go.Figure()
figure.add_scatter(x=[str(b) for b in betas], y=[s.value for s in scores], name="return")
figure.add_scatter(x=[str(b) for b in betas], y=shares, name="self-matches", yaxis="y2")
figure.update_layout(
    xaxis_title="beta",
    yaxis_title="return per episode",
    yaxis2={"title": "share of self-matches", "overlaying": "y", "side": "right", "range": [0, 1]},
)
figure  # noqa: B018
