"""Works the report's page in headless Chromium, with the network off."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess

import pytest

from zoo.report import load_results, page
from zoo.report.document import build

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


browser = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--window-size=1300,900",
    "--enable-logging=stderr",
)


WATCH = """
const problems = [];
addEventListener("error", (event) => problems.push(event.message));
addEventListener("unhandledrejection", (event) => problems.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => problems.push("policy: " + event.violatedDirective));
"""


HELP = """
const rows = () => [...document.querySelectorAll("#table tbody tr[data-cell]")];
const heads = () => [...document.querySelectorAll("#table thead th")];
const column = (name) => heads().findIndex((th) => th.textContent.replace(/ [▲▼]$/, "") === name);
const texts = (name) => rows().map((row) => row.children[column(name)].textContent);
const sortBy = (name) => heads()[column(name)].querySelector("button").click();
const type = (text) => {
  const box = document.querySelector("#filters input[type=search]");
  box.value = text; box.dispatchEvent(new Event("input"));
};
const pick = (label, value) => {
  const labels = [...document.querySelectorAll("label")];
  const found = labels.find((l) => l.textContent.startsWith(label + " ")).querySelector("select");
  found.value = value; found.dispatchEvent(new Event("change"));
};
"""


def make_page(folder):
    return page.render(build(load_results([folder]), [folder]))


def work(text, tmp_path, script):
    """Runs a script in a page; returns what its function returned, and the errors that the page saw."""
    watch = f"<script>{WATCH}</script>"
    report = f"{HELP}\nconst answer = (() => {{ {script} }})();\n" + (
        'const out = document.createElement("pre"); out.id = "answer";'
        "const requests = performance.getEntriesByType('resource').length;"
        "out.textContent = JSON.stringify({answer, problems, requests});"
        "document.body.append(out);"
    )
    # The test's scripts are let in by their hash: the page's own policy stays in force.
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in (WATCH, report)
    )
    text = text.replace("script-src ", f"script-src {hashes} ", 1).replace("<title>", f"{watch}<title>", 1)
    path = tmp_path / "page.html"
    path.write_text(text.replace("</body>", f"<script>{report}</script></body>"))
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'<pre id="answer">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-3000:]
    seen = json.loads(html.unescape(found[1]))
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert seen["problems"] == [] and console == [] and seen["requests"] == 0, (seen, console)
    return seen["answer"]
