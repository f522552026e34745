"""The page of a run in a real browser: headless Chromium, on a phone and on a desktop, in light and in dark."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from made_up_run import REPORT, TARGET, write_run

from secateur.report import comparison_page
from secateur.report.comparison import RUN, Comparison, Criterion, Point, ScoredModel

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--v=0",
)
WIDTHS = (360, 1280)
SCHEMES = {"dark": (0, "rgb(20, 23, 26)"), "light": (1, "rgb(253, 253, 252)")}
"""Scheme -> its number in Chromium, and the page's colour in it."""

# The unchanged page, whose policy forbids scripts, in a frame of each width, which a script outside inspects. Media
# queries in a frame use its width, which may be narrower than the smallest window of a browser.
LOOK = """
<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark"><title>not yet</title>
{frames}
<script>
function apart(a, b) {{
  return a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 3 || b.bottom <= a.top + 3;
}}
function look(frame) {{
  const page = frame.contentDocument, root = page.documentElement, odd = [];
  for (const picture of page.querySelectorAll("svg")) {{
    const frame = picture.getBoundingClientRect(), texts = [...picture.querySelectorAll("text")];
    const boxes = texts.map(text => text.getBoundingClientRect());
    boxes.forEach((box, n) => {{
      const inside = box.left >= frame.left - 1 && box.right <= frame.right + 1 && box.bottom <= frame.bottom + 1;
      if (!inside) odd.push(texts[n].textContent + " leaves its picture");
      for (let m = 0; m < n; m++)
        if (!apart(box, boxes[m])) odd.push(texts[n].textContent + " lies on " + texts[m].textContent);
    }});
  }}
  return {{
    width: root.clientWidth, scroll: root.scrollWidth, odd: odd,
    pictures: page.querySelectorAll("svg").length,
    colour: getComputedStyle(page.body).backgroundColor,
    requests: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name),
  }};
}}
window.onload = () => {{
  const found = [...document.querySelectorAll("iframe")].map(look);
  document.body.innerHTML = "";
  document.title = JSON.stringify(found);
}};
</script>
"""


def seen(folder, page, scheme):
    """The layout of a page in a browser at each of the widths, and the messages on its console."""
    frames = "".join(
        f'<iframe style="width: {width}px; height: 900px; border: 0" srcdoc="{html.escape(page)}"></iframe>'
        for width in WIDTHS
    )
    return looked_at(folder, scheme, LOOK.format(frames=frames), SCHEMES[scheme][0])


def looked_at(folder, name, text, scheme):
    """What the script of a page put into its title as JSON, and the messages on the console."""
    harness = folder / f"{name}.html"
    harness.write_text(text, encoding="utf-8")
    command = [
        *(CHROMIUM, *FLAGS, f"--blink-settings=preferredColorScheme={scheme}"),
        *(f"--user-data-dir={folder / name}", "--dump-dom", harness.as_uri()),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>(.*?)</title>", result.stdout, re.DOTALL)[1]
    console = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(title)), console


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed: apt-get install chromium")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_page_fits_the_screen_of_a_browser(tmp_path, scheme):
    report = replace(REPORT, target=TARGET, recipe={**REPORT.recipe, "model": "a/very/long/path/" * 12 + "model"})
    page = (write_run(tmp_path / "run", report) / "report.html").read_text(encoding="utf-8")
    found, console = seen(tmp_path, page, scheme)
    assert console == []
    for width, view in zip(WIDTHS, found, strict=True):
        assert view["width"] == width and view["scroll"] <= width, "nothing is wider than the screen"
        assert view["colour"] == SCHEMES[scheme][1]
        assert view["requests"] == []
        assert view["pictures"] == 12
        assert view["odd"] == []


# The sorting of a table, by the buttons that the script of the page makes, pressed by its own script
SORT = """
<!doctype html><meta charset="utf-8"><title>not yet</title>
<iframe style="width: 360px; height: 900px; border: 0" srcdoc="{page}"></iframe>
<script>
window.onload = () => {{
  const page = document.querySelector("iframe").contentDocument, found = [];
  const heads = page.querySelectorAll(".sortable thead th"), root = page.documentElement;
  const names = () => [...page.querySelectorAll(".sortable tbody th")].map(cell => cell.textContent.trim());
  for (const head of [heads[2], heads[2], heads[0]]) {{
    head.querySelector("button").click();
    found.push([[...heads].map(one => one.getAttribute("aria-sort")), names()]);
  }}
  const point = page.querySelector(".point"), shown = () => getComputedStyle(point.lastChild).visibility;
  const before = shown();
  point.focus();
  const rows = [...page.querySelectorAll(".sortable tbody th")];
  const broken = rows.filter(cell => cell.getClientRects()[0].height > 45).length;
  const fits = root.scrollWidth <= root.clientWidth, labels = [before, shown()];
  document.body.innerHTML = "";
  document.title = JSON.stringify({{sorted: found, labels: labels, fits: fits, broken: broken}});
}};
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed: apt-get install chromium")
def test_a_comparison_is_sorted_by_its_heads_and_labels_its_points(tmp_path):
    density = Criterion("density", lambda model: model.density, "{:.2f}".format)
    names = {"a model with a long name at density 0.25": (0.25, 0.8), "b": (None, 0.9), "c": (1.0, 0.95)}
    points = [
        Point(name, RUN, "made", (ScoredModel(name, score=score, density=x, parameters=1, bytes=1),))
        for name, (x, score) in names.items()
    ]
    page = comparison_page.to_html(Comparison("accuracy", True, "0123", 100, tuple(points), (density,)))
    found = looked_at(tmp_path, "sort", SORT.format(page=html.escape(page)), 1)[0]
    first, second, third = found["sorted"]
    assert [one[0] for one in found["sorted"]] == [
        [None, None, "ascending", None, None],
        [None, None, "descending", None, None],
        ["ascending", None, None, None, None],
    ]
    assert [name.split()[1] for name in first[1]] == ["a", "b", "c"]
    assert [name.split()[1] for name in second[1]] == ["c", "b", "a"]
    assert [name.split()[1] for name in third[1]] == ["a", "b", "c"]
    assert found["labels"] == ["hidden", "visible"] and found["fits"] and found["broken"] == 0
