"""The pages of a study, as a browser without JavaScript goes through them."""

import base64
import csv
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from koala.config.study import ServeStudy
from koala.core.errors import UserError
from koala.study import languages, server
from koala.study.folder import StudyFolder
from koala.study.security import RateLimiter
from koala.study.site import StudySite
from tests.study.visitor import Visitor, attentive


def rows(study: StudyFolder, query: str) -> list[tuple]:
    with closing(sqlite3.connect(study.answers_path)) as database:
        return database.execute(query).fetchall()


def change(study: StudyFolder, **settings) -> None:
    """Edit study.toml."""
    text = (study.path / "study.toml").read_text()
    for name, value in settings.items():
        text = re.sub(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
    (study.path / "study.toml").write_text(text)


# ---------------------------------------------------------------- the way through


def test_the_way_through(browser, study):
    person = Visitor(browser())
    assert "You are about to see photographs" in person.open().text
    assert "About you" in person.send(agree="yes").text
    assert "To practise" in person.send(expert="hobby", color_vision="good").text
    assert "Picture 1 of 9" in person.send(answer="fake").text
    page = person.judge(attentive(lambda picture: "real"))
    assert "Thank you!" in page.text
    assert "You judged 4 of 8 pictures rightly" in page.text, "half of them are originals"
    assert rows(study, "SELECT count(*), count(answer), sum(answer = 'real') FROM trial") in [[(9, 9, 8)], [(9, 9, 9)]]
    assert sorted(rows(study, "SELECT question, reply FROM reply")) == [("color_vision", "good"), ("expert", "hobby")]


def test_every_picture_is_there_and_shows_what_was_drawn(visitor, study):
    shown = [visitor.look()]
    visitor.send(answer="real")

    def look(picture: str) -> str:
        shown.append(visitor.look(picture))
        return "real"

    visitor.judge(attentive(look))
    names = [study.manifest.practice.name]
    names += [name for (name,) in rows(study, "SELECT picture FROM trial WHERE picture NOT NULL ORDER BY position")]
    assert shown == [study.read_picture(name) for name in names]


def test_reloading_going_back_and_a_second_window_change_nothing(visitor, study):
    visitor.send(answer="real")
    first = visitor.page
    assert visitor.open("/picture").text == first.text
    assert visitor.open("/").text == first.text, "a closed tab that is opened again"
    visitor.send(answer="real")
    assert "Picture 2 of 9" in visitor.page.text
    for address in ("/", "/questions", "/practice", "/done"):
        assert "Picture 2 of 9" in visitor.open(address).text
    visitor.page = first
    assert "Picture 2 of 9" in visitor.send(answer="fake").text, "the first picture again, from another window"
    assert rows(study, "SELECT position, answer FROM trial WHERE answer NOT NULL") == [(1, "real")]


def test_a_double_click_on_agreeing_makes_one_participant(browser, study):
    person = Visitor(browser())
    page = person.open()
    person.send(agree="yes")
    cookie = person.client.cookies["study"]
    person.client.cookies.clear()
    person.page = page
    person.send(agree="yes")
    assert person.client.cookies["study"] == cookie
    assert rows(study, "SELECT count(*) FROM participant") == [(1,)]


def test_who_does_not_agree_is_no_participant(browser, study):
    person = Visitor(browser())
    person.open()
    assert "You are about to see" in person.send().text
    assert "You are about to see" in person.open("/picture").text
    assert rows(study, "SELECT count(*) FROM participant") == [(0,)]


def test_times_are_kept(visitor, study):
    visitor.send(answer="real")
    visitor.send(answer="real", time_ms="1234")
    visitor.send(answer="fake", time_ms="soon")
    kept = rows(study, "SELECT time_ms, answered_at - shown_at FROM trial WHERE answer NOT NULL ORDER BY position")
    assert [time_ms for time_ms, _ in kept] == [1234, None]
    assert all(0 < seconds < 60 for _, seconds in kept)


def test_an_answer_to_a_picture_that_was_never_shown_is_not_kept(visitor, study):
    """A program may answer without looking; the picture's page is what it is sent to."""
    visitor.client.post("/practice", data={**visitor.page.fields, "answer": "real"}, follow_redirects=False)
    form = {**visitor.page.fields, "position": "1", "answer": "real"}
    response = visitor.client.post("/answer", data=form, follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (303, "picture")
    assert rows(study, "SELECT count(answer) FROM trial") == [(0,)]
    assert "Picture 1 of 9" in visitor.open("/picture").text
    visitor.send(answer="fake")
    assert rows(study, "SELECT position, answer FROM trial WHERE answer NOT NULL") == [(1, "fake")]


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: (path.unlink(), path.mkdir())])
def test_a_picture_that_goes_while_it_is_served_is_not_found(visitor, study, damage, capsys):
    visitor.send(answer="real")
    (name,) = rows(study, "SELECT picture FROM trial WHERE position = 1")[0]
    path = study.path / f"pictures/{name}.jpg"
    data = path.read_bytes()
    damage(path)
    response = visitor.client.get(f"/{visitor.page.picture}")
    assert (response.status_code, response.text) == (404, "no such picture\n")
    assert f"{name}.jpg" in capsys.readouterr().err, "whoever serves the study is told"
    path.rmdir() if path.is_dir() else None
    path.write_bytes(data)
    assert visitor.client.get(f"/{visitor.page.picture}").content == data
    assert "Picture 2 of 9" in visitor.send(answer="real").text


