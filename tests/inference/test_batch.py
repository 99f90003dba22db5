"""`koala colorize`: folders in, folders out."""

import io
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from koala.cli import main
from koala.config.inference import ColorizeOptions, ColorizeSettings
from koala.core.errors import UserError
from koala.imaging import photo_io
from koala.inference import batch, jobs, workers
from tests.photographs import encoded, jpeg, make_photo, packet
from tests.processes import finish, start

KINDS = ["grey.jpg", "color.jpg", "toned.jpg", "grey.png", "alpha.png", "deep.png", "grey.tif", "deep.tif", "one.webp"]


def make_grey(seed: int) -> Image.Image:
    return make_photo(seed).convert("L")


def make_toned(seed: int) -> Image.Image:
    """Brown where it is dark, yellowish where it is light."""
    share = np.asarray(make_grey(seed))[..., None] / 255
    return Image.fromarray((share * (250, 235, 205) + (1 - share) * (50, 25, 5)).astype(np.uint8))


def make_file(kind: str, seed: int) -> bytes:
    """A photo of a kind: its name is in KINDS."""
    grey = make_grey(seed)
    deep = np.asarray(grey).astype(np.uint16) * 257
    match kind:
        case "grey.jpg":
            return jpeg(grey)
        case "color.jpg":
            return jpeg(make_photo(seed))
        case "toned.jpg":
            return jpeg(make_toned(seed), quality=95)
        case "alpha.png":
            return encoded(grey.convert("LA"), "PNG")
        case "deep.png":
            return encoded(Image.fromarray(deep), "PNG")
        case "deep.tif":
            return encoded(Image.fromarray(deep), "TIFF")
    return encoded(grey, {"png": "PNG", "tif": "TIFF", "webp": "WEBP"}[kind.rpartition(".")[2]])


def settings(run, source, out, **more) -> ColorizeSettings:
    return ColorizeSettings((source,), out, run, **more)


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def folder(tmp_path) -> Path:
    """Photos of every kind, in a folder and a folder in it."""
    place = tmp_path / "photos"
    for seed, kind in enumerate(KINDS):
        path = place / ("inner" if seed % 2 else "") / kind
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_file(kind, seed))
    return place


# ---------------------------------------------------------------- what comes out


def test_folders_keep_their_structure_and_photos_their_kind(run, folder, tmp_path, capsys):
    assert batch.colorize_command(settings(run, folder, tmp_path / "out")) == 0
    assert files_in(tmp_path / "out") == files_in(folder)
    assert (
        "8 coloured, 1 in colour already and copied (--recolor --overwrite gives them new colours)"
        in capsys.readouterr().out
    )
    for name in files_in(folder):
        before, after = (photo_io.read_photo(place / name) for place in (folder, tmp_path / "out"))
        assert (after.pixels.shape, after.pixels.dtype) == (before.pixels.shape, before.pixels.dtype)
        assert (after.alpha is None) == (before.alpha is None)
        if "color" not in name:
            assert np.ptp(after.pixels.astype(int), axis=-1).max() > 0, f"{name} has colours"


def test_photos_in_color_are_copied_as_they_are_or_recolored(run, tmp_path):
    source = tmp_path / "one.jpeg"
    source.write_bytes(jpeg(make_photo(1)))
    batch.colorize_command(settings(run, source, tmp_path / "copied"))
    assert (tmp_path / "copied/one.jpeg").read_bytes() == source.read_bytes()
    batch.colorize_command(settings(run, source, tmp_path / "colored", recolor=True))
    assert files_in(tmp_path / "colored") == ["one.jpeg"]
    assert not np.array_equal(
        photo_io.read_photo(tmp_path / "colored/one.jpeg").pixels, photo_io.read_photo(source).pixels
    )


