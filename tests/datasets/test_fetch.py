"""Fetching a dataset: from a server on this machine, over broken connections, and from archives that mean harm."""

import hashlib
import io
import json
import re
import shutil
import tarfile
import threading
import zipfile
from collections import namedtuple
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from conftest import make_tree

from adlib import InputError, load_samples
from adlib.datasets import facts, list_datasets
from adlib.datasets import fetch as fetch_module
from adlib.datasets.fetch import fetch


class Server(ThreadingHTTPServer):
    """Serves `files`; closes the connection after `cut` bytes of a body; `asked` holds the Range of every request."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.asked, self.knows_ranges, self.tells_length = {}, None, [], True, True
        self.validators = None  # headers beside the body; None for an ETag of its content
        self.heeds_if_range = True

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


def etag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:8]}"'


def leave_part(folder: Path, part: bytes, **known) -> None:
    """The beginning of set.zip as an earlier call has left it, with what it knew of the file."""
    (folder / "mpdd-set.zip.part").write_bytes(part)
    (folder / "mpdd-set.zip.part.json").write_text(json.dumps(known))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        data = self.server.files.get(unquote(urlsplit(self.path).path.lstrip("/")))
        if data is None:
            return self.send_error(404)
        validators = {"ETag": etag(data)} if self.server.validators is None else self.server.validators
        same = self.headers.get("If-Range") in validators.values() or not self.server.heeds_if_range
        start = int(re.match(r"bytes=(\d+)-", wanted)[1]) if wanted and self.server.knows_ranges and same else 0
        if start >= len(data) > 0 and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        for name, value in validators.items():
            self.send_header(name, value)
        if self.server.tells_length:
            self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:][: self.server.cut])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> dict[str, bytes]:
    """One MVTec-like tree with the category "tubes", packed in several ways."""
    root = make_tree(tmp_path_factory.mktemp("packed") / "MPDD", category="tubes", train=2, normal=1, anomalous=1)
    made = {}
    for kind in ("zip", "tar", "gztar", "xztar"):
        for inside, base in (("flat", root), ("wrapped", root.parent)):
            file = Path(shutil.make_archive(str(root.parent.parent / f"{inside}"), kind, base))
            made[f"{inside}.{kind}"] = file.read_bytes()
            file.unlink()
    return made


@pytest.fixture
def published(monkeypatch):
    """published(url, checksum, bytes): let mpdd have these archives."""

    def publish(*archives):
        monkeypatch.setattr(fetch_module, "facts", lambda name: replace(facts(name), archives=archives))

    return publish


def zipped(*members: tuple[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.filename = name  # as given, whatever the platform makes of it
            archive.writestr(info, data)
    return packed.getvalue()


def tarred(*members: tarfile.TarInfo | tuple[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return packed.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_link(name: str, target: str) -> bytes:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, 0o120777 << 16
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(info, target)
        archive.writestr(f"{name}/stolen", "x")
    return packed.getvalue()


def left(folder: Path) -> list[str]:
    """What lies in a folder, but for the lock."""
    return sorted(file.name for file in folder.iterdir() if not file.name.endswith(".lock"))


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar", "xztar"])
@pytest.mark.parametrize("inside", ["flat", "wrapped"])
def test_a_set_is_downloaded_verified_and_unpacked(server, archives, published, tmp_path, inside, kind):
    data = server.files["set"] = archives[f"{inside}.{kind}"]
    published((server.url("set"), hashlib.sha256(data).hexdigest(), len(data)))
    root = fetch("mpdd", tmp_path, progress=False)
    assert root == tmp_path / "mpdd"
    assert len(load_samples("mpdd", root)) == 4
    assert left(tmp_path) == ["mpdd"]


def test_several_archives_lie_side_by_side(server, archives, published, tmp_path):
    server.files["a.zip"] = archives["flat.zip"]
    server.files["b c.zip"] = zipped(("extra/notes.txt", b"hello"))
    published((server.url("a.zip"), "", 0), (server.url("b c.zip"), "", 0))
    root = fetch("mpdd", tmp_path, progress=False)
    assert left(root) == ["extra", "tubes"]


def test_an_address_of_ones_own_takes_the_place_of_a_form(server, archives, tmp_path):
    server.files["für mich.zip"] = archives["wrapped.zip"]
    root = fetch("miic", tmp_path, address=server.url("für mich.zip?token=1"), progress=False)
    assert left(root) == ["tubes"]


def test_a_broken_download_is_resumed(server, archives, published, tmp_path):
    data = server.files["set.zip"] = archives["flat.zip"]
    published((server.url("set.zip"), hashlib.sha256(data).hexdigest()[:8], 0))
    server.cut = 1000
    with pytest.raises(InputError, match=rf"broke off after 1000 of {len(data)} bytes .* call again to go on"):
        fetch("mpdd", tmp_path, progress=False)
    assert (tmp_path / "mpdd-set.zip.part").read_bytes() == data[:1000]
    with pytest.raises(InputError, match=rf"broke off after 2000 of {len(data)} bytes"):
        fetch("mpdd", tmp_path, progress=False)
    server.cut = None
    assert len(load_samples("mpdd", fetch("mpdd", tmp_path, progress=False))) == 4
    assert server.asked == [None, "bytes=1000-", "bytes=2000-"]
    assert left(tmp_path) == ["mpdd"]


def test_a_server_that_cannot_resume_sends_all_again(server, archives, published, tmp_path, capsys):
    data = server.files["set.zip"] = archives["flat.zip"]
    published((server.url("set.zip"), hashlib.sha256(data).hexdigest(), 0))
    server.knows_ranges = False
    leave_part(tmp_path, b"rubbish" * 100, url=server.url("set.zip"), size=len(data), validator=etag(data))
    assert len(load_samples("mpdd", fetch("mpdd", tmp_path, progress=False))) == 4
    assert server.asked == ["bytes=700-"]
    assert "mpdd-set.zip.part is not gone on with" in capsys.readouterr().err


@pytest.mark.parametrize("validators", [None, {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "ETag": 'W/"1"'}, {}])
@pytest.mark.parametrize("heeds_if_range", [True, False])
def test_a_file_that_has_changed_meanwhile_is_not_mixed_with_the_old_one(
    server, archives, published, tmp_path, capsys, validators, heeds_if_range
):
    """Its first bytes are another file's: of the same address, and without a published checksum."""
    server.files["set.zip"], server.validators = archives["wrapped.zip"], validators
    published((server.url("set.zip"), "", 0))
    server.cut = 1000
    with pytest.raises(InputError, match="broke off after 1000"):
        fetch("mpdd", tmp_path, progress=False)
    server.files["set.zip"], server.cut, server.heeds_if_range = archives["flat.zip"] + b"", None, heeds_if_range
    if validators:
        server.validators = {"Last-Modified": "Fri, 02 Jan 2026 00:00:00 GMT"}
    assert len(load_samples("mpdd", fetch("mpdd", tmp_path, progress=False))) == 4
    assert "the download starts anew" in capsys.readouterr().err
    assert left(tmp_path) == ["mpdd"]


