"""May the data sets on disk be trained and scored on?

    python -m m3snet.tools.check_data Datasets --task Deraining

Reads every image of the sets it knows, and ends with exit code 0 when they may be used, 1 when not, 2 when the command
line is wrong. Nothing is changed.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import m3snet.Deblurring.dataset
import m3snet.Deraining.dataset
from m3snet.utils.cli import run_program, to_path
from m3snet.utils.data.check import ERROR, examine, format_report

TASKS = {task.name: task for task in (m3snet.Deraining.dataset.TASK, m3snet.Deblurring.dataset.TASK)}


def main(argv: Sequence[str] | None = None) -> None:
    """Examine what the command line names and print the report.

    Raises:
        SystemExit: with code 1, the sets may not be used.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "root", metavar="ROOT", type=to_path, help="DATA.ROOT: the folder that holds GoPro, Rain13K, ..."
    )
    parser.add_argument("--task", required=True, choices=TASKS, help="whose sets to look for")
    parser.add_argument(
        "--allow-overlap",
        action="store_true",
        help="scenes that training and test sets share are a note: for sets used as published, overlap included",
    )
    arguments = parser.parse_args(argv)
    reports, findings = examine(arguments.root, TASKS[arguments.task], arguments.allow_overlap)
    print(f"{arguments.task} sets below {arguments.root}\n\n{format_report(reports, findings)}")
    if any(finding.level == ERROR for finding in findings):
        sys.exit(1)


if __name__ == "__main__":
    run_program(main)
