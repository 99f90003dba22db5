"""What all pages of a study share: its pictures, words, database and secrets, and where a participant is."""

import hashlib
import os
import secrets
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import HTMLResponse

from koala.core import http
from koala.core.errors import UserError
from koala.study import languages, security, trials
from koala.study.folder import StudyFolder
from koala.study.languages import PAGE_FOLDER, Language
from koala.study.store import AnswerStore, Participant, StoreQueue
from koala.study.trials import AttentionCheck


class WrongPageError(Exception):
    """The participant is at another page."""

    def __init__(self, page: str) -> None:
        super().__init__(page)
        self.page = page


class StudySite:
    """A study, as its pages need it.

    Args:
        study: its folder.
        url: address that participants open; "" is any.

    Raises:
        UserError: the folder is not whole, or asks for what cannot be shown.
    """

    def __init__(self, study: StudyFolder, url: str = "") -> None:
        self.folder, self.settings, self.manifest, self.url = study, study.settings, study.manifest, url
        self.languages = languages.load_languages(study.path, self.settings.questions)
        for name in self.manifest.by_name:
            study.read_picture(name)  # one that is absent is found before anybody comes
        self.read_picture = lru_cache(maxsize=2048)(study.read_picture)
        self.secret = _secret(study.path / "admin-token.txt")
        self.signer = security.SessionSigner(self.secret)
        self.static = http.PageAssets(PAGE_FOLDER)
        self._templates = http.template_environment(PAGE_FOLDER)
        store = AnswerStore(study.answers_path)
        self.manifest.count_table(store.picture_counts(time.time()))  # the answers must be about these pictures
        self.queue = StoreQueue(store)

    def session(self, request: Request) -> str:
        """The cookie, if this study gave it out; else ""."""
        cookie = request.cookies.get(security.COOKIE, "")
        return cookie if self.signer.is_session(cookie) else ""

    def current_page(self, participant: Participant | None) -> str:
        """The page where a participant is."""
        if participant is None:
            return "."
        if self.settings.questions and not participant.asked:
            return "questions"
        if self.settings.practice and self.manifest.practice and not participant.practised:
            return "practice"
        return "done" if participant.finished else "picture"

    def require_page(self, store: AnswerStore, session: str, *pages: str) -> Participant:
        """The participant, who must be at one of these pages.

        Raises:
            WrongPageError: they are at another.
        """
        participant = store.participant(session) if session else None
        place = self.current_page(participant)
        if participant is None or place not in pages:
            raise WrongPageError(place)
        return participant

    def draw_trials(self, participant: int, counts: Mapping[str, int]) -> list[str | AttentionCheck]:
        """What a new participant is shown; drawn from the study's seed and its secret, which nobody can foresee."""
        secret = int.from_bytes(hashlib.sha256(self.secret.encode()).digest())
        rng = np.random.default_rng([self.manifest.made["seed"], participant, secret])
        quota = trials.Quota(self.settings.shown, self.settings.original_share)
        pairs = trials.assign_trials(self.manifest.count_table(counts), quota, rng)
        pictures = [self.manifest.picture_name(scene, version) for scene, version in pairs]
        return trials.insert_checks(pictures, self.settings.checks, rng)

    def language(self, code: str) -> Language:
        """The language of this code, or that of the study."""
        return self.languages[languages.negotiate_language(code, list(self.languages), self.settings.language)]

    def language_of(self, request: Request) -> Language:
        """The language of somebody who is no participant yet: what they choose, or what their browser asks for."""
        return self.language(request.query_params.get("language") or request.headers.get("accept-language", ""))

    def render(self, template: str, language: Language, status: int = 200, **values: Any) -> HTMLResponse:
        """A page in a language."""
        values |= {"language": language, "release": self.static.release}
        return HTMLResponse(self._templates.get_template(template).render(values), status)


def _secret(path: Path) -> str:
    """The admin page's password, from which everything that must not be guessed is derived; made when it is absent."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        secret = path.read_text("utf-8").strip()
        if len(secret) < 16:
            raise UserError(f"{path} holds less than 16 characters; delete it, and a new one is made") from None
        return secret
    secret = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{secret}\n")
    return secret
