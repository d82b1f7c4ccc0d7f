"""Which training texts made a language model answer so: the run folder of a text trace.

The scores are `counterlog.trace.text_model.trace_text_model`'s (EK-FAC); here they become a page and files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from counterlog.core.errors import ConfigError, message
from counterlog.core.files import sha256, write_parquet, write_whole
from counterlog.core.study import Clock, versions
from counterlog.report.blocks import Section, grid
from counterlog.report.page import render_sections
from counterlog.report.wording import brief, capital, percent

LONGEST = 400
PAGED = 20


@dataclass(frozen=True)
class LanguageAttribution:
    """The scores (`TextScores`), what made them as (what, value), and the training texts in their order."""

    report: Any
    made: tuple[tuple[str, str], ...]
    texts: tuple[str, ...]

    def html(self) -> str:
        """The page, one file that opens without a network."""
        r = self.report
        sections = [query_section(q, r) for q in r.queries[:PAGED]]
        if r.self_influence:
            sections.append(outlier_section(r, self.texts))
        sections.append(
            Section(
                slug="made",
                title="What made this page",
                text=(
                    "The same command and files give the same numbers.",
                    *(f"{capital(n)}." for n in r.notes),
                ),
                grids=(grid("Command, files and versions", ("what", "value"), self.made),),
            )
        )
        mean = sum(q.share_top_1_percent for q in r.queries) / max(1, len(r.queries))
        return render_sections(
            sections,
            title="Attribution report",
            about=f"{r.n:,} training texts, {len(r.queries):,} queries, model {r.model}, scored by {r.method}.",
            heading="Which training texts made the model answer so",
            verdict=(
                f"{capital(r.sign)}.",
                f"On average the top 1% of the texts hold {percent(mean)} of a query's influence.",
            ),
        )

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write the run folder; the page comes last, and its path is returned."""
        import polars as pl

        out = Path(folder)
        write_whole(out / "run.json", json.dumps(dict(self.made), indent=1))
        self.report.save(out / "result.json")
        write_parquet(out / "ends.parquet", self.report.to_frame())
        if self.report.self_influence:
            scores = pl.DataFrame({"self_influence": self.report.self_influence}).with_row_index("row")
            write_parquet(out / "scores.parquet", scores)
        return write_whole(out / "report.html", self.html())


def attribute_language(
    model: str | os.PathLike[str],
    train: str | os.PathLike[str],
    test: str | os.PathLike[str],
    *,
    method: str | None = None,
    top: int = 10,
    options: Sequence[str] = (),
    rng: int = 0,
    command: str = "",
    progress: Callable[[str, float], None] | None = None,
) -> LanguageAttribution:
    """Trace the model in a folder that `save_pretrained` wrote; `train` and `test` are JSON lines of texts.

    Raises `ConfigError` for a method that is not EK-FAC's, `LogError` for files that cannot be read.
    """
    if method not in (None, "ekfac"):
        msg = message(f"a language model is not scored by {method!r}", expected="ekfac")
        raise ConfigError(msg)
    try:
        tracer = import_module("counterlog.trace.text_model")
    except ModuleNotFoundError as cause:
        if cause.name != "counterlog.trace.text_model":
            raise
        msg = message(f"{model} is a folder: language models are not traced by this version")
        raise ConfigError(message(msg, expected="a tree model file")) from cause
    from counterlog.core.language_rows import read_texts

    clock, say = Clock(), progress or (lambda _text, _share: None)
    config = tracer.TextTraceConfig.from_options([f"top={top}", *options])
    found = tracer.trace_text_model(
        model,
        train,
        test,
        config=config,
        rng=rng,
        progress=lambda stage, done, of: say(stage, done / max(of, 1)),
    )
    made = (
        ("command", command or "counterlog.report.language_attribution.attribute_language(...)"),
        ("model", str(model)),
        *((k, f"{p}, SHA-256 {sha256(p)}") for k, p in (("train", train), ("test", test))),
        ("settings", ", ".join(f"{k}={v}" for k, v in {**config.to_dict(), "rng": rng}.items())),
        (
            "versions",
            ", ".join(f"{k} {v}" for k, v in versions("counterlog", "torch", "transformers").items()),
        ),
        ("processor time", f"{clock.seconds():.1f} s"),
    )
    return LanguageAttribution(found, made, tuple(row.text for row in read_texts(train)))


def query_section(q: Any, r: Any) -> Section:
    """One query beside the texts that made its answer."""
    rows = [
        (end, f"text {p.row}", p.score, _short(p.text), " ".join(_loudest(p)))
        for end, pairs in (("helps", q.helpful), ("harms", q.harmful))
        for p in pairs
    ]
    shares = [(name, 100 * share) for name, share in zip(r.layers, q.layer_share, strict=True)]
    return Section(
        slug=f"query-{q.query}",
        title=f"Query {q.query}: {_short(q.prompt or q.completion, 80)}",
        text=(
            f"Prompt: “{_short(q.prompt)}”. Completion: “{_short(q.completion)}”.",
            f"Its loss is {brief(q.loss)} nats. The top 1% of the texts hold {percent(q.share_top_1_percent)} of its "
            f"influence; {q.candidates:,} texts were scored.",
        ),
        grids=(
            grid(
                f"Texts that moved query {q.query}",
                ("", "which", ("score", "nats"), "text", ("tokens", "those that count most")),
                rows,
                open=q.query == 0,
            ),
            grid("Share by layer", ("layer", ("share", "% of the listed scores")), shares, open=False),
        ),
    )


def outlier_section(r: Any, texts: Sequence[str]) -> Section:
    """Texts with the largest self-influence."""
    order = sorted(range(r.n), key=lambda i: -r.self_influence[i])[:PAGED]
    return Section(
        slug="outliers",
        title="Which texts does the model only know because it saw them?",
        text=(
            "Self-influence is a text's score for its own loss: large for texts that nothing else speaks for.",
        ),
        grids=(
            grid(
                "Largest self-influence",
                ("which", ("self-influence", "nats"), "text"),
                [(f"text {i}", r.self_influence[i], _short(texts[i])) for i in order],
            ),
        ),
    )


def _short(text: str, longest: int = LONGEST) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _loudest(pair: Any, most: int = 6) -> list[str]:
    """The tokens of a text with the largest scores by size, in the order of the text."""
    order = sorted(range(len(pair.tokens)), key=lambda i: -abs(pair.token_scores[i]))[:most]
    return [str(pair.tokens[i]).strip() for i in sorted(order)]
