"""``python -m zoo``: what can be asked without training."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from zoo.errors import ConvzooError


def main(arguments: list[str] | None = None) -> int:
    """Runs a verb; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m zoo", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    report = verbs.add_parser("report", help="compare the runs in or below some folders")
    report.add_argument("folders", nargs="+", metavar="FOLDER")
    report.add_argument("--markdown", metavar="FILE", type=Path, help="write the table as Markdown too")
    report.add_argument("--plot", metavar="FILE", type=Path, help="draw accuracy against cost (.svg, .png, .pdf)")
    given = parser.parse_args(arguments)
    try:
        _report(given)
    except ConvzooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _report(given: argparse.Namespace) -> None:
    from zoo import report

    results = report.load_results(given.folders)
    report.print_table(results)
    if given.markdown:
        given.markdown.write_text(report.markdown(results))
    if given.plot:
        report.plot(results, given.plot)


if __name__ == "__main__":
    sys.exit(main())
