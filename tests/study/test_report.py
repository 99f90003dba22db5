"""The report: of the replication's form, of a study with a planted effect, and of studies with hardly an answer."""

import csv
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from koala import cli
from koala.config.study import PowerStudy, ReportStudy
from koala.core.errors import UserError
from koala.study import answers, formats, power, report, server
from koala.study.analysis import Analysis
from koala.study.findings import describe_findings
from koala.study.folder import StudyFolder
from koala.study.site import StudySite
from koala.study.store import AnswerStore
from koala.study.trials import AttentionCheck
from tests.study.visitor import Visitor

# answers "Real" to each picture of the replication's form, by its answers file; 60 people, of whom one left the last
# coloured picture open
COLORED = {
    "Image 9": 47,
    "Image 24": 41,
    "Image 57": 24,
    "Image 101": 34,
    "Image 150": 18,
    "Image 188": 16,
    "Image 201": 27,
    "Image 244": 24,
    "Image 290": 31,
}
ORIGINALS = {"Image 110": 47, "Image 230": 50, "Image 311": 23}


@pytest.fixture
def form(tmp_path) -> Path:
    """A file as Google Forms gives it, with the replication's numbers of answers in an order of its own."""
    rng, columns = np.random.default_rng(0), {}
    for name, count in {**COLORED, **ORIGINALS}.items():
        column = np.array(["Real"] * count + ["Fake"] * (60 - count), dtype=object)
        if name == "Image 290":
            column[-1] = ""
        columns[name] = rng.permutation(column)
    columns["Do you study AI?"] = ["yes", "no"] * 30
    path = tmp_path / "answers.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        names = rng.permutation(list(columns)).tolist()
        writer.writerow(["Timestamp", *names])
        for person in range(60):
            writer.writerow(
                [f"2022/03/{person % 30 + 1:02} 3:14:15 PM GMT+1", *(columns[name][person] for name in names)]
            )
    return path


def settings(**changes) -> ReportStudy:
    return ReportStudy(**{"draws": 999, **changes})


def test_the_replications_form(form, tmp_path, capsys):
    words_of_command = ["--csv", str(form), "--originals", ",".join(ORIGINALS), "--out", str(tmp_path / "out")]
    assert cli.main(["study", "report", *words_of_command, "--draws", "999"]) == 0
    said = capsys.readouterr().out
    assert "60 people gave 719 answers about 12 pictures of 12 scenes" in said
    assert "As the replication tested it, with 60 participants as n, p is 0.49310; with the 9 pictures as n" in said
    assert "which the sd is over, it is 0.781. Only the second is a valid test" in said
    assert (
        "score 48.5 % (the mean over pictures, with open answers as not real; 48.6 % of those given), sd 17.1 %."
        in said
    )
    assert "Pictures by recoloured were taken for real in 48.6 % of all answers" in said
    (published,) = pd.read_csv(tmp_path / "out/published.csv").to_dict("records")
    assert published["mean"] == pytest.approx(0.485185, abs=1e-6)
    assert published["sd"] == pytest.approx(0.170873, abs=1e-6)
    assert published["p_with_participants_as_n"] == pytest.approx(0.49309841721744707, rel=1e-9)
    assert published["p_with_pictures_as_n"] == pytest.approx(0.78109, abs=1e-5)
    assert published["p_welch"] == pytest.approx(0.78134, abs=1e-5)


def test_the_replications_pictures(form):
    analysis = Analysis(answers.read_form_csv(form, ",".join(ORIGINALS)), None, [], settings())
    table = analysis.pictures.set_index("picture")
    assert {name: table.real[name] for name in (*COLORED, *ORIGINALS)} == {**COLORED, **ORIGINALS}
    assert table.realness["Image 290"] == pytest.approx(31 / 59), "who did not answer is not asked"
    assert table.realness_of_asked["Image 290"] == pytest.approx(31 / 60), "but the replication did so"
    versions = analysis.versions.set_index("version")
    assert versions.realness["original"] == pytest.approx(0.666667, abs=1e-6)
    assert versions.sd_of_pictures["original"] == pytest.approx(0.246644, abs=1e-6)
    assert versions.low["original"] < 0.4, "three originals say little of originals at large"
    assert len(analysis.people) == 60
    assert set(analysis.groups["reply"]) == {"yes", "no"}