def test_what_a_photo_says_of_itself_is_kept_with_a_note(run, tmp_path):
    (tmp_path / "one.jpg").write_bytes(jpeg(make_grey(1), xmp=packet(), dpi=(600, 600)))
    batch.colorize_command(settings(run, tmp_path / "one.jpg", tmp_path / "out"))
    made = photo_io.read_photo(tmp_path / "out/one.jpg")
    assert made.dpi == (600, 600)
    assert "Großmutter, 1936" in made.xmp.decode() and "coloured by software" in made.xmp.decode()

    (tmp_path / "one.png").write_bytes(encoded(make_grey(1), "PNG"))
    out = tmp_path / "out"
    words = ["colorize", tmp_path / "one.png", "--out", out, "--model", run, "--saturation", "0"]
    assert main([str(word) for word in words]) == 0
    assert np.ptp(photo_io.read_photo(out / "one.png").pixels.astype(int), axis=-1).max() == 0


# ---------------------------------------------------------------- resuming, and what goes wrong


def test_what_is_there_is_left_alone(run, folder, tmp_path, capsys):
    out = tmp_path / "out"
    batch.colorize_command(settings(run, folder, out))
    (out / "grey.jpg").unlink()
    (out / "inner/grey.png").write_bytes(b"mine")
    capsys.readouterr()
    assert batch.colorize_command(settings(run, folder, out)) == 0
    assert "1 coloured, 8 there already (--overwrite colours them again)" in capsys.readouterr().out
    assert (out / "inner/grey.png").read_bytes() == b"mine"
    batch.colorize_command(settings(run, folder, out, overwrite=True))
    assert (out / "inner/grey.png").read_bytes() != b"mine"


def test_bad_files_are_named_and_the_others_coloured(run, tmp_path, capsys):
    place = tmp_path / "photos"
    (place / "inner").mkdir(parents=True)
    (place / "one.jpg").write_bytes(jpeg(make_grey(1)))
    (place / "inner/two.png").write_bytes(encoded(make_grey(2), "PNG"))
    (place / "bad.jpg").write_text("no picture")
    (place / "empty.png").write_bytes(b"")
    (place / ".DS_Store").write_bytes(b"hidden")
    given = ColorizeSettings((place, tmp_path / "missing.jpg"), tmp_path / "out", run)
    assert batch.colorize_command(given) == 1
    assert files_in(tmp_path / "out") == ["inner/two.png", "one.jpg"]
    captured = capsys.readouterr()
    assert "2 coloured, 3 could not be read" in captured.out
    for name in ("bad.jpg", "empty.png", "missing.jpg"):
        assert sum(name in line for line in captured.err.splitlines()) == 1


def pages(*images: Image.Image) -> bytes:
    return encoded(images[0], "TIFF", save_all=True, append_images=images[1:])


def saturated(picture: np.ndarray) -> bool:
    return np.ptp(picture.astype(int), axis=-1).max() > 8


def test_all_pages_of_a_tiff_are_coloured(run, tmp_path, capsys):
    """Those that are in colour stay as they are; where all are, the file is copied."""
    greys = [make_photo(seed, 60 + seed, 40).convert("L") for seed in range(3)]
    (tmp_path / "grey.tif").write_bytes(pages(*greys))
    (tmp_path / "mixed.tif").write_bytes(pages(greys[0], make_photo(7), greys[2]))
    (tmp_path / "color.tif").write_bytes(pages(make_photo(7), make_photo(8)))
    out = tmp_path / "out"
    given = [tmp_path / f"{name}.tif" for name in ("grey", "mixed", "color")]
    assert batch.colorize_command(ColorizeSettings(tuple(given), out, run, options=ColorizeOptions(saturation=4))) == 0
    assert "2 coloured, 1 in colour already and copied" in capsys.readouterr().out
    colored = [photo.pixels for photo in photo_io.open_photos(out / "grey.tif")]
    assert [picture.shape for picture in colored] == [(40, 60 + seed, 3) for seed in range(3)]
    assert all(map(saturated, colored))
    mixed = [photo.pixels for photo in photo_io.open_photos(out / "mixed.tif")]
    assert np.array_equal(mixed[1], np.asarray(make_photo(7))) and saturated(mixed[0]) and saturated(mixed[2])
    assert (out / "color.tif").read_bytes() == given[2].read_bytes()


