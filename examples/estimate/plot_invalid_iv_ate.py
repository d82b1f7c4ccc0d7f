"""
An encouragement that acts by itself
====================================

Eligibility pushes people into a programme, and it also changes the outcome by itself; something hidden drives both. Then
regression is wrong (hidden confounding) and so are instrumental variables (the direct effect). What still tells the effect
apart is how eligibility changes the *variance* of the treatment.
"""

# %%
# A draw with a known answer: the average effect is 7/6.
from counterlog.core.units import Units
from counterlog.datasets.encouragement import ATE, encouragement
from counterlog.estimate.invalid_iv_ate import InvalidIV, InvalidIVConfig

frame = encouragement(6_000, rng=1)
units = Units(frame, outcome="y", treatment="a", instrument="z", covariates=["x1", "x2"])
config = InvalidIVConfig(
    repeats=1,
    instrument_learners=("logit", "logit2"),
    treatment_learners=("linear", "logit2"),
    outcome_learners=("ridge2/ridge", "ridge2/constant"),
)
found = InvalidIV(config).estimate(units)
print(found.summary_frame())

# %%
# All estimators beside the truth.
fig = found.plot()
fig.add_vline(x=ATE, line={"dash": "dot", "color": "#2a9d6f"}, annotation_text="truth")
fig  # noqa: B018
