"""Types and ranges that settings share."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator
from tyro.conf import arg
from tyro.constructors import PrimitiveConstructorSpec

from koala.core.errors import UserError

Count = Annotated[int, Field(gt=0)]

Share = Annotated[float, Field(ge=0, le=1)]

Temperature = Annotated[float, Field(gt=0)] | None


class StoreUrl(str):
    """A folder in an object store, as in "s3://bucket/folder"; a Path would take one of the slashes away."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """Its last part."""
        return self.rpartition("/")[2]


def as_location(text: object) -> Path | StoreUrl:
    """A folder on this machine, or in a store; which stores there are, `koala.core.object_store` knows."""
    scheme, colon, rest = str(text).partition(":/")  # one slash: a Path may have taken the other
    if not colon or not scheme.isalnum() or len(scheme) == 1:
        return Path(str(text))
    return StoreUrl(f"{scheme}://{rest.strip('/')}")


def _on_this_machine(path: Path) -> Path:
    """Refuse a folder in a store, which would become a folder named "s3:"."""
    if isinstance(url := as_location(path), StoreUrl):
        raise UserError(f"{url} lies in a store; name a folder or file on this machine here")
    return path


LocalPath = Annotated[Path, AfterValidator(_on_this_machine)]

Dir = Annotated[LocalPath, arg(metavar="DIR")]

File = Annotated[LocalPath, arg(metavar="FILE")]

Location = Annotated[
    Path | StoreUrl,
    PlainValidator(as_location),
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="DIR|URL",
        instance_from_str=lambda words: as_location(words[0]),
        is_instance=lambda value: isinstance(value, Path | StoreUrl),
        str_from_instance=lambda value: [str(value)],
    ),
]
"""A folder of shards, here or in a store."""

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
