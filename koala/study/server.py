"""The web pages that participants see, and `koala study serve`.

A participant agrees, says something about themselves, practises, and judges one picture after another. Where they are
is in the database alone, under a cookie: each page asks it, and sends those who are elsewhere there. So reloading,
going back, a second window, a closed one and answers that come twice need no care of their own.
All addresses in the pages are relative, so that they hold under any sub-path.
"""

import re
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from koala.config.study import Question, ServeStudy
from koala.core import http_server
from koala.core.errors import UserError
from koala.study import admin
from koala.study.folder import StudyFolder
from koala.study.security import COOKIE, GuardMiddleware, constant_time_compare, form_token, picture_token, read_form
from koala.study.site import StudySite, WrongPageError
from koala.study.store import AnswerStore, Participant
from koala.study.trials import AttentionCheck

_MOST_CONNECTIONS = 2000
_COOKIE_S = 30 * 24 * 3600
_LONGEST_REPLY = 500  # characters
_AHEAD = 2  # pictures after the present one that a browser may ask for
_PRACTICE = 0  # the position of the picture to practise with
_SHOWN_SIDE = 512  # of a page's pixels: smaller pictures are shown this long, larger ones as they are


class ParticipantPages:
    """The pages of a participant's way through the study."""

    def __init__(self, site: StudySite) -> None:
        self.site = site

    def routes(self) -> list[Route]:
        """Address by address."""
        return [
            Route("/", self.welcome),
            Route("/start", self.start, methods=["POST"]),
            Route("/questions", self.questions),
            Route("/questions", self.reply, methods=["POST"]),
            Route("/practice", self.practice),
            Route("/practice", self.practised, methods=["POST"]),
            Route("/picture", self.trial),
            Route("/answer", self.answer, methods=["POST"]),
            Route("/pictures/{token}", self.picture),
            Route("/done", self.done),
            Route(http_server.HEALTH, self.health),
            *self.site.static.routes(),
        ]

    async def welcome(self, request: Request) -> Response:
        """What participants agree to; those who did already go on where they were."""
        if session := self.site.session(request):
            participant = await self.site.queue.run(lambda store: store.participant(session))
            if participant is not None:
                return _redirect(self.site.current_page(participant))
        language, others = self.site.language_of(request), list(self.site.languages.values())
        return self.site.render("consent.html", language, languages=others, ticket=self.site.signer.ticket())

    async def start(self, request: Request) -> Response:
        """Somebody agrees: they get a cookie and their pictures."""
        form = await read_form(request, self.site.url)
        session = self.site.session(request) or self.site.signer.session(form.get("ticket", ""))
        if not session or form.get("agree") != "yes":
            return _redirect(".")
        language = self.site.language(form.get("language", "")).code

        def work(store: AnswerStore) -> str:
            store.add_participant(session, language, self.site.draw_trials, time.time())
            return self.site.current_page(store.participant(session))

        response = _redirect(await self.site.queue.run(work))
        secure = self.site.url.startswith("https:") or request.url.scheme == "https"
        # without a path the cookie is for this folder of the host, whatever a proxy calls it
        response.set_cookie(COOKIE, session, _COOKIE_S, path=None, secure=secure, httponly=True, samesite="lax")
        return response

    async def questions(self, request: Request) -> Response:
        """Questions about the participant."""
        session = self.site.session(request)
        participant = await self.site.queue.run(lambda store: self.site.require_page(store, session, "questions"))
        return self.site.render(
            "questions.html",
            self.site.language(participant.language),
            questions=self.site.settings.questions,
            token=form_token(session),
            longest=_LONGEST_REPLY,
        )

    async def reply(self, request: Request) -> Response:
        """The answers to them."""
        session, form = await self._form(request)
        replies = read_replies(form, self.site.settings.questions)

        def work(store: AnswerStore) -> str:
            participant = self.site.require_page(store, session, "questions")
            store.save_replies(participant.id, replies, time.time())
            return self.site.current_page(store.participant(session))

        return _redirect(await self.site.queue.run(work))

    async def practice(self, request: Request) -> Response:
        """A picture that does not count."""
        session, manifest = self.site.session(request), self.site.manifest

        def work(store: AnswerStore) -> tuple[Participant, str | AttentionCheck | None]:
            participant = self.site.require_page(store, session, "practice")
            return participant, store.trial(participant.id, participant.position)

        participant, following = await self.site.queue.run(work)
        shown = manifest.practice.name if manifest.practice else None
        return _trial_page(self.site, session, participant, _PRACTICE, shown, following)

    async def practised(self, request: Request) -> Response:
        """The practice is over."""
        session, _ = await self._form(request)

        def work(store: AnswerStore) -> str:
            participant = self.site.require_page(store, session, "practice")
            store.mark_practised(participant.id, time.time())
            return self.site.current_page(store.participant(session))

        return _redirect(await self.site.queue.run(work))

    async def trial(self, request: Request) -> Response:
        """The picture that is next."""
        session = self.site.session(request)

        def work(store: AnswerStore) -> tuple[Participant, str | AttentionCheck | None, str | AttentionCheck | None]:
            participant = self.site.require_page(store, session, "picture")
            store.mark_shown(participant.id, participant.position, time.time())
            shown, following = (store.trial(participant.id, participant.position + step) for step in (0, 1))
            return participant, shown, following

        participant, shown, following = await self.site.queue.run(work)
        return _trial_page(self.site, session, participant, participant.position, shown, following)

    async def answer(self, request: Request) -> Response:
        """An answer: counted if it is the one that is awaited, and the participant goes on in any case."""
        session, form = await self._form(request)
        answer, position = form.get("answer", ""), _number(form.get("position", ""))
        if answer not in ("real", "fake", "none") or position is None:
            raise HTTPException(400, "error_form")
        time_ms = _number(form.get("time_ms", ""))

        def work(store: AnswerStore) -> str:
            participant = self.site.require_page(store, session, "picture", "done")
            store.save_answer(participant.id, position, answer, time_ms, time.time())
            return self.site.current_page(store.participant(session))

        return _redirect(await self.site.queue.run(work))

    async def picture(self, request: Request) -> Response:
        """The bytes of a picture of this session, not far ahead of where it is."""
        session, token = self.site.session(request), request.path_params["token"]

        def work(store: AnswerStore) -> str | None:
            participant = self.site.require_page(store, session, "practice", "picture")
            for position in range(participant.position, participant.position + _AHEAD + 1):
                if constant_time_compare(token, picture_token(session, position)):
                    trial = store.trial(participant.id, position)
                    return trial if isinstance(trial, str) else None
            return None

        name, practice = None, self.site.manifest.practice
        if practice and constant_time_compare(token, picture_token(session, _PRACTICE)):
            name = practice.name
        else:
            with suppress(WrongPageError):
                name = await self.site.queue.run(work)
        data = None
        try:
            data = self.site.read_picture(name) if name else None
        except UserError as error:  # it was there when the server began
            print(error, file=sys.stderr)
        if data is None:
            return PlainTextResponse("no such picture\n", 404)
        # a name holds for one session and one position: it may be kept, and nothing says when the file was made
        return Response(data, 200, {"cache-control": "private, max-age=3600"}, "image/jpeg")

    async def done(self, request: Request) -> Response:
        """Thanks, and the score if it is to be told."""
        session, manifest = self.site.session(request), self.site.manifest

        def work(store: AnswerStore) -> tuple[Participant, list[tuple[str, str]]]:
            participant = self.site.require_page(store, session, "done")
            return participant, store.judgements(participant.id)

        participant, judgements = await self.site.queue.run(work)
        right = sum(answer == ("real" if manifest.is_original(name) else "fake") for name, answer in judgements)
        score = {"right": right, "total": len(judgements)} if self.site.settings.show_score else None
        return self.site.render("done.html", self.site.language(participant.language), score=score)

    async def health(self, request: Request) -> Response:
        """For whoever watches the server: 200 while answers can be kept."""
        await self.site.queue.run(lambda store: store.check_writable())
        return JSONResponse({"status": "ok"})

    async def _form(self, request: Request) -> tuple[str, Mapping[str, str]]:
        """The session and the fields of a form that one of its own pages held."""
        session, form = self.site.session(request), await read_form(request, self.site.url)
        if not session:
            raise WrongPageError(".")
        if not constant_time_compare(form.get("token", ""), form_token(session)):
            raise HTTPException(403, "error_session")
        return session, form


