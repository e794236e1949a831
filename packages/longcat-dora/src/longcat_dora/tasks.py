"""Tasks from files and datasets, with ids by which a run goes on where it was.

    from longcat_dora.tasks import from_jsonl

    LocalRuntime(config, tasks=from_jsonl("train.jsonl"), ...)

Rows are dictionaries. A task's id is the row's field `id_field`; where there is none, the file's
name and the row's number. The payload is the row, or one field of it.
"""

from __future__ import annotations

import importlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from ._types import LongcatDoraError, Task

__all__ = ["from_dataset", "from_jsonl", "from_parquet", "from_rows"]


def from_rows(
    rows: Iterable[Mapping[str, Any]],
    *,
    name: str = "row",
    id_field: str = "id",
    payload_field: str | None = None,
    domain_field: str = "domain",
    attempts_field: str | None = None,
) -> Iterator[Task]:
    """Yield a task for each row, in order.

    Args:
        rows: Dictionaries.
        name: What ids begin with where rows have none.
        id_field: Of a row; two rows of one id are an error.
        payload_field: What the rollout receives; the whole row when absent.
        domain_field: Of a row; no domain where it is absent.
        attempts_field: Of a row, how often it is tried; `group_size` times where it is absent.

    Raises:
        LongcatDoraError: A row is no dictionary, lacks `payload_field`, or has the id of an earlier
            one.

    Example:
        >>> next(from_rows([{"id": "a", "question": "1 + 1", "answer": 2}])).id
        'a'
    """
    seen: set[str] = set()
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LongcatDoraError(
                f"{name}:{number} must be a dictionary, got {type(row).__name__}"
            )
        identifier = str(row.get(id_field, f"{name}:{number}"))
        if identifier in seen:
            raise LongcatDoraError(
                f"{name}:{number} has the id {identifier!r}, which an earlier row has"
            )
        seen.add(identifier)
        if payload_field is not None and payload_field not in row:
            raise LongcatDoraError(
                f"{name}:{number} must have {payload_field!r}, it has {sorted(row)}"
            )
        payload = dict(row) if payload_field is None else row[payload_field]
        attempts = None if attempts_field is None else row.get(attempts_field)
        yield Task(identifier, payload, str(row.get(domain_field, "")), attempts)


def from_jsonl(path: Path | str, **options: Any) -> Iterator[Task]:
    """Yield the tasks of a file with one JSON object a line. Options: see `from_rows`.

    Raises:
        LongcatDoraError: There is no such file, or a line is no JSON; the error names the line.
    """
    path = Path(path)
    return from_rows(_lines_of(path), **{"name": path.stem, **options})


def _lines_of(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _row_of(path, number, line)
    except OSError as error:
        raise LongcatDoraError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LongcatDoraError(f"{path} must be UTF-8: {error}") from error


def _row_of(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError as error:
        raise LongcatDoraError(f"{path}, line {number}: {error}") from error


def from_parquet(path: Path | str, **options: Any) -> Iterator[Task]:
    """Yield the tasks of a Parquet file (`pip install 'longcat-dora[parquet]'`).

    Options: see `from_rows`.
    """
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ImportError("from_parquet needs: pip install 'longcat-dora[parquet]'") from error
    file = cast("Any", parquet).ParquetFile(path)
    batches = (batch.to_pylist() for batch in file.iter_batches())
    rows = itertools.chain.from_iterable(batches)
    return from_rows(rows, **{"name": Path(path).stem, **options})


def from_dataset(dataset: Iterable[Mapping[str, Any]], **options: Any) -> Iterator[Task]:
    """Yield the tasks of a Hugging Face dataset, streamed or not. Options: see `from_rows`."""
    return from_rows(dataset, **{"name": getattr(dataset, "split", None) or "row", **options})