@pytest.mark.parametrize(
    "known", [{}, {"url": "http://else.where/set.zip", "size": 1, "validator": "1"}, {"size": "x"}]
)
def test_a_part_of_an_unknown_file_is_not_gone_on_with(server, archives, published, tmp_path, known):
    server.files["set.zip"] = archives["flat.zip"]
    published((server.url("set.zip"), "", 0))
    leave_part(tmp_path, archives["flat.zip"][:500], **known)
    fetch("mpdd", tmp_path, progress=False)
    assert server.asked == [None]


@pytest.mark.parametrize("more", [0, 5])
def test_a_part_that_is_whole_is_used_and_one_that_is_too_long_is_not(server, archives, published, tmp_path, more):
    data = server.files["set.zip"] = archives["flat.zip"]
    published((server.url("set.zip"), hashlib.sha256(data).hexdigest(), 0))
    known = {"url": server.url("set.zip"), "size": len(data), "validator": etag(data)}
    leave_part(tmp_path, data + b"x" * more, **known)
    assert len(load_samples("mpdd", fetch("mpdd", tmp_path, progress=False))) == 4
    assert server.asked == [None if more else f"bytes={len(data)}-"]


def test_a_length_need_not_be_told(server, archives, published, tmp_path):
    data = server.files["set.tar"] = archives["flat.tar"]
    published((server.url("set.tar"), hashlib.sha256(data).hexdigest(), 0))
    server.tells_length = False
    assert len(load_samples("mpdd", fetch("mpdd", tmp_path, progress=False))) == 4


def test_an_archive_fetched_elsewhere_is_taken(server, archives, published, tmp_path):
    data = archives["flat.tar"]
    published((server.url("set.tar"), hashlib.sha256(data).hexdigest(), 0))
    (tmp_path / "mpdd-set.tar").write_bytes(data)
    assert len(load_samples("mpdd", fetch("mpdd", tmp_path, progress=False))) == 4
    assert server.asked == []


