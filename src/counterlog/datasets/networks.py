"""Named networks, read the way each file is written."""

from __future__ import annotations

from typing import Any

from counterlog.core.errors import DatasetError, message
from counterlog.core.network import Network
from counterlog.core.network_files import read_network
from counterlog.datasets.registry import get

HOW: dict[str, dict[str, Any]] = {
    "ca-hepph": {"undirected": True},
    "email-eu-core": {"skip": 1},
    "facebook-combined": {"undirected": True},
    "nethept": {"skip": 1},
    "soc-epinions1": {"undirected": True},
    "wiki-vote": {},
}
QUERIES = {"dnc-corecipient": ("dnc-corecipient.txt.gz", {"parallel": "keep"}), "scinet": ("scinet.txt", {})}


def network(name: str, probability: str | float = "wc", **options: Any) -> Network:
    """A network by name; `options` are those of `read_network`. Raises `DatasetError` for an unknown name."""
    if name in QUERIES:
        file, how = QUERIES[name]
        return read_network(get("cim-query-sets", file), probability, **{**how, **options})
    if name not in HOW:
        known = ", ".join((*HOW, *QUERIES))
        raise DatasetError(message(f"there is no network {name!r}", expected=f"one of {known}"))
    return read_network(get(name), probability, **{**HOW[name], **options})


def published_starters(name: str) -> tuple[tuple[int, ...], ...]:
    """The four lists of starters published with `dnc-corecipient` or `scinet`, smallest first."""
    if name not in QUERIES:
        raise DatasetError(message(f"{name!r} has no published starters", expected=" or ".join(QUERIES)))
    lines = get("cim-query-sets", f"{name}.ap").read_text().split()
    return tuple(tuple(int(v) for v in line.split(",")) for line in lines)
