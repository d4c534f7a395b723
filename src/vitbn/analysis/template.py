"""The report's page: semantic HTML that opens offline, with everything inside."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 2rem 1.5rem 4rem; background: #fff; color: #1b1f24;
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.35rem; margin: 2.8rem 0 .6rem; padding-top: .6rem; border-top: 2px solid #e3e6ea; }
p { max-width: 46rem; margin: .5rem 0; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; list-style: none; margin: 1rem 0 0; padding: 0; }
a { color: #0b5394; }
a:focus-visible { outline: 3px solid #0072b2; outline-offset: 2px; }
.scroll { overflow-x: auto; margin: 1rem 0 1.4rem; }
table { border-collapse: collapse; font-size: .9rem; }
caption { text-align: left; font-weight: 600; padding: .2rem 0 .5rem; }
th, td { padding: .32rem .8rem .32rem 0; text-align: right; vertical-align: top;
  border-bottom: 1px solid #e8eaed; font-variant-numeric: tabular-nums; }
thead th, td:not(.word) { white-space: nowrap; }
thead th { border-bottom: 2px solid #b9c0c8; color: #444c56; }
.word { text-align: left; }
tbody tr:hover { background: #f5f8fb; }
figure { margin: 1.4rem 0 2rem; }
figure img { display: block; width: 100%; height: auto; }
.narrow img { max-width: 46rem; }
figcaption { font-size: .9rem; color: #444c56; max-width: 46rem; }
figcaption strong { color: #1b1f24; }
code { background: #f3f4f6; padding: .1rem .3rem; border-radius: 3px; font-size: .88em;
  overflow-wrap: anywhere; }
.verdict { font-weight: 700; font-size: .82rem; padding: .1rem .5rem; border-radius: 3px;
  white-space: nowrap; }
.SUPPORTED { background: #d5efe3; color: #00523a; }
.REFUTED { background: #fbdccb; color: #7f2f00; }
.INCONCLUSIVE { background: #e9ebee; color: #3c434b; }
.claim { margin: 1.6rem 0 0; }
.claim h3 { font-size: 1.05rem; margin: 0 0 .2rem; }
.claim p { font-size: .93rem; }
.claim .warning { border-left: 4px solid #d55e00; padding-left: .6rem; }
@media print {
  body { max-width: none; padding: 0; }
  h2 { break-after: avoid; }
  figure { break-inside: avoid; }
}
</style>
</head>
<body>
<header>
<h1>{{ title }}</h1>
<p>{{ lead }}</p>
<nav aria-label="Sections"><ul>
{% for section in sections %}<li><a href="#{{ section.anchor }}">{{ section.title }}</a></li>
{% endfor %}{% if claims %}<li><a href="#claims">Claims</a></li>{% endif %}
</ul></nav>
</header>
<main>
{% for section in sections %}
<section id="{{ section.anchor }}" aria-labelledby="h-{{ section.anchor }}">
<h2 id="h-{{ section.anchor }}">{{ section.title }}</h2>
{% for text in section.paragraphs %}<p>{{ text }}</p>
{% endfor %}
{% for picture in section.pictures %}
<figure{% if picture.figure.get_figwidth() < 8 %} class="narrow"{% endif %}>
<img src="{{ address(picture) }}" alt="{{ picture.alt }}">
<figcaption><strong>{{ picture.title }}.</strong> {{ picture.caption }}</figcaption>
</figure>
{% endfor %}
{% for table in section.tables %}{{ draw(table) }}{% endfor %}
</section>
{% endfor %}
{% if claims %}
<section id="claims" aria-labelledby="h-claims">
<h2 id="h-claims">Claims</h2>
<p>A statement allows a region of effects. The 95 % interval wholly inside it: SUPPORTED; wholly outside:
REFUTED; across its edge, or fewer than 3 seeds: INCONCLUSIVE. A claim is supported when every part is, and
refuted when one part is.</p>
{% for claim in claims %}
<article class="claim">
<h3>{{ claim.id }} <span class="verdict {{ claim.verdict }}">{{ claim.verdict }}</span></h3>
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
</body>
</html>
"""

TABLE = """<div class="scroll" tabindex="0" role="group" aria-label="{{ table.caption }}"><table>
<caption>{{ table.caption }}</caption>
{% if table.head[0] or table.head[-1] %}<thead><tr>{% for cell in table.head %}
<th scope="col"{% if loop.index0 in table.words %} class="word"{% endif %}>{{ cell }}</th>{% endfor %}
</tr></thead>{% endif %}
<tbody>{% for row in table.rows %}
<tr>{% for cell in row %}{% if loop.first %}<th scope="row" class="word">{{ cell }}</th>
{% else %}<td{% if loop.index0 in table.words %} class="word"{% endif %}>{{ badge(cell) }}</td>{% endif %}
{% endfor %}</tr>{% endfor %}
</tbody></table></div>
"""
