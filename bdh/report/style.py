"""The page's style sheet: light and dark, narrow and wide, on screen and on paper."""

from __future__ import annotations

from bdh.report import palette

LIGHT = "--page: #ffffff; --panel: #f5f6f8; --ink: #1b1f24; --soft: #59636e; --rule: #d5d9de; --good: #0b6b3a; \
--bad: #a3271f; --even: #6b5300; --warn: #fff4d6;"
DARK = "--page: #14171a; --panel: #1d2126; --ink: #e6e9ec; --soft: #a3adb8; --rule: #3a414a; --good: #63d198; \
--bad: #ff9a8f; --even: #e0c060; --warn: #33290d;"
RULES = """
* { box-sizing: border-box; }
html { color-scheme: light dark; }
body { margin: 0 auto; max-width: 1400px; padding: 0 20px 60px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { margin: 28px 0 4px; font-size: 28px; line-height: 1.2; }
h2 { margin: 44px 0 12px; padding-top: 10px; border-top: 1px solid var(--rule); font-size: 21px; }
h3 { margin: 28px 0 8px; font-size: 17px; }
h4 { margin: 0 0 4px; font-size: 14px; }
p { margin: 6px 0; max-width: 85ch; }
.label { padding: 8px 12px; border-left: 4px solid var(--even); background: var(--warn); font-weight: 600; }
.facts { display: flex; flex-wrap: wrap; gap: 6px 28px; margin: 14px 0; }
.facts div { min-width: 80px; }
.facts dt { color: var(--soft); font-size: 12px; }
.facts dd { margin: 0; }
.verdicts li { margin: 3px 0; max-width: 100ch; }
nav ul { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 14px 0; padding: 0; list-style: none; }
a { color: inherit; text-underline-offset: 3px; }
.scroll { margin: 10px 0 4px; overflow-x: auto; }
table { border-collapse: separate; border-spacing: 0; font-size: 13px; font-variant-numeric: tabular-nums; }
caption { padding: 2px 0 8px; font-size: 15px; font-weight: 600; text-align: left; white-space: nowrap; }
th, td { padding: 4px 10px; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid var(--soft); vertical-align: bottom; font-weight: 600; line-height: 1.25; }
thead button { padding: 0; border: 0; background: none; color: inherit; font: inherit; text-align: inherit;
  cursor: pointer; }
th[aria-sort="ascending"] .name::after { content: " ▲"; }
th[aria-sort="descending"] .name::after { content: " ▼"; }
tbody th { position: sticky; left: 0; background: var(--page); font-weight: 600; white-space: nowrap; }
thead th.num, thead th.num button { text-align: right; }
td { white-space: pre-line; }
td.num { text-align: right; white-space: pre; }
.detail { display: block; color: var(--soft); font-size: 0.85em; font-weight: 400; }
.good .detail, .bad .detail, .even .detail { color: inherit; }
.name { display: block; }
.unit { display: block; color: var(--soft); font-size: 0.85em; font-weight: 400; }
.reference th, .reference td { color: var(--soft); font-weight: 400; font-style: italic; }
.good { color: var(--good); } .bad { color: var(--bad); } .even { color: var(--even); }
.best { font-weight: 700; }
.note { max-width: 120ch; color: var(--soft); font-size: 12.5px; }
.swatch { display: inline-block; width: 18px; margin-right: 7px; vertical-align: middle; }
#claims tbody th { min-width: 150px; max-width: 220px; white-space: normal; }
#claims td { min-width: 110px; max-width: 260px; }
#claims td:nth-of-type(2) { min-width: 290px; max-width: 420px; }
#claims td:nth-of-type(3) { min-width: 230px; }
#corpora td { min-width: 90px; max-width: 220px; overflow-wrap: break-word; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 560px), 1fr)); gap: 22px; }
figure { margin: 0; padding: 12px; background: var(--panel); break-inside: avoid; }
figcaption { color: var(--soft); font-size: 12.5px; }
.plot { overflow-x: auto; }
.plot svg { display: block; width: 100%; min-width: 440px; height: auto; }
.key { columns: 220px; margin: 8px 0 16px; padding: 0; list-style: none; font-size: 13px; }
.key li { display: flex; align-items: center; break-inside: avoid; overflow-wrap: anywhere; }
.key .swatch { flex: none; }
details { margin: 8px 0; padding: 6px 12px; background: var(--panel); }
summary { cursor: pointer; }
pre { margin: 6px 0; white-space: pre-wrap; overflow-wrap: anywhere; font: 12.5px/1.45 ui-monospace, monospace; }
.prompt { font-weight: 700; }
footer { margin-top: 44px; color: var(--soft); font-size: 12.5px; }
@media (max-width: 640px) {
  body { padding: 0 12px 40px; }
  tbody th { min-width: 104px; max-width: 150px; white-space: normal; overflow-wrap: anywhere; }
  th, td { padding: 4px 7px; }
}
@media print {
  @page { size: A4 landscape; margin: 10mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  .scroll, .plot { overflow: visible; }
  .note, figcaption, footer { font-size: 7.5pt; }
  table { font-size: 7pt; }
  th, td { padding: 1.5pt 3pt; }
  tbody th, td.num { white-space: pre-line; }
  tr, figure { break-inside: avoid; }
  thead { display: table-header-group; }
  .plots { grid-template-columns: 1fr 1fr; }
  .plot svg { min-width: 0; }
}
"""


def style_sheet(variants: int) -> str:
    """CSS of the page for a number of variants."""
    light = f":root {{ {LIGHT} {palette.variables(palette.LIGHT)} }}"
    dark = f"{DARK} {palette.variables(palette.DARK)}"
    return (
        f"{light}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
        f"{RULES}\n{palette.swatch_rules(variants)}\n"
    )
