"""The style of the page, and the page put together."""

from __future__ import annotations

from collections.abc import Sequence

from .facts import escape

STYLE = """
:root{color-scheme:light dark;--ink:#1d2330;--soft:#667085;--line:#d9dee7;--paper:#fff;
--tint:#f4f6fa;
--good:#0a7a43;--bad:#b42318;--accent:#2057c7;--series-1:#2057c7;--series-2:#c2410c;
--series-3:#0a7a43;
--series-4:#7a2fb0;--series-5:#a16207;--series-6:#0e7490}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#98a2b3;--line:#333b49;
--paper:#12161d;
--tint:#1b212b;--good:#4ac98a;--bad:#ff8a7a;--accent:#84a9ff;--series-1:#84a9ff;
--series-2:#ff9d6b;
--series-3:#4ac98a;--series-4:#c794f0;--series-5:#e3b341;--series-6:#5cc8dd}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:0 auto;padding:1.5rem 1rem 4rem;
color:var(--ink);background:var(--paper);overflow-wrap:anywhere}
h1{font-size:1.7rem;margin:.2rem 0}h2{font-size:1.25rem;margin:2.5rem 0 .5rem}h4{
margin:.2rem 0 .6rem}
p{max-width:46rem}small{color:var(--soft);font-size:.82em}code{font-size:.9em;
background:var(--tint);
padding:.1em .3em;border-radius:.25em}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:1rem 0}
dt{color:var(--soft)}dd{margin:0}
.cards{display:flex;flex-wrap:wrap;gap:1rem;margin:1rem 0}
.card{flex:1 1 14rem;background:var(--tint);border-radius:.6rem;padding:.8rem 1.1rem}
.card b{display:block;font-size:1.6rem;line-height:1.3}
.wide{overflow-x:auto;margin:1rem 0}table{border-collapse:collapse;
font-variant-numeric:tabular-nums}
td,th{padding:.35rem .7rem;border-bottom:1px solid var(--line);text-align:right;
vertical-align:top;
overflow-wrap:normal}
td:first-child,th:first-child,.plain td,.plain th{text-align:left}th{font-weight:600}
.plain td:last-child{min-width:14rem}.cells td{white-space:nowrap}
.matrix td{min-width:5.4rem}.matrix th:first-child{position:sticky;left:0;background:var(--paper);
z-index:1}.matrix small{display:block;white-space:nowrap}.matrix .best b{color:var(--good)}
.matrix th[colspan]{text-align:center}
.bar{display:block;position:relative;height:4px;margin-top:3px;background:var(--tint);
border-radius:2px}
.bar span{position:absolute;top:0;bottom:0;background:var(--accent);border-radius:2px}
figure{margin:1rem 0}svg{width:100%;height:auto;display:block}
details{margin:.6rem 0;border:1px solid var(--line);border-radius:.5rem;padding:.5rem .9rem}
summary{cursor:pointer;font-weight:600}
.sides{display:grid;grid-template-columns:1fr 1fr;gap:1.5rem;margin-top:.8rem}.side{min-width:0}
.line{display:grid;grid-template-columns:5.2rem 1fr;gap:.5rem;margin:.25rem 0}
.line span{color:var(--soft);font-size:.82em;padding-top:.15em}.line p{margin:0;min-width:0}
.call p{color:var(--accent);font-family:ui-monospace,monospace;font-size:.85em}
.tool p{font-family:ui-monospace,monospace;font-size:.85em;color:var(--soft)}
.thought p{font-style:italic;color:var(--soft)}
.passed,.met{color:var(--good)}.failed,.unmet{color:var(--bad)}
ul{margin:.6rem 0 0;padding-left:1.2rem;font-size:.9em}.met::marker{content:"+ "}.unmet::marker{
content:"- "}
footer{margin-top:3rem;color:var(--soft);font-size:.9em}
@media (max-width:40rem){.sides{grid-template-columns:1fr}dl{grid-template-columns:1fr;gap:0}
dd{margin-bottom:.5rem}.line{grid-template-columns:1fr;gap:0}td,th{padding:.3rem .5rem}}
@media print{details{break-inside:avoid}}
"""


def sheet(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """A whole page; a section without a heading stands as it is."""
    body = "".join(
        f"<section>{f'<h2>{escape(name)}</h2>' if name else ''}{content}</section>"
        for name, content in sections
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )
