"""The README's picture of the demo, taken from the running app in Chromium.

python benchmarks/space_screenshot.py [--checkpoint NAME] [--example drs] [--output docs/space.png]
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait
from space_load import ROOT, running_space


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="unirain")
    parser.add_argument("--example", default="drs", help="what the example's file name starts with")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "space.png")
    arguments = parser.parse_args()
    names = sorted(path.name for path in (ROOT / "examples").glob("*.jpg"))
    chosen = next(index for index, name in enumerate(names) if name.startswith(arguments.example))
    with tempfile.TemporaryDirectory() as folder, running_space(arguments.checkpoint, Path(folder)) as (address, _):
        options = webdriver.ChromeOptions()
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1240,1330"):
            options.add_argument(argument)
        options.add_argument(f"--user-data-dir={folder}/profile")
        options.binary_location = shutil.which("chromium")
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            wait = WebDriverWait(browser, 120)
            browser.get(address)
            examples = wait.until(lambda _: browser.find_elements("css selector", "#examples button.thumbnail-item"))
            examples[chosen].click()
            wait.until(lambda _: browser.find_elements("css selector", "#chart rect"))
            loaded = "return [...document.images].every(image => image.complete || !image.offsetParent)"
            wait.until(lambda _: browser.execute_script(loaded))
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            browser.save_screenshot(str(arguments.output))
        finally:
            browser.quit()


if __name__ == "__main__":
    main()
