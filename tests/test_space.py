"""The demo as a visitor meets it: the running app, driven by a real browser, by `gradio_client` and by bare HTTP."""

import contextlib
import http.server
import importlib.util
import io
import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from typer.testing import CliRunner

from modeling_unirain import UniRainConfig, UniRainForImageDeraining
from modeling_unirain.hub import save_model
from modeling_unirain.images import Picture, open_image, save_image
from modeling_unirain.publishing import publish


gradio_client = pytest.importorskip("gradio_client", reason="the demo's packages are not installed: .[demo]")
pytest.importorskip("gradio", reason="the demo's packages are not installed: .[demo]")

ROOT = Path(__file__).parents[1]
CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
EXAMPLES = sorted(path for path in (ROOT / "examples").iterdir() if path.suffix in (".jpg", ".png"))
PATIENCE = 200
"""Seconds that an answer may take: the machine may be slow and busy."""


def wait_for(condition, seconds: float = PATIENCE):
    """The first true value of `condition`, which may raise until then."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(Exception):
            if value := condition():
                return value
        if time.monotonic() > end:
            return condition() or pytest.fail("waited in vain")
        time.sleep(0.1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    torch.manual_seed(0)
    save_model(UniRainForImageDeraining(UniRainConfig.from_name("unirain-tiny")), folder)
    return folder


@contextlib.contextmanager
def running(app: Path, checkpoint: Path, folder: Path, python_path: str, **variables: str):
    """The app as `python app.py` in a folder of its own, where every way out to a network is closed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nowhere = "http://127.0.0.1:9"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "GRADIO_"))} | {
        "PYTHONPATH": python_path,
        "UNIRAIN_CHECKPOINT": str(checkpoint),
        "GRADIO_TEMP_DIR": str(folder / "cache"),
        "HF_HOME": str(folder / "hf_home"),
        "HTTP_PROXY": nowhere,
        "HTTPS_PROXY": nowhere,
        "NO_PROXY": "127.0.0.1,localhost",
        **variables,
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, app, "--port", str(port)],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: process.poll() is not None or httpx.get(address).status_code == 200, 600)
        assert process.poll() is None, (folder / "log").read_text()
        yield address
    finally:
        process.terminate()
        process.wait(120)


@pytest.fixture(scope="module")
def space(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("space")
    (folder / "secret.txt").write_text("a secret beside the app")
    (folder / "link.png").symlink_to(folder / "secret.txt")
    with running(ROOT / "space" / "app.py", checkpoint, folder, str(ROOT)) as address:
        yield address


@pytest.fixture(scope="module")
def client(space, tmp_path_factory):
    return gradio_client.Client(space, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


@pytest.fixture
def photograph(tmp_path) -> Path:
    """A 16-bit picture with transparency, whose name needs quoting."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 65536, (44, 61, 3)).astype(np.uint16)
    path = tmp_path / "my photo #1 100%.png"
    save_image(Picture(pixels, alpha=rng.integers(0, 65536, (44, 61)).astype(np.uint16)), path)
    return path


def by_command_line(path: Path, checkpoint: Path, folder: Path) -> Path:
    from modeling_unirain.cli import app as command_line

    target = folder / f"by-command-line{path.suffix}"
    options = ["--checkpoint", str(checkpoint), "--output", str(target), "--device", "cpu"]
    done = CliRunner().invoke(command_line, ["derain", str(path), *options])
    assert done.exit_code == 0, done.output
    return target


def upload(space: str, name: str, content: bytes) -> str:
    response = httpx.post(f"{space}/gradio_api/upload", files={"files": (name, content)}, timeout=PATIENCE)
    response.raise_for_status()
    return response.json()[0]


def call(space: str, file: dict) -> str:
    """What `/derain` answers to a file description that no honest client would send."""
    started = httpx.post(f"{space}/gradio_api/call/derain", json={"data": [file]}, timeout=PATIENCE)
    if started.status_code != 200:
        return started.text
    with httpx.stream(
        "GET", f"{space}/gradio_api/call/derain/{started.json()['event_id']}", timeout=PATIENCE
    ) as events:
        return "".join(events.iter_text())


def bomb_png(side: int) -> bytes:
    """A PNG of side x side black pixels in a few kilobytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    squeeze = zlib.compressobj(9)
    rows = b"".join(squeeze.compress(bytes(side + 1)) for _ in range(side)) + squeeze.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


# The endpoint for programs


def test_api_takes_a_file_and_returns_the_file_of_the_command_line(client, photograph, checkpoint, tmp_path):
    result = Path(client.predict(gradio_client.handle_file(photograph), api_name="/derain"))
    assert result.read_bytes() == by_command_line(photograph, checkpoint, tmp_path).read_bytes()
    after, before = open_image(result), open_image(photograph)
    assert after.pixels.dtype == np.uint16 and np.array_equal(after.alpha, before.alpha)
    assert not np.array_equal(after.pixels, before.pixels)


def test_api_keeps_format_orientation_and_metadata_of_a_jpeg(client, tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "A camera"  # orientation: turned by a quarter; maker
    path = tmp_path / "turned.jpg"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 50, 3), dtype=np.uint8)).save(path, exif=exif)
    with Image.open(client.predict(gradio_client.handle_file(path), api_name="/derain")) as result:
        assert result.format == "JPEG" and result.size == (30, 50)
        assert result.getexif()[0x010F] == "A camera" and result.getexif().get(0x0112, 1) == 1


