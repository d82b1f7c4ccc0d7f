"""
The whole distribution of returns from another policy's log
===========================================================

1,000 trajectories of ten steps in the river, and a policy that swims harder than the one that was logged. Estimated
distributions against the one from 20,000 trajectories of the policy itself.
"""

import numpy as np

from counterlog.core.state_policies import TablePolicy
from counterlog.datasets.river import river, swimmers
from counterlog.estimate.return_distribution import F_DM, F_SNTDR, F_SNTIS, F_TIS, ReturnDistributionConfig
from counterlog.report.figures import COLOURS, figure

world, candidates = river(), swimmers()
log = world.sample(candidates["swim-4"], trajectories=1000, horizon=10, rng=0)
config = ReturnDistributionConfig(gamma=0.95, truncation="end")
data = []
for j, kind in enumerate((F_TIS, F_SNTIS, F_SNTDR, F_DM)):
    found = kind(config).distribution(log, TablePolicy(candidates["swim-6"]))
    data.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"{kind.name} (worst tenth {found.cvar(0.1):.2f})",
            "x": found.atoms,
            "y": found.cdf,
            "line": {"shape": "hv", "color": COLOURS[j]},
        }
    )
true = np.sort(world.sample(candidates["swim-6"], 20_000, 10, rng=1).returns(0.95))
data.append(
    {
        "type": "scatter",
        "mode": "lines",
        "name": f"the policy itself (worst tenth {true[:2000].mean():.2f})",
        "x": true[::50],
        "y": np.linspace(0, 1, len(true))[::50],
        "line": {"color": "black", "dash": "dot"},
    }
)
fig = figure(
    data,
    height=420,
    xaxis={"title": "discounted return of a trajectory (reward)"},
    yaxis={"title": "share of trajectories at or below", "range": [0, 1.02]},
)
