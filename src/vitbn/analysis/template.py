"""The report's page: semantic HTML that opens offline, with everything inside."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #444c56; --paper: #fff; --line: #d8dce1; --shade: #f3f5f7;
  --link: #0b5394; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #b3bac3; --paper: #15181c; --line: #3a4048;
  --shade: #22272d; --link: #8ab8ec; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.35rem; margin: 2.8rem 0 .6rem; padding-top: .6rem; border-top: 2px solid var(--line); }
p { max-width: 46rem; margin: .5rem 0; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; list-style: none; margin: 1rem 0 0; padding: 0; }
a { color: var(--link); }
a:focus-visible, button:focus-visible { outline: 3px solid #0072b2; outline-offset: 2px; }
.scroll { overflow-x: auto; margin: 1rem 0 1.4rem; }
.scroll:focus-visible { outline: 2px solid #0072b2; }
table { border-collapse: collapse; font-size: .9rem; overflow-wrap: normal; }
caption { text-align: left; font-weight: 600; padding: .2rem 0 .5rem; }
caption span { position: sticky; left: 0; display: inline-block; max-width: calc(100vw - 2rem); }
.wider caption span::after { content: " \\2194  scrolls sideways"; font-weight: 400; color: var(--soft); }
th, td { padding: .32rem .8rem .32rem 0; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
td:not(.word) { white-space: nowrap; }
.word { text-align: left; overflow-wrap: anywhere; min-width: 7rem; }
thead th { border-bottom: 2px solid var(--soft); color: var(--soft); vertical-align: bottom; min-width: 3.5rem; }
thead button { all: unset; cursor: pointer; }
thead button:hover { text-decoration: underline; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
tbody tr:hover { background: var(--shade); }
figure { margin: 1.4rem 0 2rem; }
figure img { display: block; width: 100%; height: auto; background: #fff; border-radius: 4px; }
.small img { max-width: 46rem; }
figcaption { font-size: .9rem; color: var(--soft); max-width: 46rem; }
figcaption strong { color: var(--ink); }
code { background: var(--shade); padding: .1rem .3rem; border-radius: 3px; font-size: .88em; }
.verdict { font-weight: 700; font-size: .82rem; padding: .1rem .5rem; border-radius: 3px; white-space: nowrap; }
.SUPPORTED { background: #d5efe3; color: #00523a; }
.REFUTED { background: #fbdccb; color: #7f2f00; }
.INCONCLUSIVE, .NOT-RUN { background: #e9ebee; color: #3c434b; }
.claim { margin: 1.6rem 0 0; }
.claim h3 { font-size: 1.05rem; margin: 0 0 .2rem; }
.claim p { font-size: .93rem; }
.claim .warning { border-left: 4px solid #d55e00; padding-left: .6rem; }
@media (max-width: 40rem) {
  body { padding: 1rem .8rem 3rem; }
  h1 { font-size: 1.5rem; }
  table { font-size: .82rem; }
  th, td { padding-right: .55rem; }
  .word { min-width: 4.5rem; }
  td.word { min-width: 8rem; }
}
@page { size: A4; margin: 14mm 12mm; }
@media print {
  :root { color-scheme: light; --ink: #000; --soft: #333; --paper: #fff; --line: #bbb; --shade: #fff; --link: #000; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  h2 { break-after: avoid; margin-top: 1.4rem; }
  h3, caption, figcaption { break-after: avoid; break-inside: avoid; }
  figure { break-inside: avoid; margin: .8rem 0 1rem; }
  figure img { max-height: 215mm; width: auto; max-width: 100%; }
  .scroll { overflow: visible; }
  caption span { position: static; max-width: none; }
  .wider caption span::after { content: none; }
  table { font-size: 7.5pt; width: 100%; }
  th, td, thead th, td:not(.word), .word { white-space: normal; padding-right: .4rem; min-width: 0; }
  thead th, td:not(.word) { overflow-wrap: normal; }
  td a { display: none; }
  td .verdict { font-size: 6pt; padding: .1rem .2rem; overflow-wrap: normal; }
  .verdict { border: 1px solid #666; }
  tr { break-inside: avoid; }
  thead, tbody tr:first-child { break-before: avoid; break-after: avoid; }
}
"""