def test_a_form_has_a_page_with_both_figures(form, tmp_path):
    report.report_command(settings(csv=form, originals=", ".join(ORIGINALS), out=tmp_path / "out"))
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("<svg") == 4, "versions, coloured pictures, originals, people"
    shares = [float(share) for share in re.findall(r"<title>Image \d+: \d+ of \d+, ([\d.]+) %", page)]
    assert shares[:3] == sorted(shares[:3], reverse=True)
    assert shares[3:] == sorted(shares[3:], reverse=True)
    assert len(shares) == 12
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


@pytest.mark.parametrize(
    ("text", "originals", "message"),
    [
        (None, "", "does not exist; name the CSV"),
        ("Timestamp,Age\n1,30\n", "", 'has no column with "Real" and "Fake"'),
        ("Timestamp,Image 1\n1,Real\n", "Image 2", "has no picture Image 2; did you mean Image 1?"),
        ("Timestamp,Image 1\n1,Real\n", "x", "has no picture x; known: Image 1"),
        ("", "", "is not a CSV"),
    ],
)
def test_a_form_that_is_none_is_one_sentence(tmp_path, text, originals, message):
    path = tmp_path / "form.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as error:
        answers.read_form_csv(path, originals)
    assert message in str(error.value)


# ---------------------------------------------------------------- a study


@pytest.fixture(scope="module")
def planted(built, tmp_path_factory) -> StudyFolder:
    """40 people, fooled by koala in 25 %, by other as by originals in 75 %.

    The first always says "Fake", the second fails the check, the third leaves.
    """
    study = StudyFolder.open(Path(shutil.copytree(built, tmp_path_factory.mktemp("planted") / "study")))
    (study.path / "admin-token.txt").write_text("the same draws in each test run\n")
    chance = {"original": 0.75, "koala": 0.25, "other": 0.75}
    site, store, rng = StudySite(study), AnswerStore(study.answers_path), np.random.default_rng(1)

    def answer(number: int, trial: str | AttentionCheck) -> str:
        if isinstance(trial, AttentionCheck):
            return {"real": "fake", "fake": "real"}[trial.expected] if number == 1 else trial.expected
        return "real" if number and rng.random() < chance[study.manifest.find_picture(trial).version] else "fake"

    with store.transaction():
        for number in range(40):
            store.add_participant(str(number), "en", site.draw_trials, 0.0)
            me = store.participant(str(number))
            store.save_replies(me.id, {"expert": "profession" if number % 4 else "no", "color_vision": "good"}, 1.0)
            for position in range(1, 3 if number == 2 else me.total + 1):
                store.mark_shown(me.id, position, position)
                store.save_answer(me.id, position, answer(number, store.trial(me.id, position)), 800, position + 1)
    store.close()
    site.queue.close()
    return study


@pytest.fixture(scope="module")
def analysis(planted) -> Analysis:
    collected = answers.read_study(planted)
    counted, left_out = answers.exclude_participants(collected, settings())
    return Analysis(counted, collected, left_out, settings())


def test_the_planted_effect_is_found(analysis):
    rows = {(row["version"], row["other"]): row for row in analysis.comparisons.to_dict("records")}
    assert rows["koala", "other"]["low"] < -0.5 < rows["koala", "other"]["high"]
    assert rows["koala", "original"]["p_holm"] < 0.01
    assert rows["other", "original"]["p"] > 0.05
    assert rows["other", "original"]["low"] < 0 < rows["other", "original"]["high"]
    versions = analysis.versions.set_index("version")
    assert versions.low["koala"] < 0.25 < versions.high["koala"]
    assert versions.d_prime["koala"] > 1 > 0.5 > versions.d_prime["other"]


def test_who_was_left_out_is_said(analysis):
    assert analysis.left_out == ["1 participant failed an attention check"]
    assert len(analysis.everything.people) == 40
    assert len(analysis.people) == 39
    assert len(analysis.comparisons_of_all) == len(analysis.comparisons)
    assert "Left out: 1 participant failed an attention check." in describe_findings(analysis)[0]


def test_who_always_says_fake_is_found_and_no_good_detector(analysis):
    one_sided = analysis.people[analysis.people["one_sided"]]
    assert 1 in one_sided["participant"].tolist()
    first = analysis.people.set_index("participant").loc[1]
    assert first["hits"] == first["fakes"] > 0
    assert abs(first["d_prime"]) < 0.2
    assert first["criterion"] < -1
    assert "nearly always the same answer, which is no skill" in " ".join(describe_findings(analysis))


def test_who_left_early_counts_as_far_as_they_came(analysis):
    assert analysis.collected.answers.groupby("participant").size()[3] in (1, 2)


