"""What post-training gives back: the model, and a report of how it went."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from counterlog.core.results import Result

CURVES = (
    ("reward", "reward of the responses trained on"),
    ("entropy", "entropy, nats a token"),
    ("kl_behaviour", "KL(sampler || policy), nats a token"),
    ("ess_tokens", "effective sample size, share of the tokens"),
)


@dataclass(frozen=True, kw_only=True)
class TuningReport(Result):
    """How a run went. `n` counts the rows that were trained on; `metrics` holds one record a step.

    `samples` are answers to the same prompts before and after: prompt, before, after, and their rewards where a reward
    function judged them. A text, or an image as a `data:image/png;base64,` address. `off_policy` adds up the run.
    """

    slug: str
    unit: str
    n: int
    rng: int
    metrics: tuple[dict[str, float], ...] = ()
    samples: tuple[dict[str, Any], ...] = ()
    off_policy: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def records(self) -> list[dict[str, Any]]:
        """One row a step."""
        names = list(dict.fromkeys(name for m in self.metrics for name in m))
        return [{name: m.get(name) for name in names} for m in self.metrics]

    def column(self, name: str) -> list[float]:
        """One metric over the steps that have it."""
        return [m[name] for m in self.metrics if name in m]

    def plot(self, names: Sequence[str] = ()) -> Any:
        """The metrics over the steps as a plotly figure, one panel each."""
        wanted = [(n, dict(CURVES).get(n, n)) for n in names] or list(CURVES)
        return curves(self.metrics, [w for w in wanted if self.column(w[0])])


def curves(
    metrics: Sequence[dict[str, float]], wanted: Sequence[tuple[str, str]], *, panel: int = 190
) -> Any:
    """Metrics over steps under one another, sharing the axis of steps."""
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    rows = max(len(wanted), 1)
    titles = [words for _, words in wanted]
    figure = make_subplots(
        rows=rows, cols=1, shared_xaxes=True, subplot_titles=titles, vertical_spacing=0.4 / rows / 2
    )
    for i, (name, words) in enumerate(wanted):
        mine = [m for m in metrics if name in m]
        figure.add_trace(
            Scatter(
                x=[m["step"] for m in mine],
                y=[m[name] for m in mine],
                mode="lines",
                name=words,
                line={"color": "#2b7bba", "width": 2},
                showlegend=False,
            ),
            row=i + 1,
            col=1,
        )
    figure.update_xaxes(zeroline=False)
    figure.update_xaxes(title_text="optimiser step", row=rows, col=1)
    figure.update_yaxes(zeroline=False, automargin=True)
    figure.update_layout(
        height=60 + panel * rows,
        margin={"l": 8, "r": 12, "t": 30, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12},
    )
    return figure


@dataclass
class Tuned:
    """A tuned model and its report; `save` writes the model as `save_pretrained` does."""

    model: Any
    report: TuningReport
    tokenizer: Any = None
    folder: Path | None = None

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Model (and tokenizer) as safetensors, the report beside them."""
        target = Path(folder)
        self.model.save_pretrained(target, safe_serialization=True)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(target)
        self.report.save(target / "tuning-report.json")
        return target


def side_by_side(
    before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]], shown: str
) -> tuple[dict[str, Any], ...]:
    """The samples of a report from what was `shown` (a key) to each prompt before and after, with their rewards."""
    return tuple(
        {
            "prompt": b["prompt"],
            "before": b[shown],
            "after": a[shown],
            "reward_before": b["reward"],
            "reward_after": a["reward"],
        }
        for b, a in zip(before, after, strict=True)
    )