def test_only_the_documented_endpoint_is_open_to_clients(client):
    endpoints = client.view_api(return_format="dict", print_info=False)
    assert list(endpoints["named_endpoints"]) == ["/derain"]
    assert "/derain" in (ROOT / "space" / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.png", b"only text", "notes.png is not a picture"),
        ("empty.png", b"", "empty.png is empty"),
        ("notes.txt", b"only text", "Invalid file type"),
        ("cut.png", bomb_png(64)[:60], "cut.png is damaged"),
        ("bomb.png", bomb_png(12000), "more than the limit of 24.*: scale it down"),
    ],
)
def test_bad_files_get_one_sentence_that_shows_nothing_of_the_server(client, tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(gradio_client.exceptions.AppError, match=message) as caught:
        client.predict(gradio_client.handle_file(path), api_name="/derain")
    assert "cache" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_twenty_clients_at_once_lose_nothing(client, photograph):
    jobs = [client.submit(gradio_client.handle_file(photograph), api_name="/derain") for _ in range(20)]
    assert all(Path(job.result(PATIENCE)).is_file() for job in jobs)


def test_api_without_a_file_answers_one_sentence(client):
    with pytest.raises(gradio_client.exceptions.AppError, match=r"^Send a photograph\.$"):
        client.predict(None, api_name="/derain")


# Nothing but what was uploaded or made for the visitor can be read


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/etc/../etc/passwd",
        "secret.txt",
        "link.png",
        "../../../../../../etc/passwd",
        "..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
        str(ROOT / "space" / "app.py"),
        str(ROOT / "setup.py"),
        "file:///etc/passwd",
        "/proc/self/environ",
    ],
)
def test_no_file_of_the_server_is_served(space, path):
    for prefix in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/", "/gradio_api/stream/"):
        response = httpx.get(f"{space}{prefix}{path}", timeout=PATIENCE)
        assert response.status_code in (403, 404, 405, 422) or "<!doctype html>" in response.text[:200].lower(), prefix
        assert (
            "root:" not in response.text and "a secret" not in response.text and "def build_page" not in response.text
        )


def test_no_file_of_the_server_is_taken_for_an_input(space):
    for path in ("/etc/passwd", str(ROOT / "setup.py"), "secret.txt", "link.png"):
        answer = call(space, {"path": path, "meta": {"_type": "gradio.FileData"}})
        assert "event: error" in answer and "event: complete" not in answer, answer
        answer = call(space, {"path": path, "url": f"file://{path}", "meta": {"_type": "gradio.FileData"}})
        assert "event: error" in answer and "event: complete" not in answer, answer