SCRIPT = """
for (const box of document.querySelectorAll(".scroll"))
  box.classList.toggle("wider", box.scrollWidth > box.clientWidth + 1);
for (const th of document.querySelectorAll("thead th")) {
  const button = document.createElement("button");
  button.append(...th.childNodes);
  button.title = "sort by this column";
  th.append(button);
  button.addEventListener("click", () => {
    const table = th.closest("table"), body = table.tBodies[0], up = th.getAttribute("aria-sort") !== "ascending";
    const text = row => row.cells[th.cellIndex].textContent.trim();
    const value = row => text(row).replace(/\\u2212/g, "-").replace(/,(?=\\d{3})/g, "");
    const compare = (a, b) => {
      const x = parseFloat(value(a)), y = parseFloat(value(b));
      if (isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1;
      return (up ? 1 : -1) * (isNaN(x) ? value(a).localeCompare(value(b)) : x - y);
    };
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...[...body.rows].sort(compare));
  });
}
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{{ script_hash }}'">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
<header>
<h1>{{ title }}</h1>
<p>{{ lead }}</p>
<nav aria-label="Sections"><ul>
{% for section in sections %}<li><a href="#{{ section.anchor }}">{{ section.title }}</a></li>
{% endfor %}{% if claims %}<li><a href="#claims">Claims in full</a></li>{% endif %}
</ul></nav>
</header>
<main>
{% for section in sections %}
<section id="{{ section.anchor }}" aria-labelledby="h-{{ section.anchor }}">
<h2 id="h-{{ section.anchor }}">{{ section.title }}</h2>
{% for text in section.paragraphs %}<p>{{ text }}</p>
{% endfor %}
{% for picture in section.pictures %}
<figure{% if picture.figure.get_figwidth() < 8 %} class="small"{% endif %}>
<picture>
{% if picture.name in narrow %}<source media="(max-width: 40rem)" srcset="{{ narrow[picture.name] }}">{% endif %}

<img src="{{ wide[picture.name] }}" alt="{{ picture.alt }}"></picture>
<figcaption><strong>{{ picture.title }}.</strong> {{ picture.caption }}</figcaption>
</figure>
{% endfor %}
{% for table in section.tables %}{{ draw(table) }}{% endfor %}
</section>
{% endfor %}
{% if claims %}
<section id="claims" aria-labelledby="h-claims">
<h2 id="h-claims">Claims in full</h2>
{% for claim in claims %}
<article class="claim" id="claim-{{ claim.id }}">
<h3>{{ claim.id }} {{ badge(claim.verdict) }}</h3>
<p>{{ claim.statement }} <em>({{ claim.source }})</em></p>
{{ draw(claim.table) }}
{% for text in claim.notes %}<p{% if 'confound: ' in text %} class="warning"{% endif %}>{{ text }}</p>
{% endfor %}
<p>{{ claim.how }} {% for command in claim.commands %}<code>{{ command }}</code> {% endfor %}</p>
</article>
{% endfor %}
</section>
{% endif %}
</main>
<script>{{ script }}</script>
</body>
</html>
"""

TABLE = """<div class="scroll" tabindex="0" role="group" aria-label="{{ table.caption }}"><table>
<caption><span>{{ table.caption }}</span></caption>
{% if table.head[0] or table.head[-1] %}<thead><tr>{% for cell in table.head %}
<th scope="col"{% if loop.index0 in table.words %} class="word"{% endif %}>{{ cell }}</th>{% endfor %}
</tr></thead>{% endif %}
<tbody>{% for row in table.rows %}
<tr>{% for cell in row %}{% if loop.first %}<th scope="row" class="word">{{ cell }}</th>
{% else %}<td{% if loop.index0 in table.words %} class="word"{% endif %}>{{ badge(cell) }}</td>{% endif %}
{% endfor %}</tr>{% endfor %}
</tbody></table></div>
"""
