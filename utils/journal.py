"""What an evaluation has computed so far, on disk: an interrupted one goes on where it stopped."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from utils.pairs import Pair

Row = dict[str, Any]


class Journal:
    """The scores of a set's images, one JSON line each, beside the restored images; each process writes a file.

    A score counts only under the `stamp` it was written with (weights, protocol, versions: whatever it depends on),
    and while the pair's files are as they were. Later processes, however many, read all that earlier ones wrote.
    """

    def __init__(self, out_dir: Path, dataset: str, stamp: Row, process: int = 0) -> None:
        self._stamp = json.loads(json.dumps(stamp))
        self._rows: dict[str, tuple[Row, list[list[int]]]] = {}
        for path in sorted(out_dir.glob(f".{dataset}.*.jsonl")):
            self._read(path)
        self._path = out_dir / f".{dataset}.{process}.jsonl"

    def find(self, pair: Pair) -> Row | None:
        """The scores of a pair that was done before, or None."""
        row, files = self._rows.get(pair.name, (None, []))
        return row if files == _state(pair) else None

    def add(self, pair: Pair, row: Row) -> None:
        """Keep the scores of a pair."""
        new = not self._path.exists() or self._first_line() != self._stamp
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("w" if new else "a", encoding="utf-8") as file:
            if new:
                file.write(json.dumps(self._stamp) + "\n")
            file.write(json.dumps({"row": row, "files": _state(pair)}) + "\n")

    @staticmethod
    def discard(out_dir: Path) -> None:
        """Delete the journals of an evaluation that is complete."""
        for path in out_dir.glob(".*.jsonl"):
            path.unlink()

    def _first_line(self) -> Any:
        with self._path.open(encoding="utf-8") as file:
            return _parsed(file.readline())

    def _read(self, path: Path) -> None:
        first, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
        if _parsed(first) == self._stamp:
            for line in lines:
                if entry := _parsed(line):
                    self._rows[entry["row"]["name"]] = entry["row"], entry["files"]


def _parsed(line: str) -> Any:
    """What a line says; nothing for one that an interruption cut short."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _state(pair: Pair) -> list[list[int]]:
    """Size and time of change of a pair's files."""
    stats = [path.stat() for path in (pair.input, pair.target) if path is not None]
    return [[stat.st_size, stat.st_mtime_ns] for stat in stats]
