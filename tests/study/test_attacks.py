"""Attacks on a study that is really served, and the answer that each gets; koala/study/README.md tells of them."""

import csv
import http.client
import re
import resource
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from urllib.parse import urlencode

import httpx2
import pytest

from koala.study import folder, security
from koala.study.folder import StudyFolder
from koala.study.server import create_app
from tests import web
from tests.study.serving import Served, served
from tests.study.visitor import Visitor, attentive

pytestmark = pytest.mark.slow

FORM = {"content-type": "application/x-www-form-urlencoded"}
EVIL = "https://evil.example"
ROWS: dict[str, str] = {}
"""What was tried, and what it got: the rows of the README's table."""


def attack(name: str, answer: str) -> Callable:
    """A test that is a row of the table."""
    ROWS[name] = answer
    return lambda test: test


@pytest.fixture(scope="module")
def server(built, tmp_path_factory) -> Iterator[Served]:
    """A study that also asks for free text."""
    path = Path(shutil.copytree(built, tmp_path_factory.mktemp("attacked") / "study"))
    with (path / "study.toml").open("a") as file:
        file.write('\n[[questions]]\nname = "screen"\nrequired = false\n')
    for language in ("en", "nl"):
        with (path / f"languages/{language}.toml").open("a") as file:
            file.write('\n[questions.screen]\ntext = "Which screen?"\n')
    with served(path) as running:
        running.study = StudyFolder.open(path)
        yield running


@pytest.fixture
def client(server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.address, follow_redirects=True) as opened:
        yield opened


@pytest.fixture
def person(client) -> Visitor:
    """Somebody at the first picture."""
    visitor = Visitor(client)
    visitor.begin()
    visitor.send(answer="real")
    return visitor