def test_pages_have_layers_of_their_own(run, tmp_path):
    (tmp_path / "two.tif").write_bytes(pages(make_grey(1), make_grey(2)))
    assert batch.colorize_command(settings(run, tmp_path / "two.tif", tmp_path / "out", layers="ora")) == 0
    assert files_in(tmp_path / "out") == ["two.ora", "two.page2.ora", "two.tif"]


def test_a_damaged_page_is_named_and_nothing_is_written(run, tmp_path, capsys):
    whole = pages(make_grey(1), make_grey(2))
    (tmp_path / "cut.tif").write_bytes(whole[:-100])
    assert batch.colorize_command(settings(run, tmp_path / "cut.tif", tmp_path / "out")) == 1
    assert "cut.tif: page 2: damaged TIFF: it ends too early" in capsys.readouterr().err
    assert files_in(tmp_path / "out") == []


def test_pages_that_are_cut_off_are_said(run, tmp_path, capsys):
    """Where the next page would begin behind the end of the file, nobody knows how many there were."""
    whole = pages(make_grey(1), make_grey(2), make_grey(3))
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        third = file.pages[2].offset
    (tmp_path / "cut.tif").write_bytes(whole[:third])
    assert batch.colorize_command(settings(run, tmp_path / "cut.tif", tmp_path / "out")) == 0
    assert len(photo_io.open_photos(tmp_path / "out/cut.tif")) == 2
    assert "cut.tif: coloured without what follows page 2: the file may be cut off" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_of_an_animation_the_first_frame_is_coloured_and_it_is_said(run, tmp_path, capsys, kind):
    frames = [make_grey(seed).convert("RGB") for seed in range(3)]
    source = tmp_path / f"moving.{kind.lower()}"
    source.write_bytes(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert batch.colorize_command(settings(run, source, tmp_path / "out")) == 0
    (made,) = files_in(tmp_path / "out")
    with Image.open(tmp_path / "out" / made) as image:
        assert getattr(image, "n_frames", 1) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "after the first" in line]
    assert lines == [f"{source}: coloured without the frames of an animation after the first"]


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8 GiB")])
def test_one_photo_never_ends_the_command(run, folder, tmp_path, capsys, monkeypatch, error):
    """Whatever happens to it: here there is no memory to paint it, of the machine or of its GPU."""
    look = workers.colorize.look

    def fail(pixels, side, stride):
        if pixels.shape[:2] == (41, 61):
            raise error
        return look(pixels, side, stride)

    monkeypatch.setattr(workers.colorize, "look", fail)
    (folder / "large.png").write_bytes(encoded(make_photo(0, 61, 41).convert("L"), "PNG"))
    assert batch.colorize_command(settings(run, folder, tmp_path / "out")) == 1
    captured = capsys.readouterr()
    assert "large.png: there is no memory for it" in captured.err
    assert "1 could not be read" in captured.out


@pytest.mark.parametrize(("photos", "allowed", "each"), [(1, 4, 4), (1, 2, 2), (4, 4, 1)])
def test_threads_are_shared_out_and_no_more_than_are_allowed(run, tmp_path, monkeypatch, photos, allowed, each):
    """On four cores; OMP_NUM_THREADS, say, allows fewer."""
    found = []
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda _: range(4), raising=False)
    monkeypatch.setattr(workers._Worker, "do", lambda *_: found.append(torch.get_num_threads()) or ("copied", ""))
    before = torch.get_num_threads()
    torch.set_num_threads(allowed)
    try:
        workers.colorize_photos([None] * photos, ColorizeSettings([tmp_path], tmp_path, model=str(run)))
        assert found == [each] * photos
        assert torch.get_num_threads() == allowed
    finally:
        torch.set_num_threads(before)


def test_limits_are_settings(run, folder, tmp_path, capsys):
    """By whoever knows better: photos here have 2,400 pixels."""
    command = ["colorize", str(folder), "--out", str(tmp_path / "out"), "--model", str(run)]
    assert main([*command, "--max-pixels", "2399"]) == 1
    captured = capsys.readouterr()
    assert f"{len(KINDS)} could not be read" in captured.out
    assert captured.err.count("60x40 pixels are more than the 2399 that are allowed (max_pixels)") == len(KINDS)
    assert main([*command, "--max-bytes", "99"]) == 1
    assert "bytes are more than the 99 that are allowed (max_bytes)" in capsys.readouterr().err
    assert main([*command, "--max-pixels", "2400"]) == 0


