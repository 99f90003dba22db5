"""Tars and zips: every member is read or named, and damage stops the listing with the place where it lies."""

import io
import random
import subprocess
import tarfile
import zipfile
from contextlib import suppress

import pytest

from koala.core.errors import UserError
from koala.data import places
from koala.data.archives import scan_tar, scan_zip
from tests.packing import member, mutated, tar_bytes, zip_bytes

FILES = {f"{number:02}.jpg": random.Random(number).randbytes(700 + 100 * number) for number in range(12)}
TAR, ZIP = tar_bytes(FILES), zip_bytes(FILES)
UNPACK = places._unpack


def offsets(tar: bytes) -> list[int]:
    """Where the headers of a tar lie."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as found:
        return [info.offset for info in found]


def header(**fields) -> bytes:
    """A header that tarfile would not write."""
    info = {**tarfile.TarInfo("a").get_info(), **fields}
    return tarfile.TarInfo._create_header(info, tarfile.GNU_FORMAT, "ascii", "")


def listed(path, data, scan=scan_tar):
    """What an archive's items hold, or why they hold nothing."""
    path.write_bytes(data)
    return [(item.name, item.fault or item.read()) for item in scan(path)]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_all_members_are_read_whatever_the_format(tmp_path, form):
    names = [f"./{'d' * 60}/ä{'e' * 40}.jpg", "a b.jpg"]
    names += ["n" * 180 + ".jpg", "/".join(["long"] * 60)] if form != tarfile.USTAR_FORMAT else []
    files = {name: name.encode() for name in names}
    found = listed(tmp_path / "a.tar", tar_bytes(files, form=form))
    assert found == [(name.removeprefix("./"), data) for name, data in files.items()]


