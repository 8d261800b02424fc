"""A log file to its aggregate, by DuckDB: one pass over the file, in bounded memory.

Files are aggregated one by one, wherever the configured task runner has them done, and the
aggregates are added up. The rows of one file go into a table that DuckDB moves to the disk where
it outgrows its memory; what leaves this module are a few histograms, whatever the file's size.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from data_contracts.monitoring import MAX_NEW_WORDS, Aggregate, Histogram, LineCounts, Window
from reelroute.weights import MODALITIES, SUM_TOLERANCE
from tasks.monitor.drift import LATENCY_STEP

if TYPE_CHECKING:
    import duckdb

#: The service's line as far as it is read here. What doesn't fit becomes NULL.
_QUERY: Final = (
    "STRUCT(id VARCHAR, words INTEGER, script VARCHAR, language VARCHAR, dominant VARCHAR, "
    f"weights STRUCT({', '.join(f'{m} DOUBLE' for m in MODALITIES)}), router VARCHAR, "
    "fallback BOOLEAN, confidence DOUBLE, expected_error DOUBLE, unknown_language DOUBLE, "
    "text VARCHAR)"
)
_COLUMNS: Final = {
    "ts": "VARCHAR",
    "event": "VARCHAR",
    "status": "INTEGER",
    "error": "VARCHAR",
    "release": "VARCHAR",
    "latency_ms": "DOUBLE",
    "queries": f"{_QUERY}[]",
}
_MODALITY_LIST: Final = ", ".join(f"'{modality}'" for modality in MODALITIES)
_WEIGHTS: Final = ", ".join(f"q.weights.{modality}" for modality in MODALITIES)
#: What `RouteLine` asks of a query, as far as it is counted here.
_QUERY_IS_SOUND: Final = f"""
    length(q.id) = 12 AND q.words >= 1 AND q.dominant IN ({_MODALITY_LIST}) AND q.router IS NOT NULL
    AND q.fallback IS NOT NULL
    AND least({_WEIGHTS}) >= 0 AND greatest({_WEIGHTS}) <= 1
    AND abs({" + ".join(f"q.weights.{m}" for m in MODALITIES)} - 1) <= {10 * SUM_TOLERANCE}
    AND coalesce(q.confidence BETWEEN 0 AND 1, true)
    AND coalesce(q.expected_error BETWEEN 0 AND 1, true)
    AND coalesce(q.unknown_language BETWEEN 0 AND 1, true)
"""
#: The words of a text.
_WORDS: Final = r"regexp_extract_all(lower(nfc_normalize(text)), '[\p{L}\p{M}\p{N}_]+')"
#: One row a line: what it is, and the answered queries of a request.
_READ: Final = f"""
    CREATE TEMP TABLE lines AS
    SELECT kind, status, latency_ms, release,
           CASE WHEN kind = 'requests' THEN queries END AS queries
    FROM (
        SELECT *, CASE
            WHEN event IS NULL AND ts IS NULL AND queries IS NULL THEN 'malformed'
            WHEN event IS DISTINCT FROM 'route' THEN 'other'
            WHEN moment IS NULL OR status IS NULL OR latency_ms IS NULL OR queries IS NULL
                 OR NOT (latency_ms >= 0 AND isfinite(latency_ms)) THEN 'malformed'
            WHEN len(list_filter(queries, lambda q: ({_QUERY_IS_SOUND}) IS NOT TRUE)) > 0
                 THEN 'malformed'
            WHEN moment < $start OR moment >= $end THEN 'outside'
            ELSE 'requests' END AS kind
        FROM (
            SELECT *, TRY_CAST(ts AS TIMESTAMPTZ) AS moment
            FROM read_json($path, format = 'newline_delimited', columns = {_COLUMNS!r},
                           ignore_errors = true, compression = $compression)
        )
    )
