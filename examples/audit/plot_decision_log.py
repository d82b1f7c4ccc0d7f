"""
The audit of a decision log
===========================

Three logs of the same decisions: a sound one, one whose propensities are wrong in one segment, and one whose logging
changed on the seventh day while the logged propensities did not. The mean weight of every action must be 1; its
intervals say where it is not.
"""

# %%
# The logs are simulated: four actions, ten days, three segments.
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from counterlog.audit.decision_log import audit
from counterlog.studies.log_audit import DEFECTS, as_log, clean_columns

n = 6_000
logs = {
    "sound log": as_log(clean_columns(n, 0)),
    "wrong in one segment": DEFECTS["propensities wrong in one segment"].make(n, 0),
    "wrong from day 7 on": DEFECTS["propensities wrong from day 6 on"].make(n, 0),
}
results = {name: audit(log) for name, log in logs.items()}
for name, result in results.items():
    print(f"{name}: {result.verdict}")

# %%
# Every finding carries its numbers: here the mean weight of each action, by segment and by window of time.
views = ("propensity calibration by segment", "propensity calibration over time")
fig = make_subplots(
    rows=2,
    cols=3,
    shared_yaxes=True,
    subplot_titles=[*results, "", "", ""],
    horizontal_spacing=0.03,
    vertical_spacing=0.12,
)
colours = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
for column, result in enumerate(results.values(), start=1):
    for row, view in enumerate(views, start=1):
        evidence = result.of(view)[0].evidence
        for k, action in enumerate(sorted({e["action"] for e in evidence})):
            mine = [e for e in evidence if e["action"] == action]
            key = "c" if row == 1 else "from"
            fig.add_trace(
                go.Scatter(
                    x=[i + (k - 1.5) * 0.15 for i in range(len(mine))],
                    y=[e["mean"] for e in mine],
                    error_y={
                        "array": [e["hi"] - e["mean"] for e in mine],
                        "arrayminus": [e["mean"] - e["lo"] for e in mine],
                        "thickness": 1,
                    },
                    mode="markers",
                    marker={"color": colours[k], "size": 6},
                    name=f"action {action}",
                    legendgroup=action,
                    showlegend=row == 1 and column == 1,
                    text=[e[key] for e in mine],
                ),
                row=row,
                col=column,
            )
        fig.update_xaxes(
            tickvals=list(range(len(mine))), ticktext=[e[key][:10] for e in mine], row=row, col=column
        )
        fig.add_hline(y=1, line={"color": "#555", "dash": "dot"}, row=row, col=column)
fig.update_yaxes(title_text="mean weight (1 is right)", col=1)
fig.update_layout(height=560, template="plotly_white", legend={"orientation": "h", "y": -0.15})
fig  # noqa: B018