def test_a_server_that_starts_again_knows_everybody(visitor, study, site):
    visitor.send(answer="real")
    site.queue.close()
    site = StudySite(study)
    client = TestClient(server.create_app(site), cookies={"study": visitor.client.cookies["study"]})
    visitor.client = client
    assert "Picture 1 of 9" in visitor.open("/").text
    site.queue.close()


# ---------------------------------------------------------------- what the researcher may choose


def test_a_study_without_questions_practice_and_score(study):
    path = study.path / "study.toml"
    path.write_text(path.read_text().split("[[questions]]")[0] + "questions = []\n")
    change(study, practice="false", show_score="false", checks=0)
    site = StudySite(StudyFolder.open(study.path))
    person = Visitor(TestClient(server.create_app(site)))
    person.open()
    assert "Picture 1 of 8" in person.send(agree="yes").text
    assert "You judged" not in person.judge(lambda *_: "real").text
    site.queue.close()


def test_a_time_limit_is_told_to_the_script(study):
    change(study, time_limit_s="7.5")
    site = StudySite(StudyFolder.open(study.path))
    person = Visitor(TestClient(server.create_app(site)))
    person.begin()
    assert 'data-limit="0"' in person.page.text, "not when practising"
    assert 'data-limit="7.5"' in person.send(answer="real").text
    person.send(answer="none", time_ms="7500")
    assert rows(study, "SELECT answer, time_ms FROM trial WHERE position = 1") == [("none", 7500)]
    site.queue.close()


def test_free_text_is_asked_for_and_kept(study):
    path = study.path / "study.toml"
    path.write_text(path.read_text() + '\n[[questions]]\nname = "screen"\nrequired = false\n')
    for language in ("en", "nl"):
        with (study.path / f"languages/{language}.toml").open("a") as file:
            file.write('\n[questions.screen]\ntext = "Which screen?"\n')
    site = StudySite(StudyFolder.open(study.path))
    person = Visitor(TestClient(server.create_app(site)))
    person.begin(screen="  <b>mine</b>\n")
    assert ("screen", "<b>mine</b>") in rows(study, "SELECT question, reply FROM reply")
    other = Visitor(TestClient(server.create_app(site)))
    assert "To practise" in other.begin(screen="").text, "it may be left open"
    site.queue.close()


