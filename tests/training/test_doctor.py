"""The page of `koala doctor`: the worst of all processes, a remedy for each, and an exit code."""

import re
import time

import pytest

from koala import cli
from koala.config.training import TrainSettings
from koala.core.errors import UserError
from koala.training import doctor
from koala.training.doctor import DoctorCheck, ProcessFinding
from koala.training.findings import Finding
from koala.training.process_store import ProcessStore
from tests.company import company
from tests.processes import finish, start, start_two

OK = Finding("ok", "all is well")
BAD = Finding("failed", "no shards", "make some")


@pytest.fixture
def alone():
    return ProcessStore(host="n1")


@pytest.fixture
def words(shard_folder, tmp_path) -> list[str]:
    """A training on the small photographs that can begin anywhere."""
    return [
        *("doctor", "--data.shards", str(shard_folder), "--data.size", "16", "--data.threads", "1"),
        *("--extractor.name", "none", "--batch-size", "4", "--run", str(tmp_path / "run"), "--device", "cpu"),
    ]


def lines(printed: str) -> dict[str, str]:
    """The page's lines: name, and status with what comes after it."""
    return dict(re.findall(r"^(\S[\w ]*?) {2,}((?:ok|warning|failed) .*)$", printed, re.MULTILINE))


# ---------------------------------------------------------------- one check


def look(function, **options) -> DoctorCheck:
    return DoctorCheck("check", "process", function, **options)


def test_a_users_error_is_a_finding_with_its_remedy(alone):
    def refuse(settings, store):
        raise UserError("runs/a; b is not writable; choose another --run")

    finding = doctor.run_check(look(refuse), TrainSettings(), alone)
    assert finding == Finding("failed", "runs/a; b is not writable", "choose another --run")


def test_an_error_that_was_not_foreseen_is_a_finding(alone):
    finding = doctor.run_check(look(lambda settings, store: 1 / 0), TrainSettings(), alone)
    assert (finding.status, finding.text) == ("failed", "ZeroDivisionError: division by zero")
    assert finding.remedy


def test_a_check_that_does_not_end_is_a_finding(alone):
    stuck = look(lambda settings, store: time.sleep(5), patience_s=0.1, when_stuck="name the interface")
    finding = doctor.run_check(stuck, TrainSettings(), alone)
    assert (finding.status, finding.text, finding.remedy) == ("failed", "no end after 0 s", "name the interface")


# ---------------------------------------------------------------- of all processes


def answers(*findings: Finding, hosts=("n1", "n1", "n2", "n3")) -> list[ProcessFinding]:
    return [
        ProcessFinding(host, rank, finding) for rank, (host, finding) in enumerate(zip(hosts, findings, strict=False))
    ]


def test_what_all_found_is_nobodys():
    assert doctor.merge_findings(answers(BAD, BAD, BAD)) == BAD


@pytest.mark.parametrize(
    ("findings", "text"),
    [
        ((OK, OK, BAD), "n2: no shards"),
        ((OK, OK, BAD, BAD), "n2 and 1 more: no shards"),
        ((OK, BAD), "process 1: no shards"),
        ((Finding("warning", "slow"), OK, BAD), "n2: no shards"),
    ],
)
def test_the_worst_is_told_with_its_place(findings, text):
    assert doctor.merge_findings(answers(*findings)) == Finding("failed", text, "make some")


def test_of_the_good_the_least_is_told():
    findings = [Finding("ok", f"{free} GB free", measure=free) for free in (30, 10, 20)]
    assert doctor.merge_findings(answers(*findings)).text == "10 GB free"


def test_a_reason_is_told_rather_than_that_others_wait():
    waits = Finding("failed", "no end after 60 s", measure=1)
    assert doctor.merge_findings(answers(waits, waits, BAD)).text == "n2: no shards"


def examined(monkeypatch, capsys, *checks: DoctorCheck, silent=()) -> tuple[list, str]:
    """The exit codes of four processes, and what they print."""
    monkeypatch.setattr(doctor, "CHECKS", checks)
    codes = company(lambda here: doctor.run_checks(TrainSettings(), here), silent=silent)
    return codes, capsys.readouterr().out


def test_the_first_process_prints_for_all(monkeypatch, capsys):
    checks = (
        DoctorCheck("shards", "node", lambda settings, store: BAD if store.rank == 2 else OK),
        DoctorCheck("batch", "main", lambda settings, store: OK),
        DoctorCheck("clock", "process", lambda settings, store: OK),
    )
    codes, printed = examined(monkeypatch, capsys, *checks)
    assert codes == [1, 1, 1, 1]
    assert printed.splitlines() == [
        "koala doctor: 4 processes on 2 nodes (n1, n2)",
        "",
        "shards         failed   n2: no shards",
        "                        -> make some",
        "batch          ok       all is well",
        "clock          ok       all is well",
        "",
        "1 failed, 0 warnings, 2 ok",
    ]


