"""A sample of a log's units, drawn by the engine that holds it, for what must see rows: the audit, learning, the page.

Whether a unit is drawn is a function of the unit alone, so its rows stay together and every engine draws the same ones.
"""

from __future__ import annotations

import narwhals as nw

from counterlog.core.buckets import PRIME, row_code, unit_code
from counterlog.core.engine_scan import unit_is_key, with_unit_key
from counterlog.core.engines import OWN, scans, with_row_number
from counterlog.core.frames import collect
from counterlog.core.rounds import Rounds

MOST_ROWS = 2_000_000  # a log with more is read as a sample
SAMPLE = 300_000


def row_sample(log: Rounds, *, most: int = MOST_ROWS, sample: int = SAMPLE) -> Rounds:
    """The log itself up to `most` rows; of a larger one about `sample` rows, whole units.

    The columns are those with a role and those that no role names, so that candidates may be columns.
    """
    if log.n <= most or not scans(log.frame) or not unit_is_key(log):
        return log
    if log.unit_column is None:
        frame = with_row_number(log.frame, f"{OWN}row")
        code = row_code(nw.col(f"{OWN}row"))
    else:
        frame, key = with_unit_key(log)
        code = unit_code(key)
    names = log.frame.collect_schema().names()
    table = collect(frame.filter(code < int(sample / log.n * PRIME)).select(names))
    return log.reopened(table)
