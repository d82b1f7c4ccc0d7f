"""The part of the page on rows that sway the answer through the reward model, and on how that differs from their own
terms."""

from __future__ import annotations

import math

from counterlog.report.blocks import Section, grid
from counterlog.report.model_sway import TOP, ModelSway
from counterlog.report.reward_report import RewardReport
from counterlog.report.wording import brief, capital, per_decision, percent

LOW, HIGH = 0.3, 0.7


def model_sway_section(part: RewardReport) -> Section | None:
    """BoostIn on the reward model beside the influence function of the estimate."""
    made = part.model_sway
    if made is None:
        return None
    title = "Which rows sway it through the reward model?"
    if not made.rows:
        return Section(slug="model-sway", title=title, text=tuple(f"{capital(n)}." for n in made.notes))
    unit = per_decision(part.unit)
    return Section(
        slug="model-sway",
        title=title,
        text=(
            "A row acts twice: its own term enters the estimate, and it trained the reward model that predicts what "
            "every candidate earns. The list above holds the model fixed and asks for the first. This one asks for "
            f"the second, by BoostIn on the {made.model} models: how far the row, when added to training, moves "
            "what the model alone says of the difference.",
            agreement_words(made),
            estimate_words(made),
            f"BoostIn lets no later tree correct an earlier one: it orders rows like the exact slope through all trees "
            f"(rank correlation {brief(made.exactness)}) and is {brief(made.overstated)} times as large in the middle. "
            "Read it as an order and the exact slope as a size; both hold the shape of the trees fixed.",
        ),
        grids=(
            grid(
                "The rows that sway the reward model most",
                (
                    "row",
                    "what it holds",
                    ("BoostIn", f"through the model, {unit}"),
                    ("exact slope", f"through the model, {unit}"),
                    ("within the estimate", f"what {made.estimator} keeps of it, {unit}"),
                    ("own term", f"influence function, {unit}"),
                ),
                [(f"row {r.row}", r.detail, r.boostin, r.exact, r.within_estimate, r.own) for r in made.rows],
                open=False,
                note="Positive: the row, when added, moves the answer up. Rows are counted from 0.",
            ),
        ),
    )


def agreement_words(made: ModelSway) -> str:
    """Whether the two lists agree, and what each means where they do not."""
    shared = f"{made.shared} of the {TOP} largest are on both lists"
    if math.isnan(made.agreement):
        return f"The two cannot be ranked against each other; {shared}."
    said = f"rank correlation {brief(made.agreement)}; {shared}"
    if made.agreement >= HIGH:
        return f"The two lists agree ({said}): rows that count for themselves also shape the model."
    lead = "The two lists disagree" if made.agreement <= LOW else "The two lists agree in part"
    return (
        f"{lead} ({said}). A row high above and low here has a large weight or a surprising reward, but lies where "
        "the model has many others: check the row and its propensity. A row high here and low above has few neighbours "
        "that took the same action: it speaks for many predictions, so check whether the model should trust it."
    )


def estimate_words(made: ModelSway) -> str:
    """How much of the sway through the model the estimate keeps."""
    if made.estimator == "DM":
        return "The answer is the model's own (DM), so all of this sway is in it."
    if made.estimator != "DR":
        return f"The answer is by {made.estimator}, which uses no model: none of this sway is in it, only in DM and DR."
    return (
        f"The answer is by DR, whose weights take back what the model gets wrong: {percent(max(0.0, made.cancelled))} "
        "of the sway through the model (sum of sizes) cancels in it. The rest is there because a log is finite."
    )
