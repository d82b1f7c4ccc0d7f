"""
Eight policies, one log, seven estimators
=========================================

A river with 30 states; one policy made 200 trajectories of 50 steps. Every other policy is valued from them. Black
lines are the exact values. Products of ratios (PDIS, DR) widen with the distance from the logging policy; the model
(DM) and the marginal weights (SAM-IS, SAM-DR) do not.
"""

from counterlog.core.state_policies import TablePolicy
from counterlog.datasets.river import river, swimmers
from counterlog.estimate.trajectories import TrajectoriesConfig, evaluate_trajectories
from counterlog.report.figures import COLOURS, figure

gamma = 0.9
world, candidates = river(), swimmers()
log = world.sample(candidates["swim-4"], trajectories=200, horizon=50, rng=0)
names = ("DM", "PDIS", "SNPDIS", "DR", "SNDR", "SAM-IS", "SAM-DR")
estimates = evaluate_trajectories(
    log,
    {name: TablePolicy(table) for name, table in candidates.items()},
    names,
    config=TrajectoriesConfig(gamma=gamma),
)
order = {name: i for i, name in enumerate(candidates)}
data = []
for j, estimator in enumerate(names):
    chosen = [e for e in estimates if e.estimator == estimator]
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": estimator,
            "x": [order[e.policy] + (j - 3) * 0.11 for e in chosen],
            "y": [e.value for e in chosen],
            "error_y": {
                "array": [e.hi - e.value for e in chosen],
                "arrayminus": [e.value - e.lo for e in chosen],
                "width": 2,
            },
            "marker": {
                "color": COLOURS[j % len(COLOURS)],
                "symbol": ["circle" if e.valid else "circle-open" for e in chosen],
            },
        }
    )
for i, table in enumerate(candidates.values()):
    true = world.value(table, gamma)
    data.append(
        {
            "type": "scatter",
            "mode": "lines",
            "x": [i - 0.42, i + 0.42],
            "y": [true, true],
            "line": {"color": "black", "width": 2},
            "name": "exact value",
            "showlegend": i == 0,
        }
    )
fig = figure(
    data,
    height=460,
    xaxis={"tickvals": list(range(len(order))), "ticktext": list(order), "title": "policy"},
    yaxis={"title": f"reward per trajectory, discounted by {gamma:g} a step"},
)
