"""The page in a real browser: nothing is fetched, no picture is blank, nothing sticks out on a phone.

One start of headless Chromium opens a copy of the page with two things added: a policy that forbids every
request but data: URIs, and a script that looks at the page and writes down what it sees. The copy stands
in a frame as wide as a phone, for a window of Chromium's cannot be as narrow.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

from jepa_core import load_recipe, train
from jepa_core.observers.standard import Journal, MetricsWriter
from jepa_core.report import write_report

WIDTH = 420
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
POLICY = (
    "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; img-src data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
    "<script>window.refused = []; addEventListener('securitypolicyviolation', "
    "event => refused.push(event.blockedURI))</script>"
)
LOOK = """
<script>
function pixels(image, width, height) {
  const canvas = document.createElement('canvas')
  canvas.width = width; canvas.height = height
  const context = canvas.getContext('2d')
  context.drawImage(image, 0, 0, width, height)
  return context.getImageData(0, 0, width, height).data
}
function spread(data) {  // the largest standard deviation among red, green, blue and opacity
  return Math.max(...[0, 1, 2, 3].map(channel => {
    const values = data.filter((_, i) => i % 4 == channel)
    const mean = values.reduce((a, b) => a + b, 0) / values.length
    return Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length)
  }))
}
async function inked(svg) {  // pixels of a curve's own colour
  const copy = svg.cloneNode(true), style = getComputedStyle(document.documentElement)
  for (const name of ['ink', 'faint', 'grid', 'run0'])
    copy.style.setProperty('--' + name, name == 'run0' ? '#ff0000' : style.getPropertyValue('--' + name))
  copy.setAttribute('width', 330); copy.setAttribute('height', 210)
  const image = new Image()
  image.src = 'data:image/svg+xml,' + encodeURIComponent(new XMLSerializer().serializeToString(copy))
  await image.decode()
  const data = pixels(image, 330, 210)
  let count = 0
  for (let i = 0; i < data.length; i += 4) count += data[i] > 200 && data[i + 1] < 90 && data[i + 3] > 100
  return count
}
addEventListener('load', async () => {
  const images = [...document.images].map(image => ({
    alt: image.alt, width: image.naturalWidth, spread: image.naturalWidth ? spread(pixels(image, 64, 64)) : 0,
  }))
  const curves = []
  for (const svg of document.querySelectorAll('.curves svg')) curves.push(await inked(svg))
  const seen = {
    images, curves, refused,
    fetched: performance.getEntriesByType('resource').map(entry => entry.name.slice(0, 60)),
    width: innerWidth, needed: document.documentElement.scrollWidth,
    wide: [...document.querySelectorAll('body *')].filter(e =>
      e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.wide, svg')).map(e => e.tagName),
  }
  const out = document.createElement('pre')
  out.id = 'seen'; out.textContent = JSON.stringify(seen)
  parent.document.body.append(out)
})
</script>
"""


@pytest.fixture(scope="module")
def page(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a tiny run."""
    folder = tmp_path_factory.mktemp("run") / "run"
    recipe = load_recipe(tiny_recipe, "data.test_share=0.3")
    train(recipe, folder, watch=[MetricsWriter(), Journal()])
    return write_report([folder])


@pytest.fixture(scope="module")
def seen(page: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the browser saw."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        assert not os.environ.get("CI"), "a browser is part of the continuous integration"
        pytest.skip(f"needs one of {', '.join(BROWSERS)}")
    folder = tmp_path_factory.mktemp("browser")
    copy = folder / "page.html"
    watched = page.read_text(encoding="utf-8").replace("<head>", f"<head>{POLICY}")
    watched = watched.replace("</body>", f"{LOOK}</body>")
    copy.write_text(
        f'<iframe width="{WIDTH}" height="900" style="border: 0" srcdoc="{escape(watched)}"></iframe>'
    )
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
    quiet = ("--no-first-run", "--disable-background-networking", "--disable-component-update")
    own = (f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000")
    shown = subprocess.run(
        [browser, *options, *quiet, *own, "--dump-dom", copy.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="seen">(.*?)</pre>', shown.stdout, re.S)
    assert found, shown.stderr[-2000:]
    answer: dict[str, Any] = json.loads(unescape(found[1]))
    return answer


def test_nothing_is_fetched(seen: dict[str, Any]) -> None:
    assert seen["refused"] == []
    assert [name for name in seen["fetched"] if not name.startswith("data:")] == []


def test_every_image_is_there_and_none_is_blank(seen: dict[str, Any]) -> None:
    assert len(seen["images"]) > 8 * (3 + 2 + 4 + 8), "masks, components, similarities, neighbours, the map"
    assert [image for image in seen["images"] if image["width"] == 0 or image["spread"] < 3] == []
    assert all(image["alt"] for image in seen["images"])


def test_every_curve_is_drawn(seen: dict[str, Any]) -> None:
    assert len(seen["curves"]) >= 6
    assert min(seen["curves"]) > 100


def test_a_phone_needs_no_scrolling_sideways(seen: dict[str, Any]) -> None:
    assert seen["width"] == WIDTH
    assert seen["needed"] <= WIDTH
    assert seen["wide"] == []


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_words_and_lines_stand_out_in_light_and_in_dark(page: Path) -> None:
    """WCAG 2.2: 4.5 for words, 3 for graphics; 2.2 is allowed to the lighter lines of Okabe and Ito."""
    style = page.read_text(encoding="utf-8").partition("</style>")[0]
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in re.findall(r":root \{(.*?)\}", style, re.S)
    )
    assert light.keys() == dark.keys()
    for colours in (light, dark):
        for word in ("ink", "faint", "accent", "warn"):
            assert contrast(colours[word], colours["paper"]) >= 4.5, word
        assert contrast(colours["run0"], colours["paper"]) >= 3
        assert all(contrast(colours[f"run{i}"], colours["paper"]) >= 2.2 for i in range(8))
