"""A small study made of pictures made here, and a person who takes part in it."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import ImageEnhance
from starlette.testclient import TestClient

from koala.config.study import BuildStudy, StudySettings
from koala.study import build, server
from koala.study.folder import StudyFolder
from koala.study.site import StudySite
from tests.photographs import jpeg, make_photo
from tests.study.visitor import Visitor

SCENES = 13  # one of them to practise with


@pytest.fixture(scope="session")
def hands(tmp_path_factory) -> dict[str, Path]:
    """Originals, and what two models made of them."""
    folder = tmp_path_factory.mktemp("hands")
    for number in range(SCENES):
        photo = make_photo(number, 96, 64)
        label = folder / "original" / f"n0000000{number % 4}"
        label.mkdir(parents=True, exist_ok=True)
        (label / f"scene{number:02}.JPEG").write_bytes(jpeg(photo, quality=95))
        for model, saturation in (("koala", 0.3), ("other", 0.6)):
            (folder / model).mkdir(exist_ok=True)
            ImageEnhance.Color(photo).enhance(saturation).save(folder / model / f"scene{number:02}.JPEG.png")
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="session")
def settings(hands) -> BuildStudy:
    """Of a study of 12 scenes, of which everybody sees 8."""
    pictures = (f"koala={hands['koala']}", f"other={hands['other']}")
    study = StudySettings(shown=8, checks=1)
    return BuildStudy(Path("nowhere"), hands["original"], pictures, scenes=SCENES - 1, side=64, study=study)


@pytest.fixture(scope="session")
def built(settings, tmp_path_factory) -> Path:
    """The folder of that study, as it was built."""
    folder = tmp_path_factory.mktemp("built")
    build.build_command(replace(settings, dir=folder))
    return folder


@pytest.fixture
def study(built, tmp_path) -> StudyFolder:
    """A copy of it that may be changed."""
    return StudyFolder.open(Path(shutil.copytree(built, tmp_path / "study")))


@pytest.fixture
def site(study) -> Iterator[StudySite]:
    """What its pages share."""
    opened = StudySite(study)
    yield opened
    opened.queue.close()


@pytest.fixture
def browser(site) -> Callable[..., TestClient]:
    """Opens browsers, each with its own cookies."""
    app = server.create_app(site)
    return lambda **options: TestClient(app, **options)


@pytest.fixture
def visitor(browser) -> Visitor:
    """Somebody who has come, agreed and answered the questions."""
    person = Visitor(browser())
    person.begin()
    return person
