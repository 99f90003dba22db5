"""Which photos are to be coloured, and where each goes: known before anything heavy is imported."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
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

    def files(self) -> set[Path]:
        """All that may be made of it."""
        return {self.target, self.copy, self.layers or self.target}

    def layers_of(self, page: int) -> Path:
        """The further file for a page; the first one's has no number."""
        assert self.layers is not None
        suffix = self.layers.name.removeprefix(self.target.stem)
        return self.layers if page == 1 else self.layers.with_name(f"{self.target.stem}.page{page}{suffix}")

    def is_done(self) -> bool:
        """Whether an earlier run made all of it."""
        return (self.target.exists() and (self.layers is None or self.layers.exists())) or (
            self.copy != self.target and self.copy.exists()
        )


@dataclass(frozen=True)
class Plan:
    """What a command is to do.

    Attributes:
        jobs: the photos, each once.
        left_out: files in the folders whose names are not those of pictures.
        renamed: jobs whose result has another name than usual, since another photo's has that one.
    """

    jobs: tuple[Job, ...]
    left_out: tuple[Path, ...]
    renamed: tuple[Job, ...]

    def notes(self) -> list[str]:
        """What a person should know of it, in words."""
        left_out = [path.name for path in self.left_out]
        renamed = [f"{job.source.name} as {job.target.name}" for job in self.renamed]
        return [
            *([f"{len(left_out)} left out that are no pictures by name ({_some(left_out)})"] if left_out else []),
            *([f"{len(renamed)} renamed to keep photos of one name apart ({_some(renamed)})"] if renamed else []),
        ]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_FEW]) + (", ..." if len(names) > _FEW else "")


def plan_jobs(settings: ColorizeSettings) -> Plan:
    """Find the photos, and say where each goes; the same photos always go to the same places.

    Raises:
        UserError: there is no photo, or one would be written over.
    """
    if settings.photos and not any(place.exists() for place in settings.photos):
        raise UserError(f"{_some([str(place) for place in settings.photos])}: nothing is there; correct the path")
    found = list(_files(settings.photos, settings.out))
    left_out = tuple(path for path, _, given in found if not given and not photo_io.is_picture_name(path))
    pictures = {
        path.resolve(): (path, name)
        for path, name, given in reversed(found)  # of a photo that was named twice, its first name
        if given or photo_io.is_picture_name(path)
    }
    jobs, renamed = _places(sorted(pictures.values(), key=_rank), settings)
    plan = Plan(tuple(jobs), left_out, tuple(renamed))
    if settings.hints is not None and len(plan.jobs) > 1:
        raise UserError(f"--hints are of one photo, and there are {len(plan.jobs)}; name one photo")
    if not plan.jobs:
        reason = f" ({'; '.join(plan.notes())})" if left_out else ""
        raise UserError(f"there is no photo to colour{reason}; name photos or folders of photos")
    for job in plan.jobs:
        for made in job.files():
            if made.resolve() in pictures:
                raise UserError(f"{job.source} would be written over {made}; choose another --out")
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


def _rank(photo: tuple[Path, Path]) -> tuple[bool, Path, Path]:
    """Those first whose result has their own name, so that it is theirs."""
    path, name = photo
    return _written_suffix(name) != name.suffix, name, path


def _written_suffix(name: Path) -> str:
    """The suffix of a photo's result: its own, in its own spelling, where its format is written."""
    suffix = photo_io.suffix_for(name)
    return name.suffix if suffix != ".png" or name.suffix.lower() == ".png" else suffix


def _places(photos: Sequence[tuple[Path, Path]], settings: ColorizeSettings) -> tuple[list[Job], list[Job]]:
    """A job for each photo, and those of them that have another name than usual."""
    taken: set[str] = set()
    jobs, renamed = [], []
    for source, name in photos:
        candidates = (_job(source, settings, *names) for names in _names(name))
        number, job = next((n, job) for n, job in enumerate(candidates) if taken.isdisjoint(map(_key, job.files())))
        taken.update(map(_key, job.files()))
        jobs.append(job)
        renamed += [job] if number else []
    return jobs, renamed


def _key(path: Path) -> str:
    """The same for what is one file where capitals make no difference."""
    return str(path).casefold()


def _names(name: Path) -> Iterator[tuple[Path, Path]]:
    """Names that a photo's result may have, and its copy if it is in colour already; the usual ones first."""
    suffix = _written_suffix(name)
    yield name.with_suffix(suffix), name
    yield name.with_name(f"{name.name}{suffix}"), name
    for number in count(2):
        stem = f"{name.stem}-{number}"
        yield name.with_name(f"{stem}{suffix}"), name.with_name(f"{stem}{name.suffix}")


def _job(source: Path, settings: ColorizeSettings, target: Path, copy: Path) -> Job:
    made = settings.out / target
    layers = made.with_suffix(_LAYERS[settings.layers]) if settings.layers != "none" else None
    return Job(source, made, settings.out / copy, layers)