"""


def _bins(expression: str, *edges: float, decimals: int = 0) -> str:
    """SQL that names the bin between two edges in which a number lies."""
    names = [f"{edge:.{decimals}f}" for edge in edges]
    first, *middle = zip(edges, names, strict=True)
    low = names[0]
    cases = [f"WHEN {expression} < {first[0]} - 1e-9 THEN 'under {low}'"]
    for edge, name in middle:
        cases.append(f"WHEN {expression} < {edge} - 1e-9 THEN '{low} to {name}'")
        low = name
    return f"CASE WHEN {expression} IS NULL THEN NULL {' '.join(cases)} ELSE '{low} and more' END"


#: Histograms over answered queries `q`, by measure. A query whose expression is NULL is left out.
_OF_QUERIES: Final[dict[str, str]] = {
    "channel": "q.dominant",
    **{
        modality: _bins(f"q.weights.{modality}", 0.05, 0.2, 0.4, 0.6, 0.8, decimals=2)
        for modality in MODALITIES
    },
    "words": _bins("q.words", 2, 4, 6, 8, 10, 13, 17),
    "script": "coalesce(left(q.script, 20), 'none')",
    "language": "coalesce(left(q.language, 20), CASE WHEN q.unknown_language >= 0.5 "
    "THEN 'unknown' WHEN q.unknown_language < 0.5 THEN 'known' END)",
    "expected_error": _bins("q.expected_error", 0.02, 0.04, 0.06, 0.08, 0.1, 0.14, decimals=2),
    "confidence": _bins("q.confidence", 0.2, 0.4, 0.6, 0.8, 0.9, decimals=1),
    "fallback": "CASE WHEN q.fallback THEN 'fallback' ELSE 'own' END",
    "router": "left(q.router, 60)",
}
#: … of them those that are compared with a training set, over distinct queries.
_OF_DISTINCT: Final = ("channel", *MODALITIES, "words", "script")
#: Histograms over requests.
_OF_REQUESTS: Final[dict[str, str]] = {
    "status": "status::VARCHAR",
    # What a client did wrong says nothing of the router.
    "refused": "CASE WHEN status >= 500 OR status = 429 THEN 'refused' ELSE 'answered' END",
    "release": "CASE WHEN status < 400 THEN coalesce(left(release, 63), 'none') END",
    "latency": f"CASE WHEN status < 400 THEN floor(ln(greatest(latency_ms, 0.001)) "
    f"/ ln({LATENCY_STEP}))::INTEGER::VARCHAR END",
}


@dataclass(frozen=True, slots=True)
class Sampled:
    """A distinct query of the logs.

    Attributes:
        rank: hash of seed and query: the sample holds those of the lowest rank, so that it is
            the same however often each was asked and wherever it was logged.
        text: None where texts are not logged.
        seen: how often it was asked.
        bins: its bin by measure.
    """

    rank: str
    text: str | None
    seen: int
    bins: dict[str, str]

    def __add__(self, more: Sampled) -> Sampled:
        """The same query in two files; of different answers to it one is taken."""
        return Sampled(
            self.rank,
            self.text if self.text is not None else more.text,
            self.seen + more.seen,
            min(self.bins, more.bins, key=lambda bins: sorted(bins.items())),
        )


def distinct(sample: Iterable[Sampled]) -> Aggregate:
    """The sample's queries, each counted once, however often it was asked."""
    histograms: dict[str, Counter[str]] = {}
    queries = 0
    for one in sample:
        queries += 1
        for measure, name in one.bins.items():
            histograms.setdefault(measure, Counter())[name] += 1
    return Aggregate(
        queries=queries,
        histograms={name: dict(sorted(bins.items())) for name, bins in histograms.items()},
    )


