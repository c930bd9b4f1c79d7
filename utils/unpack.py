"""Unpack a training that M3SNet's pack.py packed, check every byte of it, and start it.

    python unpack.py
    python unpack.py --train
    python unpack.py --train -- --opts OPTIM.BATCH_SIZE 64

The archives lie beside this file, and are unpacked into m3snet in the current folder. What follows `--` goes to
train.py. Run it again after an interruption: files that are there are left as they are. Python's standard library is
all it needs.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

MANIFEST = "MANIFEST.json"
_PART = 1 << 20
_SHOWN = 10


class UnpackError(ValueError):
    """Archives that cannot be unpacked; the message names them and says what to do."""


def unpack(folder: Path, into: Path) -> dict[str, Any]:
    """Check the archives in `folder` and unpack them into `into`; returns what the manifest says.

    Nothing is written before every archive has its hash. A file gets its name when it is whole, and one that is there
    already stays: it may be a checkpoint that has been trained on.

    Raises:
        UnpackError: archives are missing or damaged, or hold what the manifest does not say or a path outside `into`.
    """
    manifest = read_manifest(folder)
    check_archives(folder, manifest)
    written, other = 0, []
    for archive in manifest["archives"]:
        expected = {file["name"]: file["sha256"] for file in archive["files"]}
        with tarfile.open(folder / archive["name"]) as tar:
            for entry in tar:
                check_path(entry.name, archive["name"])
                content = tar.extractfile(entry) if entry.isfile() else None
                if content is None or entry.name not in expected:
                    raise UnpackError(f"{archive['name']}: holds {entry.name}, which is no file that {MANIFEST} names")
                out, digest = into / entry.name, expected.pop(entry.name)
                if not out.exists():
                    _write(out, content, digest, archive["name"])
                    written += 1
                elif sha256(out) != digest:
                    other.append(entry.name)
        if expected:
            raise UnpackError(f"{archive['name']}: lacks {next(iter(expected))}; pack the training again")
    print(f"{written:,} file{'s' * (written != 1)} unpacked into {into}")
    if other:
        print(f"left as they are, though they differ from the packed ones:\n  {_listing(other)}")
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """What pack.py wrote about the archives in `folder`.

    Raises:
        UnpackError: it is missing, damaged, or names a path that leads outside.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        names = [(file["name"], archive["name"]) for archive in manifest["archives"] for file in archive["files"]]
        archives = [archive["name"] for archive in manifest["archives"]]
    except OSError as error:
        raise UnpackError(f"{path}: cannot be read ({error.strerror}); it belongs beside the archives") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UnpackError(f"{path}: damaged ({error}); copy it again") from error
    for name, archive in [*names, *((name, MANIFEST) for name in archives)]:
        check_path(name, archive)
    return manifest


def check_path(name: str, archive: str) -> None:
    """Refuse a path that leads out of the folder it is unpacked into, on any system.

    Raises:
        UnpackError: it is absolute, has a drive, or goes up.
    """
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        if path.anchor or ".." in path.parts:
            raise UnpackError(f"{archive}: holds the path {name}, which leads outside; it was not unpacked")


def check_archives(folder: Path, manifest: dict[str, Any]) -> None:
    """Compare every archive with its hash.

    Raises:
        UnpackError: naming all that are missing or damaged.
    """
    problems = []
    for archive in manifest["archives"]:
        path = folder / archive["name"]
        if not path.is_file():
            problems.append(f"{archive['name']}: missing")
        elif path.stat().st_size != archive["size"]:
            problems.append(f"{archive['name']}: {path.stat().st_size:,} bytes instead of {archive['size']:,}")
        elif sha256(path) != archive["sha256"]:
            problems.append(f"{archive['name']}: damaged, its sha256 is not the one in {MANIFEST}")
    number = len(manifest["archives"])
    if problems:
        raise UnpackError(
            f"{len(problems)} of {number} archives cannot be used; nothing was unpacked:\n  {_listing(problems)}\n"
            f"Copy them again into {folder}, then run this again"
        )
    size = sum(archive["size"] for archive in manifest["archives"])
    print(f"{number} archive{'s' * (number > 1)}, {size / 1e6:,.1f} MB, all as they were packed")


def sha256(path: Path) -> str:
    """The hash of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_PART):
            digest.update(part)
    return digest.hexdigest()


def missing_packages(requirements: Path) -> list[str]:
    """The packages of a requirements.txt that are not installed, whatever their versions."""
    installed = {_plain(found.metadata["Name"] or "") for found in distributions()}
    lines = requirements.read_text(encoding="utf-8").splitlines() if requirements.is_file() else []
    names = [re.split(r"[<>=!~ \[;]", line, maxsplit=1)[0] for line in lines if line and not line.startswith("#")]
    if any(name.startswith("opencv") for name in installed):  # several packages hold the same cv2
        names = [name for name in names if not name.startswith("opencv")]
    return [name for name in names if _plain(name) not in installed]


def main(argv: Sequence[str] | None = None) -> None:
    """Unpack, and train if the command line says so."""
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage="%(prog)s [options] [-- ...]"
    )
    parser.add_argument("--train", action="store_true", help="train when all is unpacked; goes on where it stopped")
    arguments = parser.parse_args(words[:cut])
    if words[cut + 1 :] and not arguments.train:
        parser.error("what follows -- goes to train.py: add --train")
    into = Path("m3snet")
    manifest = unpack(Path(__file__).resolve().parent, into)
    program = ["-m", f"{manifest['task']}.train", "--config", manifest["config"], *words[cut + 1 :]]
    print(f"with several GPUs:\n  cd {into}\n  torchrun --nproc_per_node 2 {' '.join(program)}")
    if missing := missing_packages(into / "requirements.txt"):
        print(f"not installed here, but needed: {', '.join(missing)}")
    if not arguments.train:
        print(f"with one, or none:\n  python {sys.argv[0]} --train")
        return
    sys.stdout.flush()
    if os.name == "nt":  # its exec gives the terminal back at once
        sys.exit(subprocess.call([sys.executable, *program], cwd=into))
    os.chdir(into)
    os.execv(sys.executable, [sys.executable, *program])  # so that a signal reaches the training itself


def _write(out: Path, content: IO[bytes], digest: str, archive: str) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.unpacking")
    found = hashlib.sha256()
    try:
        with temporary.open("wb") as file:
            while part := content.read(_PART):
                found.update(part)
                file.write(part)
        if found.hexdigest() != digest:
            raise UnpackError(f"{archive}: {out.name} in it is not the file that {MANIFEST} names; copy both again")
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.lower())


def _listing(items: Sequence[str]) -> str:
    more = f"\n  ... and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return "\n  ".join(items[:_SHOWN]) + more


if __name__ == "__main__":
    try:
        main()
    except (UnpackError, tarfile.TarError, OSError) as problem:
        sys.exit(f"error: {problem}")