def test_languages(browser, study):
    assert "U krijgt foto" in browser(headers={"accept-language": "nl-BE,nl;q=0.9,en;q=0.5"}).get("/").text
    assert "You are about" in browser(headers={"accept-language": "fr,*;q=0.1"}).get("/").text
    person = Visitor(browser())
    assert '<html lang="nl">' in person.open("/?language=nl").text
    person.send(agree="yes")
    assert "Om te oefenen" in person.send(expert="no", color_vision="good").text
    assert "Foto 1 van 9" in person.send(answer="real").text


def test_a_new_language_is_a_text_file(study):
    words = (
        (study.path / "languages/nl.toml").read_text().replace("Nederlands", "Frysk").replace('"Echt"', '"Echt wier"')
    )
    (study.path / "languages/fy.toml").write_text(words)
    (study.path / "consent.fy.md").write_text("# Echt of *nep*?\n\n<script>alert(1)</script>")
    site = StudySite(StudyFolder.open(study.path))
    text = TestClient(server.create_app(site)).get("/?language=fy").text
    assert "<h1>Echt of <em>nep</em>?</h1>" in text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    site.queue.close()


def test_shipped_languages_have_the_same_words(study):
    loaded = languages.load_languages(study.path, study.settings.questions)
    assert loaded.keys() == {"en", "nl"}
    assert loaded["en"].text.keys() == loaded["nl"].text.keys()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('real = "Real"', "", 'lacks the words text.real; in English they are "Real"'),
        ('fake = "Fake"', "fake = ", "en.toml is not TOML"),
        ("Picture {number}", "Picture {nummer}", "text.progress has other fields in braces"),
        ("Picture {number}", "Picture {number", "text.progress has other fields in braces"),
        ('hobby = "Yes, as a hobby", ', "", "lacks the words questions.expert.choices.hobby"),
    ],
)
def test_words_that_are_lacking_are_named(study, old, new, message):
    path = study.path / "languages/en.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError) as error:
        StudySite(study)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda path: (path / "consent.nl.md").unlink(), "consent.nl.md is absent; write there"),
        (lambda path: [file.unlink() for file in (path / "languages").iterdir()], "languages holds no language"),
        (lambda path: next((path / "pictures").iterdir()).unlink(), "is absent; copy the study's whole folder"),
        (lambda path: (path / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda path: (path / "admin-token.txt").write_text("1234"), "holds less than 16 characters"),
        (lambda path: (path / "study.toml").write_text("shown = 13"), "shown = 13, but the study has 12 scenes"),
        (lambda path: (path / "study.toml").write_text("shwon = 3"), "did you mean shown?"),
        (lambda path: (path / "answers.sqlite").write_text("answers"), "cannot be used as a database"),
    ],
)
def test_a_folder_that_is_not_whole_is_one_sentence(study, break_it, message):
    break_it(study.path)
    with pytest.raises(UserError) as error:
        StudySite(StudyFolder.open(study.path))
    assert message in str(error.value)


def test_answers_of_another_study_are_refused(visitor, study, settings, tmp_path):
    from dataclasses import replace

    from koala.study import build

    build.build_command(replace(settings, dir=tmp_path / "other"))
    other = StudyFolder.open(tmp_path / "other")
    with closing(sqlite3.connect(study.answers_path)) as one, closing(sqlite3.connect(other.answers_path)) as two:
        one.backup(two)
    with pytest.raises(UserError, match="about pictures of another study"):
        StudySite(other)


# ---------------------------------------------------------------- what pages give away


