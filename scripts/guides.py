#!/usr/bin/env python3
"""Copies README, CHANGELOG and the guides to where an installation keeps them. Links to what is not installed become text.

usage: guides.py FOLDER
"""

import pathlib
import re
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


def main():
    folder = pathlib.Path(sys.argv[1])
    pages = [TOP / "README.md", TOP / "CHANGELOG.md", *sorted((TOP / "docs").glob("*.md"))]
    installed = {*pages, TOP / "LICENSE"}
    for page in pages:

        def shown(link, page=page):
            text, target = link.groups()
            file = target.split("#")[0]
            path = (page.parent / file).resolve() if file else page
            if "://" in target or path in installed:
                return link[0]
            name = str(path.relative_to(TOP))
            # A link is often called what it leads to.
            return f"`{name}` of the sources" if text == name else f"{text} (`{name}` of the sources)"

        copy = folder / page.relative_to(TOP)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(LINK.sub(shown, page.read_text()))


if __name__ == "__main__":
    main()