@pytest.mark.slow
def test_two_hundred_mixed_files_of_which_twenty_are_bad(run, tmp_path):
    """180 pictures, 20 lines, and nothing else."""
    place = tmp_path / "photos"
    place.mkdir()
    for number in range(200):
        kind = KINDS[number % len(KINDS)]
        data = make_file(kind, number)
        if number % 10 == 3:
            data = [b"", b"no picture", data[: len(data) // 2], data[:20]][number // 10 % 4]
        (place / f"{number:03d}-{kind}").write_bytes(data)
    command = [sys.executable, "-m", "koala", "colorize", place, "--out", tmp_path / "out", "--model", run]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert len(files_in(tmp_path / "out")) == 180
    named, rest = [], []
    for line in done.stderr.splitlines():
        (named if str(place) in line else rest).append(line)
    assert len(named) == 20 and len({line.split(":")[0] for line in named}) == 20
    assert [line for line in rest if not line.startswith("colouring: ")] == []
    assert len(done.stdout.splitlines()) == 1 and "20 could not be read" in done.stdout


@pytest.mark.slow
def test_an_interrupted_command_resumes(run, tmp_path):
    """Nothing is half written, and the second run makes what the first did not."""
    place, out = tmp_path / "photos", tmp_path / "out"
    place.mkdir()
    large = make_grey(1).resize((1500, 1000))
    for number in range(40):
        (place / f"{number}.jpg").write_bytes(jpeg(large))
    words = [str(word) for word in ("colorize", place, "--out", out, "--model", run)]
    # where tests run as a shell's background job, the signal would be ignored
    process = start(*words, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    while not (out.exists() and files_in(out)):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = finish(process, 130)
    assert "run the same command again to resume" in said and "Traceback" not in said
    made = files_in(out)
    assert 0 < len(made) < 40
    before = {name: (out / name).stat().st_mtime_ns for name in made}
    for name in made:
        assert photo_io.read_photo(out / name).pixels.shape == (1000, 1500, 3)
    finish(start(*words))
    assert len(files_in(out)) == 40
    assert {name: (out / name).stat().st_mtime_ns for name in made} == before


def test_what_is_no_picture_by_name_is_left_out_with_a_count(run, tmp_path, capsys):
    """As scanners' and telephones' files beside photos are; a file that is named is tried whatever its name."""
    place = tmp_path / "photos"
    place.mkdir()
    for name in ("one.jpg", "scan"):
        (place / name).write_bytes(jpeg(make_grey(1)))
    for name in ("Thumbs.db", "notes.txt", "one.md5", "one.xmp", "one.MOV"):
        (place / name).write_bytes(b"no picture")
    given = ColorizeSettings((place, place / "scan"), tmp_path / "out", run)
    assert batch.colorize_command(given) == 0
    assert files_in(tmp_path / "out") == ["one.jpg", "scan.png"]
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        f"{tmp_path / 'out'}: 2 coloured, 6 left out that are no pictures by name (Thumbs.db, notes.txt, one.MOV, ...)"
    ]


def test_a_path_that_leads_nowhere_is_said_with_what_to_do(run, tmp_path):
    with pytest.raises(UserError, match=r"nowhere: nothing is there; correct the path"):
        batch.colorize_command(settings(run, tmp_path / "nowhere", tmp_path / "out"))


def test_a_folder_without_a_picture_by_name_is_said(run, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    message = r"there is no photo to colour \(1 left out that are no pictures by name \(notes.txt\)\); name photos"
    with pytest.raises(UserError, match=message):
        batch.colorize_command(settings(run, tmp_path, tmp_path / "out"))


def test_what_an_earlier_run_made_inside_the_folder_is_not_coloured_again(run, tmp_path, capsys):
    (tmp_path / "one.jpg").write_bytes(jpeg(make_grey(1)))
    for words in ("1 coloured", "0 coloured, 1 there already"):
        assert batch.colorize_command(settings(run, tmp_path, tmp_path / "out")) == 0
        assert words in capsys.readouterr().out


def test_where_nothing_is_to_be_done_torch_is_not_imported(tmp_path):
    for name in ("photos/one.jpg", "out/one.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(jpeg(make_grey(1)))
    words = ["colorize", str(tmp_path / "photos"), "--out", str(tmp_path / "out")]
    script = f"import sys, koala.cli; print(koala.cli.main({words}), 'torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "0 False"


def test_no_photo_is_written_over(run, tmp_path):
    (tmp_path / "one.jpg").write_bytes(jpeg(make_grey(1)))
    before = (tmp_path / "one.jpg").read_bytes()
    with pytest.raises(UserError, match=r"would be written over .*one.jpg; choose another --out"):
        batch.colorize_command(settings(run, tmp_path, tmp_path))
    assert (tmp_path / "one.jpg").read_bytes() == before


def names_for(folder: Path, *words: str, **options) -> dict[str, str]:
    """What each photo becomes."""
    plan = jobs.plan_jobs(ColorizeSettings(tuple(folder / word for word in words or (".",)), folder / "out", **options))
    return {
        job.source.relative_to(folder).as_posix(): job.target.relative_to(folder / "out").as_posix()
        for job in plan.jobs
    }


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["b.jpg", "b.jpeg"], {"b.jpg": "b.jpg", "b.jpeg": "b.jpeg"}),
        (["b.bmp", "b.png"], {"b.bmp": "b.bmp.png", "b.png": "b.png"}),
        (["scan.JPEG", "x.TIFF", "y.PNG"], {"scan.JPEG": "scan.JPEG", "x.TIFF": "x.TIFF", "y.PNG": "y.PNG"}),
        (["A.JPG", "A.jpg"], {"A.JPG": "A.JPG", "A.jpg": "A-2.jpg"}),  # one file on a Mac
        (
            ["a.bmp", "a.gif", "a.png", "a.bmp.png"],
            {"a.bmp": "a-2.png", "a.gif": "a.gif.png", "a.png": "a.png", "a.bmp.png": "a.bmp.png"},
        ),
    ],
)
def test_photos_of_one_name_are_kept_apart(tmp_path, names, expected):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert names_for(tmp_path) == expected
    assert names_for(tmp_path) == expected, "a second run finds them"


def test_layers_are_kept_apart_too(tmp_path):
    for name in ("a.jpg", "a.png"):
        (tmp_path / name).write_bytes(b"")
    plan = jobs.plan_jobs(ColorizeSettings((tmp_path,), tmp_path / "out", layers="ora"))
    assert sorted(job.layers.name for job in plan.jobs) == ["a.ora", "a.png.ora"]


def test_a_photo_that_is_named_twice_is_coloured_once(tmp_path):
    for name in ("a.jpg", "in/a.jpg", "in/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert names_for(tmp_path, "in", "in/b.jpg", "in/../in/a.jpg") == {"in/a.jpg": "a.jpg", "in/b.jpg": "b.jpg"}
    assert names_for(tmp_path, "a.jpg", "in/a.jpg") == {"a.jpg": "a.jpg", "in/a.jpg": "a-2.jpg"}


def test_all_of_an_archives_folder_is_coloured(run, tmp_path, capsys):
    """Checksums, texts and films beside the scans; two scans of one name; the pictures below the folder itself."""
    folder = tmp_path / "archive"
    folder.mkdir()
    for name in ("scan1.jpg", "scan1.md5", "scan1.txt", "scan2.jpg", "scan2.xmp", "film.mov"):
        (folder / name).write_bytes(jpeg(make_grey(1)) if name.endswith("jpg") else b"beside")
    make_grey(2).save(folder / "scan2.bmp")
    make_grey(3).save(folder / "scan2.png")
    for _ in range(2):
        assert batch.colorize_command(settings(run, folder, folder / "colored")) == 0
        assert files_in(folder / "colored") == ["scan1.jpg", "scan2.bmp.png", "scan2.jpg", "scan2.png"]
    first, second = capsys.readouterr().out.splitlines()
    assert "4 coloured" in first and "4 there already" in second
    for line in (first, second):
        assert "4 left out that are no pictures by name (film.mov, scan1.md5, scan1.txt, ...)" in line
        assert "1 renamed to keep photos of one name apart (scan2.bmp as scan2.bmp.png)" in line


def test_an_empty_folder_is_said(run, tmp_path):
    with pytest.raises(UserError, match="no photo to colour"):
        batch.colorize_command(settings(run, tmp_path, tmp_path / "out"))


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (1 << 22, [(1, 1, 8, 8), (3, 1, 8, 8), (2, 1, 8, 16)]),
        (128, [(1, 1, 8, 8), (2, 1, 8, 8), (1, 1, 8, 8), *[(1, 1, 8, 16)] * 2]),
    ],
)
def test_photos_that_wait_go_to_the_network_together(pixels, expected, monkeypatch):
    """Those of one size, as many as have so many pixels, and each gets its own answer."""
    monkeypatch.setattr(workers, "_MOST_PIXELS", pixels)
    free, batches = Event(), []

    def predict(lightness):
        batches.append(tuple(lightness.shape))
        assert free.wait(60)
        return lightness.expand(-1, 2, -1, -1)

    with workers.PredictionQueue(predict) as line, ThreadPoolExecutor(6) as pool:
        first = pool.submit(line.predict, torch.zeros(1, 1, 8, 8))
        while not batches:
            time.sleep(0.001)
        others = [pool.submit(line.predict, torch.full((1, 1, 8, 8 * (1 + n % 2)), n)) for n in range(5)]
        while line._waiting.qsize() < 5:
            time.sleep(0.001)
        free.set()
        assert [int(answer.result()[0, 0, 0, 0]) for answer in (first, *others)] == [0, 0, 1, 2, 3, 4]
    assert batches == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_the_gpu_colors_as_the_cpu_does(run, folder, tmp_path):
    for device in ("cpu", "cuda"):
        assert batch.colorize_command(settings(run, folder, tmp_path / device, device=device)) == 0
    for name in files_in(tmp_path / "cpu"):
        cpu, gpu = (photo_io.read_photo(tmp_path / device / name).pixels for device in ("cpu", "cuda"))
        assert np.abs(cpu.astype(float) - gpu).mean() <= np.iinfo(cpu.dtype).max / 255, f"{name}: a level of 256"


