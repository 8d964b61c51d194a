"""From templates to HTML."""

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from untrain.report.words import capitalize

if TYPE_CHECKING:
    import jinja2


@cache
def environment() -> "jinja2.Environment":
    """Returns the templates of the report: what is put into them is escaped, an unknown name in them is an error."""
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.PackageLoader("untrain.report", "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    found.filters["headed"] = lambda text: capitalize(text) if text[:1].isascii() else text  # a symbol stays small
    found.filters["unbroken"] = lambda text: re.sub(r"(?<=\d) (?=(%|s|min|h|nats|points)\b|%)", "\u00a0", text)
    return found


def render(template: str, **values: Any) -> Markup:
    """Fills a template in; the result counts as safe HTML because the template escapes what it is given."""
    return Markup(environment().get_template(template).render(**values))
