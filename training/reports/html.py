"""Pieces of one HTML page that needs nothing from outside: tables, figures, sections and the page around them.

Text is escaped unless it is `Html` already, so that no word of a data set can become markup.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Final


class Html(str):
    """Markup that is safe to put into the page."""

    __slots__ = ()


def text(value: str) -> Html:
    """The value as markup."""
    return value if isinstance(value, Html) else Html(html.escape(value))


def tag(name: str, content: str = "", **attributes: str) -> Html:
    """One element; attributes that are Python's words end in an underscore."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{text(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{given}>{text(content)}</{name}>")


def image(source: str, alt: str, size: int) -> Html:
    """A square picture of `size` pixels that the page carries itself."""
    return Html(tag("img", src=source, alt=alt, width=str(size), height=str(size)).removesuffix("</img>"))


def join(parts: Iterable[str], between: str = "") -> Html:
    """The parts one after the other."""
    return Html(text(between).join(text(part) for part in parts))


def paragraph(content: str) -> Html:
    return tag("p", content)


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "numbers") -> Html:
    """A table whose first column heads its rows; `kind` is `numbers` (set to the right) or `words`."""
    heads = join(tag("th", each, scope="col") for each in head)
    lines = join(
        tag("tr", join([tag("th", first, scope="row"), *(cell(each) for each in rest)])) for first, *rest in rows
    )
    whole = join([tag("caption", caption), tag("thead", tag("tr", heads)), tag("tbody", lines)])
    return tag("div", tag("table", whole, class_=kind), class_="scroll", tabindex="0")


def cell(content: str) -> Html:
    """A table's cell; one that comes as a cell stays as it is."""
    return content if isinstance(content, Html) and content.startswith("<td") else tag("td", content)


def figure(title: str, picture: Html, note: str, keys: Sequence[tuple[str, str]] = ()) -> Html:
    """A picture with its title, its key (class of the line and what it means) and what to see in it."""
    legend = join(tag("span", join([tag("i", class_=f"key {kind}"), meaning])) for kind, meaning in keys)
    parts = [tag("h3", title), picture]
    if keys:
        parts.append(tag("p", legend, class_="keys"))
    return tag("figure", join([*parts, tag("figcaption", note)]))


def grid(parts: Iterable[str]) -> Html:
    """Figures side by side where there is room."""
    return tag("div", join(parts), class_="grid")


def side_by_side(parts: Iterable[str]) -> Html:
    """Tables, each as wide as it needs to be, side by side where there is room."""
    return tag("div", join(parts), class_="side")


def section(title: str, *parts: str) -> Html:
    return tag("section", join([tag("h2", title), *parts]))


def details(summary: str, *parts: str) -> Html:
    """What is folded away until it is asked for."""
    return tag("details", join([tag("summary", summary), *parts]))


