"""
Whom should each starter invite
===============================

Eight starters of a network with strong hubs may each invite a few friends. When every starter picks its own best connected
friends, all pick the same hubs. Planned together, they invite different people, and the plan comes with a bound that no
other choice can exceed.
"""

# %%
# A network of 1,500 people in which few have most of the links; a friend passes on with probability 1 / (links in).
import networkx as nx
import numpy as np
import plotly.graph_objects as go

from counterlog.core.network import Network
from counterlog.spread.capacity_constrained_im import CapacityConstrainedIM, CapacityConstrainedIMConfig
from counterlog.spread.centrality import Centrality, CentralityConfig

network = Network.from_networkx(nx.barabasi_albert_graph(1_500, 6, seed=3))
starters = np.random.default_rng(0).choice(300, 8, replace=False)

# %%
# Plans and separate lists for one to ten invitations a starter.
sizes = (1, 2, 4, 6, 8, 10)
planner = CapacityConstrainedIM(CapacityConstrainedIMConfig(eps=0.05))
plans = [planner.choose(network, starters, capacity=k) for k in sizes]
lists = [Centrality(CentralityConfig(seeds=k)).choose(network, starters) for k in sizes]
for k, plan, alone in zip(sizes, plans, lists, strict=True):
    print(f"k = {k}: {len(plan.seeds)} people invited, {len(alone.seeds)} by separate lists; {plan}")

fig = go.Figure()
for name, made, colour in (
    ("planned together", plans, "#0072B2"),
    ("separate lists by degree", lists, "#E69F00"),
):
    above, below = [c.hi - c.spread for c in made], [c.spread - c.lo for c in made]
    error = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
    fig.add_trace(
        go.Scatter(x=sizes, y=[c.spread for c in made], name=name, error_y=error, line={"color": colour})
    )
bound = [c.upper for c in plans]
fig.add_trace(go.Scatter(x=sizes, y=bound, name="no plan exceeds", line={"color": "#999999", "dash": "dash"}))
fig.update_layout(
    xaxis={"title": "invitations a starter"},
    yaxis={"title": "people reached (expected)", "rangemode": "tozero"},
    legend={"x": 0.02, "y": 0.98},
)
fig  # noqa: B018
