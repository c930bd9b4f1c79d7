"""A folder of results: of one network or one folder of images, written by one program at a time."""
from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState
from filelock import FileLock, Timeout

from ..cli import UserError
from ..files import TEMPORARY, make_folder, write_atomically

MARK = ".results.json"  # says whose results a folder holds, from the first image on
LOCK = ".results.lock"


class ResultsError(UserError):
    """A folder that results must not be written to; the message names it and says what to do."""


@contextmanager
def claim(folder: Path, title: str, digest: str, state: PartialState) -> Iterator[None]:
    """While entered, `folder` is for the results of `title` alone. Under torchrun all processes enter.

    `title` says whose they are ("the weights derain"), `digest` is the SHA-256 of the weights, "" without any. Results
    of the same title are replaced; if the weights are others by now, that is said.

    Raises:
        OutputError: nothing can be written there.
        ResultsError: it holds other files, or the results of another title, or another program writes there.
    """
    lock = FileLock(folder / LOCK)
    if state.is_main_process:
        make_folder(folder, "--results DIR")
        _check(folder, title, digest)  # before the lock: where somebody else's files are, none is added
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ResultsError(
                f"{folder}: another test.py is writing its results there; wait for it, or name another --results DIR"
            ) from error
    try:
        if state.is_main_process:
            if _check(folder, title, digest) not in (digest, None):
                print(f"{folder}: the results there, of an earlier state of {title}, are replaced")
            with write_atomically(folder / MARK) as file:
                file.write(json.dumps({"title": title, "digest": digest}).encode())
        yield
    finally:
        lock.release()


def _check(folder: Path, title: str, digest: str) -> str | None:
    """See that the results of `title` may be in a folder; returns the digest of those that are there.

    Raises:
        ResultsError: see `claim`.
    """
    # What a killed run may leave before its mark is there is nobody's.
    others = sorted(path.name for path in folder.iterdir() if path.name != LOCK and not path.match(TEMPORARY))
    if not others:
        return None
    found = _found(folder)
    if found is None:
        more = ", ..." * (len(others) > 3)
        raise ResultsError(
            f"{folder}: holds files that are no results of this program ({', '.join(others[:3])}{more}), which could "
            "be overwritten; name another --results DIR"
        )
    other_title, other_digest = found
    if other_title not in (title, None) or (other_title is None and other_digest != digest):
        raise ResultsError(
            f"{folder}: holds the results of {other_title or 'something else'}, which those of {title} would "
            "overwrite; name another --results DIR, or delete the folder"
        )
    return other_digest


def _found(folder: Path) -> tuple[str | None, str] | None:
    """Title (None: not written down) and digest of the results in a folder; None: there are none."""
    mark, results = folder / MARK, folder / "results.json"
    try:
        if mark.is_file():
            content = json.loads(mark.read_text(encoding="utf-8"))
            return content["title"], content["digest"]
        if results.is_file():  # written before there were marks
            return None, json.loads(results.read_text(encoding="utf-8"))[0]["provenance"].get("weights_sha256", "")
    except (ValueError, TypeError, LookupError, AttributeError):  # not ours, or damaged
        return None
    return None