def test_no_address_on_the_servers_own_network_is_fetched(space):
    visits = []

    class Inside(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            visits.append(self.path)
            self.send_response(200)
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Inside) as inside:
        threading.Thread(target=inside.serve_forever, daemon=True).start()
        port = inside.server_port
        for host in ("127.0.0.1", "localhost", "0.0.0.0", "[::1]", "2130706433", "0x7f000001"):
            address = f"http://{host}:{port}/inside.png"
            for file in ({"path": address}, {"path": "inside.png", "url": address}):
                answer = call(space, {**file, "meta": {"_type": "gradio.FileData"}})
                assert "event: complete" not in answer, answer
            httpx.get(f"{space}/gradio_api/proxy={address}", timeout=PATIENCE)
            httpx.get(f"{space}/gradio_api/file={address}", follow_redirects=False, timeout=PATIENCE)
        inside.shutdown()
    assert not visits


def test_an_upload_stays_in_its_folder_whatever_it_is_called(space):
    for name in ("../../../evil.png", "/tmp/evil.png", "..\\..\\evil.png", "a/../../evil.png"):
        stored = Path(upload(space, name, b"x"))
        assert stored.parent.parent.name == "cache" and ".." not in stored.parts, stored


def test_an_oversized_upload_is_refused(space):
    response = httpx.post(
        f"{space}/gradio_api/upload", files={"files": ("big.png", bytes(33 << 20))}, timeout=PATIENCE
    )
    assert response.status_code == 413


# The page, in a real browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (CHROMIUM and CHROMEDRIVER):
        pytest.skip("chromium and chromedriver are not installed (apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    downloads = tmp_path_factory.mktemp("browser-downloads")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1200,1000",
        f"--user-data-dir={tempfile.mkdtemp(dir=downloads)}",
    ):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    driver.downloads = downloads
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, space):
    browser.set_window_size(1200, 1000)
    browser.get(space)
    wait_for(lambda: find_all(browser, "#examples button.thumbnail-item") and find(browser, "#rainy input[type=file]"))
    return browser


def find(page, selector: str):
    return page.find_element("css selector", selector)


def find_all(page, selector: str) -> list:
    return page.find_elements("css selector", selector)


def slider_images(page, slider: str = "#slider") -> list:
    return find_all(page, f"{slider} img[data-testid=imageslider-image]")


def fetched(image) -> np.ndarray:
    with Image.open(io.BytesIO(httpx.get(image.get_attribute("src"), timeout=PATIENCE).content)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def test_page_shows_both_pictures_without_loss_and_downloads_the_command_lines_result(page, checkpoint, tmp_path):
    path = tmp_path / "street.png"
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (80, 120, 3), dtype=np.uint8)).save(path)
    expected = by_command_line(path, checkpoint, tmp_path)
    find(page, "#rainy input[type=file]").send_keys(str(path))
    before, after = wait_for(lambda: slider_images(page))
    assert np.array_equal(fetched(before), np.asarray(Image.open(path)))
    assert np.array_equal(fetched(after), np.asarray(Image.open(expected)))
    wait_for(lambda: find(page, "#result a")).click()
    saved = page.downloads / "street-derained.png"
    wait_for(lambda: saved.is_file())
    assert saved.read_bytes() == expected.read_bytes()
    assert "120 × 80 pixels" in wait_for(lambda: find(page, "#summary").text)
    chart = wait_for(lambda: find(page, "#chart [role=img]"))
    assert "encoder blends" in chart.get_attribute("aria-label")
    config = UniRainConfig.from_name("unirain-tiny")
    assert len(find_all(page, "#chart rect")) == config.num_routers * config.num_experts
    assert all(image.get_attribute("alt") for image in slider_images(page))


