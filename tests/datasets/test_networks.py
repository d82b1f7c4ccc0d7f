"""Named networks have the sizes they are known for."""

from __future__ import annotations

import pytest

from counterlog.core.errors import DatasetError
from counterlog.datasets.networks import network, published_starters

SIZES = {
    "ca-hepph": (11_203, 235_236),
    "email-eu-core": (1_005, 24_929),
    "facebook-combined": (4_039, 176_468),
    "nethept": (15_229, 62_752),
    "soc-epinions1": (75_877, 811_478),
    "wiki-vote": (7_115, 103_689),
    "dnc-corecipient": (906, 24_170),
    "scinet": (1_461, 2_742),
}


@pytest.mark.data
@pytest.mark.parametrize("name", SIZES)
def test_a_network_has_its_known_size(name: str, data_folder: object) -> None:
    g = network(name)
    assert (g.n, g.m) == SIZES[name]
    assert g.in_degree.sum() == g.m


@pytest.mark.data
def test_published_starters_are_in_their_networks(data_folder: object) -> None:
    for name, sizes in (("dnc-corecipient", [5, 10, 20, 50]), ("scinet", [7, 14, 28, 70])):
        lists = published_starters(name)
        assert [len(x) for x in lists] == sizes
        assert len(network(name).ids(lists[-1])) == sizes[-1]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(DatasetError, match="no network 'none'"):
        network("none")
    with pytest.raises(DatasetError, match="no published starters"):
        published_starters("nethept")