def _trial_page(  # noqa: PLR0917  (a participant's place, and what is there)
    site: StudySite,
    session: str,
    participant: Participant,
    position: int,
    shown: str | AttentionCheck | None,
    following: str | AttentionCheck | None,
) -> Response:
    language, practising = site.language(participant.language), position == _PRACTICE
    heading = language.say("progress", number=position, total=participant.total)
    question, picture = language.say("question"), None
    if isinstance(shown, AttentionCheck):
        question = language.say(f"check_{shown.expected}")
    elif shown is not None:
        found = site.manifest.by_name[shown]
        scale = max(1.0, _SHOWN_SIDE / max(found.width, found.height))
        width, height = round(found.width * scale), round(found.height * scale)
        picture = {"token": picture_token(session, position), "width": width, "height": height}
    return site.render(
        "trial.html",
        language,
        action="practice" if practising else "answer",
        heading=language.say("practice") if practising else heading,
        question=question,
        note=language.say("practice_note") if practising else language.say("keys"),
        practising=practising,
        picture=picture,
        next=picture_token(session, position + 1) if isinstance(following, str) else "",
        token=form_token(session),
        position=position,
        total=participant.total,
        answered=participant.answered,
        limit=0 if practising else site.settings.time_limit_s,
    )


def read_replies(form: Mapping[str, str], questions: tuple[Question, ...]) -> dict[str, str]:
    """What somebody says about themselves, without what is optional and left open.

    Raises:
        HTTPException: 400, the form does not fit the questions.
    """
    replies = {question.name: form.get(question.name, "").strip() for question in questions}
    for question in questions:
        reply = replies[question.name]
        fits = not question.choices or reply in question.choices
        if (question.required and not reply) or (reply and not fits) or len(reply) > _LONGEST_REPLY:
            raise HTTPException(400, "error_form")
    return {name: reply for name, reply in replies.items() if reply}


