"""How the documentation becomes a site: `make docs`. The pages are Markdown, and can be read as they are as well."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import typer.cli
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

import halfstride
from halfstride.cli.app import app as commands
from halfstride.figures.upsampling import THEMES
from halfstride.studio.animation import SECONDS

DOCS = Path(__file__).resolve().parent
REPOSITORY = "https://github.com/halfstride/halfstride/blob/main"

project = "halfstride"
version = release = halfstride.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
default_role = "py:obj"  # what docstrings have between single backticks, linked where it is documented
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88

html_theme = "furo"
pygments_dark_style = "github-dark"  # furo's own underlines the names of modules, as if they were links
html_title = "halfstride"
html_static_path = ["_static"]
html_css_files, html_js_files = ["site.css"], ["site.js"]
html_show_copyright = html_copy_source = False
html_theme_options = {"top_of_page_buttons": []}


def replaced(pattern: str, by: str, text: str) -> str:
    """Text with a pattern replaced where it stands outside of backticks."""
    parts = text.split("`")
    parts[::2] = [re.sub(pattern, by, part) for part in parts[::2]]
    return "`".join(parts)


def with_options(text: str) -> str:
    """Text whose options, such as --resume, are code: the dashes would be made one."""
    return replaced(r"(?<![\w-])(--[a-z][a-z-]*)", r"`\1`", text)


def command_line(help: str) -> str:
    """A command's help as Markdown: options as code, and its examples, indented lines, as a block."""
    text, _, examples = re.sub(r"\bExamples:\n", "Example:\n", help).partition("Example:\n")
    text = with_options(text)
    lines = "\n".join(f"$ {line.strip()}" if line.strip() else "" for line in examples.rstrip().splitlines())
    return f"{text.rstrip()}\n\n```console\n{lines}\n```" if examples else text.rstrip()


def all_commands() -> str:
    """The options of each command, as typer knows them."""
    group: Any = typer.main.get_command(commands)
    context = typer.Context(group, info_name="halfstride")
    parts: list[str] = []

    def describe(command: Any, name: str) -> None:
        command.help = command_line(command.help or "")
        for parameter in command.params:
            parameter.help = with_options(getattr(parameter, "help", None) or "")
        children = list(getattr(command, "commands", {}).values())
        command.commands = {}  # its own list of commands says less than the contents of the page
        parts.append(typer.cli.get_docs_for_click(obj=command, ctx=context, indent=1, name=name))
        for child in children:
            describe(child, f"{name} {child.name}")

    describe(group, "halfstride")
    return "\n".join(parts)


def read_source(sphinx: Sphinx, page: str, source: list[str]) -> None:
    """Write the reference of the commands, and lead links that leave the docs to the repository."""
    if page == "reference/cli":
        source[0] += "\n" + all_commands()

    def outwards(link: re.Match[str]) -> str:
        path = (DOCS / page).parent.joinpath(link[1]).resolve()
        inside = path.is_relative_to(DOCS) or not path.is_relative_to(DOCS.parent)
        return link[0] if inside else f"]({REPOSITORY}/{path.relative_to(DOCS.parent).as_posix()}"

    source[0] = re.sub(r"\]\((\.\./[^)#\s]+)", outwards, source[0])


def escape_stars(sphinx: Sphinx, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """A shape such as (n, *stride) begins no emphasis."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[number] = replaced(r"(?<![\w*\\])\*(?=\(|\w+(?![\w*]))", r"\\*", line)


def keep_colons(sphinx: Sphinx, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Napoleon takes what stands before a colon in an attribute's first line for its type: give it an empty comment."""
    if kind in ("attribute", "property", "data"):
        lines[:0] = ["..", ""]


class Animations(SphinxTransform):
    """Put the SVG of an animation into the page itself, where it follows the theme and can be stopped and stepped."""

    default_priority = 100  # before the images of a page are collected

    def apply(self, **arguments: Any) -> None:
        for image in list(self.document.findall(nodes.image)):
            if "/animations/" in image["uri"]:
                path = Path(self.env.relfn2path(image["uri"])[1])
                self.env.note_dependency(str(path))
                drawing = path.read_text(encoding="utf-8")
                for name, colour in THEMES["light"]._asdict().items():
                    drawing = drawing.replace(f'"{colour}"', f'"var(--animation-{name.replace("_", "-")})"')
                label = html.escape(image.get("alt", ""), quote=True)
                width = int(re.search(r'width="(\d+)"', drawing)[1])
                sizes = f"min-width: {0.42 * width:.0f}px; max-width: {0.7 * width:.0f}px"
                drawing = drawing.replace("<svg ", f'<svg role="img" aria-label="{label}" style="{sizes}" ', 1)
                player = f'<div class="animation" data-seconds="{SECONDS}"><div tabindex="0">{drawing}</div></div>'
                image.replace_self(nodes.raw("", player, format="html"))


def theme_colours() -> str:
    """The animations' colours in both of furo's themes, which follow the system where nothing else is chosen."""

    def rules(theme: str) -> str:
        named = THEMES[theme]._asdict().items()
        return "".join(f"--animation-{name.replace('_', '-')}:{colour};" for name, colour in named)

    dark = rules("dark")
    return (
        f"<style>body{{{rules('light')}}}body[data-theme=dark]{{{dark}}}"
        f"@media(prefers-color-scheme:dark){{body:not([data-theme=light]){{{dark}}}}}</style>"
    )


def add_colours(sphinx: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    context["metatags"] = context.get("metatags", "") + theme_colours()


def setup(sphinx: Sphinx) -> None:
    sphinx.connect("source-read", read_source)
    sphinx.connect("autodoc-process-docstring", escape_stars)
    sphinx.connect("autodoc-process-docstring", keep_colons, priority=400)  # before napoleon
    sphinx.connect("html-page-context", add_colours)
    sphinx.add_transform(Animations)
