"""A report as one page: HTML, CSS and SVG in one file, without a script and without a request to anywhere.

Bars are boxes and points are strokes of an SVG that stretches, so that the words beside them keep
their size on a phone. Everything that comes from outside is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape

from sovctl.cli.report import chains, days, gpu_hours, hours, lost, plain, share
from sovctl.cli.words import clock_time, printable
from sovctl.ledger.incident import Incident, ProbeCount, Source
from sovctl.ledger.report import Bucket, NamedCount, Report, StageFigure, restart_s
from sovctl.recovery.explain import duration

Fold = Callable[[Iterable[str]], str]
_DOTS = 4000
"""Newest incidents that are drawn; a page of some megabytes opens nowhere."""
_LISTED = 60
_RUNS = 24

_STYLE = """
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1b1b1a;--dim:#62625e;--line:#e2e1dc;--grid:#ecebe6;
--bar:#3566a8;--soft:#c9d7ea;--hardware:#c2502c;--fabric:#2a78b8;--storage:#1d8a74;--user-code:#7d52a8;--unknown:#77756f;
--preempted:#b08a1e;--time-limit:#b08a1e}
@media(prefers-color-scheme:dark){:root{--bg:#161615;--card:#1f1f1d;--ink:#ecebe6;--dim:#a3a19a;--line:#35342f;
--grid:#2a2926;--bar:#7ba7e0;--soft:#2c405c;--hardware:#f0805a;--fabric:#6bb1ea;--storage:#4fc3aa;--user-code:#bb93e2;
--unknown:#a9a79f;--preempted:#d9b54a;--time-limit:#d9b54a}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:20px 16px 48px}
h1{font-size:1.5rem;margin:0}h2{font-size:1.05rem;margin:0 0 2px}
p{margin:0}.dim{color:var(--dim);font-size:.86rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,290px),1fr));gap:12px;margin:18px 0}
.tile,section{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:14px 16px}
.tile b{display:block;font-size:1.7rem;line-height:1.25;font-weight:600;font-variant-numeric:tabular-nums}
section{margin:0 0 14px;min-width:0}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:0 14px}
.row{display:grid;grid-template-columns:minmax(90px,150px) 1fr minmax(64px,auto);gap:10px;
align-items:center;padding:3px 0;font-variant-numeric:tabular-nums}
.row>:first-child{overflow-wrap:anywhere}.row>:last-child{text-align:right}
.track{position:relative;height:14px;background:var(--grid);border-radius:3px}
.track i{position:absolute;inset:0 auto 0 0;background:var(--bar);border-radius:3px}
.track i.soft{background:var(--soft)}
.plot{display:grid;grid-template-columns:52px 1fr;grid-template-rows:200px auto;margin-top:10px}
.plot .y{position:relative;font-size:.75rem;color:var(--dim)}
.plot .y span{position:absolute;right:8px;transform:translateY(-50%);white-space:nowrap}
.plot svg{width:100%;height:100%;display:block;overflow:visible}
.plot .x{grid-column:2;display:flex;justify-content:space-between;font-size:.75rem;color:var(--dim);padding-top:4px}
.key{display:flex;flex-wrap:wrap;gap:4px 14px;font-size:.82rem;color:var(--dim);margin-top:6px}
.key i{display:inline-block;width:10px;height:10px;border-radius:50%;margin-right:5px}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.86rem;font-variant-numeric:tabular-nums}
th{text-align:left;font-weight:600;color:var(--dim);white-space:nowrap}
td,th{padding:5px 12px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}td.n,th.n{text-align:right}
td.t{white-space:nowrap}td.e{min-width:220px;overflow-wrap:anywhere}
"""


def page(found: Report, fold: Fold = ",".join) -> str:
    """The whole document."""
    title = f"sovctl report, {clock_time(found.since)[:10]} to {clock_time(found.until)[:10]}"
    parts = [
        f"<header><h1>{_text(title)}</h1><p class=dim>{_text(_subtitle(found))}</p></header>",
        _tiles(found),
        _section("Time to recover", "from the fault to the first step, each incident a point", _scatter(found)),
        "<div class=two>",
        _section("Failures", "in each part of the period", _failures(found.buckets)),
        _section("Trend of the recovery", "median of each part of the period", _trend(found.buckets)),
        "</div>",
        _section("Where the time goes", "median of each stage, light: 9 of 10 are within", _stages(found.stages)),
        _section("Share of the time that was training (ETTR)", _ettr_words(found), _ettr(found)),
        "<div class=two>",
        _section("Nodes", "incidents", _counts(found.nodes)),
        _section("GPUs by serial number", "hard faults", _counts(found.gpus)),
        "</div>",
        _section("Probes", "false: drained, and passed the loaded test in the same boot", _probes(found)),
        _section("Runs", "", _runs(found)),
        _section("Newest incidents", "", _incidents(found, fold)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        # Nothing is fetched, not even an icon; a browser that knows no better is told so.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">'
        '<link rel="icon" href="data:,">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body><main>"
        + "\n".join(part for part in parts if part)
        + "</main></body></html>\n"
    )


def _text(words: str) -> str:
    return escape(printable(words))


def _subtitle(found: Report) -> str:
    culprits = ", ".join(f"{count} {culprit.value}" for culprit, count in found.by_culprit)
    return f"{len(found.runs)} runs, {len(found.incidents)} interruptions" + (f": {culprits}" if culprits else "")


def _section(title: str, words: str, body: str) -> str:
    if not body:
        return ""
    return f"<section><h2>{_text(title)}</h2>{_dim(words)}{body}</section>"


def _tiles(found: Report) -> str:
    restart, again = found.restart, found.caught_up
    figures = (
        ("Mean time to failure", *_parted(hours(found.mttf))),
        ("A node fails after", *_parted(days(found.node_days))),
        (
            "Median time to recover",
            duration(restart.median) if restart else "-",
            f"{restart.count} recoveries, 9 of 10 within {duration(restart.p90)}"
            + (f"; every step done again after {duration(again.median)}" if again else "")
            if restart
            else "nothing came back by itself",
        ),
        ("ETTR", share(found.ettr), "of the time that runs had was training that counted"),
        ("Retry chains that led on", share(found.chains.share), chains(found.chains)),
        ("Lost", gpu_hours(found), lost(found)),
    )
    tiles = [
        f"<div class=tile><p class=dim>{_text(name)}</p><b>{_text(big)}</b>{_dim(small)}</div>"
        for name, big, small in figures
    ]
    return f"<div class=tiles>{''.join(tiles)}</div>"


def _parted(words: str) -> tuple[str, str]:
    """The figure, and how sure it is."""
    big, _, small = words.partition(" (")
    return big, small.replace(");", ";", 1)


def _dim(words: str) -> str:
    return f"<p class=dim>{_text(words)}</p>" if words else ""


# Plots


def _axis(values: Sequence[float]) -> tuple[float, list[float]]:
    """The top of the axis and its marks: a round number of round steps."""
    most = max(values, default=1.0) or 1.0
    step = 10.0 ** len(str(int(most)))
    for smaller in (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005):
        if most / (step * smaller) >= 3:
            step *= smaller
            break
    marks = [0.0]
    while marks[-1] < most:
        marks.append(round(marks[-1] + step, 6))
    return marks[-1], marks


def _plot(inside: str, marks: Sequence[tuple[float, str]], ends: Sequence[str], name: str) -> str:
    """`marks`: height from 0 (top) to 100 and the words beside it."""
    grid = "".join(
        f'<path d="M0 {y:.2f}H100" stroke="var(--grid)" vector-effect="non-scaling-stroke"/>' for y, _ in marks
    )
    labels = "".join(f'<span style="top:{y:.2f}%">{_text(words)}</span>' for y, words in marks)
    feet = "".join(f"<span>{_text(words)}</span>" for words in ends)
    head = f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{_text(name)}">'
    svg = f"{head}{grid}{inside}</svg>"
    return f"<div class=plot><div class=y>{labels}</div>{svg}<div class=x>{feet}</div></div>"


def _scatter(found: Report) -> str:
    points = [(item, took) for item in found.incidents if (took := restart_s(item)) is not None][-_DOTS:]
    if not points:
        return ""
    decades = [1.0, 10.0, 60.0, 600.0, 3600.0, 36000.0, 360000.0, 3600000.0]
    values = [max(took, 0.1) for _, took in points]
    low = max((mark for mark in decades if mark <= min(values)), default=0.1)
    high = min((mark for mark in decades if mark >= max(values)), default=max(values))
    high = high if high > low else low * 10

    def height(value: float) -> float:
        import math

        return 100.0 * (1 - math.log(max(value, low) / low) / math.log(high / low))

    width = (found.until - found.since) or 1.0
    dots = "".join(_dot((item.at - found.since) / width * 100, height(took), item, took) for item, took in points)
    marks = [(height(mark), _round(mark)) for mark in [low, *decades] if low <= mark <= high]
    plot = _plot(dots, list(dict(marks).items()), _ends(found), "seconds from the fault to the first step, over time")
    seen = dict.fromkeys(item.culprit.value for item, _ in points)
    key = "".join(f'<span><i style="background:var(--{name})"></i>{_text(name)}</span>' for name in seen)
    return f"{plot}<div class=key>{key}</div>"


def _dot(x: float, y: float, item: Incident, took: float) -> str:
    """A stroke of no length is a round point, however the picture is stretched."""
    words = f"{clock_time(item.at)} job {item.job_id}: {item.code or item.culprit.value} {','.join(item.nodes)[:80]}"
    return (
        f'<path d="M{x:.2f} {y:.2f}h0" stroke="var(--{item.culprit.value})" stroke-width="7" stroke-linecap="round" '
        f'stroke-opacity=".75" vector-effect="non-scaling-stroke">'
        f"<title>{_text(words)}, {duration(took)}</title></path>"
    )


def _failures(buckets: Sequence[Bucket]) -> str:
    if not any(bucket.failures for bucket in buckets):
        return ""
    top, marks = _axis([float(bucket.failures) for bucket in buckets])
    width = 100 / len(buckets)
    bars = "".join(
        f'<rect x="{index * width + width * 0.12:.2f}" y="{100 - bucket.failures / top * 100:.2f}" '
        f'width="{width * 0.76:.2f}" height="{bucket.failures / top * 100:.2f}" fill="var(--bar)">'
        f"<title>{_text(_span(bucket))}: {bucket.failures}</title></rect>"
        for index, bucket in enumerate(buckets)
        if bucket.failures
    )
    labels = [(100 - mark / top * 100, f"{mark:g}") for mark in marks if mark == int(mark)]
    return _plot(bars, labels, _bucket_ends(buckets), "failures over time")


def _trend(buckets: Sequence[Bucket]) -> str:
    known = [(index, bucket) for index, bucket in enumerate(buckets) if bucket.restart_median_s is not None]
    if not known:
        return ""
    top, marks = _axis([bucket.restart_median_s or 0.0 for _, bucket in known])
    width = 100 / len(buckets)
    places = [((index + 0.5) * width, 100 - (bucket.restart_median_s or 0.0) / top * 100) for index, bucket in known]
    line = "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in places)
    inside = f'<path d="{line}" fill="none" stroke="var(--bar)" stroke-width="2" vector-effect="non-scaling-stroke"/>'
    for (x, y), (_, bucket) in zip(places, known, strict=True):
        words = f"{_span(bucket)}: {duration(bucket.restart_median_s or 0.0)}"
        inside += (
            f'<path d="M{x:.2f} {y:.2f}h0" stroke="var(--bar)" stroke-width="8" stroke-linecap="round" '
            f'vector-effect="non-scaling-stroke"><title>{_text(words)}</title></path>'
        )
    labels = [(100 - mark / top * 100, _round(mark)) for mark in marks]
    return _plot(inside, labels, _bucket_ends(buckets), "median recovery over time")


def _round(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def _ends(found: Report) -> tuple[str, str]:
    return clock_time(found.since)[:16], clock_time(found.until)[:16]


def _bucket_ends(buckets: Sequence[Bucket]) -> tuple[str, str]:
    return clock_time(buckets[0].begin)[:16], clock_time(buckets[-1].end)[:16]


def _span(bucket: Bucket) -> str:
    return f"{clock_time(bucket.begin)[:16]} to {clock_time(bucket.end)[:16]}"


# Bars and tables


def _row(name: str, full: float, soft: float, words: str) -> str:
    bars = f'<i class=soft style="width:{soft * 100:.2f}%"></i><i style="width:{full * 100:.2f}%"></i>'
    return f"<div class=row><span>{_text(name)}</span><div class=track>{bars}</div><span>{_text(words)}</span></div>"


def _stages(figures: Sequence[StageFigure]) -> str:
    most = max((item.spread.p90 for item in figures), default=0.0) or 1.0
    return "".join(
        _row(item.stamp.value, item.spread.median / most, item.spread.p90 / most, duration(item.spread.median))
        for item in figures
    )


def _ettr_words(found: Report) -> str:
    return f"all runs together {share(found.ettr)}, weighted with their nodes"


def _ettr(found: Report) -> str:
    runs = [item for item in found.runs if item.ettr is not None and item.source is Source.RECORD][:_RUNS]
    return "".join(_row(f"{item.job_id} {item.name}", item.ettr or 0.0, 0.0, share(item.ettr)) for item in runs)


def _counts(counts: Sequence[NamedCount]) -> str:
    most = max((item.incidents for item in counts), default=1)
    return "".join(
        _row(item.name, item.incidents / most, 0.0, f"{item.incidents} ({item.share:.0%})") for item in counts
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], kinds: str) -> str:
    """`kinds`: a letter a column: n for a number, t for a time, e for words."""
    head = "".join(f"<th class={kind}>{_text(name)}</th>" for name, kind in zip(columns, kinds, strict=True))
    lines = [
        "".join(f"<td class={kind}>{_text(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) for row in rows
    ]
    if not lines:
        return ""
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _probes(found: Report) -> str:
    rows = [
        (item.name, *(str(one) for one in (item.count.hits, item.drained, item.cleared, *_shadow(item.count))))
        for item in found.probes
    ]
    return _table(("probe", "hits", "drained", "false", "in shadow", "confirmed"), rows, "tnnnnn")


def _shadow(count: ProbeCount) -> tuple[int, int]:
    return count.would_have_drained, count.confirmed


def _runs(found: Report) -> str:
    rows = [
        (
            item.job_id,
            item.user,
            item.name,
            duration(item.wall_s),
            ("at most " if item.source is Source.ACCOUNTING else "") + share(item.ettr),
            str(item.failures),
            str(item.steps_lost),
            plain(item.gpu_seconds_lost / 3600),
        )
        for item in found.runs[:_LISTED]
    ]
    columns = ("job", "user", "name", "time", "ETTR", "failures", "steps lost", "GPU-h lost")
    return _table(columns, rows, "tttnnnnn")


def _incidents(found: Report, fold: Fold) -> str:
    rows = [
        (
            clock_time(item.at),
            item.job_id,
            item.culprit.value,
            fold(item.nodes),
            item.outcome.value + (f", {item.how}" if item.how else ""),
            "-" if (took := restart_s(item)) is None else duration(took),
            "-" if item.steps_lost is None else str(item.steps_lost),
            item.evidence[:300],
        )
        for item in reversed(found.incidents[-_LISTED:])
    ]
    columns = ("when", "job", "culprit", "nodes", "outcome", "recovery", "steps lost", "evidence")
    return _table(columns, rows, "tttttnne")
