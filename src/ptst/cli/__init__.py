"""The command line: `ptst` runs a cell, `ptst -m` a grid; other commands tell about what there is.

Nothing here imports torch; an error in the configuration is answered before anything heavy loads.
So a command imports what it needs when it is called, not before.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Sequence

import click

from ptst.cli import (
    audit,
    audit_data,
    card,
    compare,
    dashboard,
    grids,
    judges,
    prompts,
    run,
    stored,
    sync,
)
from ptst.cli.group import App
from ptst.errors import ConfigError, PtstError

COMMANDS = (
    run.run,
    *(grids.plan, grids.status, grids.report, compare.compare, dashboard.dashboard, grids.cancel),
    *(judges.judges, audit.audit, audit_data.audit_data),
    *(stored.ls, stored.show, stored.rm, stored.export),
    *(prompts.ask, prompts.prompt, prompts.check_model),
    *(card.card, card.push, sync.sync),
)
"""In the order in which one needs them."""


@click.group(cls=App, context_settings={"max_content_width": 100})
@click.version_option(package_name="ptst", message="ptst %(version)s")
def app() -> None:
    """What does fine-tuning do to the safety of a chat model, and how much do templates decide?

    ptst [OVERRIDES] runs one cell: fine-tune, generate, judge; it prints the cell's metrics.
    ptst -m [OVERRIDES] runs a grid: overrides with several values, or +sweeps=table1.
    """


for command in COMMANDS:
    app.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0; 1 if a cell of a grid, or an upload, failed, or a model is not right; 2 after an error
        that the user can mend. All errors are printed.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        for argument in given:
            if not argument.isascii() and "\udc80" <= max(argument) <= "\udcff":
                raise ConfigError(f"{argument!r} is not text in UTF-8.")
        return app.main(given, prog_name="ptst", standalone_mode=False) or 0
    except click.ClickException as error:
        said = re.sub(r"'--(\w+)'", r"\1=", error.format_message())
        print(f"ptst: {said}", file=sys.stderr)
        return 2
    except PtstError as error:
        print(f"ptst: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        print(f"ptst: {error}", file=sys.stderr)
        return 2
    except click.Abort:
        print("ptst: interrupted; run again to resume.", file=sys.stderr)
        return 130
