"""Direct method: value a policy by a model of the rewards alone.

Use when    logging probabilities are unknown or tiny, and the model predicts rewards well.
Not when    the model may be wrong where the policy goes: its bias is not in the interval.
Data        Rounds(action, reward, context)
Paper       Dudik, Langford and Li (2011), section 2.
Equation    mean_i  sum_a pi(a|x_i) q(x_i, a)                                                             (1)
Shapes      q (n, actions), cross-fitted: no row is predicted by a model that saw its unit
Units       value: reward units per decision
Raises      SupportError: the policy gives no probability for every action
Differs     the interval covers sampling of contexts, not the model's error; the note of the estimate says so.
"""

from __future__ import annotations

from typing import ClassVar

from counterlog.core.estimators import Estimator, Parts, Row


class DM(Estimator):
    """Equation (1)."""

    name: ClassVar[str] = "DM"
    needs_model: ClassVar[bool] = True
    needs_propensity: ClassVar[bool] = False

    def parts(self, row: Row) -> Parts:
        """v."""
        return Parts(mean=row.v)
