"""``vllm-ci config``."""

from __future__ import annotations

import json
from typing import Any

import click

from vllm_ci.cli.options import loaded, option, project_options
from vllm_ci.cli.output import json_option, print_json


@click.command()
@project_options
@option("--report-dir", type=click.Path(file_okay=False), help="Folder for reports; each run creates one folder in it.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of vllm-ci.yaml instead.")
@json_option
@click.pass_context
def config(context: click.Context, /, *, schema: bool, as_json: bool, **_: Any) -> None:
    """Print every setting and the origin of its value: flag, environment, file, computed or default.

    \b
    Examples:
      vllm-ci config
      VLLM_CI_PORT=8000 vllm-ci config --json
      vllm-ci config --schema > vllm-ci.schema.json
    """
    if schema:
        from vllm_ci.config.schema import schema as of_configuration

        print_json(of_configuration())
        return
    from vllm_ci.config import computed

    project = loaded(context)
    rows = {key: {"value": value, "origin": origin} for key, value, origin in project.values()}
    for each in computed.values(project):
        rows[each.key] = {"value": each.value, "origin": computed.ORIGIN, "reason": each.reason}
    if as_json:
        print_json(rows)
        return
    width = max(map(len, rows))
    for key, row in rows.items():
        origin = f"{row['origin']}: {row['reason']}" if "reason" in row else row["origin"]
        click.echo(f"{key:<{width}}  {json.dumps(row['value'], ensure_ascii=False):<30}  {origin}")