def test_another_file_than_the_published_one_is_removed(server, archives, published, tmp_path):
    server.files["set.zip"] = archives["flat.zip"]
    published((server.url("set.zip"), "0" * 8, 0))
    with pytest.raises(InputError, match=r"another file than the published one: sha256 [0-9a-f]{64}, expected 0{8}"):
        fetch("mpdd", tmp_path, progress=False)
    assert left(tmp_path) == []


ESCAPES = {
    "zip_up.zip": zipped(("ok.txt", b"1"), ("../stolen", b"x")),
    "zip_absolute.zip": zipped(("/tmp/adlib-stolen", b"x")),
    "zip_backslash.zip": zipped(("a\\..\\..\\stolen", b"x")),
    "zip_drive.zip": zipped(("C:\\stolen", b"x")),
    "zip_link.zip": zip_link("link", ".."),
    "tar_up.tar": tarred(("ok.txt", b"1"), ("a/../../stolen", b"x")),
    "tar_absolute.tar": tarred(("/tmp/adlib-stolen", b"x")),
    "tar_link_out.tar": tarred(special("link", tarfile.SYMTYPE, ".."), ("link/stolen", b"x")),
    "tar_hard_link.tar": tarred(special("link", tarfile.LNKTYPE, "../secret")),
    "tar_fifo.tar": tarred(special("pipe", tarfile.FIFOTYPE)),
    "tar_device.tar": tarred(special("null", tarfile.CHRTYPE)),
}


@pytest.mark.parametrize("name", sorted(ESCAPES))
def test_an_archive_that_reaches_outside_is_refused(server, tmp_path, name):
    server.files[name] = ESCAPES[name]
    (tmp_path / "secret").write_text("mine")
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"is not unpacked: its member .* as in no honest dataset"):
        fetch("mpdd", out, address=server.url(name), progress=False)
    assert left(out) == [f"mpdd-{name}"]
    assert left(tmp_path) == ["out", "secret"]
    assert (tmp_path / "secret").read_text() == "mine"
    assert not Path("/tmp/adlib-stolen").exists()


@pytest.mark.parametrize("kind", ["zip", "gztar", "xztar", "tar"])
def test_a_damaged_archive_leaves_nothing_half_unpacked(server, archives, tmp_path, kind):
    data = bytearray(archives[f"flat.{kind}"])
    if kind == "zip":
        data[100:2000] = bytes(1900)
    else:
        del data[len(data) // 2 :]
    server.files["set"] = bytes(data)
    with pytest.raises(InputError, match=r"mpdd-set cannot be unpacked \(.*\): it may be damaged"):
        fetch("mpdd", tmp_path, address=server.url("set"), progress=False)
    assert left(tmp_path) == ["mpdd-set"]


@pytest.mark.parametrize("spoil", [lambda data: data[:1024], lambda data: data[:1024] + b"x" * 512 + data[1536:]])
def test_a_tar_that_stops_at_a_file_is_not_taken_for_whole(server, tmp_path, spoil):
    server.files["set.tar"] = spoil(tarred(("a", b"1"), ("b", b"2")))  # 512 bytes each: header, data, header, data
    with pytest.raises(InputError, match="no end mark at byte 1024"):
        fetch("mpdd", tmp_path, address=server.url("set.tar"), progress=False)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [(b"<html>log in</html>", "was no zip or tar archive"), (b"", "was no zip"), (zipped(), "holds no file")],
)
def test_a_page_instead_of_an_archive_is_recognised(server, tmp_path, data, sentence):
    server.files["page"] = data
    with pytest.raises(InputError, match=sentence):
        fetch("mpdd", tmp_path, address=server.url("page"), progress=False)
    assert not (tmp_path / "mpdd").exists()


def test_what_a_mac_adds_to_a_zip_is_left_out(server, tmp_path):
    server.files["a.zip"] = zipped(("MPDD/tubes/a.txt", b"1"), ("__MACOSX/MPDD/._tubes", b"2"))
    assert left(fetch("mpdd", tmp_path, address=server.url("a.zip"), progress=False)) == ["tubes"]


Usage = namedtuple("Usage", "total used free")


