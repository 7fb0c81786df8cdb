"""What the site found on suspected nodes reaches the run's own record, once, and counts."""

from __future__ import annotations

from dataclasses import replace

from run_fakes import NOW, PLAN, Run

from sovctl.model.site_answer import SiteAnswer, SiteWord
from sovctl.recovery.exclusion import exclusions


def answer(node: str, state: SiteWord, seq: int = 3) -> SiteAnswer:
    return SiteAnswer(node, state, NOW, seq, "XID79 GPU 5", drained=state is SiteWord.FAILED)


def test_an_answer_is_taken_in_once_while_the_script_runs_and_by_the_next_supervisor() -> None:
    run = Run(nodes=6, count=2)
    run.on_start = lambda child: run.clock.at(run.clock.time - NOW + 60, lambda: child.end(0))
    run.clock.at(20.0, lambda: run.site_answers.append(answer("n005", SiteWord.FAILED)))
    run.clock.at(40.0, lambda: run.site_answers.append(answer("n006", SiteWord.CLEARED)))
    run.attempt()
    noted = [(event["node"], event["state"], event["attempt"]) for event in run.of("site_checked")]
    assert noted == [("n005", "failed", 0), ("n006", "cleared", 0)]
    assert 20 <= run.of("site_checked")[0]["at"] - NOW <= 31
    assert [item.node for item in exclusions(run.journal.records, NOW + 60)] == ["n005"]


def test_what_the_site_found_between_two_executions_is_read_before_the_next() -> None:
    run = Run(nodes=6, count=2)
    run.journal.append("attempt_started", attempt=0, job_id="0", restarts=0, nodes=["n001", "n002"], batch_host="n001")
    run.site_answers.append(answer("n003", SiteWord.FAILED))
    run.on_start = lambda child: run.clock.at(run.clock.time - NOW + 30, lambda: child.end(0))
    run.attempt()
    kinds = run.kinds
    assert kinds.index("site_checked") < kinds.index("attempt_started", 1)
    assert kinds.count("site_checked") == 1


def test_what_the_site_found_for_an_earlier_run_with_the_same_job_id_is_not_taken_in() -> None:
    run = Run(nodes=6, count=2)
    run.on_start = lambda child: run.clock.at(run.clock.time - NOW + 60, lambda: child.end(0))
    old, new = answer("n005", SiteWord.FAILED), answer("n006", SiteWord.CLEARED)
    run.site_answers += [replace(old, checked_at=PLAN.submitted - 0.5), replace(new, checked_at=PLAN.submitted + 0.5)]
    run.attempt()
    assert [event["node"] for event in run.of("site_checked")] == ["n006"]