def test_links_are_followed_and_what_is_no_file_is_named(tmp_path):
    others = [
        member("b/hard.jpg", tarfile.LNKTYPE, "./00.jpg"),
        member("b/soft.jpg", tarfile.SYMTYPE, "../01.jpg"),
        member("b/chain.jpg", tarfile.SYMTYPE, "soft.jpg"),
        member("b/soft.jpg", tarfile.SYMTYPE, "../01.jpg"),
        member("round.jpg", tarfile.SYMTYPE, "round.jpg"),
        member("away.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        member("folder", tarfile.SYMTYPE, "b"),
        member("b", tarfile.DIRTYPE),
        member("pipe.jpg", tarfile.FIFOTYPE),
        member("zero.jpg", tarfile.CHRTYPE),
        member("volume", b"V"),
    ]
    found = dict(listed(tmp_path / "a.tar", tar_bytes(FILES, *others)))
    assert len(list(scan_tar(tmp_path / "a.tar"))) == len(FILES) + len(others) - 1, "all but the folder"
    assert {name: found[name] for name in found if name not in FILES} == {
        "b/hard.jpg": FILES["00.jpg"],
        "b/soft.jpg": FILES["01.jpg"],
        "b/chain.jpg": FILES["01.jpg"],
        "round.jpg": "a link to round.jpg, which is no file in the archive",
        "away.jpg": "a link to /etc/passwd, which is no file in the archive",
        "folder": "a link to b, which is no file in the archive",
        "pipe.jpg": "a named pipe",
        "zero.jpg": "a device",
        "volume": "a member of type 'V', which is no file",
    }


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_sparse_members_are_named_and_what_comes_after_is_read(tmp_path, form):
    """Written by GNU tar, of a file of a terabyte that is all hole."""
    (tmp_path / "files").mkdir()
    with (tmp_path / "files/1.jpg").open("wb") as file:
        file.truncate(2**40)
    (tmp_path / "files/2.jpg").write_bytes(b"two")
    words = ["tar", "--sparse", f"--format={form}", "-cf", str(tmp_path / "a.tar"), "-C", str(tmp_path / "files")]
    subprocess.run([*words, "1.jpg", "2.jpg"], check=True)
    found = [(item.name, item.fault or item.read()) for item in scan_tar(tmp_path / "a.tar")]
    assert found == [("1.jpg", "a sparse member; unpack the tar to read it"), ("2.jpg", b"two")]


def test_tars_in_a_tar_are_read_below_their_names(tmp_path):
    inner = {f"n0144076{c}.tar": tar_bytes({f"n0144076{c}_{i}.JPEG": bytes([c, i]) for i in range(2)}) for c in (1, 2)}
    found = listed(tmp_path / "ILSVRC2012_img_train.tar", tar_bytes({**inner, "deep.tar": tar_bytes(inner)}))
    expected = [(f"n0144076{c}/n0144076{c}_{i}.JPEG", bytes([c, i])) for c in (1, 2) for i in range(2)]
    assert found == expected + [(f"deep/{name}", data) for name, data in expected]


def test_what_is_called_a_tar_and_is_a_folder_or_hidden_is_none(tmp_path):
    """macOS's tar writes a file of attributes beside each."""
    data = tar_bytes({"._n01440764.tar": b"Mac OS X", "a/._x.tar": b"Mac OS X"}, member("b.tar", tarfile.DIRTYPE))
    assert listed(tmp_path / "a.tar", data) == [("._n01440764.tar", b"Mac OS X"), ("a/._x.tar", b"Mac OS X")]


def test_tars_are_not_followed_without_end(tmp_path):
    data = tar_bytes({"1.jpg": b"one"})
    for _ in range(1000):
        data = tar_bytes({"in.tar": data})
        if len(data) > 2**17:
            break
    ((name, fault),) = listed(tmp_path / "a.tar", data)
    assert (name, fault) == ("in/in/in/in/in.tar", "tars are nested more than 4 deep; unpack the outer one")


@pytest.mark.parametrize("between", [0, 512, 1024, 8192])
def test_tars_joined_on_to_each_other_are_all_read(tmp_path, between):
    """As `cat` joins them, padded to records as GNU tar and Python do, or not, as Go does."""
    first = TAR if between == 0 else TAR.rstrip(b"\0") + bytes(-len(TAR.rstrip(b"\0")) % 512) + bytes(1024)
    names = [name for name, _ in listed(tmp_path / "a.tar", first + tar_bytes({"last.jpg": b"x"}) + TAR)]
    assert names == [*FILES, "last.jpg", *FILES]


# ---------------------------------------------------------------- damaged tars


def damaged(data: bytes, place: int, other: bytes) -> bytes:
    return data[:place] + other + data[place + len(other) :]


HEADER = offsets(TAR)
DAMAGE = {
    "the first header": (damaged(TAR, 0, b"x" * 512), "the header at byte 0 is damaged;"),
    "a header": (
        damaged(TAR, HEADER[5], b"x" * 512),
        f"the header at byte {HEADER[5]} is damaged, after its member 04",
    ),
    "one bit of a header": (
        damaged(TAR, HEADER[5] + 30, b"\1"),
        f"the header at byte {HEADER[5]} is damaged, after its member 04.jpg; fetch the file again",
    ),
    "a header that is zeros": (
        damaged(TAR, HEADER[5], bytes(512)),
        f"bytes {HEADER[5]} to {HEADER[5] + 512} are zeros, more than end a tar, or in its middle, after",
    ),
    "zeros from a header to within the data": (
        damaged(TAR, HEADER[5], bytes(HEADER[7] + 700 - HEADER[5])),
        f"bytes {HEADER[5]} to {HEADER[7] + 512} are zeros, more than end a tar, or in its middle, after its member 04",
    ),
    "zeros from a header to a header": (
        damaged(TAR, HEADER[5], bytes(HEADER[7] - HEADER[5])),
        f"bytes {HEADER[5]} to {HEADER[7]} are zeros",
    ),
    "zeros to the end, as in a download that was prepared": (
        damaged(TAR, HEADER[3], bytes(len(TAR) - HEADER[3])),
        f"bytes {HEADER[3]} to {len(TAR)} are zeros, more than end a tar",
    ),
    "cut in a header": (TAR[: HEADER[5] + 100], "it is cut off: it ends at byte .* without the blocks of zeros"),
    "cut in data": (TAR[: HEADER[5] + 700], rf"it is cut off, for 05.jpg ends at byte {HEADER[6]} and the tar at"),
    "cut between members": (
        TAR[: HEADER[5]],
        rf"it ends at byte {HEADER[5]} without the blocks .* after its member 04",
    ),
    "cut to nothing": (b"", "it is cut off: it ends at byte 0"),
    "a size below zero": (
        damaged(
            TAR,
            HEADER[5],
            header(size=-1024),
        ),
        f"the header at byte {HEADER[5]} is damaged",
    ),
    "a name of a terabyte": (
        damaged(
            TAR,
            HEADER[5],
            header(type=b"L", size=2**40),
        ),
        f"the header at byte {HEADER[5]} is damaged",
    ),
    "something after the end": (TAR + b"signature", f"bytes .* to {len(TAR)} are zeros, more than end a tar"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_tar_is_named_with_the_place_and_the_remedy(tmp_path, name):
    data, message = DAMAGE[name]
    with pytest.raises(UserError, match=rf"a.tar: .*{message}") as error:
        listed(tmp_path / "a.tar", data)
    assert 'save what can be read with "tar --extract --ignore-zeros --file' in str(error.value)
    assert "gunzip" not in str(error.value)


def test_a_damaged_tar_in_a_tar_is_named(tmp_path):
    inner = damaged(TAR, HEADER[5], b"x" * 512)
    with pytest.raises(
        UserError, match=r"a.tar: n01440764.tar: the header at byte \d+ is damaged, after its member 04"
    ):
        listed(tmp_path / "a.tar", tar_bytes({"n01440764.tar": inner, "n01440765.tar": TAR}))


@pytest.mark.parametrize("blocks", [2, 20, 512])
def test_an_honest_end_is_none_of_these(tmp_path, blocks):
    """GNU tar's default record of 20 blocks, one of 256 KiB, and Go's two blocks that fill up no record."""
    used = len(TAR.rstrip(b"\0")) + 511 & ~511
    length = used + 1024 if blocks == 2 else -(-(used + 1024) // (blocks * 512)) * blocks * 512
    assert len(listed(tmp_path / "a.tar", TAR[:used] + bytes(length - used))) == len(FILES)


# ---------------------------------------------------------------- zips


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_of_a_zip_is_named_and_the_others_are_read(tmp_path, method):
    data = bytearray(zip_bytes(FILES, method))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        begin = archive.infolist()[3].header_offset
    data[begin + 60 : begin + 160] = b"x" * 100
    (tmp_path / "a.zip").write_bytes(data)
    items = list(scan_zip(tmp_path / "a.zip"))
    assert [item.read() for number, item in enumerate(items) if number != 3] == [
        content for number, content in enumerate(FILES.values()) if number != 3
    ]
    with pytest.raises(OSError, match=r"it cannot be unpacked: "):
        items[3].read()


def test_members_of_one_name_in_a_zip_are_told_apart(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for data in (b"one", b"two"):
            archive.writestr("1.jpg", data)
    assert [item.read() for item in scan_zip(tmp_path / "a.zip")] == [b"one", b"two"]


def test_what_cannot_be_read_in_a_zip_is_named(tmp_path):
    link, locked = zipfile.ZipInfo("link.jpg"), zipfile.ZipInfo("locked.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, b"1.jpg")
        archive.writestr(locked, b"secret")
        archive.infolist()[1].flag_bits |= 1
        archive.mkdir("folder")
    found = [(item.name, item.fault) for item in scan_zip(tmp_path / "a.zip")]
    assert found == [("link.jpg", "a symbolic link"), ("locked.jpg", "encrypted")]


def test_no_more_is_unpacked_than_is_allowed(tmp_path):
    """A thousandth of what it becomes; the declared size is enough to refuse it."""
    (tmp_path / "a.zip").write_bytes(zip_bytes({"bomb.jpg": bytes(2**24), "1.jpg": b"one"}))
    assert (tmp_path / "a.zip").stat().st_size < 2**15
    bomb, one = scan_zip(tmp_path / "a.zip")
    with pytest.raises(OSError, match="16777216 bytes are more than the 1000000 that are allowed"):
        bomb.read(1_000_000)
    assert one.read(1_000_000) == b"one"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_no_more_is_unpacked_than_a_zip_says(tmp_path, method, monkeypatch):
    """A member of 2**24 bytes that says it has 1000."""
    data = bytearray(zip_bytes({"bomb.jpg": bytes(2**24)}, method))
    data[data.rindex(b"PK\1\2") + 24 : data.rindex(b"PK\1\2") + 28] = (1000).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(data)
    (item,) = scan_zip(tmp_path / "a.zip")
    unpacked = []
    monkeypatch.setattr(places, "_unpack", lambda *told: unpacked.append(UNPACK(*told)) or unpacked[-1])
    with pytest.raises(OSError, match="bytes are more than" if method == zipfile.ZIP_STORED else "it is damaged"):
        item.read(100_000)
    assert [len(each) for each in unpacked] == ([] if method == zipfile.ZIP_STORED else [1001])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (ZIP[:-30], "is damaged"),
        (damaged(ZIP, ZIP.rindex(b"PK\1\2"), b"xxxx"), "is damaged"),
        (damaged(ZIP, ZIP.index(b"PK\1\2") + 28, b"\xff\xff"), r"is damaged \(it lists \d+ members, its end says 12\)"),
        (ZIP + ZIP, f"holds {len(ZIP)} bytes of another zip before its own first member"),
    ],
)
def test_a_damaged_directory_of_a_zip_is_named(tmp_path, data, message):
    with pytest.raises(UserError, match=rf"a.zip.* {message}"):
        listed(tmp_path / "a.zip", data, scan_zip)


# ---------------------------------------------------------------- any damage


@pytest.mark.parametrize("kind", ["ustar", "gnu", "pax", "deflated", "lzma"])
def test_whatever_is_damaged_no_member_is_lost_in_silence(tmp_path, kind):
    """Five hundred mutations: the archive is refused, or all members are listed and can be read or are an OSError.

    The last member of a tar is left whole: zeros over all of it, up to those that end the tar, nobody can see.
    """
    files = {f"{'d' * 80}/{'e' * (120 if kind in ('gnu', 'pax') else 10)}{name}": data for name, data in FILES.items()}
    forms = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
    if kind in forms:
        data, scan = tar_bytes(files, form=forms[kind]), scan_tar
        end = offsets(data)[-1]
    else:
        data = zip_bytes(files, zipfile.ZIP_LZMA if kind == "lzma" else zipfile.ZIP_DEFLATED)
        scan, end = scan_zip, len(data)
    rng = random.Random(kind)
    path, listings = tmp_path / "archive", 0
    for number in range(500):
        path.write_bytes(mutated(data, rng, end))
        try:
            items = list(scan(path))
        except UserError:
            continue
        listings += 1
        assert len(items) >= len(files), number
        for item in items:
            with suppress(OSError):
                item.read()
    assert listings > 50
