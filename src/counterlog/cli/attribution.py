"""The commands that ask what training rows did: trace, unlearn, certify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from counterlog.cli.log_options import Json, Quiet, Seed, split
from counterlog.cli.printing import command_line, print_json, print_line, print_table, progress

Settings = Annotated[
    list[str] | None, typer.Option("--set", help="One setting of the method, as name=value; may be repeated.")
]


def trace(
    model: Annotated[
        Path,
        typer.Argument(help="LightGBM .txt, XGBoost .json/.ubj, CatBoost .cbm/.json, or a model folder."),
    ],
    train: Annotated[Path, typer.Option(help="Table of all training rows: Parquet, CSV or JSONL.")],
    test: Annotated[Path, typer.Option(help="Table of the target rows to explain.")],
    target: Annotated[str | None, typer.Option(help="Column of the label, in both tables.")] = None,
    method: Annotated[str | None, typer.Option(help="boostin, trex, leafinfluence, ...; or ekfac.")] = None,
    group: Annotated[
        str | None, typer.Option(help="Column of the training table to add scores up by.")
    ] = None,
    weight: Annotated[str | None, typer.Option(help="Column of the sample weights of training.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Labels in the model's order, when the file has no names: a,b.")
    ] = None,
    top: Annotated[int, typer.Option(help="Rows at each end of a target's ranking.", min=1)] = 10,
    learning_rate: Annotated[float | None, typer.Option(help="Of a file that does not keep it.")] = None,
    l2: Annotated[float | None, typer.Option(help="Ridge of a file that does not keep it.")] = None,
    set_: Settings = None,
    rng: Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for the page and the scores.")] = Path("counterlog-trace"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say which training rows made a saved model predict what it predicts, and which to check first."""
    from counterlog.core.errors import ConfigError, message

    if model.is_dir():
        from counterlog.report.language_attribution import attribute_language

        if group is not None:
            msg = message("--group is for tree models", hint="texts are added up from ends.parquet")
            raise ConfigError(msg)
        texts = attribute_language(
            model, train, test, method=method, top=top, options=set_ or (), rng=rng,
            command=command_line(), progress=progress(quiet),
        )  # fmt: skip
        page = texts.write(out)
        if as_json:
            print_json(texts.report.to_dict())
            return
        print_table(f"texts that moved {len(texts.report.queries)} queries", texts.report.records())
        print_line(f"page: {page}")
        return
    from counterlog.report.attribution import attribute
    from counterlog.trace.tree_influence import TreeInfluenceConfig

    if target is None:
        raise ConfigError(message("the label column is not named", expected="--target COLUMN"))
    options = [f"method={method or 'boostin'}", *(set_ or ())]
    done = attribute(
        model,
        train,
        test,
        target=target,
        group=group,
        weight=weight,
        classes=split(classes),
        top=top,
        config=TreeInfluenceConfig.from_options(options),
        learning_rate=learning_rate,
        l2=l2,
        rng=rng,
        command=command_line(),
        progress=progress(quiet),
    )
    page = done.write(out)
    report = done.report
    if as_json:
        print_json(report.to_dict())
        return
    rows = [{"row": r.row, "score": r.score, "label": r.label, **r.values} for r in report.harmful[:top]]
    print_table(f"most harmful of {report.n:,} training rows, summed over {report.m:,} targets", rows)
    print_line(f"page: {page}")


def unlearn(
    model: Annotated[
        Path, typer.Argument(help="Network of this library (.safetensors), tree model file, or language-model folder.")
    ],
    table: Annotated[Path, typer.Option(help="Table of all rows that the model was trained on, in their order.")],
    forget: Annotated[
        Path | None, typer.Option(help="Table that names the rows: column `row` (from 0), or the --key column.")
    ] = None,
    where: Annotated[str | None, typer.Option(help="SQL condition on the table: user = 'u17' AND age < 30.")] = None,
    key: Annotated[str | None, typer.Option(help="Column whose values in --forget name all their rows.")] = None,
    target: Annotated[str | None, typer.Option(help="Column of the label (tree models).")] = None,
    weight: Annotated[str | None, typer.Option(help="Column of the sample weights of training (tree models).")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Labels in the model's order, when the file has no names: a,b.")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="Table of rows never seen, for accuracy and attacks.")] = None,
    method: Annotated[
        str | None, typer.Option(help="retrain, fine-tune, gradient-ascent, random-labels, scrub, fisher-noise, "
        "influence-newton, influence-approximation-unlearning.")
    ] = None,
    set_: Settings = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also train again without the rows, and compare.")] = False,
    rng: Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for the new model and the page.")] = Path("counterlog-unlearn"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Make a saved model forget rows, and measure how close it is to never having seen them."""
    from counterlog.report.unlearning import unlearn as run_unlearn

    report = run_unlearn(
        model,
        table,
        out,
        forget=forget,
        where=where,
        key=key,
        target=target,
        weight=weight,
        classes=split(classes),
        test=test,
        method=method,
        options=set_ or (),
        compare=compare,
        rng=rng,
        command=command_line(),
        progress=progress(quiet),
    )
    page = report.write(out)
    if as_json:
        print_json(report.to_dict())
        return
    print_table(f"{report.forgotten:,} of {report.n:,} rows forgotten by {report.method}", report.records())
    print_line(f"model: {out / report.file}")
    print_line(f"page: {page}")


def certify(
    train: Annotated[Path, typer.Option(help="Table of training records: numbers and the label.")],
    test: Annotated[
        Path, typer.Option(help="Table of the records to predict; its labels are used when there.")
    ],
    target: Annotated[str, typer.Option(help="Column of the label.")],
    unit: Annotated[
        str | None, typer.Option(help="Column of who wrote a record; radii then count writers.")
    ] = None,
    learner: Annotated[
        str, typer.Option(help="Base learner of every part: logistic or boosting.")
    ] = "logistic",
    set_: Settings = None,
    rng: Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for the page and the certificates.")] = Path(
        "counterlog-certify"
    ),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict so that each prediction comes with the number of poisoned training records that it survives."""
    from counterlog.audit.run_off_election import RunOffElectionConfig
    from counterlog.report.certificates import certify_tables

    found = certify_tables(
        train,
        test,
        out,
        target=target,
        unit=unit,
        learner=learner,
        config=RunOffElectionConfig.from_options(set_ or ()),
        rng=rng,
        command=command_line(),
        progress=progress(quiet),
    )
    if as_json:
        print_json(found.to_dict())
        return
    print_table(f"{found.n:,} predictions, {found.parts} parts, {found.method}", found.curve())
    print_line(f"page: {out / 'report.html'}")