def raw(
    server: Served, method: str, path: str, headers: dict | None = None, body: str = ""
) -> http.client.HTTPResponse:
    """A request as it is written here, which no client puts right."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest(method, path, skip_host="host" in (headers or {}))
    for name, value in {"content-length": str(len(body)), **(headers or {})}.items():
        connection.putheader(name, value)
    with suppress(ConnectionError):  # who refuses does not read to the end
        connection.endheaders(body.encode() if body else None)
    response = connection.getresponse()
    response.text = response.read().decode(errors="replace")
    connection.close()
    return response


def rows(server: Served, query: str, *values) -> list[tuple]:
    with closing(sqlite3.connect(server.study.answers_path)) as database:
        return database.execute(query, values).fetchall()


def admin(server: Served) -> dict[str, str]:
    return {"authorization": f"Bearer {(server.study.path / 'admin-token.txt').read_text().strip()}"}


# ---------------------------------------------------------------- one request each

REQUESTS = [
    ("`GET /pictures/../manifest.json`", "GET", "/pictures/../manifest.json", {}, "", 404),
    ("`GET /pictures/..%2f..%2fmanifest.json`", "GET", "/pictures/..%2f..%2fmanifest.json", {}, "", 404),
    ("`GET /%2e%2e/admin-token.txt`", "GET", "/%2e%2e/admin-token.txt", {}, "", 404),
    ("`GET //etc/passwd`", "GET", "//etc/passwd", {}, "", 404),
    ("`GET /pictures/%00`", "GET", "/pictures/%00", {}, "", 404),
    ("`GET /manifest.json`", "GET", "/manifest.json", {}, "", 404),
    ("`GET /answers.sqlite` without the password", "GET", "/answers.sqlite", {}, "", 401),
    ("`GET /admin` with a wrong password", "GET", "/admin", {"authorization": "Bearer wrong"}, "", 401),
    ("`GET /admin?token=…`, a password in the address", "GET", "/admin?token=x", {}, "", 401),
    ("`GET /admin` with base64 that is none", "GET", "/admin", {"authorization": "Basic %%%"}, "", 401),
    ("`X-Original-URL: /admin`", "GET", "/", {"x-original-url": "/admin", "x-rewrite-url": "/admin"}, "", 200),
    ("`GET /answer`", "GET", "/answer", {}, "", 405),
    ("`TRACE /`", "TRACE", "/", {}, "", 405),
    ("`POST /start`, 20 kB long", "POST", "/start", FORM, "a=" + "x" * 20_000, 413),
    ("`POST /start` with 100 fields", "POST", "/start", FORM, "&".join(f"f{n}=1" for n in range(100)), 400),
    ("`POST /start` as JSON", "POST", "/start", {"content-type": "application/json"}, '{"agree": "yes"}', 415),
    ("`POST /start` as multipart", "POST", "/start", {"content-type": "multipart/form-data; boundary=x"}, "--x", 415),
    ("`POST /start` that is no UTF-8", "POST", "/start", FORM, "agree=%ff%fe", 400),
    (
        "`POST /start` from another site (`Sec-Fetch-Site`)",
        "POST",
        "/start",
        {**FORM, "sec-fetch-site": "cross-site"},
        "",
        403,
    ),
    ("`POST /start` from another site (`Origin`)", "POST", "/start", {**FORM, "origin": EVIL}, "", 403),
    ("`POST /start` from a sandboxed frame (`Origin: null`)", "POST", "/start", {**FORM, "origin": "null"}, "", 403),
    ("`POST /start` with an `Origin` that is none", "POST", "/start", {**FORM, "origin": "http://["}, "", 403),
    (
        "`POST /start` with a made-up ticket",
        "POST",
        "/start",
        FORM,
        "agree=yes&ticket=" + "0" * 32 + "." + "0" * 32,
        303,
    ),
    ("a made-up cookie", "GET", "/picture", {"cookie": f"study={'0' * 32}.{'0' * 32}"}, "", 303),
    ("a cookie `' OR 1=1 --`", "GET", "/picture", {"cookie": "study=' OR 1=1 --"}, "", 303),
    ("an address of 70 kB", "GET", "/" + "x" * 70_000, {}, "", 400),
    ("an address of 60 MB", "GET", "/" + "x" * 60_000_000, {}, "", 400),
    ("a header of 60 MB", "GET", "/", {"x": "x" * 60_000_000}, "", 400),
]
for attempt in REQUESTS:
    ROWS[attempt[0]] = {200: "200, the first page", 303: "303, to the first page"}.get(attempt[-1], str(attempt[-1]))


@pytest.mark.parametrize("attempt", REQUESTS, ids=lambda attempt: attempt[0].strip("`")[:50])
def test_a_request(server, attempt):
    _, method, path, headers, body, status = attempt
    before = rows(server, "SELECT count(*) FROM participant")
    response = raw(server, method, path, headers, body)
    assert response.status == status
    assert rows(server, "SELECT count(*) FROM participant") == before
    for secret in ("versions", "SQLite format", (server.study.path / "admin-token.txt").read_text().strip(), "root:"):
        assert secret not in response.text
    if status == 303:
        assert response.headers["location"] == "."


# ---------------------------------------------------------------- participants who want more than they are given


@attack("a picture by the name of its file", "404")
def test_a_leaked_file_name_is_of_no_use(client, person, server):
    for picture in server.study.manifest.pictures[:3]:
        assert client.get(f"/pictures/{picture.name}").status_code == 404


@attack("a picture of another session", "404")
def test_another_sessions_picture(client, person, server):
    with httpx2.Client(base_url=server.address) as stranger:
        assert stranger.get(f"/{person.page.picture}").status_code == 404
    assert client.get(f"/{person.page.picture}").status_code == 200


@attack("pictures of one's own far ahead", "404")
def test_a_picture_far_ahead(client, person):
    status = [
        client.get(f"/pictures/{security.picture_token(client.cookies['study'], n)}").status_code for n in range(1, 10)
    ]
    assert set(status[3:]) == {404}, "only the present one and the next two, some of which may be checks"


@attack("pictures that were judged already, to compare them", "404")
def test_a_picture_of_the_past(client, person):
    old = person.page.picture
    person.send(answer="real")
    assert client.get(f"/{old}").status_code == 404


@attack("an answer sent again, changed", "303, the first one stays")
def test_a_replayed_answer(person, server):
    first = person.page
    person.send(answer="real")
    person.page = first
    person.send(answer="fake")
    (found,) = rows(server, "SELECT answer FROM trial WHERE position = 1 ORDER BY participant DESC LIMIT 1")
    assert found == ("real",)


@attack("an answer to a picture that is not shown yet", "303, nothing is kept")
def test_an_answer_ahead(person, server):
    person.page.fields["position"] = "5"
    assert "Picture 1 of 9" in person.send(answer="fake").text
    assert rows(server, "SELECT count(answer) FROM trial GROUP BY participant ORDER BY participant DESC LIMIT 1") == [
        (0,)
    ]


@attack("an answer to a picture that was never shown", "303, to the picture; nothing is kept")
def test_an_answer_to_a_picture_never_shown(client, server):
    visitor = Visitor(client)
    page = visitor.begin()
    client.post("/practice", data={**page.fields, "answer": "real"}, follow_redirects=False)
    form = {**page.fields, "position": "1", "answer": "real"}
    response = client.post("/answer", data=form, follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (303, "picture")
    assert rows(server, "SELECT count(answer) FROM trial GROUP BY participant ORDER BY participant DESC LIMIT 1") == [
        (0,)
    ]


@attack("`answer=real'); DROP TABLE trial; --`", "400")
@attack("`position=1 OR 1=1`", "400")
@attack("`position=99999999999999999999`", "400")
def test_values_that_do_not_fit(client, person, server):
    for field, value in (
        ("answer", "real'); DROP TABLE trial; --"),
        ("position", "1 OR 1=1"),
        ("position", "9" * 20),
        ("position", "-1"),
        ("position", "\u0661"),
        ("answer", ""),
    ):
        response = client.post("/answer", data={**person.page.fields, "answer": "real", field: value})
        assert response.status_code == 400
    assert rows(server, "SELECT count(*) FROM trial")[0][0] > 0


@attack("an answer without the form's token", "403")
@attack("an answer with the token of another session", "403")
def test_tokens_of_forms(client, person, server):
    for token in ("", security.form_token("another session")):
        response = client.post("/answer", data={**person.page.fields, "answer": "real", "token": token})
        assert response.status_code == 403
    response = client.post("/answer", data={"answer": "real", "position": "1"})
    assert response.status_code == 403


@attack("an answer from another site with the participant's cookie", "403")
def test_an_answer_from_elsewhere(client, person):
    for headers in ({"origin": EVIL}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}):
        response = client.post("/answer", data={**person.page.fields, "answer": "real"}, headers=headers)
        assert response.status_code == 403


@attack("a choice that a question does not offer, or too long a text", "400")
def test_replies_that_do_not_fit(client):
    visitor = Visitor(client)
    visitor.open()
    visitor.send(agree="yes")
    good = {**visitor.page.fields, "expert": "no", "color_vision": "good"}
    for change in ({"expert": "god"}, {"expert": ""}, {"screen": "x" * 501}):
        assert client.post("/questions", data={**good, **change}).status_code == 400


@attack("asking for a part of a picture (`Range`), or whether it is new (`If-None-Match`)", "200, the whole picture")
def test_ranges_tell_nothing(client, person):
    whole = client.get(f"/{person.page.picture}").content
    for headers in (
        {"range": "bytes=0-9"},
        {"if-none-match": "*"},
        {"if-modified-since": "Sun, 01 Jan 2090 00:00:00 GMT"},
    ):
        response = client.get(f"/{person.page.picture}", headers=headers)
        assert (response.status_code, response.content) == (200, whole)


# ---------------------------------------------------------------- text that wants to be more


@attack("`<script>` in a free text", "kept as text; no page shows it, files carry it as text/csv")
@attack("`=HYPERLINK(…)` in a free text, for the researcher's spreadsheet", "`'=HYPERLINK(…)` in the CSV")
@attack("`'); DROP TABLE participant; --` in a free text", "kept as text")
def test_free_text(client, server):
    texts = ["<script>alert(1)</script>", '=HYPERLINK("https://evil.example")', "'); DROP TABLE participant; --"]
    for text in texts:
        client.cookies.clear()
        Visitor(client).begin(screen=text)
    kept = [reply for (reply,) in rows(server, "SELECT reply FROM reply WHERE question = 'screen'")]
    assert set(texts) <= set(kept)
    page = client.get("/admin", headers=admin(server))
    assert "<script>alert" not in page.text
    download = client.get("/participants.csv", headers=admin(server))
    assert download.headers["content-type"].startswith("text/csv")
    assert download.headers["content-disposition"].startswith("attachment")
    cells = [row["reply screen"] for row in csv.DictReader(download.text.splitlines())]
    assert f"'{texts[1]}" in cells
    assert texts[1] not in cells


@attack("`?language=<script>…` and `?language=%0d%0aSet-Cookie: …`", "200, nothing of it in page or headers")
def test_the_language_is_one_of_those_there_are(server):
    for value in ("<script>alert(1)</script>", "\r\nset-cookie: study=1", "../../etc/passwd", "x" * 5000):
        response = raw(server, "GET", f"/?{urlencode({'language': value})}")
        assert response.status == 200
        assert "<script>alert" not in response.text
        assert "set-cookie" not in response.headers


# ---------------------------------------------------------------- headers, floods


@attack("`Host: evil.example`, `X-Forwarded-Host: evil.example`", "redirects stay relative")
def test_the_host_has_no_say(server):
    for headers in ({"host": "evil.example"}, {"x-forwarded-host": "evil.example"}):
        for path in ("/picture", "/questions/", "/"):
            response = raw(server, "GET", path, headers)
            assert "evil" not in response.text + str(response.headers)


@attack("a body that is announced long and comes in endless pieces", "413")
def test_an_endless_body(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(
            b"POST /start HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
            b"content-type: application/x-www-form-urlencoded\r\n\r\n"
        )
        received = b""
        for _ in range(1000):
            try:
                connection.sendall(b"1000\r\n" + b"a" * 4096 + b"\r\n")
            except OSError:
                break
            connection.setblocking(False)
            try:
                received += connection.recv(4096)
            except BlockingIOError:
                continue
            finally:
                connection.setblocking(True)
            break
        received = received or connection.recv(4096)
        assert received.startswith(b"HTTP/1.1 413")


@attack("2,100 connections that say nothing, half a head or half a body", "the others are answered, `/health` too")
@attack("the same after ten seconds", "they are closed")
def test_silent_connections(built, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(5000, hard), hard))
    begun = [b"", b"GET / HTTP/1.1\r\nhost: x\r\n", b"POST /start HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\na"]
    with served(Path(shutil.copytree(built, tmp_path / "study"))) as server, ExitStack() as stack:
        silent = []
        for number in range(2100):
            silent.append(stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30)))
            silent[-1].sendall(begun[number % 3])
        assert raw(server, "GET", "/health").status == 200
        person = Visitor(stack.enter_context(httpx2.Client(base_url=server.address, follow_redirects=True)))
        person.begin()
        assert "Thank you!" in person.judge(attentive(lambda picture: "real")).text
        for connection in silent:
            with suppress(ConnectionError):
                while connection.recv(65_536):
                    pass
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@attack("25 wrong passwords", "429 from the 21st")
def test_passwords_cannot_be_tried_out(built, tmp_path):
    with served(Path(shutil.copytree(built, tmp_path / "study"))) as server:
        codes = [raw(server, "GET", "/admin", {"authorization": f"Bearer {n}"}).status for n in range(25)]
    assert codes[:20] == [401] * 20
    assert codes[21:] == [429] * 4


@attack("2,000 requests at once from one address, also with a new `X-Forwarded-For` each", "429 after 1,000")
def test_a_flood(built, tmp_path):
    with served(Path(shutil.copytree(built, tmp_path / "study"))) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        codes = []
        for number in range(2000):
            connection.request("GET", "/style.css", headers={"x-forwarded-for": f"10.0.{number // 256}.{number % 256}"})
            response = connection.getresponse()
            response.read()
            codes.append(response.status)
        assert raw(server, "GET", "/health").status == 200
        connection.close()
    assert set(codes[:1000]) == {200}
    assert codes.count(429) > 500


@attack("500 requests of a participant, with bytes changed, cut out or repeated", "refused, and no traceback")
def test_no_request_whatever_ends_in_a_traceback(site, caplog):
    ticket = site.signer.ticket()
    session = site.signer.session(ticket)
    token = security.form_token(session)
    forms = {
        "/start": f"agree=yes&language=nl&ticket={ticket}",
        "/questions": f"token={token}&expert=no&color_vision=good",
        "/practice": f"token={token}&answer=real",
        "/answer": f"token={token}&answer=fake&position=1&time_ms=900",
    }
    head = f"host: localhost\r\ncookie: study={session}; a=b\r\naccept-language: nl-BE,nl;q=0.9\r\n"
    kind = "origin: http://localhost\r\ncontent-type: application/x-www-form-urlencoded\r\n"
    requests = [
        f"POST {path} HTTP/1.1\r\n{head}{kind}content-length: {len(form)}\r\n\r\n{form}" for path, form in forms.items()
    ]
    pages = ("/", "/picture", "/admin", "/participants.csv", f"/pictures/{security.picture_token(session, 1)}")
    requests += [f"GET {page} HTTP/1.1\r\n{head}authorization: Basic bWU6eA==\r\n\r\n" for page in pages]
    with web.serving(create_app(site), proxy_headers=False) as (_, port):
        statuses = web.statuses_of_mutated(port, [request.encode() for request in requests], 500)
    assert statuses.keys() <= {"", "200", "303", "400", "401", "403", "404", "405", "413", "415", "429"}
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_after_all_of_it_the_study_goes_on(client, person, server):
    """Nothing of the above has hurt it."""
    assert "Thank you!" in person.judge(attentive(lambda picture: "real")).text
    with closing(sqlite3.connect(server.study.answers_path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_the_readme_tells_of_every_attack():
    text = (folder.Path(folder.__file__).parent / "README.md").read_text()
    told = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", text.partition("## Attacks")[2], flags=re.MULTILINE))
    assert {name: answer for name, answer in told.items() if name not in ("tried", "---")} == ROWS
