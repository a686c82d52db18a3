"""``template-audit merge``: the reports of a scan's shards put together."""

from __future__ import annotations

from pathlib import Path

import click

from template_audit.cli.options import Outputs, reported
from template_audit.cli.scan import write_scan
from template_audit.errors import UsageError


@click.command("merge")
@click.argument("reports", metavar="REPORT.json...", nargs=-1, required=True, type=click.Path(path_type=Path))
@reported
@click.option("-v", "--verbose", is_flag=True, help="Every cause, with its evidence.")
@click.option("-q", "--quiet", is_flag=True, help="The verdict alone.")
def COMMAND(reports: tuple[Path, ...], outputs: Outputs, verbose: bool, quiet: bool) -> int:
    """Put the JSON reports of `template-audit scan --shard` together.

    When every shard is there the report is the same, to the byte, as that of one scan of all rows.
    Otherwise it can be merged again. Exits as `scan` does.
    """
    import msgspec

    from template_audit.scanning.merging import merge
    from template_audit.scanning.records import ScanRecord

    records = []
    for path in reports:
        try:
            records.append(msgspec.json.decode(path.read_bytes(), type=ScanRecord))
        except OSError as error:
            raise UsageError(f"Cannot read the report {path}: {error.strerror}.") from None
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise UsageError(f"{path} is no JSON report of `template-audit scan`: {error}.") from None
    record = merge(records)
    write_scan(record, outputs, verbose=verbose, quiet=quiet)
    return record.exit_code
