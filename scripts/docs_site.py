"""Makes the site of mkdocs.yml from the documents as they stand, and adds what is made of the program and the
protocol: a hook of mkdocs.

The pages of the repository's root become pages of the site. Links that leave docs/ lead to these, or to the
repository if its address is known (`MATCHPOINT_REPOSITORY`); if it is not, the text stays without the link.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from docs_reference import pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
# Of the root, with the place that each has in the site.
PAGES = {
    "README.md": "README.md",
    "ARCHITECTURE.md": "ARCHITECTURE.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
}
LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"(^ *```.*?^ *```[^\n]*$)", flags=re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, place in PAGES.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text(encoding="utf-8")))
    try:
        made = pages()
    except FileNotFoundError as missing:
        raise PluginError(str(missing)) from missing
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    place = page.file.src_uri
    # Where the links of this page start in the repository.
    own = next((source for source, at in PAGES.items() if at == place), f"docs/{place}")
    folder = PurePosixPath(own).parent

    def link(found: re.Match[str]) -> str:
        path, hash_, heading = found["target"].partition("#")
        if not path or ":" in path:
            return found[0]
        target = os.path.normpath(folder / path)
        there = PAGES.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        if there is not None and files.get_file_from_path(there) is not None:
            relative = os.path.relpath(there, PurePosixPath(place).parent)
            return f"{found['image']}[{found['text']}]({relative}{hash_}{heading})"
        if not (ROOT / target).exists():
            # mkdocs warns of it, and the strict build fails.
            return found[0]
        if config.repo_url:
            return f"[{found['text']}]({config.repo_url.rstrip('/')}/blob/main/{target}{hash_}{heading})"
        return found["text"]

    parts = FENCE.split(markdown)
    return "".join(part if index % 2 else LINK.sub(link, part) for index, part in enumerate(parts))
