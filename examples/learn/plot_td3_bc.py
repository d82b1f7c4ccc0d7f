"""
One knob between copying a log and trusting a critic
====================================================

Nine tenths of a log come from one narrow, weak controller of a pendulum, one tenth from a good one. TD3+BC climbs a critic
and is pulled to the logged action; `alpha` weighs the two. Copying earns what the weak controller earns; a critic that is
trusted where nobody acted earns less than that.
"""

# %%
# The log, and what its two kinds of episodes earn.
import plotly.graph_objects as go

from counterlog.core.rl_evaluation import evaluate_policy
from counterlog.datasets.pendulum import Pendulum, pendulum_log
from counterlog.learn.td3_bc import TD3BC, TD3BCConfig

log = pendulum_log("pendulum-weak", 10_000)
print(log, log.returns()[:45].mean(), log.returns()[45:].mean())

# %%
# Two seeds for each alpha, trained side by side and scored from the same starts.
alphas, scores = [0.0, 2.5, 100.0], []
for alpha in alphas:
    config = TD3BCConfig(
        alpha=alpha, seeds=2, hidden=(32, 32), batch=64, steps=1200, gamma=0.97, lr=1e-3, tau=0.01
    )
    policy = TD3BC(config).fit(log, low=-2, high=2)
    scores.append(evaluate_policy(policy, Pendulum, starts=10, gamma=0.97))
    print(alpha, scores[-1].returns)

# %%
# Mean return a seed; the line joins the means.
figure = go.Figure()
for k in range(2):
    figure.add_scatter(
        x=[str(a) for a in alphas], y=[s.returns[k] for s in scores], mode="markers", name=f"seed {k}"
    )
figure.add_scatter(x=[str(a) for a in alphas], y=[s.value for s in scores], name="mean")
figure.update_layout(xaxis_title="alpha", yaxis_title="return per episode")
figure  # noqa: B018
