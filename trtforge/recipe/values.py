"""What the models of a recipe are made of: numbers that are numbers, and mappings that know their keys."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticKnownError


def whole(value: Any) -> Any:
    """pydantic takes `true` for 1; who writes it for a number means something else."""
    if isinstance(value, bool):
        raise PydanticKnownError("int_type")
    return value


def real(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticKnownError("float_type")
    return value


Positive = Annotated[int, Field(gt=0), BeforeValidator(whole)]
Real = Annotated[float, BeforeValidator(real)]
PositiveReal = Annotated[float, Field(gt=0), BeforeValidator(real)]


class Strict(BaseModel):
    """Unknown keys are refused, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
