"""What the site has beyond the files of docs/: pages from elsewhere, links that leave the folder, generated tables.

The pages are written for a plain git host, where all links are paths between files. Here the README becomes the home
page, the benchmarks, the changelog and the contributors' page join it, a notebook becomes a page of its text and code,
and a link to a source file goes to the repository's host, if mkdocs.yml names one. Where a page has a line

    <!-- fields: PATH.OF.CLASS -->      the dataclass's docstring and a table of its fields
    <!-- usage: PATH.OF.CONSTANT -->    a string constant, as a block of text

the code is read, not imported, so the site is built where untrain's own dependencies are missing.
"""

import ast
import json
import logging
import posixpath
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

log = logging.getLogger("mkdocs.hooks.untrain")  # a warning fails a strict build
ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""Files of the repository that are pages of the site, under these names."""
HOMES = {page: posixpath.dirname(path) for path, page in ELSEWHERE.items()}
BOUNDS = {"Ge": "≥", "Gt": ">", "Le": "≤", "Lt": "<"}
UNWRITTEN = {"untrain.runs.recipe.Recipe": ("sections", "code", "permissions")}
"""Fields of a class that no recipe can have."""
_FENCE = re.compile(r"(^(?P<mark>`{3,}).*?^(?P=mark)$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?P<image>!?)\[(?P<label>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")
_MARKER = re.compile(r"^<!-- (?P<kind>fields|usage): (?P<path>[\w.]+) -->$", re.MULTILINE)
_COMMENT = re.compile(r"^<!--.*?-->\n?", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are no Markdown files of docs/."""
    for path, page in ELSEWHERE.items():
        content = (ROOT / path).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=content))
    for path in sorted((ROOT / "docs").rglob("*.ipynb")):
        name = path.relative_to(ROOT / "docs").with_suffix(".md").as_posix()
        files.append(File.generated(config, name, content=page_of_notebook(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills in what is generated, and turns links between files of the repository into links between pages."""
    name = page.file.src_uri
    home = HOMES.get(name, posixpath.join("docs", posixpath.dirname(name)))
    anchors = anchors_of_classes(markdown)
    parts = []
    for text, is_code in split_fences(markdown):
        if not is_code:
            text = _MARKER.sub(lambda found: generated(found, anchors), text)
            text = _COMMENT.sub("", text)
            text = _LINK.sub(lambda found: relinked(found, name, home, config.repo_url), text)
        parts.append(text)
    return "".join(parts)


def split_fences(markdown: str) -> list[tuple[str, bool]]:
    """Splits a page into text and fenced blocks of code, in order."""
    parts, end = [], 0
    for found in _FENCE.finditer(markdown):
        parts += [(markdown[end : found.start()], False), (found[0], True)]
        end = found.end()
    return [*parts, (markdown[end:], False)]


def page_of_notebook(path: Path) -> str:
    """Writes a notebook's text and code as Markdown; its outputs are not stored."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"]).strip()
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    parts.append(f"This page is the notebook `docs/notebooks/{path.name}`, without its outputs. A test runs it.")
    return "\n\n".join(parts) + "\n"


def relinked(found: re.Match[str], page: str, home: str, repo_url: str | None) -> str:
    """Returns a link as the site needs it.

    Args:
        found: image mark, label and target.
        page: the page that has it, within the site.
        home: the folder of its file, within the repository.
        repo_url: where the repository can be read; None: a link to a file that is no page becomes its label.
    """
    path, mark, anchor = found["target"].partition("#")
    if not path or ":" in path:
        return found[0]
    inside = posixpath.normpath(posixpath.join(home, path))
    if not (ROOT / inside).exists():
        log.warning(f"{page} links to {found['target']}, which is not there.")
    if inside in ELSEWHERE:
        target = ELSEWHERE[inside]
    elif inside.startswith("docs/"):
        target = re.sub(r"\.ipynb$", ".md", inside.removeprefix("docs/"))
    elif repo_url:
        return f"{found['image']}[{found['label']}]({repo_url.rstrip('/')}/blob/main/{inside}{mark}{anchor})"
    else:
        return found["label"]
    target = posixpath.relpath(target, posixpath.dirname(page) or ".")
    return f"{found['image']}[{found['label']}]({target}{mark}{anchor})"


def generated(found: re.Match[str], anchors: dict[str, str]) -> str:
    """Returns what takes the place of a marker.

    Raises:
        PluginError: if the code has no such thing.
    """
    thing = code_of(found["path"])
    if found["kind"] == "fields":
        return documented(thing, anchors)
    return f"```text\n{ast.literal_eval(str(thing.value)).strip()}\n```"


# Fields of dataclasses.


@dataclass(frozen=True)
class Setting:
    """One field of a dataclass: name, annotation and default as they are written, and its docstring."""

    name: str
    owner: griffe.Class
    annotation: Any
    default: str | None
    words: str


@cache
def package() -> griffe.Module:
    """Reads the package's code."""
    return griffe.load("untrain", search_paths=[str(ROOT / "src")], allow_inspection=False, resolve_aliases=True)


def code_of(path: str) -> Any:
    """Returns a class or constant by its path.

    Raises:
        PluginError: if it is not there.
    """
    try:
        found = package()[path.removeprefix("untrain.")]
        return found.final_target if found.is_alias else found
    except (KeyError, griffe.AliasResolutionError) as error:
        raise PluginError(f"a page asks for {path}, which is not in the code.") from error


def anchors_of_classes(markdown: str) -> dict[str, str]:
    """Finds under which heading of a page each class has its table: canonical path → anchor."""
    found, heading, slug = {}, "", slugify(case="lower")
    for line in markdown.splitlines():
        if line.startswith("#"):
            heading = slug(line.lstrip("# "), "-")
        elif (marker := _MARKER.match(line)) and marker["kind"] == "fields":
            found[code_of(marker["path"]).canonical_path] = heading
    return found


def documented(kind: griffe.Class, anchors: dict[str, str]) -> str:
    """Writes a dataclass's docstring and the table of its fields."""
    settings = settings_of(kind)
    rows = [
        f"| `{one.name}` | {typed(one, anchors)} | {default_of(one, anchors)} | {cell(one.words)} |" for one in settings
    ]
    undocumented = [one.name for one in settings if not one.words]
    if undocumented:
        raise PluginError(f"{kind.canonical_path}: no docstring of {', '.join(undocumented)}.")
    table = ["| field | type | default | |", "|---|---|---|---|", *rows] if rows else []
    return "\n".join([*text_of(kind), "", *table]).strip()


def text_of(kind: griffe.Class) -> list[str]:
    """Returns a class's docstring without its sections."""
    sections = kind.docstring.parse("google") if kind.docstring else []
    return [section.value for section in sections if section.kind is griffe.DocstringSectionKind.text]


def settings_of(kind: griffe.Class) -> list[Setting]:
    """Returns the fields of a dataclass in their order, those of its bases first."""
    found: dict[str, Setting] = {}
    for owner in (*reversed(kind.mro()), kind):
        listed = listed_attributes(owner)
        for name, member in owner.members.items():
            if not member.is_attribute or member.is_alias or member.annotation is None or name.startswith("_"):
                continue
            if "instance-attribute" not in member.labels:  # a property, or a variable of the class
                continue
            if name in UNWRITTEN.get(kind.canonical_path, ()):
                continue
            words = member.docstring.value if member.docstring else listed.get(name, "")
            words = words or (found[name].words if name in found else "") or summary_of(member.annotation, owner)
            default = None if member.value is None else str(member.value)
            found[name] = Setting(name, owner, member.annotation, default, " ".join(words.split()))
    return list(found.values())


def summary_of(annotation: Any, owner: griffe.Class) -> str:
    """Returns the first line of the docstring of the class that an annotation names; empty where that is not ours."""
    kinds = [kind for part in alternatives(annotation, owner) if (kind := class_called(part, owner)) is not None]
    return next((kind.docstring.value.splitlines()[0] for kind in kinds if kind.docstring), "")


def listed_attributes(kind: griffe.Class) -> dict[str, str]:
    """Returns what the section Attributes of a class's docstring says: name → words, as sentences."""
    sections = kind.docstring.parse("google") if kind.docstring else []
    entries = [s for s in sections if s.kind is griffe.DocstringSectionKind.attributes]
    return {one.name: f"{one.description[:1].upper()}{one.description[1:]}" for s in entries for one in s.value}


def typed(setting: Setting, anchors: dict[str, str]) -> str:
    """Says of which type a field is: choices by their values, another table by a link to it."""
    words = []
    for part in alternatives(setting.annotation, setting.owner):
        part = re.sub(r"\bNone\b", "null", part)
        kind = class_called(part, setting.owner)
        if kind is not None and kind.canonical_path in anchors:
            words.append(f"[{kind.name}](#{anchors[kind.canonical_path]})")
        elif part != "null":
            words.append(f"`{part}`")
    return ", ".join(words)


def alternatives(annotation: Any, owner: griffe.Class) -> list[str]:
    """Takes a union or a Literal apart, an alias of one too; each part as a recipe would write it, with its bounds."""
    if isinstance(annotation, griffe.ExprBinOp):
        return alternatives(annotation.left, owner) + alternatives(annotation.right, owner)
    if isinstance(annotation, griffe.ExprSubscript) and str(annotation.left).endswith("Annotated"):
        kind, *bounds = getattr(annotation.slice, "elements", [annotation.slice])
        found = [re.fullmatch(r"(G[et]|L[et])\((.*)\)", str(bound)) for bound in bounds]
        said = ", ".join(f"{BOUNDS[bound[1]]} {bound[2]}" for bound in found if bound)
        return [f"{part} {said}".strip() for part in alternatives(kind, owner)]
    if isinstance(annotation, griffe.ExprSubscript) and str(annotation.left).endswith("Literal"):
        inner = annotation.slice
        return [str(one).strip("'\"") for one in (inner.elements if isinstance(inner, griffe.ExprTuple) else [inner])]
    if isinstance(annotation, griffe.ExprName):
        target = resolved(annotation.name, owner)
        if target is not None and target.is_attribute and target.value is not None:
            return alternatives(target.value, target.parent)
    return [str(annotation)]


def resolved(name: str, owner: Any) -> Any:
    """Returns what a name means where a class is defined; None where that is not ours."""
    try:
        found = package()[owner.resolve(name).removeprefix("untrain.")]
        return found.final_target if found.is_alias else found
    except (KeyError, griffe.NameResolutionError, griffe.AliasResolutionError):
        return None


def class_called(name: str, owner: griffe.Class) -> griffe.Class | None:
    """Returns the class that a type names, by itself or as what a list holds; None where there is none of ours."""
    found = re.fullmatch(r"(?:\w+\[(?:str, )?)?(\w+)\]?", name)
    kind = resolved(found[1], owner) if found else None
    return kind if kind is not None and kind.is_class else None


def default_of(setting: Setting, anchors: dict[str, str]) -> str:
    """Writes a field's default as a recipe would; empty where it is a table's own defaults."""
    if setting.default is None:
        return "required"
    value = as_yaml(ast.parse(setting.default, mode="eval").body, setting.owner)
    return f"`{value}`" if value else ""


def as_yaml(node: ast.expr, owner: griffe.Class) -> str:
    """Writes an expression of a default as YAML on one line.

    Raises:
        PluginError: if it is none that can be read.
    """
    if isinstance(node, ast.Constant):
        if node.value is None or isinstance(node.value, bool):
            return {None: "null", True: "true", False: "false"}[node.value]
        return '"no"' if node.value == "no" else str(node.value)  # YAML reads no as false
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        if node.func.id == "field":
            made = given[0]
            if isinstance(made, ast.Lambda):
                return as_yaml(made.body, owner)
            return {"dict": "{}", "list": "[]"}.get(ast.unparse(made), "")
        kind = resolved(node.func.id, owner)
        if kind is not None and kind.is_class:
            names = [one.name for one in settings_of(kind)][: len(node.args)]
            names += [str(keyword.arg) for keyword in node.keywords]
            pairs = [f"{name}: {as_yaml(value, owner)}" for name, value in zip(names, given, strict=True)]
            return f"{{{', '.join(pairs)}}}" if pairs else ""
    if isinstance(node, ast.Tuple | ast.List):
        return f"[{', '.join(as_yaml(one, owner) for one in node.elts)}]"
    if isinstance(node, ast.Name | ast.Attribute):
        first, _, rest = ast.unparse(node).partition(".")
        constant = resolved(first, owner)
        for part in rest.split(".") if rest and constant is not None else ():
            constant = constant.members.get(part)
        if constant is not None and constant.is_attribute and constant.value is not None:
            return as_yaml(ast.parse(str(constant.value), mode="eval").body, constant.parent)
    if isinstance(node, ast.UnaryOp | ast.BinOp):
        return ast.unparse(node)
    raise PluginError(f"{owner.canonical_path}: no default can be read off {ast.unparse(node)}.")


def cell(words: str) -> str:
    """Writes a sentence into a table's cell; what Markdown would take for its own marks is escaped outside of code."""
    parts = re.split(r"(`[^`]*`)", words)
    return "".join(
        re.sub(r"([*_|<])", r"\\\1", part) if i % 2 == 0 else part.replace("|", "\\|") for i, part in enumerate(parts)
    )