def test_each_looks_when_it_is_its_turn(monkeypatch, capsys):
    looked = []

    def note(name):
        return lambda settings, store: looked.append((name, store.rank)) or OK

    examined(monkeypatch, capsys, *(DoctorCheck(by, by, note(by)) for by in ("process", "node", "main")))
    assert sorted(looked) == [("main", 0), ("node", 0), ("node", 2), *(("process", rank) for rank in range(4))]


def test_warnings_are_no_failure(monkeypatch, capsys):
    codes, printed = examined(monkeypatch, capsys, look(lambda settings, store: Finding("warning", "slow", "wait")))
    assert codes == [0, 0, 0, 0]
    assert printed.endswith("\nnothing failed, 1 warning, 0 ok\n")


def test_a_lost_process_fails_and_keeps_nobody_waiting(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "MARGIN_S", 0.2)
    checks = (DoctorCheck(name, "process", lambda settings, store: OK, patience_s=0.2) for name in ("first", "second"))
    codes, printed = examined(monkeypatch, capsys, *checks, silent=[3])
    assert codes == [1, 1, 1, None]
    assert lines(printed) == dict.fromkeys(("first", "second"), "failed   n2: no answer from this process")


# ---------------------------------------------------------------- the page


def test_long_lines_are_wrapped_and_commands_stay_whole():
    finding = Finding("failed", "word " * 20, "see https://example.org/" + "x" * 60 + " for it")
    printed = doctor.format_line("run folder", finding, width=60)
    assert printed.splitlines()[0].startswith("run folder     failed   word word")
    assert "\n                        -> see\n" in printed
    assert "https://example.org/" + "x" * 60 in printed
    assert max(len(line) for line in printed.splitlines() if "http" not in line) <= 60


def test_statuses_are_colored_on_a_terminal():
    assert "\033[32mok" in doctor.format_line("batch", OK, 80, colored=True)
    assert "\033" not in doctor.format_line("batch", OK, 80)


# ---------------------------------------------------------------- the command


def test_a_good_setup(words, tmp_path, capsys):
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    found = lines(printed)
    assert list(found) == [check.name for check in doctor.CHECKS]
    assert "failed" not in {line.split()[0] for line in found.values()}
    assert "nothing failed" in printed
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"


def test_what_is_amiss_is_found_in_one_go(words, capsys):
    assert (
        cli.main([*words, "--processes", "2", "--gradient-accumulation-steps", "3", "--data.shards", "/nowhere"]) == 1
    )
    printed = capsys.readouterr().out
    found = lines(printed)
    assert {name for name, line in found.items() if line.startswith("failed")} == {"batch", "shards", "network"}
    assert "choose --batch-size a multiple of 3" in printed
    assert "launch with one of the files in launch/" in printed
    assert "\n3 failed, " in printed


def test_a_machine_without_shards_or_weights(tmp_path, monkeypatch, capsys):
    """It is well all the same: there is nothing yet that it could be used for."""

    def no_network(_):
        raise UserError("the weights cannot be fetched from here; bring them")

    monkeypatch.setattr("koala.models.extractor.bytes_to_download", no_network)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor", "--device", "cpu"]) == 0
    found = lines(capsys.readouterr().out)
    assert found["shards"] == "warning  none at shards/data"
    assert found["extractor"] == "warning  the weights cannot be fetched from here"


def test_it_takes_a_run_file_and_the_trainings_flags(words, tmp_path, capsys):
    path = tmp_path / "run.toml"
    path.write_text("batch_size = 6\ngradient_accumulation_steps = 2\n")
    assert cli.main(["doctor", str(path), *words[1:], "--batch-size", "8"]) == 0
    assert lines(capsys.readouterr().out)["batch"] == "ok       8 images = 1 process x 2 pieces x 4"


@pytest.mark.slow
def test_two_processes_find_each_other(words):
    printed = finish(start_two(*words))
    found = lines(printed)
    assert "koala doctor: 2 processes on 1 node" in printed
    assert found["network"].startswith("ok       gloo all-reduces gradients of ")
    assert found["same folder"] == "ok       seen by 2 processes on 1 node"
    assert found["batch"] == "ok       4 images = 2 processes x 1 piece x 2"


@pytest.mark.slow
def test_two_processes_that_do_not_find_each_other(words, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth77")
    printed = finish(start_two(*words), code=1)
    found = lines(printed)
    assert found["network"].startswith("failed   the processes do not reach each other")
    assert "GLOO_SOCKET_IFNAME" in printed
    assert {name for name, line in found.items() if line.startswith("failed")} == {"network"}


@pytest.mark.slow
def test_processes_that_train_alone_are_reported(words):
    launcher = ("accelerate.commands.launch", "--cpu", "--num_machines", "2", "--num_processes", "2")
    alone = (*launcher, "--machine_rank", "0", "--main_process_ip", "127.0.0.1", "--main_process_port", "29512")
    printed = start(*words, launcher=alone).communicate(timeout=240)[0]
    assert lines(printed)["network"].startswith("failed   several processes were asked for")
