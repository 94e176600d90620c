"""`trtforge schema`: the JSON Schema of what a command prints with `--json`."""

from __future__ import annotations

import json as _json
from difflib import get_close_matches
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(schema)


def schema(
    result: Annotated[
        str | None,
        typer.Argument(metavar="RESULT", help="A result's name, e.g. build; none lists them", show_default=False),
    ] = None,
) -> None:
    """Print the JSON Schema of a command's `--json` result.

    `recipe-file` and `manifest` are the two file formats.
    """
    from trtforge.cli.results import RESULTS
    from trtforge.errors.usage import UnknownSchema

    files = ("recipe-file", "manifest")
    if result is None:
        print("\n".join([*RESULTS, *files]))
        return
    if result == "recipe-file":
        from trtforge.recipe.schema import json_schema

        value = json_schema()
    elif result == "manifest":
        from trtforge.engines.manifest import schema as manifest_schema

        value = manifest_schema()
    elif result in RESULTS:
        from pydantic import TypeAdapter

        value = TypeAdapter(RESULTS[result]).json_schema()
        value["properties"]["schema"] = {"const": f"trtforge.{result}/1"}
    else:
        near = get_close_matches(result, [*RESULTS, *files], n=1)
        raise UnknownSchema(
            f"there is no result `{result}`", why=f"did you mean `{near[0]}`?" if near else "", next="trtforge schema"
        )
    print(_json.dumps(value, indent=2, ensure_ascii=False))
