"""
Which prompt, which model, for which question?
==============================================

Real outcomes: a language model answered every question under every prompt, and four models answered every question.
Each bar is the share of questions solved; because every answer is known, nothing is estimated. Choosing by the question
could gain much (the last bar of each group), but a router that sees only the text's length, numbers and words was
no better than the best single choice.
"""

from pathlib import Path

import counterlog.studies
from counterlog.core.study import Study
from counterlog.report.figures import COLOURS, figure

study = Study.load(Path(counterlog.studies.__file__).parent / "results" / "counterfactual-tables.json")
exact = study.tables[1].rows
titles = {
    "prompts": "six prompts, LLaMA-2-7B-chat",
    "models": "four models, 6B and 175B",
    "priced": "four models, minus their price",
}

data = []
for k, (table, title) in enumerate(titles.items()):
    rows = [r for r in exact if r["table"] == table]
    order = sorted(rows, key=lambda r: r["exact value"])
    data.append(
        {
            "type": "bar",
            "name": title,
            "x": [[title] * len(order), [r["policy"] for r in order]],
            "y": [r["exact value"] for r in order],
            "text": [f"{r['exact value']:.3f}" for r in order],
            "textposition": "outside",
            "marker": {"color": COLOURS[k]},
        }
    )

fig = figure(
    data,
    height=460,
    showlegend=False,
    xaxis={"automargin": True},
    yaxis={"title": {"text": "exact reward a question"}, "range": [0, 0.78]},
)
fig.update_layout(bargap=0.2)
