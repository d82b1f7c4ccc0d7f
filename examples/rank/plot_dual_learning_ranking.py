"""
How much position decides
=========================

Readers look at the tenth position less than a tenth as often as at the first. Dual learning finds that, and the true order, from the
clicks of one weak ranker's lists; taking clicks as labels learns the old ranker's order instead.
"""

# %%
# The log: 200 queries, the old ranker's top 10, clicks by the position-based model.
import plotly.graph_objects as go

from counterlog.core.ranking_metrics import mean, ndcg
from counterlog.datasets.click_logs import simulated_queries
from counterlog.rank.click_simulators import PositionBased
from counterlog.rank.dual_learning_ranking import DualLearningRanking, DualLearningRankingConfig
from counterlog.rank.inverse_propensity_ranking import (
    InversePropensityRanking,
    InversePropensityRankingConfig,
)

population = simulated_queries(0, queries=200, test=100)
log = population.log(20_000)

# %%
# The same network, with the bias learnt and with clicks taken as they are.
dual = DualLearningRanking(DualLearningRankingConfig(steps=300)).fit(log)
naive = InversePropensityRanking(InversePropensityRankingConfig(way="naive", steps=300)).fit(log)
for name, fitted in (("dual learning", dual), ("clicks as labels", naive)):
    test = population.test
    print(f"{name}: nDCG@10 {mean(ndcg(fitted.score(test.features), test.label, test.offsets)):.3f}")

# %%
# The curve, its intervals, and the truth.
fig: go.Figure = dual.report.plot()
truth = PositionBased().examination(10)
fig.add_scatter(x=list(range(1, 11)), y=truth / truth[0], mode="lines", name="truth", line={"dash": "dot"})
fig.data[0].name = "dual learning"
fig  # noqa: B018