def test_people_may_be_left_out_by_what_they_said(planted):
    collected = answers.read_study(planted)
    left, said = answers.exclude_participants(collected, settings(exclude=("expert=no",), failed_checks=1))
    assert said[0] == "10 participants answered no to expert"
    assert set(left.people["reply expert"]) == {"profession"}
    with pytest.raises(UserError, match="were not asked age; known: color_vision, expert"):
        answers.exclude_participants(collected, settings(exclude=("age=30",)))


def test_answers_after_the_time_are_left_out(planted, tmp_path):
    study = StudyFolder.open(Path(shutil.copytree(planted.path, tmp_path / "study")))
    path = study.path / "study.toml"
    path.write_text(path.read_text().replace("time_limit_s = 0.0", "time_limit_s = 2.0"))
    with closing(sqlite3.connect(study.answers_path)) as database, database:
        database.execute("UPDATE trial SET time_ms = 5000 WHERE position = 2")
    collected = answers.read_study(study)
    late = collected.answers[collected.answers["real"].isna()]
    assert set(late["position"]) == {2}
    _, said = answers.exclude_participants(collected, settings())
    assert said[-1] == f"{len(late[late['participant'] != 2])} pictures were not answered, or not in time"


def test_answers_without_times_are_reported(planted, tmp_path, capsys):
    """Older servers kept answers to pictures that were never shown."""
    study = StudyFolder.open(Path(shutil.copytree(planted.path, tmp_path / "study")))
    with closing(sqlite3.connect(study.answers_path)) as database, database:
        database.execute(
            "UPDATE trial SET shown_at = NULL, time_ms = NULL WHERE (participant, position) IN (VALUES (5, 1), (6, 1))"
        )
    report.report_command(settings(dir=study.path, out=tmp_path / "out", draws=199))
    assert "How long it took is not known of 2 answers: the picture was never shown." in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "out/answers.csv")
    assert table["seconds"].isna().sum() == 2
    with closing(sqlite3.connect(study.answers_path)) as database, database:
        database.execute("UPDATE trial SET shown_at = NULL, answered_at = NULL, time_ms = NULL")
    report.report_command(settings(dir=study.path, out=tmp_path / "out", draws=199))
    assert "nan" not in (tmp_path / "out/report.html").read_text()


def test_one_answer_is_one_answer(study, site, tmp_path, capsys):
    person = Visitor(TestClient(server.create_app(site)))
    person.begin()
    person.send(answer="real")  # to practise
    person.send(answer="real")  # never a check
    (said,) = re.findall(r".*gave.*", _reported(study, tmp_path, capsys))
    assert said == "1 person gave 1 answer about 1 picture of 1 scene."
    with closing(sqlite3.connect(study.answers_path)) as database, database:
        second = "SELECT min(position) FROM trial WHERE picture IS NOT NULL AND position > 1"  # where no check stands
        database.execute(f"UPDATE trial SET answer = 'none', answered_at = 3, shown_at = 2 WHERE position = ({second})")
    assert "Left out: 1 picture was not answered, or not in time." in _reported(study, tmp_path, capsys)
    page = (tmp_path / "out/report.html").read_text()
    assert "nan" not in page


def _reported(study: StudyFolder, folder: Path, capsys) -> str:
    report.report_command(settings(dir=study.path, out=folder / "out", draws=199))
    return capsys.readouterr().out


def test_there_is_one_minus_sign_and_one_dash(planted, tmp_path, capsys):
    said = _reported(planted, tmp_path, capsys)
    page = re.sub(
        r"<style>.*?</style>|src=\"[^\"]*\"|<code>.*?</code>",
        "",
        (tmp_path / "out/report.html").read_text(),
        flags=re.S,
    )
    for text in (said, page):
        assert "−" in text
        assert not re.search(r"(?<![\w.#])-\d", text), "a hyphen for a minus"


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (formats.percent, 0.48609, "48.6 %"),
        (formats.percent, 0.0, "0.0 %"),
        (formats.percent, np.nan, "–"),
        (formats.points, -0.0314, "−3.1"),
        (formats.points, 0.0314, "+3.1"),
        (formats.points, -0.0001, "+0.0"),
        (formats.decimal, -0.126, "−0.13"),
        (formats.decimal, -0.001, "0.00"),
        (formats.decimal, None, "–"),
        (formats.p_value, 0.0004, "< 0.001"),
        (formats.p_value, 0.0514, "0.051"),
    ],
)
def test_numbers_as_people_read_them(form, value, text):
    assert form(value) == text


