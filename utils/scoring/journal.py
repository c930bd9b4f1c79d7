"""What an evaluation has computed so far, on disk: an interrupted one goes on where it stopped."""
from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import differences
from ..provenance import sha256

Row = dict[str, Any]


class Journal:
    """The scores of a set's images, one JSON line each, in the folder of results; each process writes a file.

    A score counts only under the `stamp` it was written with (weights, protocol, versions: whatever it depends on),
    and while the content of the files it was made from and of the restored image is what it was. Later processes,
    however many, read all that earlier ones wrote. `outdated` says how the stamps of scores that do not count differ.
    """

    def __init__(self, out_dir: Path, dataset: str, stamp: Row, process: int = 0) -> None:
        self._stamp = json.loads(json.dumps(stamp))
        self._folder, self._dataset = out_dir, dataset
        self._path = out_dir / f".{dataset}.{process}.jsonl"
        self._rows: dict[str, tuple[Row, list[str]]] = {}
        self._begun = False  # whether this process's file has this stamp
        self.outdated: list[str] = []
        for path in self._files():
            self._read(path)

    def find(self, name: str, files: Sequence[Path]) -> Row | None:
        """The scores of an image that was done before and depends on `files`, or None."""
        row, states = self._rows.get(name, (None, []))
        return row if states == _states(files) else None

    def add(self, row: Row, files: Sequence[Path]) -> None:
        """Keep the scores of an image, `row["name"]`, that depend on `files` as they are now."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._path.open("a" if self._begun else "w", encoding="utf-8") as file:
                if not self._begun:
                    file.write(json.dumps(self._stamp))
                # The line break comes first: a line that an interruption cut short ends here, and spoils no other.
                file.write("\n" + json.dumps({"row": row, "files": _states(files), "checksum": _checksum(row)}))
        except OSError as error:  # of a full disk it does not say where
            error.filename = str(self._path)
            raise
        self._begun = True

    def discard(self) -> None:
        """Delete what all processes wrote of this set: its evaluation is complete."""
        for path in self._files():
            path.unlink()

    def _files(self) -> list[Path]:
        own = re.compile(rf"\.{re.escape(self._dataset)}\.\d+\.jsonl")
        return sorted(path for path in self._folder.glob(".*.jsonl") if own.fullmatch(path.name))

    def _read(self, path: Path) -> None:
        first, *lines = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
        stamp = _parsed(first)
        if stamp == self._stamp:
            self._begun = self._begun or path == self._path
            for line in lines:
                entry = _parsed(line)
                row, files = entry.get("row"), entry.get("files")
                if isinstance(row, dict) and isinstance(files, list) and entry.get("checksum") == _checksum(row):
                    self._rows[row["name"]] = row, files
        elif stamp:
            self.outdated = differences(stamp, self._stamp)


def _parsed(line: str) -> dict[str, Any]:
    """What a line says; nothing for one that was cut short or damaged."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _checksum(row: Row) -> int:
    """So that a digit or a name that a bad disk changed does not count."""
    return zlib.crc32(json.dumps(row).encode())


def _states(files: Sequence[Path]) -> list[str]:
    """The hash of each file's content; "" of one that is missing."""
    return [sha256(path) if path.is_file() else "" for path in files]