@dataclass(frozen=True, slots=True)
class FileAggregate:
    """What a file comes to, and its part of the sample."""

    aggregate: Aggregate
    sample: tuple[Sampled, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """How log files are read; the same for every file of a window.

    Attributes:
        vocabulary: the training set's words; None where there is no training set.
        sample_size: distinct queries that are sampled, at most.
        memory_mb: DuckDB's, before it turns to the disk.
    """

    window: Window
    vocabulary: frozenset[str] | None = None
    sample_size: int = 0
    seed: int = 7
    memory_mb: int = 400


def aggregate_file(path: Path, reading: Reading) -> FileAggregate:
    """Aggregate a file of the service's lines, plain or (by its name) gzipped.

    Raises:
        ValueError: the file can't be read; the message says why.
    """
    import duckdb

    with (
        tempfile.TemporaryDirectory(prefix="reelroute-monitor-") as folder,
        duckdb.connect(
            config={
                "threads": 1,
                "memory_limit": f"{reading.memory_mb}MB",
                "temp_directory": folder,
                "preserve_insertion_order": False,
                "autoinstall_known_extensions": False,
            }
        ) as connection,
    ):
        try:
            return _aggregate(connection, path, reading)
        except (duckdb.IOException, duckdb.InvalidInputException) as error:
            raise ValueError(str(error).partition("\n")[0]) from None


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words of a training set.

    Attributes:
        rare: how many of its queries have a word that no other has: what share of further
            queries like them must be expected to bring a new word (Good and Turing's estimate).
    """

    words: frozenset[str]
    queries: int
    rare: int


def vocabulary_of(texts: Sequence[str]) -> Vocabulary:
    """The words of a training set's queries, split as those of the logs are."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TEMP TABLE found AS SELECT DISTINCT text, word FROM "
            f"(SELECT text, unnest({_WORDS}) AS word FROM (SELECT unnest($texts) AS text))",
            {"texts": list(dict.fromkeys(texts))},
        )
        words = connection.execute("SELECT DISTINCT word FROM found").fetchall()
        (rare,) = _row(
            connection,
            "SELECT count(DISTINCT text) FROM found WHERE word IN "
            "(SELECT word FROM found GROUP BY word HAVING count(*) = 1)",
        )
    return Vocabulary(frozenset(word for (word,) in words), len(set(texts)), rare)


def _aggregate(
    connection: duckdb.DuckDBPyConnection, path: Path, reading: Reading
) -> FileAggregate:
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(
        _READ,
        {
            "path": str(path),
            "start": reading.window.start,
            "end": reading.window.end,
            "compression": "gzip" if path.name.endswith(".gz") else "none",
        },
    )
    kinds = dict(connection.execute("SELECT kind, count(*) FROM lines GROUP BY ALL").fetchall())
    connection.execute(
        "CREATE TEMP TABLE answers AS SELECT unnest(queries) AS q FROM lines WHERE kind='requests'"
    )
    queries, texts = _row(connection, "SELECT count(*), count(q.text) FROM answers")
    histograms = {
        **_histograms(connection, "answers", _OF_QUERIES),
        **_histograms(connection, "lines WHERE kind = 'requests'", _OF_REQUESTS),
    }
    connection.execute("DROP TABLE lines")
    new_words: Histogram = {}
    connection.execute(
        "CREATE TEMP TABLE texts AS SELECT q.text AS text, count(*) AS seen FROM answers "
        "WHERE q.text IS NOT NULL GROUP BY ALL"
    )
    known = reading.vocabulary is not None
    if reading.vocabulary is not None:
        histograms["vocabulary"], new_words = _vocabulary(connection, reading.vocabulary, texts)
    sample = _sample(connection, reading, known)
    return FileAggregate(
        Aggregate(
            lines=LineCounts(read=sum(kinds.values()), **kinds),
            queries=queries,
            texts=texts,
            histograms={name: bins for name, bins in histograms.items() if bins},
            new_words=new_words,
        ),
        sample,
    )


def _row(connection: duckdb.DuckDBPyConnection, statement: str) -> tuple[int, ...]:
    row: tuple[int, ...] | None = connection.execute(statement).fetchone()
    assert row is not None
    return row


def _histograms(
    connection: duckdb.DuckDBPyConnection, table: str, measures: dict[str, str]
) -> dict[str, Histogram]:
    """The histograms of several measures, in one pass."""
    names = ", ".join(f'"{name}"' for name in measures)
    expressions = ", ".join(f'{sql} AS "{name}"' for name, sql in measures.items())
    sets = ", ".join(f'("{name}")' for name in measures)
    rows = connection.execute(
        f"SELECT grouping({names}), coalesce({names}), count(*) "
        f"FROM (SELECT {expressions} FROM {table}) GROUP BY GROUPING SETS ({sets})"
    ).fetchall()
    # grouping() has a bit for each column, the first the highest, 0 where it was grouped by.
    whole = 2 ** len(measures) - 1
    places = {whole - 2**place: name for place, name in enumerate(reversed(measures))}
    found: dict[str, Histogram] = {name: {} for name in measures}
    for place, name_of_bin, count in rows:
        if name_of_bin is not None:
            found[places[place]][name_of_bin] = count
    return {name: dict(sorted(bins.items())) for name, bins in found.items()}


def _sample(
    connection: duckdb.DuckDBPyConnection, reading: Reading, known: bool
) -> tuple[Sampled, ...]:
    """The queries of the lowest rank; `known` says whether their words were looked up."""
    bins = ", ".join(f"{name} := min({_OF_QUERIES[name]})" for name in _OF_DISTINCT)
    rows = connection.execute(
        "SELECT md5($seed || q.id) AS rank, min(q.text), count(*), "
        f"struct_pack({bins}) FROM answers GROUP BY q.id ORDER BY rank LIMIT $size",
        {"seed": f"{reading.seed}:", "size": reading.sample_size},
    ).fetchall()
    new = set[str]()
    if known:
        new = {t for (t,) in connection.execute("SELECT DISTINCT text FROM unknown").fetchall()}
    return tuple(
        Sampled(
            rank,
            text,
            seen,
            {**found, "vocabulary": "new" if text in new else "known"}
            if known and text is not None
            else found,
        )
        for rank, text, seen, found in rows
    )


def _vocabulary(
    connection: duckdb.DuckDBPyConnection, vocabulary: frozenset[str], texts: int
) -> tuple[Histogram, Histogram]:
    """Queries with and without a word that the training set doesn't hold, and those words."""
    connection.execute(
        f"CREATE TEMP TABLE unknown AS SELECT DISTINCT text, seen, word FROM "
        f"(SELECT text, seen, unnest({_WORDS}) AS word FROM texts) "
        "ANTI JOIN (SELECT unnest($known) AS word) USING (word)",
        {"known": sorted(vocabulary)},
    )
    (new,) = _row(
        connection,
        "SELECT coalesce(sum(seen), 0)::BIGINT FROM (SELECT DISTINCT text, seen FROM unknown)",
    )
    rows = connection.execute(
        "SELECT left(word, 60), sum(seen)::BIGINT AS n FROM unknown GROUP BY ALL "
        f"ORDER BY n DESC, 1 LIMIT {MAX_NEW_WORDS}"
    ).fetchall()
    return {"known": texts - new, "new": new} if texts else {}, dict(rows)
