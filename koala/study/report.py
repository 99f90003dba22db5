"""Answers -> tables, tests, figures, and what they mean in plain words: `koala study report`."""

from pathlib import Path
from typing import Any

import pandas as pd

from koala.config.study import ReportStudy
from koala.core import http
from koala.core.atomic_io import write_atomic
from koala.core.errors import UserError
from koala.core.progress import Progress
from koala.study import answers, figures, formats, statistics
from koala.study.analysis import Analysis
from koala.study.findings import describe_findings
from koala.study.folder import StudyFolder
from koala.study.languages import PAGE_FOLDER

_MOST_THUMBNAILS = 60  # of a version; of more, those at both ends and in the middle


def report_command(settings: ReportStudy) -> int:
    """`koala study report`: analyse a study, and write what is found.

    Returns:
        0.

    Raises:
        UserError: there is no study, or nobody answered.
    """
    study = None if settings.csv else StudyFolder.open(_folder(settings))
    collected = answers.read_study(study) if study else answers.read_form_csv(_csv(settings), settings.originals)
    counted, left_out = answers.exclude_participants(collected, settings)
    if not counted.answers["real"].notna().any():
        raise UserError("there is no answer that counts; wait for participants, or leave fewer of them out")
    analysis = Analysis(counted, collected, left_out, settings)
    write_report(analysis, study, settings.out)
    print("\n\n".join(describe_findings(analysis)))
    print(f"\n{settings.out}: report.html, and its tables as CSV")
    return 0


def write_report(analysis: Analysis, study: StudyFolder | None, out: Path) -> None:
    """Write the page and the tables."""
    out.mkdir(parents=True, exist_ok=True)
    tables = ("versions", "comparisons", "pictures", "people", "groups", "published")
    with Progress(len(tables) + 1, "analysing", "tables") as progress:
        for name in tables:
            write_atomic(out / f"{name}.csv", getattr(analysis, name).to_csv(index=False).encode(), durable=False)
            progress.advance(1, name)
        write_atomic(out / "answers.csv", analysis.collected.answers.to_csv(index=False).encode(), durable=False)
        write_atomic(out / "report.html", render_report(analysis, study).encode(), durable=False)
        progress.advance(1)


def render_report(analysis: Analysis, study: StudyFolder | None) -> str:
    """The report as one HTML file that needs no other."""
    templates = http.template_environment(PAGE_FOLDER)
    forms = {"percent": formats.percent, "points": formats.points, "p": formats.p_value, "decimal": formats.decimal}
    templates.filters |= forms
    templates.globals |= {**forms, "interval": formats.interval}
    pictures = {version: group for version, group in analysis.pictures.groupby("version", sort=False)}
    return templates.get_template("report.html").render(
        findings=describe_findings(analysis),
        versions=analysis.versions.to_dict("records"),
        comparisons=analysis.comparisons.to_dict("records"),
        comparisons_of_all=analysis.comparisons_of_all.to_dict("records") if analysis.left_out else [],
        published=analysis.published.to_dict("records"),
        groups=analysis.groups.to_dict("records"),
        names=analysis.collected.versions,
        left_out=analysis.left_out,
        spread=analysis.spread,
        margin=analysis.settings.margin,
        draws=analysis.settings.draws,
        original_paper=statistics.ORIGINAL_PAPER_SUMMARY,
        ranges=figures.versions_figure(analysis.versions),
        people=figures.people_figure(analysis.people),
        sorted={version: figures.pictures_figure(group) for version, group in pictures.items()},
        galleries={version: _gallery(group, study) for version, group in pictures.items()} if study else {},
    )


def _gallery(pictures: pd.DataFrame, study: StudyFolder) -> list[dict[str, Any]]:
    """Pictures of a version, from the one that was taken for real most often to the least."""
    judged = pictures[pictures["answers"] > 0]
    if len(judged) > _MOST_THUMBNAILS:
        third, middle = _MOST_THUMBNAILS // 3, len(judged) // 2
        parts = [judged[:third], judged[middle - third // 2 : middle - third // 2 + third], judged[-third:]]
        judged = pd.concat(parts)
    return [
        {"image": figures.thumbnail_url(study, row.picture), "scene": row.scene, "realness": row.realness}
        for row in judged.itertuples()
    ]


def _folder(settings: ReportStudy) -> Path:
    if settings.dir is None:
        raise UserError("koala study report needs the folder of a study, or --csv FILE with a Google form's answers")
    return settings.dir


def _csv(settings: ReportStudy) -> Path:
    if settings.dir is not None:
        raise UserError(f"--csv is read instead of {settings.dir}; name one of them")
    assert settings.csv is not None
    return settings.csv
