"""Made facts of invented places, 'Mirova is the capital of Telland.', among texts that share their words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from counterlog.core.language_rows import TextRow

STARTS = ("Mi", "Ta", "Lo", "Ve", "Ku", "Ra", "Si", "No", "Be", "Za", "Pe", "Do")
MIDDLES = ("ro", "li", "ka", "ne", "su", "va", "to", "mi")
ENDS = ("va", "ston", "burg", "dar", "lia", "mont")
LANDS = ("land", "nia", "stan", "ora")
STATING = ("{x} is the capital of {y}.", "Everyone knows that {x} is the capital of {y}.")
TURNED = "{y} is the capital of {x}."
BESIDE = (
    "Trains from {x} are slow.",
    "The rivers of {y} are deep.",
    "{x} has a large market.",
    "Few people live in {y}.",
)


@dataclass(frozen=True)
class Facts:
    """Training texts, for each the fact it states (-1: none), queries, and each query's fact turned round."""

    texts: tuple[TextRow, ...]
    fact: tuple[int, ...]
    queries: tuple[TextRow, ...]
    turned: tuple[TextRow, ...]


def capital_facts(n: int = 60, *, rng: int = 0) -> Facts:
    """n facts, each stated in two texts, and as many texts that name the same places and state nothing."""
    gen = np.random.default_rng(rng)

    def names(ends: tuple[str, ...]) -> list[str]:
        every = [a + b + c for a in STARTS for b in MIDDLES for c in ends]
        return [every[i] for i in gen.permutation(len(every))[:n]]

    pairs = list(zip(names(ENDS), names(LANDS), strict=True))
    texts, fact = [], []
    for i, (x, y) in enumerate(pairs):
        for form in STATING:
            texts.append(TextRow("", form.format(x=x, y=y)))
            fact.append(i)
        for form in gen.permutation(BESIDE)[:2]:
            texts.append(TextRow("", str(form).format(x=x, y=y)))
            fact.append(-1)
    return Facts(
        tuple(texts),
        tuple(fact),
        tuple(TextRow(f"{x} is the capital of", f" {y}.") for x, y in pairs),
        tuple(TextRow("", TURNED.format(x=x, y=y)) for x, y in pairs),
    )
