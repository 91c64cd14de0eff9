"""Debian's Chromium without a window: what a page looks like, and where its elements are."""

import html
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

REQUIRED = "MOBILELLAMA_REQUIRE_CHROMIUM"
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--force-device-scale-factor=1",
)  # fmt: skip
# A window cannot be as narrow as a phone, and a page of ours runs no script: it is laid out in a
# frame of the width, and the page around it measures.
_AROUND = """<!DOCTYPE html><meta charset="utf-8"><body style="margin:0">
<iframe style="border:0;display:block" width="{width}" height="{height}" srcdoc="{page}"></iframe>
<pre id="measured" style="display:none"></pre>
<script>
onload = () => {{
  const inner = document.querySelector("iframe").contentDocument;
  const found = [...inner.querySelectorAll("*")].map(one => {{
    const box = one.getBoundingClientRect();
    return {{name: one.tagName.toLowerCase(), kind: one.getAttribute("class") || "",
      text: one.textContent, x: box.x, y: box.y, width: box.width, height: box.height}};
  }});
  document.getElementById("measured").textContent = JSON.stringify({{title: inner.title,
    width: inner.documentElement.scrollWidth, height: inner.documentElement.scrollHeight,
    elements: found}});
}};
</script>"""


@dataclass(frozen=True, kw_only=True)
class Element:
    """An element of a page and its box, in pixels from the page's corner."""

    name: str
    kind: str
    """Its class."""
    text: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A page as the browser shows it."""

    title: str
    scroll_width: int
    """Of what the page holds; more than the window if it must be scrolled sideways."""
    elements: list[Element]
    picture: Image.Image

    def named(self, name: str, kind: str | None = None) -> list[Element]:
        """Return the elements of a name, and of a class if one is given, in the page's order."""
        return [
            one for one in self.elements if one.name == name and (kind is None or one.kind == kind)
        ]


def show(page: str, folder: Path, *, width: int, height: int, dark: bool = False) -> Shown:
    """Open a page in Chromium; skip the test where there is none.

    Args:
        page: HTML.
        folder: an empty one, for the browser's files.
        width: of the window, in pixels.
        height: of the picture.
        dark: whether the user prefers dark pages.
    """
    program = shutil.which("chromium")
    if program is None and os.environ.get(REQUIRED):  # so that CI cannot pass by skipping
        pytest.fail(f"{REQUIRED} is set, but there is no chromium")
    if program is None:
        pytest.skip("Debian's package 'chromium' is not installed")
    around, picture = folder / "around.html", folder / "picture.png"
    around.write_text(_AROUND.format(width=width, height=height, page=html.escape(page)))
    command = [program, *_FLAGS, f"--user-data-dir={folder / 'profile'}"]
    command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    command += [f"--window-size={max(width, 600)},{height}"]
    dom = _run([*command, "--dump-dom", around.as_uri()])
    _run([*command, f"--screenshot={picture}", around.as_uri()])
    said = dom.partition('<pre id="measured" style="display:none">')[2].partition("</pre>")[0]
    measured: dict[str, Any] = json.loads(html.unescape(said))
    with Image.open(picture) as image:
        shown = image.convert("RGB").crop((0, 0, width, height))
    return Shown(
        title=measured["title"],
        scroll_width=measured["width"],
        elements=[Element(**one) for one in measured["elements"]],
        picture=shown,
    )


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout
