import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from distillation.tiny_corpus import distil
from PIL import Image


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OFFLINE = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def report(data, tmp_path_factory):
    where = tmp_path_factory.mktemp("report")
    distil(data, where)
    return where / "output" / "report.html"


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.sources, self.links, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.sources += [attributes["src"]] if "src" in attributes else []
        self.links += [attributes["href"]] if "href" in attributes else []

    def handle_data(self, data):
        self.words.append(data)


def test_page_carries_everything_it_shows(report):
    page = Page(report.read_text())
    assert not page.links and page.sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert "url(" not in report.read_text() and "<script" not in report.read_text()


def test_page_shows_counts_reasons_votes_and_references(report):
    words = " ".join(Page(report.read_text()).words)
    for told in ("alpha", "beta", "duplicate of alpha/DRS/003", "no target", "unequal size", "unreadable"):
        assert told in words
    assert re.search(r"\d+ of 23 candidate pairs kept, beside 21 real", words)
    assert "bright: bright finds it True" in words and "structural similarity" in words and "real" in words


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium browser")
def test_a_browser_renders_it(report, tmp_path):
    picture = tmp_path / "page.png"
    subprocess.run(
        [CHROMIUM, "--headless", *OFFLINE, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,2400",
         f"--screenshot={picture}", report.as_uri()],
        check=True, capture_output=True,
    )  # fmt: skip
    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    kept, rejected = np.array([26, 127, 90]), np.array([194, 69, 45])
    # Both colours of the legend, and enough different ones for photographs to be there.
    assert (pixels == kept).all(axis=1).sum() > 500 and (pixels == rejected).all(axis=1).sum() > 500
    assert len(np.unique(pixels, axis=0)) > 2000