def test_slider_moves_with_the_mouse_and_with_the_keyboard(page):
    from selenium.webdriver import ActionChains, Keys

    find_all(page, "#examples button.thumbnail-item")[0].click()
    wait_for(lambda: slider_images(page))
    handle = wait_for(lambda: find(page, "#slider [role=slider]"))

    def shown_before() -> float:
        """Share of the picture, in percent, left of the handle."""
        return float(slider_images(page)[1].value_of_css_property("clip-path").rstrip("%)").split()[-1])

    assert shown_before() == pytest.approx(50, abs=2)
    ActionChains(page).drag_and_drop_by_offset(handle, -100, 0).perform()
    wait_for(lambda: shown_before() < 45)
    handle.send_keys(Keys.END)
    wait_for(lambda: shown_before() > 98)
    handle.send_keys(Keys.HOME)
    wait_for(lambda: shown_before() < 2)
    handle.send_keys(Keys.ARROW_RIGHT)
    wait_for(lambda: shown_before() == pytest.approx(5, abs=1))


def test_every_example_works_and_has_a_text_alternative(page):
    thumbnails = find_all(page, "#examples button.thumbnail-item")
    assert len(thumbnails) == len(EXAMPLES) >= 4
    captions = [find(thumbnail, "img").get_attribute("alt") for thumbnail in thumbnails]
    assert {"Day, streaks", "Day, drops", "Night, streaks", "Night, drops"} <= set(captions)
    for example, thumbnail in zip(EXAMPLES, thumbnails, strict=True):
        thumbnail.click()
        name = f"{example.stem}-derained{example.suffix}"
        wait_for(lambda name=name: name in find(page, "#result").text.replace("\n", ""))


def test_a_text_file_and_a_false_picture_are_explained(page, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    find(page, "#rainy input[type=file]").send_keys(str(text))
    wait_for(lambda: any("nvalid file type" in toast.text for toast in find_all(page, ".toast-body")))
    false = tmp_path / "false.png"
    false.write_text("no picture")
    find(page, "#rainy input[type=file]").send_keys(str(false))
    wait_for(lambda: any("false.png is not a picture" in toast.text for toast in find_all(page, ".toast-body")))


def test_rain_is_rendered_and_removed_with_figures(page, tmp_path):
    path = tmp_path / "clean.png"
    Image.fromarray(np.full((96, 128, 3), 128, np.uint8)).save(path)
    find(page, "button[role=tab]:nth-of-type(2)").click()
    find(page, "#clean input[type=file]").send_keys(str(path))
    wait_for(lambda: "clean" in find(page, "#clean").text)
    find(page, "#render").click()
    rainy, derained = wait_for(lambda: slider_images(page, "#pair"))
    assert not np.array_equal(fetched(rainy), fetched(derained))
    figures = wait_for(lambda: [cell.text for cell in find_all(page, "#figures td") if cell.text.strip()])
    numbers = [float(text) for text in (figures[1], figures[4])]
    clean = np.full((96, 128, 3), 128.0)
    errors = [np.mean((fetched(picture) / 255 - clean / 255) ** 2) for picture in (rainy, derained)]
    assert numbers == pytest.approx(list(-10 * np.log10(errors)), abs=0.01), figures


def test_several_files_come_back_in_one_archive_and_a_bad_one_is_reported(page, tmp_path):
    paths = []
    for number in range(2):
        paths.append(tmp_path / f"street-{number}.jpg")
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(paths[-1])
    paths.append(tmp_path / "broken.png")
    paths[-1].write_text("no picture")
    find(page, "button[role=tab]:nth-of-type(3)").click()
    find(page, "#several input[type=file]").send_keys("\n".join(map(str, paths)))
    wait_for(lambda: "broken" in find(page, "#several").text)
    find(page, "#run-several").click()
    link = wait_for(lambda: find(page, "#results a[download='derained.zip']")).get_attribute("href")
    assert "broken.png is not a picture" in wait_for(lambda: find(page, "#report").text)
    with zipfile.ZipFile(io.BytesIO(httpx.get(link, timeout=PATIENCE).content)) as archive:
        assert archive.namelist() == ["street-0-derained.jpg", "street-1-derained.jpg"]


def test_nothing_is_cut_off_on_a_narrow_screen(page):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        page.refresh()
        wait_for(lambda: find_all(page, "#examples button.thumbnail-item"))[0].click()
        wait_for(lambda: slider_images(page))
        wait_for(lambda: find(page, "#chart svg"))
        assert page.execute_script("return document.documentElement.scrollWidth") <= 360
        for selector in ("#run", "#stop", "#slider", "#result", "#examples"):
            box = find(page, selector).rect
            assert box["x"] >= 0 and box["x"] + box["width"] <= 360, selector
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


# The app in this process


@pytest.fixture
def app(tmp_path, monkeypatch) -> dict:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    return runpy.run_path(str(ROOT / "space" / "app.py"))


@pytest.fixture
def demo(app, checkpoint):
    return app["Demo"](str(checkpoint))


def ignored(step, **words) -> None:
    """Progress that nobody looks at."""


VISITOR = SimpleNamespace(session_hash="visitor")
OTHER_VISITOR = SimpleNamespace(session_hash="another")


@pytest.fixture
def running_job(browser, app, demo, tmp_path):
    """The page of `demo` in the browser, and the job of a picture of several tiles that is being derained there."""
    served = app["build_page"](demo)
    _, address, _ = served.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False)
    try:
        browser.get(address)
        wait_for(lambda: find_all(browser, "#examples button.thumbnail-item"))
        Image.new("RGB", (1500, 1200), "grey").save(tmp_path / "large.png")
        wait_for(lambda: find(browser, "#rainy input[type=file]")).send_keys(str(tmp_path / "large.png"))
        yield wait_for(lambda: next(iter(demo.jobs)))
        browser.get("about:blank")
        wait_for(lambda: not demo.jobs)
    finally:
        served.close()


