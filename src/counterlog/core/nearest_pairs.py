"""The logged pair nearest to a state and an action, exactly:  d^2 = beta^2 |x - x_i|^2 + |a - a_i|^2.

A question about a logged state is answered from that row's list of nearest states, made once and kept. Any pair outside
the list is at least beta times the list's radius away, so a best pair nearer than that is the best of all; the others
are asked of a tree (few columns) or of a blocked product (many). Ties go to the lowest row. Distances are single
precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from counterlog.core.errors import ConfigError, message

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

Floats = NDArray[np.float64]
TREE_COLUMNS = 8  # a tree prunes little beyond
BLOCK = 2**25  # numbers of a product held at once
SPARE = 7  # candidates of a product beyond those asked for: they absorb its rounding
ROUNDING = 4e-6  # of a product in single precision, relative to the squared norms


@dataclass(frozen=True)
class Pairs:
    """The nearest pairs of n questions, nearest first: rows and the two parts of the squared distance, (n, k) each.

    `listed` (n,) says which questions were answered from a list.
    """

    row: Tensor
    state_part: Tensor
    action_part: Tensor
    listed: Tensor

    @property
    def squared(self) -> Tensor:
        """(n, k) squared distances."""
        return self.state_part + self.action_part


class NearestPairs:
    """Search among the pairs (state, action) of a log, or of its rows `among`.

    beta    how much states count: 0 leaves actions alone, a large one asks for the same state
    lists   nearest states kept a row, 0 for none; memory is rows * lists * 8 bytes
    """

    def __init__(
        self,
        state: Tensor,
        action: Tensor,
        *,
        beta: float,
        lists: int = 32,
        among: NDArray[np.int64] | None = None,
    ) -> None:
        self.beta, self.rows = beta, len(state)
        self.state = beta * state.float()
        ids = np.arange(self.rows) if among is None else np.sort(among)
        if not ids.size or len(action) != self.rows:
            msg = message(f"{len(action)} actions for {self.rows} states, {ids.size} to choose from")
            raise ConfigError(message(msg, expected="as many actions as states and one row or more"))
        self.ids = torch.from_numpy(ids)
        self.keys = torch.cat([self.state[self.ids], action.float()[self.ids]], dim=1)
        self.size = len(ids)
        self.width = self.state.shape[1]
        self.action = self.keys[:, self.width :].contiguous()
        self.lists = min(lists, self.size)
        self.known = np.zeros(self.rows, bool)
        self._list = torch.empty(self.rows, self.lists, dtype=torch.int32)
        self._near = torch.empty(self.rows, self.lists)
        self._radius = torch.empty(self.rows)
        self._trees: dict[str, cKDTree] = {}

    def of_rows(self, row: Tensor, action: Tensor, k: int = 1) -> Pairs:
        """The k pairs nearest to (state of `row`, `action`).  (n,) row numbers, (n, columns) actions."""
        self._check(k)
        if self.lists < k or self.beta == 0:  # every state is as near: lists say nothing
            return self._search(self.state[row], action, k)
        self._fill(np.unique(row.numpy()))
        found = self._list.index_select(0, row)
        near = self._near.index_select(0, row)
        gaps = self.action.index_select(0, found.view(-1)).view(*found.shape, -1).sub_(action[:, None])
        gaps = gaps.square_().sum(dim=2)
        total = near + gaps
        place = total.argmin(dim=1, keepdim=True) if k == 1 else total.sort(dim=1, stable=True).indices[:, :k]
        listed = total.gather(1, place)[:, -1] < self._radius.index_select(0, row)
        local = found.gather(1, place).long()
        picked = Pairs(self.ids[local], near.gather(1, place), gaps.gather(1, place), listed)
        if (open_ := (~listed).nonzero()[:, 0]).numel():
            rest = self._search(self.state[row[open_]], action[open_], k)
            picked.row[open_], picked.state_part[open_] = rest.row, rest.state_part
            picked.action_part[open_] = rest.action_part
        return picked

    def of_pairs(self, state: Tensor, action: Tensor, k: int = 1) -> Pairs:
        """The k pairs nearest to any (state, action), (n, columns) each."""
        self._check(k)
        return self._search(self.beta * state.float(), action, k)

    def losing_betas(self, row: Tensor, action: Tensor) -> Tensor:
        """(n,) the beta below which the row's own pair is no longer the nearest one; 0 when it always is.

        The largest sqrt((|a - a_row|^2 - |a - a_i|^2) / |x_row - x_i|^2) over the other pairs i; needs beta > 0.
        """
        out = []
        for r, a in zip(row, action, strict=True):
            gap = (self.action - a).square().sum(dim=1)
            far = (self.keys[:, : self.width] - self.state[r]).square().sum(dim=1) / self.beta**2
            own = self.ids == r
            gain = (gap[own].sum() - gap).clamp(min=0)
            ratio = torch.where(far > 0, gain / far, torch.zeros(()))
            out.append(ratio.amax().sqrt())
        return torch.stack(out)

    def _check(self, k: int) -> None:
        if not 1 <= k <= self.size:
            msg = message(f"{k} neighbours asked for", expected=f"1 to {self.size:,}, the pairs there are")
            raise ConfigError(msg)

    def _fill(self, rows: NDArray[np.int64]) -> None:
        """Make the lists of the rows that have none yet, each sorted by row number so that ties go to the lowest."""
        fresh = rows[~self.known[rows]]
        step = max(1, BLOCK // self.size)
        for start in range(0, len(fresh), step):
            part = torch.from_numpy(fresh[start : start + step])
            query = self.state[part]
            found, doubt = self._candidates("states", query, self.lists)
            near = (self.keys[:, : self.width][found] - query[:, None]).square().sum(dim=2)
            order = found.argsort(dim=1)
            self._list[part] = found.gather(1, order).int()
            self._near[part] = near.gather(1, order)
            whole = self.lists == self.size  # nothing lies outside
            self._radius[part] = torch.inf if whole else near.amax(dim=1) * (1 - 1e-6) - doubt
            self.known[part.numpy()] = True

    def _candidates(self, what: str, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """(n, k) rows of the nearest keys, unsorted, and (n,) how far a squared distance may be wrong."""
        keys = self.keys if what == "pairs" else self.keys[:, : self.width]
        if keys.shape[1] <= TREE_COLUMNS:
            if what not in self._trees:
                from scipy.spatial import cKDTree

                self._trees[what] = cKDTree(keys.double().numpy())
            found: Any = self._trees[what].query(query.double().numpy(), k=k)[1]
            return torch.from_numpy(found.reshape(len(query), k)), torch.zeros(len(query))
        norms = keys.square().sum(dim=1)
        out = []
        step = max(1, BLOCK // self.size)
        for part in query.split(step):
            scores = torch.addmm(norms, part, keys.T, alpha=-2)
            out.append(scores.topk(k, dim=1, largest=False, sorted=False).indices)
        return torch.cat(out), ROUNDING * (query.square().sum(dim=1) + norms.max())

    def _search(self, state: Tensor, action: Tensor, k: int) -> Pairs:
        """Without lists. A question whose candidates could hide a tie is put to every pair."""
        query = torch.cat([state, action.float()], dim=1)
        spare = 1 if query.shape[1] <= TREE_COLUMNS else SPARE
        wide = min(k + spare, self.size)
        found, doubt = self._candidates("pairs", query, wide)
        found = found.sort(dim=1).values
        parts = (self.keys[found] - query[:, None]).square_()
        near, gaps = parts[..., : self.width].sum(dim=2), parts[..., self.width :].sum(dim=2)
        total = near + gaps
        order = total.sort(dim=1, stable=True).indices
        ranked = total.gather(1, order)
        place = order[:, :k]
        local, near, gaps = found.gather(1, place), near.gather(1, place), gaps.gather(1, place)
        if wide < self.size:
            for i in (ranked[:, -1] - doubt <= ranked[:, k - 1] * (1 + 1e-6)).nonzero()[:, 0].tolist():
                parts = (self.keys - query[i]).square()
                total_i = parts[:, : self.width].sum(dim=1) + parts[:, self.width :].sum(dim=1)
                local[i] = total_i.sort(stable=True).indices[:k]
                near[i] = parts[local[i], : self.width].sum(dim=1)
                gaps[i] = parts[local[i], self.width :].sum(dim=1)
        return Pairs(self.ids[local], near, gaps, torch.zeros(len(query), dtype=torch.bool))
