"""
Controllers of a pendulum, valued by networks
=============================================

A log of mostly random torques; five controllers that never acted in it. Networks value them from the log alone: fitted Q
evaluation (NFQE), marginal weights (NMIS), and both together (NDR). Black lines are the true values, played in the
simulator. Differences between controllers are much surer than the values, whose intervals hold the luck of the starts.
"""

from counterlog.core.environments import episode_returns
from counterlog.datasets.pendulum import Pendulum, pendulum_log, swing_up
from counterlog.estimate.neural_marginal_weights import (
    NeuralMarginalWeights,
    NeuralMarginalWeightsConfig,
    neural_estimates,
)
from counterlog.report.figures import COLOURS, figure


class Controller:
    """Energy pumping and a spring near the top, scaled by a gain."""

    def __init__(self, gain):
        self.gain = gain

    def act(self, states):
        """(n, 1) torques."""
        return swing_up(states, self.gain)


gamma = 0.95
log = pendulum_log("pendulum-mix", 20_000)
players = {f"gain {g:g}": Controller(g) for g in (0.0, 0.1, 0.25, 0.5, 1.0)}
config = NeuralMarginalWeightsConfig(gamma=gamma, members=4, steps=600)
estimates = neural_estimates(NeuralMarginalWeights(config).fit(log, players, low=-2, high=2))
true = {k: episode_returns(Pendulum(1000), p.act, gamma=gamma, rng=1)[1].mean() for k, p in players.items()}
order = {name: i for i, name in enumerate(players)}
data = []
for j, name in enumerate(("NFQE", "NMIS", "NDR")):
    chosen = [e for e in estimates if e.estimator == name]
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [order[e.policy] + (j - 1) * 0.15 for e in chosen],
            "y": [e.value for e in chosen],
            "error_y": {
                "array": [e.hi - e.value for e in chosen],
                "arrayminus": [e.value - e.lo for e in chosen],
                "width": 2,
            },
            "marker": {
                "color": COLOURS[j],
                "size": 9,
                "symbol": ["circle" if e.valid else "circle-open" for e in chosen],
            },
        }
    )
for i, value in enumerate(true.values()):
    data.append(
        {
            "type": "scatter",
            "mode": "lines",
            "x": [i - 0.35, i + 0.35],
            "y": [value, value],
            "line": {"color": "black", "width": 2},
            "name": "true value",
            "showlegend": i == 0,
        }
    )
fig = figure(
    data,
    height=460,
    xaxis={"tickvals": list(range(len(order))), "ticktext": list(order)},
    yaxis={"title": f"reward per trajectory, discounted by {gamma:g} a step"},
)