def results_until(browser, done) -> set[str]:
    """The names of results that were to be seen, one after another."""
    seen: set[str] = set()

    def look():
        seen.update(link.get_attribute("download") for link in find_all(browser, "#result a[download]"))
        return done(seen)

    wait_for(look)
    return seen


def test_the_file_chosen_last_is_derained_and_no_other_result_is_shown_beside_it(browser, running_job):
    for number in (0, -1):
        find_all(browser, "#examples button.thumbnail-item")[number].click()
        wait_for(lambda number=number: EXAMPLES[number].stem in find(browser, "#rainy").text)
    name = f"{EXAMPLES[-1].stem}-derained{EXAMPLES[-1].suffix}"
    assert results_until(browser, lambda seen: name in seen) == {name}
    assert running_job.cancelled


def test_putting_the_file_away_stops_its_work_and_leaves_nothing_of_it(browser, demo, running_job):
    find(browser, "#rainy button[aria-label=Clear]").click()
    wait_for(lambda: running_job.cancelled)
    assert not results_until(browser, lambda seen: not demo.jobs)
    time.sleep(1)  # for what the page would still be sent
    assert not slider_images(browser) and not find(browser, "#summary").text


def test_leaving_the_page_stops_its_work(browser, running_job):
    browser.get("about:blank")
    wait_for(lambda: running_job.cancelled)


def test_cancel_stops_the_work_and_leaves_no_result(app, demo, photograph, tmp_path):
    seen = []

    def progress(step, **words):
        seen.append(step)
        demo.stop(demo.derain_for_page)(VISITOR)

    with pytest.raises(app["Cancelled"]), demo.watch(demo.derain_for_page, VISITOR, progress) as watch:
        demo.restore(photograph, watch)
    assert seen == [1] and not list((tmp_path / "cache").rglob("*.png"))