def test_what_the_network_raises_reaches_who_asked():
    def predict(lightness):
        raise RuntimeError("out of memory")

    with workers.PredictionQueue(predict) as line, pytest.raises(RuntimeError, match="out of memory"):
        line.predict(torch.zeros(1, 1, 8, 8))


# ---------------------------------------------------------------- to retouch by hand


@pytest.mark.parametrize(("kind", "suffix"), [("ora", ".ora"), ("png", ".layer.png")])
def test_layers_lie_beside_the_photo(run, tmp_path, kind, suffix, capsys):
    source = tmp_path / "one.jpg"
    source.write_bytes(jpeg(make_grey(1)))
    out = tmp_path / "out"
    batch.colorize_command(settings(run, source, out, layers=kind))
    assert files_in(out) == sorted(["one.jpg", f"one{suffix}"])
    (out / f"one{suffix}").unlink()
    batch.colorize_command(settings(run, source, out, layers=kind))
    assert files_in(out) == sorted(["one.jpg", f"one{suffix}"]), "photos without their layers are made again"


@pytest.mark.parametrize("kind", ["grey.png", "toned.jpg"])
def test_the_layer_over_the_photo_is_the_colored_one(run, tmp_path, kind):
    source = tmp_path / kind
    source.write_bytes(make_file(kind, 1))
    out = tmp_path / "out"
    batch.colorize_command(settings(run, source, out, layers="png"))
    base, layer = (Image.open(path).convert("RGBA") for path in (source, (out / kind).with_suffix(".layer.png")))
    merged = np.asarray(Image.alpha_composite(base, layer).convert("RGB"))
    tolerance = 1 if kind.endswith("png") else 40  # what JPEG does to the coloured photo
    difference = np.abs(merged.astype(int) - photo_io.read_photo(out / kind).pixels)
    assert difference.max() <= tolerance and difference.mean() < 2
