"""Types and ranges that settings share."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from tyro.conf import arg

from koala.core.errors import UserError

Count = Annotated[int, Field(gt=0)]

Share = Annotated[float, Field(ge=0, le=1)]

Temperature = Annotated[float, Field(gt=0)] | None

Dir = Annotated[Path, arg(metavar="DIR")]

File = Annotated[Path, arg(metavar="FILE")]

Geometry = Literal["pad", "crop", "random_crop", "squash", "legacy"]

LightnessSource = Literal["grey", "color"]

MixedPrecision = Literal["no", "fp16", "bf16"]

Device = Literal["auto", "cpu", "cuda"]
Decoder = Literal["auto", "cpu", "gpu"]

SplitName = Literal["train", "val"]


class Advanced:
    """Marks a setting that most people never need: `Annotated[int, Advanced]`. Short help leaves it out."""


class Strict:
    """A setting that does not exist is an error."""

    __pydantic_config__ = ConfigDict(extra="forbid")


def part_numbers(part: str) -> tuple[int, int]:
    """I and N of a part "I/N" of the work.

    Raises:
        UserError: it is nothing of the kind.
    """
    number, _, parts = part.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise UserError(f"--part {part} is not I/N with I from 1 to N, as in 1/4")
    return int(number), int(parts)
