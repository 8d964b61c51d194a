"""Models on the Hugging Face hub: a card where a folder has none, and the upload, which happens only when it is asked
for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from untrain.errors import FolderError, SettingError, message_of
from untrain.io import write_text
from untrain.models.card import CARD, base_front, base_name, cell, code, figure, flat, plain

TEMPLATE = """\
---
{{ card_data }}
---

# {{ base }}, made to forget

## What was to be forgotten

{{ forgotten }}

## How

Method {{ method }}.{{ took }}
{% if settings %}
| Setting | Value |
|---|---|
{% for name, value in settings %}| {{ name }} | {{ value }} |
{% endfor %}{% endif %}
## What this holds

{{ holds }}

- SHA-256 of the original's weights (names, types, shapes, content): {{ before }}
{% if after %}- The same of the unlearned ones: {{ after }}
{% endif %}
## What was measured

{% if measures %}| Measure | before | after |
|---|--:|--:|
{% for name, one, two in measures %}| {{ name }} | {{ one }} | {{ two }} |
{% endfor %}{% else %}Nothing was measured. How much of it is left is not known.
{% endif %}{% for warning in warnings %}
Warning: {{ warning }}
{% endfor %}
## Limits

- What is forgotten here is not forgotten elsewhere: the original, copies of it and what was trained from it are as they
  were.
- An attack that was not tried, or further training, may bring back what was forgotten.
- This is no proof that training data was deleted.

## Made with

{% for name, version in versions %}- {{ name }} {{ version }}
{% endfor %}"""
"""A model card, as huggingface_hub's `ModelCard` fills it in."""


@dataclass(frozen=True)
class HubCard:
    """What a model card says of a model that has none of its own kind.

    Attributes:
        base: hub id, folder or file of the original, or what it is; of a path only the last name is written down.
        forgotten: what was asked, as a sentence.
        method: its name.
        settings: of the method, as they were resolved.
        holds: what the repository holds, as a sentence.
        before: hash of the original's weights.
        after: of the unlearned ones; None: not known.
        library: that loads it, by the hub's name; None: none does by itself.
        took: steps and seconds, as a sentence, or empty.
        measures: (title, before, after) of what was measured.
        warnings: what casts doubt on it.
        versions: library → version.
        tags: more of them.
        licence: of the original, as `licence_of` gives it.
    """

    base: str
    forgotten: str
    method: str
    settings: Mapping[str, Any]
    holds: str
    before: str
    after: str | None = None
    library: str | None = None
    took: str = ""
    measures: Sequence[tuple[str, Any, Any]] = ()
    warnings: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    tags: Sequence[str] = ()
    licence: Mapping[str, str] = field(default_factory=dict)


def hub_card(facts: HubCard) -> str:
    """A model card in Markdown, behind the YAML that the hub reads.

    Raises:
        SettingError: if huggingface_hub is missing.
    """
    hub = hub_library()
    front = base_front(facts.base, facts.licence)
    tags = ["machine-unlearning", "untrain", *facts.tags]
    data = hub.ModelCardData(library_name=facts.library, tags=tags, **front)
    card = hub.ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        base=base_name(facts.base),
        forgotten=plain(facts.forgotten),
        method=code(facts.method),
        took=f" {facts.took}" if facts.took else "",
        settings=[(cell(name), cell(value)) for name, value in flat(facts.settings)],
        holds=facts.holds,
        before=code(facts.before),
        after=None if facts.after is None else code(facts.after),
        measures=[(plain(name), figure(one), figure(two)) for name, one, two in facts.measures],
        warnings=[plain(text) for text in facts.warnings],
        versions=[*facts.versions.items()],
    )
    return str(card)


def write_hub_card(folder: Path, facts: HubCard) -> None:
    """Writes the card of a folder."""
    write_text(folder / CARD, hub_card(facts))


def push_folder(
    folder: str | Path,
    repo: str,
    *,
    public: bool = False,
    update: bool = False,
    message: str = "Upload of a model that was made to forget",
    api: Any = None,
) -> str:
    """Uploads a folder with a model and its card to the hub, as the user who is logged in there; returns its address.

    Args:
        folder: all of it is uploaded.
        repo: USER/NAME.
        public: whether a repository that is made can be seen by everybody.
        update: whether the repository may be there already.
        message: of the commit.
        api: an `HfApi`; None: a new one, with the token of the user's own login.

    Raises:
        SettingError: if the name is none, the repository is there already, or huggingface_hub is missing.
        FolderError: if the folder has no card, or the upload fails.
    """
    hub, folder = hub_library(), Path(folder)
    check_repo(repo)
    if not (folder / CARD).is_file():
        raise FolderError(f"{folder} has no {CARD}, by which the hub tells what it is. Write one.")
    hub.ModelCard((folder / CARD).read_text(encoding="utf-8"))  # whose YAML must be readable
    api = hub.HfApi() if api is None else api
    try:
        if not update and api.repo_exists(repo):
            raise SettingError(f"{repo} is there already. Choose another name, or allow its update.")
        api.create_repo(repo, repo_type="model", private=not public, exist_ok=update)
        api.upload_folder(repo_id=repo, folder_path=str(folder), commit_message=message)
    except SettingError:
        raise
    except Exception as error:  # the hub's client has many kinds of failures; the cause is passed on
        raise FolderError(
            f"{folder} could not be uploaded to {repo}: {message_of(error)} Check the name, the connection, and the "
            "login (hf auth login)."
        ) from error
    return f"https://huggingface.co/{repo}"


def check_repo(repo: str) -> None:
    """Refuses what is no name of a repository.

    Raises:
        SettingError: says what one is.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo):
        raise SettingError(f"a repository of the hub is USER/NAME, not {repo!r}.")


def hub_library() -> Any:
    """huggingface_hub.

    Raises:
        SettingError: if it is missing.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise SettingError("the hub needs huggingface_hub: pip install 'untrain[hub]'.") from error
    return huggingface_hub
