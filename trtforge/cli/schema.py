"""`trtforge schema`: the JSON Schema of what a command prints with `--json`."""

from __future__ import annotations

import json as _json
from difflib import get_close_matches
from typing import Annotated

import typer

from trtforge.cli import completion
from trtforge.cli.options import Json
from trtforge.cli.ui import Ui

DIALECT = "https://json-schema.org/draft/2020-12/schema"


FILES = ("recipe-file", "manifest")


def names() -> list[str]:
    """Everything that has a schema."""
    from trtforge.cli.results import RESULTS

    return [*RESULTS, *FILES]


def register(app: typer.Typer) -> None:
    app.command()(schema)


def schema(
    result: Annotated[
        str | None,
        typer.Argument(
            metavar="RESULT",
            help="A result's name, e.g. build; none lists them",
            show_default=False,
            autocompletion=completion.results,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Print the JSON Schema of a command's `--json` result.

    `recipe-file` and `manifest` are the two file formats.
    """
    from trtforge.cli.results import RESULTS
    from trtforge.errors.usage import UnknownSchema

    if result is None:
        ui = Ui(json=json)
        ui.say("\n".join(names()))
        ui.result("schema-list", {"names": names()})
        return
    if result == "recipe-file":
        from trtforge.recipe.schema import json_schema

        value = json_schema()
    elif result == "manifest":
        from trtforge.engines.manifest import schema as manifest_schema

        value = manifest_schema()
    elif result in RESULTS:
        from pydantic import TypeAdapter

        value = {"$schema": DIALECT, **TypeAdapter(RESULTS[result]).json_schema()}
        value["properties"]["schema"] = {"const": f"trtforge.{result}/1"}
    else:
        near = get_close_matches(result, names(), n=1)
        raise UnknownSchema(
            f"there is no result `{result}`", why=f"did you mean `{near[0]}`?" if near else "", next="trtforge schema"
        )
    print(_json.dumps(value, indent=2, ensure_ascii=False))