def test_cancel_stops_what_runs_but_nothing_begun_later_elsewhere_or_by_others(app, demo):
    with contextlib.ExitStack() as running_jobs:

        def begin(work, visitor):
            return running_jobs.enter_context(demo.watch(work, visitor, ignored))

        cancelled = begin(demo.derain_for_page, VISITOR)
        others = [begin(demo.derain_several, VISITOR), begin(demo.derain_for_page, OTHER_VISITOR)]
        demo.stop(demo.derain_for_page)(VISITOR)
        others.append(begin(demo.derain_for_page, VISITOR))  # while the thread of the cancelled one works on
        for watch in others:
            watch(1, 2)
        with pytest.raises(app["Cancelled"]):
            cancelled(1, 2)
    assert not demo.jobs


def test_a_cancelled_batch_keeps_what_is_done(demo, photograph):
    batch = demo.derain_several([photograph, photograph], VISITOR, ignored)
    rows, results = next(batch)
    demo.stop(demo.derain_several)(VISITOR)
    assert list(batch) == [] and not demo.jobs
    assert len(rows) == 1 and [Path(result).is_file() for result in results] == [True]


def test_the_bar_of_a_batch_is_that_of_all_its_pictures(demo, photograph):
    steps = []

    def progress(step, **words):
        steps.append(step[0] / step[1] if isinstance(step, tuple) else step)

    list(demo.derain_several([photograph, photograph], VISITOR, progress))
    assert steps == [0, 0.5, 0.5, 1]


def test_an_animation_of_which_one_picture_comes_back_is_told_of(app, demo, tmp_path):
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("grey", "teal", "navy")]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    _, _, summary, _ = demo.derain_for_page(tmp_path / "moving.webp", VISITOR, ignored)
    *_, (rows, _) = demo.derain_several([tmp_path / "moving.webp"], VISITOR, ignored)
    assert all("only the first of its 3 pictures" in said for said in (summary, rows[0][1]))


def test_a_batch_stops_at_what_the_queue_can_bear(app, demo, photograph):
    size = np.prod(open_image(photograph).size) / 1e6
    demo.derain_several.__func__.__globals__["BATCH_MEGAPIXELS"] = 1.5 * size
    *_, (rows, results) = demo.derain_several([photograph, photograph], VISITOR, ignored)
    assert "done" in rows[0][1] and "left out" in rows[1][1]
    with zipfile.ZipFile(results[0]) as archive:
        assert len(archive.namelist()) == 1


def test_each_user_of_a_machine_has_a_cache_of_their_own(monkeypatch):
    caches = []
    for user in (1000, 1001):
        monkeypatch.setenv("GRADIO_TEMP_DIR", "")
        monkeypatch.delenv("GRADIO_TEMP_DIR")
        monkeypatch.setattr(os, "getuid", lambda user=user: user, raising=False)
        runpy.run_path(str(ROOT / "space" / "app.py"))
        caches.append(Path(os.environ["GRADIO_TEMP_DIR"]).parent)
    assert caches[0] != caches[1]