def test_too_small_a_disk_is_known_before_the_first_byte(server, published, tmp_path, monkeypatch):
    published((server.url("set.zip"), "", 10_000_000_000))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 12_000_000_000))
    with pytest.raises(InputError, match=r"has 12\.0 GB free, and MPDD needs about 20\.0 GB"):
        fetch("mpdd", tmp_path, progress=False)
    assert server.asked == []


def test_too_small_a_disk_is_known_from_the_answer(server, archives, published, tmp_path, monkeypatch):
    data = server.files["set.zip"] = archives["flat.zip"]
    published((server.url("set.zip"), "", 0))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 2 * len(data) - 1))
    with pytest.raises(InputError, match=r"GB free, and mpdd-set\.zip needs about"):
        fetch("mpdd", tmp_path, progress=False)
    assert left(tmp_path) == []


def test_a_zip_that_holds_more_than_the_disk_is_refused(server, tmp_path, monkeypatch):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", np.zeros(10_000_000, np.uint8).tobytes())
    server.files["bomb.zip"] = packed.getvalue()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 1_000_000))
    with pytest.raises(InputError, match=r"mpdd-bomb\.zip needs about"):
        fetch("mpdd", tmp_path, address=server.url("bomb.zip"), progress=False)


@pytest.mark.parametrize(
    "name", sorted(name for name in list_datasets() if not (facts(name).archives or facts(name).zenodo))
)
def test_a_set_behind_a_form_is_refused_with_what_to_do(name, tmp_path):
    with pytest.raises(InputError) as raised:
        fetch(name, tmp_path / "out")
    assert str(raised.value).endswith(facts(name).get)
    assert not (tmp_path / "out").exists()


def test_which_sets_have_an_address():
    assert [name for name in list_datasets() if facts(name).archives] == [
        "btad",
        "ksdd2",
        "mvtec_ad",
        "texture_ad",
        "visa",
    ]
    assert [name for name in list_datasets() if facts(name).zenodo] == ["isp_ad"]
    for name in list_datasets():
        for url, checksum, size in facts(name).archives:
            assert url.startswith("https://")
            assert re.fullmatch(r"[0-9a-f]{64}|", checksum)
            assert size >= 0


def test_a_zenodo_record_is_fetched_by_its_list(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_module, "ZENODO", server.url("")[:-1])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("ASM/train/good/0.png", b"picture")
    contents = {"ASM.zip": packed.getvalue(), "supervised ASM.h5": b"not unpacked"}
    files = [
        {"key": name, "size": len(data), "checksum": f"md5:{hashlib.md5(data).hexdigest()}"}
        for name, data in contents.items()
    ]
    server.files["api/records/14911043"] = json.dumps({"files": files}).encode()
    server.files |= {f"records/14911043/files/{name}": data for name, data in contents.items()}
    folder = fetch("isp_ad", tmp_path, progress=False)
    assert (folder / "ASM" / "train" / "good" / "0.png").read_bytes() == b"picture"
    assert (folder / "isp_ad-supervised ASM.h5").read_bytes() == b"not unpacked"

    files[0]["checksum"] = "md5:" + "0" * 32
    server.files["api/records/14911043"] = json.dumps({"files": files}).encode()
    with pytest.raises(InputError, match="another file than the published one: md5"):
        fetch("isp_ad", tmp_path / "again", progress=False)
    server.files["api/records/14911043"] = b"<html>"
    with pytest.raises(InputError, match="something else than a list of files"):
        fetch("isp_ad", tmp_path / "again", progress=False)
    monkeypatch.setattr(fetch_module, "ZENODO", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="records/14911043 elsewhere, and unpack them by hand"):
        fetch("isp_ad", tmp_path / "again", progress=False)


def test_what_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "visa").mkdir()
    with pytest.raises(InputError, match="visa exists already: `adlib check visa"):
        fetch("visa", tmp_path)


def test_without_a_network_the_message_says_what_to_put_where(server, tmp_path):
    with pytest.raises(InputError, match=r"answers 404 .*put it here as .*/mpdd-no\.zip, and call again"):
        fetch("mpdd", tmp_path, address=server.url("no.zip"), progress=False)
    closed = Server()
    closed.server_close()
    with pytest.raises(InputError, match=r"cannot be reached .* fetch it elsewhere, put it here as .*/mpdd-a\.zip"):
        fetch("mpdd", tmp_path, address=closed.url("a.zip"), progress=False)
    for address in ("ftp://example.org/a.zip", "file:///etc/passwd", "a.zip"):
        with pytest.raises(InputError, match="is no http or https address"):
            fetch("mpdd", tmp_path, address=address)
