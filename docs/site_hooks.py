"""Hooks of mkdocs: the README is the first page; files of the repository that the site does not have are named, not linked."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

_DOCS = Path(__file__).parent
_README = "index.md"
_LINK = re.compile(r"(?<!!)\[([^\]\n]+)\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the README as the first page."""
    from mkdocs.structure.files import File

    text = (_DOCS.parent / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, _README, content=text.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Name the files that the site does not have."""
    folder = posixpath.dirname(page.file.src_uri)

    def shown(link: re.Match[str]) -> str:
        name = posixpath.normpath(posixpath.join(folder, link[2]))
        kept = not name.startswith("..") and (name == _README or (_DOCS / name).is_file())
        return link[0] if kept else f"{link[1]} (`{name.lstrip('./')}`)"

    return _LINK.sub(shown, markdown)