def create_app(site: StudySite) -> ASGIApp:
    """The web application of a study."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        site.queue.close()

    async def elsewhere(request: Request, error: Exception) -> Response:
        assert isinstance(error, WrongPageError)
        return _redirect(error.page)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = error.detail if error.detail.startswith("error_") else "error_absent"
        response = site.render("message.html", site.language_of(request), error.status_code, message=message)
        response.headers.update(error.headers or {})
        return response

    async def unsaved(request: Request, error: Exception) -> Response:
        return site.render("message.html", site.language_of(request), 503, message="error_save")

    handlers = {WrongPageError: elsewhere, HTTPException: refused, sqlite3.Error: unsaved}
    app = Starlette(
        routes=[*ParticipantPages(site).routes(), *admin.admin_routes(site)],
        exception_handlers=handlers,
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # such a redirect would hold whatever host the request named
    return GuardMiddleware(app, site.signer, site.url)


def serve_command(settings: ServeStudy) -> int:
    """`koala study serve`: serve a study until it is stopped.

    Returns:
        0.

    Raises:
        UserError: the folder or the address cannot be used.
    """
    if settings.url and urlsplit(settings.url).scheme not in ("http", "https"):
        raise UserError(f"--url {settings.url} is no address; write it with https://, as participants open it")
    with _locked(settings.dir), http_server.open_listener(settings.host, settings.port) as listener:
        site = StudySite(StudyFolder.open(settings.dir), settings.url)
        _greet(site, listener)
        server = http_server.make_server(
            create_app(site),
            _MOST_CONNECTIONS,
            proxy_headers=bool(settings.proxy),
            forwarded_allow_ips=settings.proxy or None,
        )
        server.run(sockets=[listener])
    return 0


@contextmanager
def _locked(study: Path) -> Iterator[None]:
    """Refuse to serve a study twice: two servers would not see each other's participants in time."""
    StudyFolder.open(study)
    # SQLite locks a file on every system
    with closing(sqlite3.connect(study / "served.lock", timeout=0, isolation_level=None)) as lock:
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            raise UserError(f"{study} is being served already; stop that server first") from None
        yield


def _greet(site: StudySite, listener: socket.socket) -> None:
    """Say where the study is, and what is still to be done."""
    address = site.url.rstrip("/") or http_server.listener_url(listener)
    print(f"{address}/  for participants")
    print(f"{address}/admin  for you; the password stands in {site.folder.path / 'admin-token.txt'}", flush=True)
    for code, language in site.languages.items():
        if "[" in language.consent:
            print(f"consent.{code}.md still holds [brackets] to be filled in", flush=True)


def _redirect(page: str) -> Response:
    return RedirectResponse(page, 303)


def _number(text: str) -> int | None:
    """A whole number that is not beyond reason."""
    return int(text) if re.fullmatch("[0-9]{1,7}", text) else None