def test_pages_and_pictures_give_nothing_away(browser, study):
    """For the same scene participants receive the same to the byte, but for the pixels and what is random."""
    pages, headers = {}, set()
    for _ in range(30):
        person = Visitor(browser())
        person.begin()
        response = person.client.get(f"/{person.page.picture}")
        person.send(answer="real")
        response = person.client.get(f"/{person.page.picture}")
        headers.add(tuple(sorted(response.headers.items())))
        (name,) = rows(study, "SELECT picture FROM trial WHERE position = 1 ORDER BY participant DESC LIMIT 1")[0]
        picture = study.manifest.by_name[name]
        page = re.sub(r"[0-9a-f]{32}", "", person.page.text)
        pages.setdefault(picture.scene, {}).setdefault(picture.version, set()).add(re.sub(r'data-next="\w*"', "", page))
        assert picture.name not in person.page.text
        assert picture.scene not in person.page.text
    assert len(headers) == 1, "also the length of the picture"
    assert {name for name, _ in headers.pop()}.isdisjoint({"etag", "last-modified", "server", "accept-ranges"})
    assert any(len(versions) > 1 for versions in pages.values())
    assert all(len(set.union(*versions.values())) == 1 for versions in pages.values())


def test_a_pictures_name_is_its_sessions_own(browser):
    names = []
    for _ in range(5):
        person = Visitor(browser())
        person.begin()
        names.append(person.page.picture)
    assert len(set(names)) == 5, "all of them show the same picture to practise with"


def test_every_response_is_guarded(browser):
    client = browser()
    for address in ("/", "/nowhere", "/style.css", "/health", "/admin", "/pictures/x"):
        headers = client.get(address).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"


def test_no_page_holds_script_or_style(visitor):
    pages = [visitor.page.text, visitor.send(answer="real").text]
    for text in pages:
        assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|javascript:", text)


def test_the_cookie(browser, study):
    def cookie(site: StudySite, **options) -> str:
        person = Visitor(TestClient(server.create_app(site), **options))
        page = person.open()
        return person.client.post(page.action, data={**page.fields, "agree": "yes"}, follow_redirects=False).headers[
            "set-cookie"
        ]

    plain, secure = StudySite(study), StudySite(study, "https://example.org/colours")
    assert re.fullmatch(r"study=[0-9a-f]{32}\.[0-9a-f]{32}; HttpOnly; Max-Age=2592000; SameSite=lax", cookie(plain))
    assert "; Secure" in cookie(secure)
    assert "; Secure" in cookie(plain, base_url="https://testserver")
    plain.queue.close()
    secure.queue.close()


# ---------------------------------------------------------------- sub-path, health


@pytest.mark.parametrize("prefix", ["/colours", ""], ids=["left by the proxy", "taken off by the proxy"])
def test_a_sub_path(study, prefix):
    site = StudySite(study, "https://example.org/colours/")
    client = TestClient(
        server.create_app(site), base_url="https://example.org", headers={"origin": "https://example.org"}
    )
    person = Visitor(client)
    person.open(f"{prefix}/")
    assert "About you" in person.send(agree="yes").text
    assert "To practise" in person.send(expert="no", color_vision="good").text
    assert person.look().startswith(b"\xff\xd8")
    assert str(person.url) == f"https://example.org{prefix}/practice"
    if prefix:
        assert client.get("/colours", follow_redirects=False).headers["location"] == "/colours/"
    site.queue.close()


def test_health(browser, site, monkeypatch):
    assert browser().get("/health").json() == {"status": "ok"}
    monkeypatch.setattr(
        type(site.queue._store), "check_writable", lambda _: (_ for _ in ()).throw(sqlite3.OperationalError("full"))
    )
    assert browser().get("/health").status_code == 503


def test_an_answer_that_cannot_be_written_is_not_acknowledged(visitor, study, site, monkeypatch):
    visitor.send(answer="real")
    first = visitor.page

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(type(site.queue._store), "save_answer", full)
        response = visitor.client.post("/answer", data={**first.fields, "answer": "real"})
        assert response.status_code == 503
        assert "could not be saved" in response.text
    assert "Picture 2 of 9" in visitor.send(answer="real").text


# ---------------------------------------------------------------- the researcher's page


def basic(password: str) -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(f'me:{password}'.encode()).decode()}"}