def test_intervals_as_people_read_them():
    assert formats.interval(0.402, 0.571) == "40.2 % to 57.1 %"
    assert formats.interval(-0.1, 0.02, formats.points) == "−10.0 to +2.0"
    assert formats.interval(np.nan, np.nan) == "–"


def test_the_report_is_one_page_with_pictures(planted, tmp_path, capsys):
    assert cli.main(["study", "report", str(planted.path), "--out", str(tmp_path / "out"), "--draws", "499"]) == 0
    page = (tmp_path / "out/report.html").read_text()
    assert page.count('src="data:image/jpeg;base64,') == 36
    assert page.count("<svg") == 5
    assert "koala study power --participants-sd" in page
    names = {path.name for path in (tmp_path / "out").iterdir()}
    tables = {
        "versions.csv",
        "comparisons.csv",
        "pictures.csv",
        "people.csv",
        "groups.csv",
        "published.csv",
        "answers.csv",
    }
    assert names == tables | {"report.html"}
    assert len(pd.read_csv(tmp_path / "out/pictures.csv")) == 36
    assert "Pictures by koala are taken for real" in capsys.readouterr().out


def test_the_same_report_twice_is_the_same(planted, tmp_path):
    for name in ("one", "two"):
        report.report_command(settings(dir=planted.path, out=tmp_path / name))
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_what_people_write_is_only_text(planted, tmp_path):
    collected = answers.read_study(planted)
    collected.people["reply expert"] = "<script>alert(1)</script>"
    page = report.render_report(Analysis(collected, collected, ["<b>left</b> out"], settings()), planted)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "<b>left</b>" not in page


def test_a_study_with_hardly_an_answer(study, site, tmp_path, capsys):
    with pytest.raises(UserError, match="there is no answer that counts"):
        report.report_command(settings(dir=study.path, out=tmp_path / "out"))
    person = Visitor(TestClient(server.create_app(site)))
    person.begin()
    person.send(answer="real")  # to practise
    person.send(answer="real")  # never a check
    report.report_command(settings(dir=study.path, out=tmp_path / "out"))
    assert "There are too few answers to compare pictures by koala with originals" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "needs the folder of a study, or --csv FILE"),
        ({"dir": Path("/nowhere")}, "/nowhere holds no manifest.json"),
        ({"dir": Path("/nowhere"), "csv": Path("x.csv")}, "--csv is read instead of /nowhere"),
    ],
)
def test_settings_that_do_not_go_together(changes, message):
    with pytest.raises(UserError) as error:
        report.report_command(settings(**changes))
    assert message in str(error.value)


def test_a_study_that_nobody_saw(built, tmp_path):
    with pytest.raises(UserError, match="holds no answers yet; koala study serve collects them"):
        report.report_command(settings(dir=built, out=tmp_path / "out"))


# ---------------------------------------------------------------- power


def small(**changes) -> PowerStudy:
    default = {"participants": (20, 80), "scenes": (24,), "shown": 12, "simulations": 60, "difference": 0.2}
    return PowerStudy(**{**default, **changes})


def test_more_people_find_more():
    table = power.simulate_power(small())
    few, many = table.to_dict("records")
    assert few["find"] < many["find"] > 0.8
    assert few["equate"] < many["equate"]
    assert many["answers a model"] == 80 * 3


def test_power_is_the_level_where_there_is_no_difference():
    """Half a hundredth of a point is as good as none."""
    table = power.simulate_power(small(difference=5e-5, simulations=400))
    assert table["find"].between(0.01, 0.09).all()


def test_power_of_one_model_against_a_known_realness():
    (row,) = power.simulate_power(small(models=1, participants=(80,))).to_dict("records")
    assert row["find"] > 0.7


def test_power_depends_on_the_seed_alone():
    assert power.simulate_power(small()).equals(power.simulate_power(small()))


def test_power_is_printed_as_a_table(capsys):
    flags = ["--participants", "20", "40", "--scenes", "12", "--shown", "12", "--simulations", "20"]
    assert cli.main(["study", "power", *flags]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-3].split() == ["participants", "scenes", "answers", "a", "model", "find", "equate"]
    assert [line.split()[0] for line in out[-2:]] == ["20", "40"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shown", "30"], "--shown 30 needs as many --scenes"),
        (["--realness", "0.9", "--difference", "0.2"], "is no share; choose less"),
    ],
)
def test_power_that_cannot_be(flags, message, capsys):
    assert cli.main(["study", "power", *flags]) == 2
    assert message in capsys.readouterr().err
