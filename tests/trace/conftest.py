"""Small networks run fastest on one thread."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    if find_spec("torch") is None:  # trees need none
        yield
        return
    from counterlog.core.torch_models import one_thread

    with one_thread():
        yield
