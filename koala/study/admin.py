"""The researcher's page: how the study goes, and the answers for download.

It is behind a password, and nothing can be changed there.
"""

import csv
import io
from collections.abc import Awaitable, Callable
from typing import Any

import pandas as pd
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from koala.core.errors import UserError
from koala.study import answers, statistics
from koala.study.formats import interval, percent
from koala.study.security import RateLimiter, given_password
from koala.study.site import StudySite
from koala.study.store import AnswerStore

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run


def admin_routes(site: StudySite) -> list[Route]:
    """Address by address."""
    failures = RateLimiter(burst=20, rate_s=0.1)

    def guarded(make: Callable[[StudySite], Response]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            if (refusal := _refusal(request, site, failures)) is not None:
                return refusal
            try:
                return await run_in_threadpool(make, site)
            except UserError as error:  # of the study's folder, as it is by now
                return PlainTextResponse(f"{error}\n", 503)

        return endpoint

    return [
        Route("/admin", guarded(overview)),
        Route("/answers.csv", guarded(answers_csv)),
        Route("/participants.csv", guarded(participants_csv)),
        Route("/answers.sqlite", guarded(database_file)),
    ]


def overview(site: StudySite) -> Response:
    """Numbers of people and answers, the balance of the design, and where realness stands."""
    collected = answers.read_study(site.folder)
    return site.render("admin.html", site.language("en"), **summary(collected, site))


def summary(collected: answers.StudyAnswers, site: StudySite) -> dict[str, Any]:
    """What the researcher's page shows."""
    people, given = collected.people, collected.answers.dropna(subset="real")
    left_at = people["answered"][people["answered"] < people["trials"]].value_counts().sort_index()
    return {
        "people": {
            "came": len(people),
            "finished": int((people["answered"] == people["trials"]).sum()),
            "judged": given["participant"].nunique(),
            "failed_checks": int((people["failed_checks"] > 0).sum()),
            "answers": len(given),
            "seconds": f"{given['seconds'].median():.1f}" if given["seconds"].notna().any() else "–",
        },
        "left_at": list(left_at.items()),
        "versions": [_version(collected, site, number) for number in range(len(collected.versions))],
    }


def _version(collected: answers.StudyAnswers, site: StudySite, number: int) -> dict[str, Any]:
    """Answers, balance and realness of one version."""
    name = collected.versions[number]
    given = collected.answers[collected.answers["version"] == name].dropna(subset="real")
    pictures = [picture.name for picture in site.manifest.pictures if picture.version == name]
    counts = given["picture"].value_counts().reindex(pictures, fill_value=0)
    return {
        "name": name,
        "answers": len(given),
        "least": int(counts.min()),
        "median": f"{counts.median():g}",
        "most": int(counts.max()),
        "realness": percent(given["real"].mean()),
        "interval": interval(*statistics.crossed_interval(collected.table(), number)),
    }


def answers_csv(site: StudySite) -> Response:
    """Every answer, checks left out, with what it was about."""
    return _download(answers.read_study(site.folder).answers, "answers.csv")


def participants_csv(site: StudySite) -> Response:
    """Everybody and what they said about themselves."""
    return _download(answers.read_study(site.folder).people, "participants.csv")


def database_file(site: StudySite) -> Response:
    """The database as it is now, for `koala study report` elsewhere."""
    store = AnswerStore(site.folder.answers_path)
    copy = store.to_bytes()
    store.close()
    return Response(
        copy, 200, {"content-disposition": 'attachment; filename="answers.sqlite"'}, "application/vnd.sqlite3"
    )


def _download(table: pd.DataFrame, name: str) -> Response:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(table.columns)
    writer.writerows(tuple(_cell(value) for value in row) for row in table.itertuples(index=False))
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(buffer.getvalue(), 200, headers, "text/csv")


def _cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return "" if pd.isna(value) else value


def _refusal(request: Request, site: StudySite, failures: RateLimiter) -> Response | None:
    """Nothing for who knows the password."""
    password = given_password(request)
    if password and site.signer.is_password(password):
        return None
    address = request.client.host if request.client else ""
    if password and not failures.allow(address):
        return PlainTextResponse("too many wrong passwords; wait a minute\n", 429, {"retry-after": "60"})
    headers = {"www-authenticate": 'Basic realm="koala study", charset="UTF-8"'}
    return PlainTextResponse(
        "this page needs the password in admin-token.txt; the name does not matter\n", 401, headers
    )
