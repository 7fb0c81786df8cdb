"""Where runs keep their records is written down once, whoever starts the watch how often."""

from __future__ import annotations

from watch_fakes import RUN, Watched

from sovctl.model.verdict import VerdictState

ELSEWHERE = RUN.replace("--name x", "--name x --run-dir /scratch/u/runs")


def _places(site: Watched) -> list[tuple[int, str]]:
    return [(event["uid"], event["directory"]) for event in site.of("records-at")]


def test_each_directory_is_written_down_once() -> None:
    site = Watched()
    site.site.runs("7", "n001")
    site.site.runs("8", "n002", script=ELSEWHERE)
    site.site.runs("9", "n003", script="#!/bin/sh\n")
    site.passes(12)
    wanted = [(1000, "/home/u/.sovctl/runs"), (1000, "/scratch/u/runs")]
    assert _places(site) == wanted
    site.start()
    site.site.runs("10", "n004", script=ELSEWHERE)
    site.passes(12)
    assert _places(site) == wanted


def test_who_gives_every_job_a_directory_of_its_own_fills_nobodys_journal() -> None:
    site = Watched()
    for number in range(1, 301):
        site.site.runs(str(number), "n001", script=RUN.replace("--name x", f"--name x --run-dir /scratch/{number}"))
    site.passes(60)
    assert len(_places(site)) == 200
    site.clock.sleep(86400)
    site.passes(60)
    assert len(_places(site)) == 300


def test_a_run_that_waits_when_the_watch_starts_is_heard_when_it_runs() -> None:
    site = Watched()
    site.site.runs("7", "n001", "n002")
    site.site.requeued("7", wait_s=20)
    site.start()
    site.passes(4)
    site.site.runs("7", "n003", "n004")
    site.verdicts["n004"] = VerdictState.FAILED
    said = {"kind": "attempt_ended", "seq": 9, "at": site.clock.time, "culprit": "hardware", "blamed": ["n004"]}
    site.words["7"] = [said]
    site.passes(30)
    assert ("drain", "n004") in site.site.did
