"""The HTML of the pages: each has its own `<main>` in `static`, and all have the same head with links to the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from string import Template

STATIC = Path(__file__).parent / "static"


@dataclass(frozen=True)
class Page:
    """A page of the studio: `static` has its HTML and its JavaScript, both under its name."""

    name: str
    path: str
    """One level deep, so that `static/` and `api/`, relative to the page, are right behind a proxy too."""
    main: str
    """The `id` of the element that the keyboard can skip to."""
    content: str
    """What that element shows, in a few words."""
    of_run: bool = True
    """Whether it is about a run, which is then named in its address."""

    def html(self) -> str:
        """Return the whole page."""
        return Template((STATIC / "page.html").read_text(encoding="utf-8")).substitute(
            name=self.name,
            title=self.name.capitalize(),
            main=self.main,
            content=self.content,
            links="".join(_link(page, current=page is self) for page in PAGES),
            body=(STATIC / f"{self.name}.html").read_text(encoding="utf-8"),
        )


def _link(page: Page, *, current: bool) -> str:
    run = " data-run" if page.of_run else ""
    here = ' aria-current="page"' if current else ""
    return f'<a href=".{page.path}"{run}{here}>{page.name.capitalize()}</a>'


UPSAMPLING = Page("upsampling", "/", "views", "views", of_run=False)
PAGES = (
    UPSAMPLING,
    Page("autoencoder", "/autoencoder", "lab", "run"),
    Page("network", "/network", "strip", "layers"),
    Page("compare", "/compare", "lab", "runs compared"),
    Page("detection", "/detection", "judged", "judged pictures"),
    Page("checkerboard", "/checkerboard", "enlargements", "pictures"),
    Page("doctor", "/doctor", "lab", "findings"),
)
"""All pages, in the order of their links."""