def test_the_colour_profile_reaches_previews_and_rendered_pictures(app, demo, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = np.random.default_rng(3).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    save_image(Picture(pixels, icc_profile=profile), tmp_path / "colour.png")
    save_image(Picture(pixels[..., :1], icc_profile=profile), tmp_path / "grey.png")
    assert app["preview"](open_image(tmp_path / "colour.png")).info == {"icc_profile": profile}
    kind = next(iter(app["TYPE_NAMES"]))
    for name, expected in (("colour.png", profile), ("grey.png", b"")):  # a grey profile does not describe RGB
        shown, _, files, _ = demo.rain_and_derain(tmp_path / name, kind, 0.5, 0, VISITOR, ignored)
        assert [image.info.get("icc_profile", b"") for image in shown] == [expected] * 2
        assert [open_image(file).icc_profile for file in files] == [expected] * 2


# The Space as it is published


def write_spaces(folder: Path) -> Path:
    """A stand-in for the `spaces` package, which like it lends a GPU only on ZeroGPU. Returns the record of loans."""
    lent = folder / "lent"
    (folder / "spaces.py").write_text(
        "import os\n"
        "def GPU(function):\n"
        "    def borrowed(*arguments):\n"
        f"        open({str(lent)!r}, 'a').write('x')\n"
        "        return function(*arguments)\n"
        "    return borrowed if os.environ.get('SPACES_ZERO_GPU') == 'true' else function\n"
    )
    return lent


@pytest.fixture
def ordinary_space(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    write_spaces(tmp_path)


def test_a_space_without_zerogpu_has_progress_and_cancel(ordinary_space, demo, photograph):
    seen = []
    demo.restore(photograph, lambda done, total: seen.append(done / total))
    assert seen == [1]


def test_the_published_space_runs_without_the_package_and_uses_zerogpu_where_it_is(checkpoint, hub, tmp_path):
    """The upload alone, in a folder of its own, beside a stand-in for the `spaces` package of ZeroGPU."""
    publish("space", ROOT / "space", "me/demo")
    folder = tmp_path / "space"
    for name, content in hub.files("me/demo", "space").items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    lent = write_spaces(folder)
    with running(folder / "app.py", checkpoint, folder, "", SPACES_ZERO_GPU="true") as address:
        client = gradio_client.Client(address, verbose=False, download_files=tmp_path / "downloads")
        for example in (folder / "examples").glob("*.[jp][pn]g"):
            assert client.predict(gradio_client.handle_file(example), api_name="/derain")
    assert lent.read_text() == "x" * len(EXAMPLES)


@pytest.mark.parametrize(
    "option, value, part", [("--checkpoint", "/nowhere", "nowhere"), ("--port", "99999", "port must be 0-65535")]
)
def test_what_it_cannot_start_with_is_one_sentence(checkpoint, tmp_path, monkeypatch, capsys, option, value, part):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["app.py", "--checkpoint", str(checkpoint), option, value])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "space" / "app.py"), run_name="__main__")
    assert stopped.value.code == 2 and part in capsys.readouterr().err


def test_results_that_nobody_was_shown_are_deleted_when_they_are_old(app, demo, photograph):
    old, new = demo.restore(photograph).file, demo.restore(photograph).file
    hours_ago = time.time() - app["KEEP_SECONDS"] - 60
    os.utime(old.parent, (hours_ago, hours_ago))
    app["delete_what_is_old"](old.parents[1])
    assert not old.parent.exists() and new.exists()


def test_what_a_killed_server_left_is_deleted_and_what_a_running_one_has_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    caches = []
    for _ in range(2):
        monkeypatch.setenv("GRADIO_TEMP_DIR", "")
        monkeypatch.delenv("GRADIO_TEMP_DIR")
        app = runpy.run_path(str(ROOT / "space" / "app.py"))
        caches.append(Path(os.environ["GRADIO_TEMP_DIR"]))
        app["delete_what_is_old"](caches[-1])
        (caches[-1] / "deadbeef").mkdir()
        (caches[-1] / "deadbeef" / "private.jpg").touch()
    killed, running = caches
    long_ago = time.time() - 11 * app["HEARTBEAT_SECONDS"]
    for folder in (killed, running, running / "deadbeef"):
        os.utime(folder, (long_ago, long_ago))
    app["delete_what_is_old"](running)
    assert not killed.exists() and (running / "deadbeef" / "private.jpg").exists()


def test_requirements_are_what_the_vendored_package_imports():
    """They install on a fresh machine what the app needs: the package's own requirements, less the command line's."""
    listed = {
        line.split(">")[0] for line in (ROOT / "space" / "requirements.txt").read_text().splitlines() if line[0] != "#"
    }
    setup = (ROOT / "setup.py").read_text().split("install_requires=[")[1].split("]")[0]
    wanted = {json.loads(line.strip().rstrip(",")).split(">")[0] for line in setup.strip().splitlines()}
    assert listed == wanted - {"typer"}
    assert all(importlib.util.find_spec({"pillow": "PIL"}.get(name, name)) for name in listed)
