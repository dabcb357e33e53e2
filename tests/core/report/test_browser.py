"""The page in a real browser: nothing is fetched, no picture is blank, nothing sticks out on a phone.

Headless Chromium opens a copy of the page with a script that inspects it and writes down what it sees; the
copy's policy is the page's own with this script allowed. The copy stands in a frame as wide as a phone, as a
window of Chromium's cannot be as narrow.
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
from jepa_core.plots.curves import SERIES
from jepa_core.report import write_report
from jepa_core.report.charts import CLASS_COLOURS, GREY
from jepa_core.report.page import POLICY
from tests.core.report.made_studies import make_study

PHONE, DESKTOP = 390, 1440
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
RECORDER = (
    "<script>window.refused = []; addEventListener('securitypolicyviolation', "
    "event => refused.push(event.blockedURI))</script>"
)
INSPECTOR = """
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
  for (const svg of document.querySelectorAll('.curves .step svg')) curves.push(await inked(svg))
  const charts = [...document.querySelectorAll('.chart')]
  const shown = () => charts.filter(e => e.offsetParent).map(e => e.className)
  const before = shown()
  document.querySelector('label[for=x-time]')?.click()
  const after = shown()
  const seen = {
    images, curves, refused, before, after,
    untitled: [...document.querySelectorAll('svg[role=img]')].filter(e => !e.querySelector('title')).length,
    unscoped: [...document.querySelectorAll('th')].filter(e => !e.scope).length,
    charts: document.querySelectorAll('svg[role=img]').length,
    sticky: [...document.querySelectorAll('.compared')].map(table => {
      const box = table.parentElement, name = table.querySelector('tbody th')
      box.scrollLeft = 200
      return name.getBoundingClientRect().left - box.getBoundingClientRect().left
    }),
    main: document.querySelectorAll('main').length,
    dangling: [...document.querySelectorAll('nav a')].filter(e => !document.querySelector(e.hash)).length,
    links: document.querySelectorAll('nav a').length,
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
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of fourteen runs."""
    folder = tmp_path_factory.mktemp("study") / "runs"
    make_study(folder)
    return write_report([folder])


def inspect(page: Path, folder: Path, width: int) -> dict[str, Any]:
    """What the browser sees of the page in a frame of that width."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        assert not os.environ.get("CI"), "a browser is part of the continuous integration"
        pytest.skip(f"needs one of {', '.join(BROWSERS)}")
    source = page.read_text(encoding="utf-8")
    policy = escape(POLICY).replace("&#x27;", "&#39;")
    assert source.count(policy) == 1
    allowed = policy + "; script-src &#39;unsafe-inline&#39;"
    source = source.replace(policy, allowed).replace("</head>", f"{RECORDER}</head>", 1)
    source = source.replace("</body>", f"{INSPECTOR}</body>")
    copy = folder / f"page{width}.html"
    copy.write_text(
        f'<iframe width="{width}" height="900" style="border: 0" srcdoc="{escape(source)}"></iframe>'
    )
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
    quiet = ("--no-first-run", "--disable-background-networking", "--disable-component-update")
    own = (f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000")
    answer = subprocess.run(
        [browser, *options, *quiet, *own, "--dump-dom", copy.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    match = re.search(r'<pre id="seen">(.*?)</pre>', answer.stdout, re.DOTALL)
    assert match, answer.stderr[-2000:]
    seen: dict[str, Any] = json.loads(unescape(match[1]))
    return seen


@pytest.fixture(scope="module")
def seen(page: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run's page on a phone."""
    return inspect(page, tmp_path_factory.mktemp("browser"), PHONE)


@pytest.fixture(scope="module", params=[PHONE, DESKTOP])
def compared(
    study: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[str, Any]:
    """The page of fourteen runs, on a phone and on a desk."""
    return {"frame": request.param} | inspect(study, tmp_path_factory.mktemp("browser"), request.param)


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
    assert seen["width"] == PHONE
    assert seen["needed"] <= PHONE
    assert seen["wide"] == []


def test_charts_tables_and_contents_can_be_read_aloud(seen: dict[str, Any]) -> None:
    assert seen["charts"] == len(seen["curves"])
    assert (seen["untitled"], seen["unscoped"], seen["dangling"], seen["main"]) == (0, 0, 0, 1)
    assert seen["links"] >= 9


def test_a_comparison_fits_and_fetches_nothing(compared: dict[str, Any]) -> None:
    assert compared["refused"] == compared["fetched"] == compared["wide"] == []
    assert compared["needed"] <= compared["width"] == compared["frame"]
    assert not compared["untitled"]
    assert not compared["unscoped"]
    assert not compared["dangling"]
    assert compared["main"] == 1
    assert compared["charts"] == 4 * 7 + 2 * 5, "panels on four axes, and rows of dots for two scores"
    assert compared["links"] == 4


def test_the_x_axis_is_chosen_without_a_script(compared: dict[str, Any]) -> None:
    assert set(compared["before"]) == {"chart step"}
    assert set(compared["after"]) == {"chart time"}
    assert len(compared["before"]) == len(compared["after"]) > 5


def test_names_stay_when_a_table_is_scrolled(compared: dict[str, Any]) -> None:
    assert all(abs(left) < 1 for left in compared["sticky"])
    assert len(compared["sticky"]) == 3


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_words_and_lines_stand_out_in_light_and_in_dark(page: Path) -> None:
    """WCAG 2.2: a contrast of 4.5 for text (1.4.3), of 3 for the lines of charts (1.4.11)."""
    style = page.read_text(encoding="utf-8").partition("</style>")[0]
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", part))
        for part in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    )
    assert light.keys() == dark.keys()
    assert [light[f"run{i}"] for i in range(8)] == [colour.lower() for colour in SERIES]
    for colours in (light, dark):
        for word in ("ink", "faint", "accent", "warn"):
            assert contrast(colours[word], colours["paper"]) >= 4.5, word
        for ground in ("panel", "best", "mark"):
            assert contrast(colours["ink"], colours[ground]) >= 4.5, ground
        assert contrast(colours["faint"], colours["best"]) >= 4.5
        lines = [colours[f"run{i}"] for i in range(8)]
        assert min(contrast(line, colours["paper"]) for line in lines) >= 3
        assert len(set(lines)) == 8
        assert min(contrast(colour, colours["paper"]) for colour in (*CLASS_COLOURS, GREY)) >= 3
