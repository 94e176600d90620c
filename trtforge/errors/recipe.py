"""Errors of recipes and targets: each is an edit of one place in one file, and says which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trtforge.errors.base import TrtforgeError


class RecipeNotFound(TrtforgeError):
    """The recipe file does not exist or cannot be read.

    Usually a typing error in the path, or a command run from another folder than the one the path was meant
    from. The message lists recipes of a similar name. Recipe paths on the command line are relative to the
    working directory.
    """

    code = "RCP101"
    title = "recipe not found"


class RecipeSyntax(TrtforgeError):
    """The file is not valid YAML, or uses more of YAML than a recipe may.

    The message shows the line and a caret under the place where the reader gave up; the mistake is there or
    just before. Usual causes: a tab used for indentation (YAML wants spaces), a missing space after a colon,
    an unclosed bracket or quote, and ``${VAR}`` unquoted inside ``{...}`` or ``[...]``, where YAML reads the
    brace as its own: write ``"${VAR}/model.onnx"``. Tags (``!!python/...``) and several documents in one file
    are not accepted.
    """

    code = "RCP102"
    title = "recipe is not valid YAML"


class RecipeNotAMapping(TrtforgeError):
    """The file is valid YAML but holds no keys: it is empty, a list, or a single value.

    A recipe is a mapping with ``target``, ``backend`` and ``engines``, or with ``extends`` and what differs.
    """

    code = "RCP103"
    title = "recipe is not a mapping"


class DuplicateKey(TrtforgeError):
    """One mapping says the same key twice.

    YAML readers differ in which one wins, so neither is taken. Delete one of the two places the message names.
    """

    code = "RCP104"
    title = "key given twice"


class RecipeTooLarge(TrtforgeError):
    """The file is far larger or deeper than any recipe: over 1 MiB, 10 000 values or 50 levels.

    Usually not a recipe at all. A small file gets here when YAML aliases (``*name``) repeat each other and
    expand to millions of values, or when an alias contains itself.
    """

    code = "RCP105"
    title = "recipe too large"


class ExtendsCycle(TrtforgeError):
    """Following ``extends`` leads back to a file already read.

    The message prints the chain. Remove ``extends`` from the file that should be the base of the others.
    """

    code = "RCP106"
    title = "extends goes round in a circle"


class ExtendsNotFound(TrtforgeError):
    """The file that ``extends`` names does not exist, cannot be read, or is named by an absolute path.

    ``extends`` is relative to the folder of the file that says it and takes no ``${VAR}``, so that a recipe
    means the same wherever the project is checked out.
    """

    code = "RCP107"
    title = "base recipe not found"


class InvalidRecipe(TrtforgeError):
    """The recipe has several problems; each is listed with its own place and code.

    ``trtforge explain CODE`` explains each kind. All problems found are listed at once, so one round of edits
    is enough. With ``--json`` they stand in ``error.problems`` as objects of their own.
    """

    code = "RCP110"
    title = "recipe has several problems"

    def __init__(
        self, what: str, *, where: str = "", why: str = "", next: str = "", problems: Sequence[TrtforgeError] = ()
    ) -> None:
        super().__init__(what, where=where, why=why, next=next)
        self.problems = tuple(problems)

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "problems": [problem.to_json() for problem in self.problems]}

    def __reduce__(self) -> Any:
        return (_rebuild_invalid, (self.what, self.where, self.why, self.next, self.problems))


def _rebuild_invalid(
    what: str, where: str, why: str, next: str, problems: tuple[TrtforgeError, ...]
) -> InvalidRecipe:  # module level, so that pickle finds it
    return InvalidRecipe(what, where=where, why=why, next=next, problems=problems)


class UnknownKey(TrtforgeError):
    """A key that a recipe does not have at this place.

    Usually a typing error, or a key one level too high or too low. The message lists the keys allowed there and
    the closest one. Unknown keys are refused because a misspelt option that is silently ignored costs a build.
    """

    code = "RCP111"
    title = "unknown key"


class MissingKey(TrtforgeError):
    """A key that must be given is not, neither in this file nor in one it extends.

    A file meant only to be extended by others (it has no ``target``) cannot be built itself: build one of the
    recipes that extend it.
    """

    code = "RCP112"
    title = "key missing"


class WrongValue(TrtforgeError):
    """A value of the wrong type, outside its range, or not one of the allowed words.

    The message says what was expected and what was found. A version number needs quotes: YAML reads ``10.10``
    as the number 10.1.
    """

    code = "RCP113"
    title = "wrong value"


class PathOutside(TrtforgeError):
    """A path in a recipe leaves the project, or is absolute where that is not allowed.

    The project is the nearest folder above the recipe with ``.git`` or ``pyproject.toml``; without one, the
    folder that holds ``recipes/``. Inside it, recipes keep working wherever it is checked out. For files kept
    elsewhere use a variable, ``${MODELS}/model.onnx``; models and sample sets may also be given as absolute
    paths. ``extends`` never leaves the project.
    """

    code = "RCP115"
    title = "path outside the project"


class UnsetVariable(TrtforgeError):
    """The recipe uses ``${NAME}`` and the environment has no variable of that name.

    Set it for the command (``NAME=/data trtforge build ...``), or give the recipe a default with
    ``${NAME:-value}``. For a literal ``${`` write ``$${``.
    """

    code = "RCP116"
    title = "variable not set"


class Contradiction(TrtforgeError):
    """Two parts of the recipe cannot both hold, such as a ``dla`` block for a target without a DLA.

    The message names both and which one to change. With ``extends``, one of the two may come from the base:
    write ``key: null`` to drop what a base says.
    """

    code = "RCP117"
    title = "recipe contradicts itself"


class BackendCannotTarget(TrtforgeError):
    """The chosen backend cannot make engines for the chosen target.

    ``onnxruntime`` makes engines for ``host`` only. ``tensorrt_rtx`` compiles ahead of time for SM 7.5, 8.0,
    8.6, 8.9, 12.0 and 12.1, INT8 for 8.0, 8.6, 8.9 and 12.0 only. ``tensorrt`` compiles on the device itself,
    for every NVIDIA target.
    """

    code = "RCP118"
    title = "backend cannot make engines for this target"


class BadOverride(TrtforgeError):
    """``--set KEY=VALUE`` could not be read.

    KEY is a dotted path as in ``engines.resnet50.precision``; a part that itself contains a dot, an equals sign
    or a space goes in double quotes: ``engines.bert.inputs."input.1".shape=[1,128]`` (quote the whole argument
    for the shell). VALUE is YAML: ``fp16``, ``[8, 3, 224, 224]``, ``{core: 1}``; nothing or ``null`` drops the key.
    """

    code = "RCP120"
    title = "override not understood"


class UnknownEngine(TrtforgeError):
    """``--only`` or ``--set`` names an engine that the recipe does not define.

    The message lists the engines it does define. They are the keys below ``engines:`` in the recipe and the files
    it extends; to add one, write it there.
    """

    code = "RCP121"
    title = "unknown engine"


class ModelNotFound(TrtforgeError):
    """The ONNX model that the recipe names is not there, or cannot be read.

    A path is relative to the recipe file that says it. For ``package:DISTRIBUTION/path`` the path is the one
    inside the installed package; the message lists the ONNX files the package does hold.
    """

    code = "RCP130"
    title = "model not found"


class ModelDigestMismatch(TrtforgeError):
    """The model's bytes are not the ones the recipe pins with ``sha256``.

    The file was replaced, the download was changed on the way or at its source, or the recipe pins another
    version. Scales and engines are only right for the model they were made from, so nothing is built. If the
    new file is the one you want, put its digest into the recipe and calibrate again.
    """

    code = "RCP131"
    title = "model is not the pinned one"


class DownloadFailed(TrtforgeError):
    """The model could not be downloaded, after the retries that make sense.

    What arrived is kept, and the next try continues from there when the server allows it. The file gets its
    name in the cache only after its sha256 was checked. The cache is the user cache folder, or the folder named by
    ``TRTFORGE_CACHE``. A machine without a network can use a path instead of the URL.
    """

    code = "RCP132"
    title = "download failed"


class InsecureUrl(TrtforgeError):
    """A model URL that is not ``https``, or that carries a password.

    Plain ``http`` is accepted from this machine itself only (localhost). Put secrets into a file that your
    download tool reads, and give the recipe a path.
    """

    code = "RCP133"
    title = "URL refused"