def test_the_researchers_page(browser, site, study):
    for number in range(4):
        person = Visitor(browser())
        person.begin()
        if number:
            person.judge(attentive(lambda picture: "real"))
        else:
            person.send(answer="real")
            person.send(answer="real")
    client = browser(headers=basic(site.secret))
    text = client.get("/admin").text
    cells = dict(re.findall(r"<tr><td>([^<]+)</td><td>([^<]+)</td></tr>", text))
    assert (cells["came"], cells["finished"]) == ("4", "3")
    assert re.search(r"<td>original</td><td>1[23]</td>", text)
    assert re.search(r"<td>1</td><td>1</td>", text), "one left after one answer"
    assert len(list(csv.DictReader(client.get("/answers.csv").text.splitlines()))) in (24, 25)
    assert len(list(csv.DictReader(client.get("/participants.csv").text.splitlines()))) == 4
    assert client.get("/answers.sqlite").content.startswith(b"SQLite format 3")
    bearer = browser(headers={"authorization": f"Bearer {site.secret}"})
    assert bearer.get("/admin").status_code == 200


def test_answers_without_times_have_a_researchers_page_too(visitor, browser, site, study):
    """Older servers kept answers to pictures that were never shown."""
    visitor.judge(attentive(lambda picture: "real"))
    with closing(sqlite3.connect(study.answers_path)) as database, database:
        database.execute("UPDATE trial SET shown_at = NULL, time_ms = NULL WHERE position = 1")
    client = browser(headers=basic(site.secret))
    assert "answers</td><td>8" in client.get("/admin").text
    first, *others = csv.DictReader(client.get("/answers.csv").text.splitlines())
    assert (first["position"], first["seconds"], len(others)) == ("1", "", 7)
    assert len(list(csv.DictReader(client.get("/participants.csv").text.splitlines()))) == 1
    with closing(sqlite3.connect(study.answers_path)) as database, database:
        database.execute("UPDATE trial SET shown_at = NULL, answered_at = NULL, time_ms = NULL")
    assert "median</td><td>–" in client.get("/admin").text


def test_a_database_of_another_study_is_a_sentence_on_the_researchers_page(visitor, browser, site, study):
    visitor.send(answer="real")
    visitor.send(answer="real")
    with closing(sqlite3.connect(study.answers_path)) as database, database:
        database.execute("UPDATE trial SET picture = 'another' WHERE position = 1")
    response = browser(headers=basic(site.secret)).get("/admin")
    assert (response.status_code, response.text[:50]) == (503, "the answers are about pictures of another study; p")


def test_who_knows_the_password_is_never_told_to_wait(site):
    """The limits are for wrong passwords and for strangers, of whom some may have the researcher's address."""
    app = server.create_app(site)
    app._strangers = RateLimiter(burst=24, rate_s=0)
    right, wrong = (TestClient(app, headers=basic(password)) for password in (site.secret, "wrong"))
    assert {right.get("/admin").status_code for _ in range(30)} == {200}
    assert [wrong.get("/admin").status_code for _ in range(22)] == [401] * 20 + [429] * 2
    assert [wrong.get("/style.css").status_code for _ in range(3)] == [200, 200, 429]
    assert right.get("/admin").status_code == 200


def test_an_empty_study_has_a_researchers_page_too(browser, site):
    assert "came</td><td>0" in browser(headers=basic(site.secret)).get("/admin").text


def test_the_password_is_made_once_and_for_the_owner(study, site):
    path = study.path / "admin-token.txt"
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_text().strip()) == 43
    again = StudySite(study)
    assert again.secret == site.secret
    again.queue.close()


def test_settings_are_checked():
    from koala.study.server import serve_command

    with pytest.raises(UserError, match=r"holds no manifest\.json; make a study there"):
        serve_command(ServeStudy(dir=Path("/nowhere")))
    with pytest.raises(UserError, match=r"--url example\.org is no address"):
        serve_command(ServeStudy(dir=Path("/nowhere"), url="example.org"))
