"""Reads a report's page as a browser would, for the tests of the report."""

import io
from html.parser import HTMLParser

from rich.console import Console

from untrain import registry
from untrain.report import Results, comparison_tables, run_table, task_of, terminal, write_report
from untrain.report.verdict import judge

EVIL = '<script>alert(1)</script>&"'
VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags are nested right, and collects sections, figures, table cells, attributes and text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.rows, self.words = [], [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if "td" in self.open and not {"small", "sup"} & set(self.open):
            self.rows[-1][-1] += data
        if "th" in self.open and not {"small", "span"} & set(self.open):
            self.rows[-1][-1] += data

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def ids(self, tag):
        return [value for t, key, value in self.attributes if (t, key) == (tag, "id")]


BLOCKS = {"p", "h1", "h2", "h3", "li", "dt", "dd", "tr", "figcaption", "summary", "figure", "section", "pre", "title"}
MARKS = {"h2": "## ", "h3": "### ", "li": "- ", "summary": "> ", "td": " | ", "th": " | ", "small": " / ", "sup": "^"}


class Reader(HTMLParser):
    """A page's text as a reader sees it, line by line; a drawing as the words that replace it, a picture likewise."""

    def __init__(self, html):
        super().__init__()
        self.lines, self.line, self.hidden = [], "", 0
        self.feed(html)
        self.close()
        self.end()

    def end(self):
        text = " ".join(self.line.split()).replace("\u00a0", " ").strip(" |")
        self.lines += [text] if text else []
        self.line = ""

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("style", "svg"):
            self.end()
            self.lines += [f"[drawing: {given['aria-label']}]"] if tag == "svg" else []
            self.hidden += 1
        if not self.hidden:
            if tag in BLOCKS:
                self.end()
            self.lines += [""] if tag == "section" else []
            self.line += MARKS.get(tag, f"[{given['alt']}]" if tag == "img" else " " if tag == "span" else "")

    def handle_endtag(self, tag):
        if tag in ("style", "svg"):
            self.hidden -= 1
        elif tag in BLOCKS and not self.hidden:
            self.end()

    def handle_data(self, data):
        self.line += "" if self.hidden else data


def reader_text(html):
    return "\n".join(Reader(html).lines) + "\n"


def results_of(content):
    """The results of what evaluation.json or comparison.json holds."""
    return Results.of_comparison(content) if "forget_sets" in content else Results.of_run(content)


def presentation_of(task):
    return registry.domain(task or registry.DEFAULT_TASK).presentation


def verdict_of(content, task=None):
    """The verdict on a run, or on the first forget set of a comparison, with what casts doubt on it."""
    results = results_of(content)
    return judge(results.sets[0], results, presentation_of(task or results.task))


def table_of(content):
    """The table of a run."""
    results = results_of(content)
    return run_table(results, presentation_of(results.task))


def tables_of(content):
    """The tables of a comparison."""
    results = results_of(content)
    return comparison_tables(results, presentation_of(results.task))


def terminal_of(content, width):
    """What the terminal shows."""
    results = results_of(content)
    console = Console(width=width, color_system=None, file=io.StringIO())
    console.print(terminal(results, presentation_of(results.task)))
    return console.file.getvalue()


def write_page(folder):
    """The page of a folder, made anew; its path."""
    return write_report(folder, presentation_of(task_of(folder)))


def page_of(folder):
    return Page(write_page(folder).read_text(encoding="utf-8"))


def written(folder, write):
    """A folder that `write` filled: itself, what `write` gave back, and its page."""
    content = write(folder)
    return folder, content, write_page(folder).read_text(encoding="utf-8")