def page(title: str, parts: Iterable[str]) -> str:
    """The whole document."""
    head = join(
        [
            Html('<meta charset="utf-8">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html('<meta name="color-scheme" content="light dark">'),
            tag("title", title),
            tag("style", Html(_STYLE)),
        ]
    )
    body = tag("body", tag("main", join(parts, "\n")))
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n{body}</html>\n'


_STYLE: Final = """
:root{--page:#fff;--ink:#1b1f24;--soft:#566069;--edge:#cfd6dd;--grid:#e9edf1;--panel:#f5f7f9;--a:#0a5fc2;--b:#b8430a;
--right:10,95,194;--wrong:200,70,10}
@media (prefers-color-scheme:dark){:root{--page:#14171b;--ink:#e7eaed;--soft:#a3adb7;--edge:#3a424b;--grid:#272d34;
--panel:#1c2127;--a:#6fb2ff;--b:#ffa266;--right:80,160,255;--wrong:255,140,70}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
main{max-width:1120px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:1.9rem;margin:0 0 4px}h2{font-size:1.3rem;margin:44px 0 8px}h3{font-size:1rem;margin:0 0 6px}
p{max-width:72ch;margin:8px 0}.soft,.row,figcaption,caption{color:var(--soft)}
code{font:0.88em ui-monospace,monospace}pre{background:var(--panel);padding:10px 12px;white-space:pre-wrap;margin:8px 0}
dl.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(132px,1fr));gap:12px;margin:20px 0}
.cards div{background:var(--panel);padding:10px 12px;border-radius:6px;display:flex;flex-direction:column;
justify-content:space-between}.cards dt{font-size:.85rem;color:var(--soft)}
.cards dd{margin:0;font-size:1.35rem;font-weight:600}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(310px,100%),1fr));gap:28px 24px;margin:16px 0}
.side{display:flex;flex-wrap:wrap;gap:0 48px;align-items:flex-start}.side>.scroll{max-width:min(100%,600px)}
figure{margin:0;min-width:0;max-width:500px}figcaption{font-size:.88rem}
svg{display:block;width:100%;height:auto}svg text{fill:var(--soft);font:11px system-ui,sans-serif}
.end{text-anchor:end}.mid{text-anchor:middle}
.rule{stroke:var(--grid)}.frame{stroke:var(--edge)}.line{fill:none;stroke-width:2;stroke-linejoin:round}
.line.a{stroke:var(--a)}.line.b{stroke:var(--b);stroke-dasharray:6 3}.line.c{stroke:var(--ink)}
.line.d{stroke:var(--soft);stroke-dasharray:2 3;stroke-width:1.5}
.dot.a{fill:var(--a)}.dot.b{fill:var(--b)}.dot.c{fill:var(--ink)}.bar{fill:var(--a);fill-opacity:.55}
.band{fill:var(--a);fill-opacity:.2}
.keys{display:flex;flex-wrap:wrap;gap:2px 16px;margin:4px 0;font-size:.85rem}
.key{display:inline-block;width:22px;margin-right:6px;vertical-align:middle;border-top:3px solid}
.key.a{color:var(--a)}.key.b{color:var(--b);border-top-style:dashed}.key.c{color:var(--ink)}
.key.d{color:var(--soft);border-top-style:dotted}
.key.band,.key.bar{height:11px;border:0;background:var(--a);opacity:.3}.key.bar{opacity:.55}
.scroll{overflow-x:auto;margin:12px 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
caption{text-align:left;position:sticky;left:0;padding:4px 0 6px;font-size:.88rem}
th,td{padding:4px 10px;border-bottom:1px solid var(--edge);text-align:right;font-weight:400;overflow-wrap:normal}
thead th{font-weight:600;vertical-align:bottom}th:first-child{text-align:left}
.words th,.words td{text-align:left;vertical-align:top}.words td{min-width:9ch}
.matrix th,.matrix td{padding:4px 8px;text-align:center}.matrix th:first-child{text-align:left}
@media (max-width:520px){th,td{padding:4px 6px}table{font-size:.82rem}
.matrix th,.matrix td{padding:3px 2px;font-size:.72rem}}
td.right{background:rgba(var(--right),var(--w))}td.wrong{background:rgba(var(--wrong),var(--w))}
ul.mistakes{list-style:none;margin:16px 0;padding:0;display:grid;gap:16px}
ul.pictures{grid-template-columns:repeat(auto-fill,minmax(128px,1fr))}
ul.texts{grid-template-columns:repeat(auto-fit,minmax(min(340px,100%),1fr))}
.mistakes li{background:var(--panel);padding:10px 12px;border-radius:6px;font-size:.88rem}
.mistakes img{display:block;width:112px;max-width:100%;aspect-ratio:1;image-rendering:pixelated;margin-bottom:6px}
.row,.whole{white-space:nowrap}.texts p{margin:6px 0 0}
details{margin:10px 0}summary{cursor:pointer;color:var(--soft)}
"""
