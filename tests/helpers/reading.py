"""Reads a report's page as a browser would, for the tests of the report."""

from html.parser import HTMLParser

from untrain.report import write_report

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


def page_of(folder):
    return Page(write_report(folder).read_text(encoding="utf-8"))


def written(folder, write):
    """A folder that `write` filled: itself, what `write` gave back, and its page."""
    content = write(folder)
    return folder, content, write_report(folder).read_text(encoding="utf-8")
