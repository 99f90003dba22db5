"""Which photos are to be coloured, and where each goes: known before anything heavy is imported."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from koala.config.inference import ColorizeSettings
from koala.core.errors import UserError
from koala.imaging import photo_io

Outcome = Literal["coloured", "in colour", "there", "failed"]

_LAYERS = {"ora": ".ora", "png": ".layer.png"}
_FEW = 3  # names of files that are left out


@dataclass(frozen=True)
class Job:
    """A photo and where what is made of it goes.

    Attributes:
        source: its file.
        target: the coloured photo's.
        copy: where it goes as it is, if it is in colour.
        layers: further file; none where none is asked for.
    """

    source: Path
    target: Path
    copy: Path
    layers: Path | None

    def is_done(self) -> bool:
        """Whether an earlier run made all of it."""
        return (self.target.exists() and (self.layers is None or self.layers.exists())) or (
            self.copy != self.target and self.copy.exists()
        )


@dataclass(frozen=True)
class Plan:
    """What a command is to do.

    Attributes:
        jobs: the photos.
        left_out: files in the folders whose names are not those of pictures.
    """

    jobs: tuple[Job, ...]
    left_out: tuple[Path, ...]

    def describe_left_out(self) -> str:
        """The files that are left out, in words; "" where there are none."""
        if not self.left_out:
            return ""
        names = [path.name for path in self.left_out[:_FEW]]
        more = ", ..." if len(self.left_out) > _FEW else ""
        return f"{len(self.left_out)} left out that are no pictures by name ({', '.join(names)}{more})"


def plan_jobs(settings: ColorizeSettings) -> Plan:
    """Find the photos, and say where each goes.

    Raises:
        UserError: there is no photo, or one would be written over.
    """
    found = list(_files(settings.photos, settings.out))
    pictures = [(path, name) for path, name, given in found if given or photo_io.is_picture_name(path)]
    left_out = [path for path, _, given in found if not given and not photo_io.is_picture_name(path)]
    plan = Plan(tuple(_job(path, name, settings) for path, name in pictures), tuple(left_out))
    if not plan.jobs:
        reason = f" ({plan.describe_left_out()})" if left_out else ""
        raise UserError(f"there is no photo to colour{reason}; name photos or folders of photos")
    _check(plan.jobs)
    return plan


def _files(places: Sequence[Path], out: Path) -> Iterator[tuple[Path, Path, bool]]:
    """Each file, its name in its folder, and whether it was given by name; what an earlier run made is none of them."""
    for place in places:
        if not place.is_dir():
            yield place, Path(place.name), True
            continue
        made = out.resolve() if out.resolve() != place.resolve() else None
        for path in sorted(path for path in place.rglob("*") if path.is_file() and not path.name.startswith(".")):
            if made is None or not path.resolve().is_relative_to(made):
                yield path, path.relative_to(place), False


def _job(source: Path, name: Path, settings: ColorizeSettings) -> Job:
    copy = settings.out / name
    target = copy.with_suffix(photo_io.suffix_for(name))
    return Job(
        source, target, copy, target.with_suffix(_LAYERS[settings.layers]) if settings.layers != "none" else None
    )


def _check(jobs: Sequence[Job]) -> None:
    """Refuse to write over a photo, or two photos to one place."""
    sources = {job.source.resolve() for job in jobs}
    seen: dict[Path, Path] = {}
    for job in jobs:
        for made in {job.target, job.copy, job.layers or job.target}:
            if made.resolve() in sources:
                raise UserError(f"{job.source} would be written over {made}; choose another --out")
            if made in seen:
                raise UserError(f"{seen[made]} and {job.source} would both become {made}; give them different --out")
            seen[made] = job.source
