"""The command line on real folders: what it writes, what it leaves alone, what it says."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image, ImageCms
from typer.testing import CliRunner

from modeling_unirain import cli, load_derainer
from modeling_unirain.batch import RUN_RECORD
from modeling_unirain.images import open_image


@pytest.fixture
def unirain(tiny_checkpoint):
    """Runs `unirain derain` with the tiny checkpoint; output and error streams together."""

    def run(*arguments, checkpoint=tiny_checkpoint, code=0):
        options = [] if checkpoint is None else ["--checkpoint", str(checkpoint), "--device", "cpu"]
        result = CliRunner().invoke(cli.app, ["derain", *options, *map(str, arguments)])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result.output

    return run


def picture(path: Path, height=20, width=30, mode="RGB", seed=0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path)
    return path


def one_sentence(output: str, *parts) -> None:
    lines = [line for line in output.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("Error: "), output
    for part in parts:
        assert str(part) in output


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# What it does


def test_one_picture_becomes_what_the_package_makes_of_it(unirain, tiny_checkpoint, tmp_path):
    source = picture(tmp_path / "a.png")
    assert "Derained 1 of 1" in unirain(source, "--output", tmp_path / "new" / "b.png")
    expected = np.asarray(load_derainer(tiny_checkpoint)(source))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "b.png")), expected)
    assert tree(tmp_path / "new") == {"b.png"}


def test_folder_keeps_its_tree_its_formats_and_its_depths(unirain, tmp_path):
    rainy = tmp_path / "rainy"
    names = ["a.png", "B.JPG", "deep/er/c.webp", "deep/d.bmp", "deep/e.tiff"]
    for name in names:
        picture(rainy / name)
    tifffile.imwrite(rainy / "sixteen.tif", np.full((9, 8, 3), 40000, np.uint16), photometric="rgb")
    (rainy / "notes.txt").write_text("not a picture")
    picture(rainy / ".hidden" / "f.png")
    unirain(rainy, "-o", tmp_path / "out")
    assert tree(tmp_path / "out") == {*names, "sixteen.tif", RUN_RECORD}
    for name in [*names, "sixteen.tif"]:
        before, after = open_image(rainy / name), open_image(tmp_path / "out" / name)
        assert (after.size, after.format, after.pixels.dtype) == (before.size, before.format, before.pixels.dtype)


def test_linked_folders_are_searched_too(unirain, tmp_path):
    picture(tmp_path / "elsewhere" / "b.png")
    picture(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "in" / "more")
    unirain(tmp_path / "in", "--output", tmp_path / "out")
    assert tree(tmp_path / "out") - {RUN_RECORD} == {"a.png", "more/b.png"}


def test_one_picture_goes_into_what_ends_in_a_slash(unirain, tmp_path):
    source = picture(tmp_path / "a.png")
    for output in ("results.v2/", "more/results.png/"):
        assert "Derained 1 of 1" in unirain(source, "-o", f"{tmp_path}/{output}")
        assert tree(tmp_path / output) == {"a.png", RUN_RECORD}
    one_sentence(unirain(source, "-o", f"{source}/", code=1), source, "is a file, but a folder is needed")


def test_a_run_given_as_a_glob_goes_on_though_its_results_match(unirain, tmp_path):
    for name in ("in/a.png", "in/deep/b.png"):
        picture(tmp_path / name)
    (tmp_path / "in" / "broken.png").symlink_to(tmp_path / "nowhere.png")
    for pattern in ("**/*.png", "**"):
        run = (tmp_path / pattern, "-o", tmp_path / "results" / "out")
        assert "2" in unirain(*run)
        assert "Skipped 2 finished" in unirain(*run)


def test_what_a_glob_searches_may_lie_in_the_output_folder(unirain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "in" / "a.png")
    assert "Derained 1 of 1" in unirain("in/*.png", "-o", ".")
    assert "Derained 1 of 1" in unirain("in/*.png", "-o", "in", "--overwrite")


def test_a_picture_given_twice_is_done_once_however_it_is_spelled(unirain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "Derained 1 of 1" in unirain(picture(tmp_path / "a.png"), "a.png", "./a.png", "-o", tmp_path / "out")


def test_a_name_that_begins_with_a_tilde_is_a_name(unirain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "~moose.png")
    assert "Derained 1 of 1" in unirain("~moose.png", "-o", "out.png")


def test_globs_files_and_folders_together(unirain, tmp_path):
    picture(tmp_path / "in" / "a1.png")
    picture(tmp_path / "in" / "a2.png")
    picture(tmp_path / "in" / "sub" / "b.png")
    picture(tmp_path / "c.png")
    unirain(tmp_path / "in" / "a*.png", tmp_path / "c.png", tmp_path / "in" / "sub", "-o", tmp_path / "out")
    assert tree(tmp_path / "out") == {"a1.png", "a2.png", "b.png", "c.png", RUN_RECORD}
    unirain(tmp_path / "in" / "**" / "b.png", "-o", tmp_path / "all")
    assert tree(tmp_path / "all") == {"b.png", RUN_RECORD}


def test_output_below_the_input_is_not_taken_as_input(unirain, tmp_path):
    picture(tmp_path / "a.png")
    for _ in range(2):
        unirain(tmp_path, "-o", tmp_path / "out")
    assert tree(tmp_path) == {"a.png", "out/a.png", f"out/{RUN_RECORD}"}


def test_output_that_a_link_in_the_input_leads_to_is_not_taken_as_input(unirain, tmp_path):
    picture(tmp_path / "in" / "a.png")
    (tmp_path / "big").mkdir()
    (tmp_path / "in" / "out").symlink_to(tmp_path / "big")
    for expected in ("Derained 1 of 1", "Skipped 1 finished"):
        assert expected in unirain(tmp_path / "in", "--output", tmp_path / "in" / "out")
    assert tree(tmp_path / "big") == {"a.png", RUN_RECORD}


def test_output_may_be_a_folder_above_the_input(unirain, tmp_path):
    picture(tmp_path / "photos" / "a.png")
    unirain(tmp_path / "photos", "-o", tmp_path)
    assert tree(tmp_path) == {"photos/a.png", "a.png", RUN_RECORD}


def test_another_format_is_written_when_asked(unirain, tmp_path):
    picture(tmp_path / "in" / "a.png", mode="RGBA")
    unirain(tmp_path / "in", "-o", tmp_path / "out", "--format", "TIFF")
    assert open_image(tmp_path / "out" / "a.tiff").format == "TIFF"
    unirain(tmp_path / "in" / "a.png", "-o", tmp_path / "b.jpg")
    assert open_image(tmp_path / "b.jpg").format == "JPEG"


def test_compare_writes_a_sheet_beside_each_result(unirain, tmp_path):
    for name in ("a.png", "a.jpg"):
        picture(tmp_path / "in" / name, 40, 60)
    unirain(tmp_path / "in", "-o", tmp_path / "out", "--compare")
    sheets = {"a.png-compare.jpg", "a.jpg-compare.jpg"}
    assert tree(tmp_path / "out") == {"a.png", "a.jpg", *sheets, RUN_RECORD}
    for name in sheets:
        with Image.open(tmp_path / "out" / name) as sheet:
            assert sheet.width > 2 * 60 and sheet.height > 40


def test_a_sheet_has_the_colours_of_its_pictures(unirain, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, mode in (("colour.png", "RGB"), ("grey.png", "L")):
        Image.new(mode, (60, 40)).save(tmp_path / name, icc_profile=profile)
        unirain(tmp_path / name, "-o", tmp_path / "out" / name, "--compare")
        sheet = open_image(tmp_path / "out" / f"{name}-compare.jpg")
        assert sheet.icc_profile == (profile if mode == "RGB" else b"")


def test_a_file_whose_name_ends_in_another_format_keeps_its_own(unirain, tmp_path):
    source = picture(tmp_path / "in" / "a.png", mode="RGBA").rename(tmp_path / "in" / "a.jpg")
    unirain(tmp_path / "in", "-o", tmp_path / "out")
    derained = open_image(tmp_path / "out" / "a.jpg")
    assert derained.format == "PNG"
    np.testing.assert_array_equal(derained.alpha, open_image(source).alpha)
    unirain(source, "-o", tmp_path / "b.jpg")
    assert open_image(tmp_path / "b.jpg").format == "JPEG"


def test_an_empty_name_is_not_the_folder_that_one_is_in(unirain, tmp_path, monkeypatch):
    source = picture(tmp_path / "work" / "a.png")
    before = source.read_bytes()
    monkeypatch.chdir(tmp_path / "work")
    for arguments in (("", "-o", "out"), ("a.png", "-o", ""), ("", "-o", "", "--overwrite")):
        assert "it is empty" in unirain(*arguments, code=2)
    assert "it is empty" in unirain("a.png", "-o", "out", checkpoint="", code=2)
    assert tree(tmp_path) == {"work/a.png"} and source.read_bytes() == before


def test_the_home_folder_is_found_in_every_place(unirain, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a.png")
    shutil.copytree(tiny_checkpoint, tmp_path / "tiny")
    unirain("~/a.png", "-o", "~/out/b.png", checkpoint="~/tiny")
    assert (tmp_path / "out" / "b.png").is_file() and not (tmp_path / "~").exists()


def test_sheets_are_not_written_among_the_pictures(unirain, tmp_path):
    picture(tmp_path / "in" / "a.png")
    said = unirain(tmp_path / "in", "-o", tmp_path / "in", "--overwrite", "--compare", code=1)
    one_sentence(said, "would be taken for more of them: choose another --output")
    assert tree(tmp_path) == {"in/a.png"}


def test_sheets_that_are_missing_are_made_from_the_results_that_are_there(unirain, tmp_path):
    for name in ("a.png", "b.png"):
        picture(tmp_path / "in" / name, 40, 60)
    out = tmp_path / "out"
    unirain(tmp_path / "in", "-o", out, "--compare")
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    sheet = (out / "a.png-compare.jpg").read_bytes()
    (out / "a.png-compare.jpg").unlink()
    output = unirain(tmp_path / "in", "-o", out, "--compare")
    assert "Skipped 1 finished" in output and "Derained 1 of 1" in output
    assert (out / "a.png-compare.jpg").read_bytes() == sheet
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*.png")}


def test_self_ensemble_is_what_python_calls_so(unirain, tiny_checkpoint, tmp_path):
    source = picture(tmp_path / "a.png", 64, 96)
    unirain(source, "-o", tmp_path / "b.png", "--self-ensemble")
    derain = load_derainer(tiny_checkpoint, device="cpu")
    written = np.asarray(Image.open(tmp_path / "b.png"), int)
    assert np.abs(written - np.asarray(derain(source, self_ensemble=True))).max() <= 1
    assert np.abs(written - np.asarray(derain(source))).max() > 1


def test_tiles_and_batches_give_the_same_pictures(unirain, tmp_path):
    for number in range(5):
        picture(tmp_path / "in" / f"{number}.png", 150 if number else 170, 200, seed=number)
    unirain(tmp_path / "in", "-o", tmp_path / "one")
    unirain(tmp_path / "in", "-o", tmp_path / "batch", "--batch-size", 3)
    unirain(tmp_path / "in", "-o", tmp_path / "tiled", "--tile", 128)
    for number in range(5):
        one, batch, tiled = (
            np.asarray(Image.open(tmp_path / folder / f"{number}.png"), float) for folder in ("one", "batch", "tiled")
        )
        assert np.abs(one - batch).max() <= 1
        assert 0 < np.abs(one - tiled).mean() < 1  # tiles were used, and hardly show


def test_progress_shows_throughput_and_time_left(tiny_checkpoint, tmp_path):
    for number in range(3):
        picture(tmp_path / "in" / f"{number}.png", 200, 300)
    pseudo_terminal, handle = os.openpty()
    fcntl.ioctl(handle, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(
        derain_folder(tiny_checkpoint), cwd=tmp_path, stderr=handle, stdout=subprocess.DEVNULL, env=environment()
    )
    os.close(handle)
    text = b""
    while True:
        try:
            chunk = os.read(pseudo_terminal, 4096)
        except OSError:  # the other end is closed
            break
        text += chunk
    os.close(pseudo_terminal)
    assert process.wait() == 0
    assert re.search(rb"100%\|.*3\.0/3 pictures \[\d+:\d+<00:00, [\d.]+ megapixels/s\]", text), text


def test_demo_derains_the_examples_and_lays_them_out(tiny_checkpoint, tmp_path, monkeypatch):
    for number in range(4):
        picture(tmp_path / "examples" / f"{number}.png", 40, 60)
    monkeypatch.setattr(cli, "EXAMPLES", (tmp_path / "nothing", tmp_path / "examples"))
    arguments = ["demo", "-o", str(tmp_path / "out"), "--checkpoint", str(tiny_checkpoint)]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert tree(tmp_path / "out") == {"0.png", "1.png", "2.png", "3.png", "comparison.png"}
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0, "the same command again"
    (tmp_path / "out" / "comparison.png").unlink()
    (tmp_path / "out" / "2.png").write_text("mine")
    for path in ("0.png", "1.png", "3.png"):
        (tmp_path / "out" / path).unlink()
    one_sentence(CliRunner().invoke(cli.app, arguments).output, tmp_path / "out" / "2.png", "exists already")
    assert (tmp_path / "out" / "2.png").read_text() == "mine" and tree(tmp_path / "out") == {"2.png"}
    assert CliRunner().invoke(cli.app, [*arguments, "--overwrite"]).exit_code == 0
    assert open_image(tmp_path / "out" / "2.png").size == (40, 60)
    before = (tmp_path / "examples" / "0.png").read_bytes()
    result = CliRunner().invoke(cli.app, ["demo", "-o", str(tmp_path / "examples"), *arguments[3:]])
    assert result.exit_code == 1 and "choose another --output" in result.output
    assert (tmp_path / "examples" / "0.png").read_bytes() == before
    monkeypatch.setattr(cli, "EXAMPLES", (tmp_path / "nothing",))
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 1 and "not installed" in result.output


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is limited as Linux does")
def test_too_little_memory_is_one_sentence(tmp_path):
    Image.new("RGB", (5000, 5000), (90, 120, 60)).save(tmp_path / "large.png")
    code = """
import resource, sys
from modeling_unirain import cli
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (500 << 20),) * 2)
sys.argv = ["unirain", "rain", "large.png", "-o", "rainy.png"]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and tree(tmp_path) == {"large.png"}
    one_sentence(done.stderr, "memory does not suffice")


def test_rain_writes_both_pictures_or_none(tmp_path):
    photograph = picture(tmp_path / "a.png", 64, 64)

    def rain(*options, code=0):
        result = CliRunner().invoke(cli.app, ["rain", str(photograph), *map(str, options)])
        assert result.exit_code == code, result.output
        return result.output

    out, clean = tmp_path / "rainy.png", tmp_path / "clean.webp"
    one_sentence(rain("-o", out, "--clean", tmp_path / "clean.xyz", code=1), "clean.xyz does not say")
    one_sentence(rain("-o", tmp_path / "rainy", "--clean", clean, code=1), "rainy does not say")
    one_sentence(rain("-o", out, "--clean", out, code=1), "cannot both be")
    one_sentence(rain("-o", out, "--clean", tmp_path / "x" / ".." / out.name, code=1), "cannot both be")
    one_sentence(rain("-o", out, "--clean", photograph / "clean.png", code=1), "a.png is a file, not a folder")
    assert tree(tmp_path) == {"a.png"}
    rain("-o", out, "--clean", clean)
    assert open_image(out).size == open_image(clean).size == (64, 64)
    one_sentence(rain("-o", out, code=1), "exists already")
    one_sentence(rain("-o", photograph, "--overwrite", code=1), "unless it is the photograph")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "a camera"
    Image.open(photograph).save(photograph, icc_profile=profile, exif=exif)
    rain("-o", out, "--clean", clean, "--overwrite")
    for path in (out, clean):
        assert open_image(path).icc_profile == profile
        assert Image.open(path).getexif()[ExifTags.Base.Model] == "a camera"


# What it leaves alone


def test_finished_pictures_are_skipped_until_told_otherwise(unirain, tmp_path):
    picture(tmp_path / "in" / "a.png")
    unirain(tmp_path / "in", "-o", tmp_path / "out")
    written = (tmp_path / "out" / "a.png").stat().st_mtime_ns
    picture(tmp_path / "in" / "b.png", seed=1)
    output = unirain(tmp_path / "in", "-o", tmp_path / "out")
    assert "Skipped 1 finished" in output and "Derained 1 of 1" in output
    assert (tmp_path / "out" / "a.png").stat().st_mtime_ns == written
    unirain(tmp_path / "in", "-o", tmp_path / "out", "--overwrite")
    assert (tmp_path / "out" / "a.png").stat().st_mtime_ns > written


def test_output_older_than_its_input_is_reported_not_replaced(unirain, tmp_path):
    source = picture(tmp_path / "in" / "a.png")
    unirain(tmp_path / "in", "-o", tmp_path / "out")
    before = (tmp_path / "out" / "a.png").read_bytes()
    later = time.time() + 100
    os.utime(picture(source, seed=5), (later, later))
    assert "not the result of" in unirain(tmp_path / "in", "-o", tmp_path / "out", code=1)
    assert (tmp_path / "out" / "a.png").read_bytes() == before


@pytest.fixture
def other_checkpoint(tiny_checkpoint, tmp_path) -> Path:
    """As the tiny checkpoint, with other weights."""
    other = shutil.copytree(tiny_checkpoint, tmp_path / "other")
    model = load_derainer(other).model
    model.output_projection.weight.data.mul_(2)
    model.save_pretrained(other)
    return other


def test_pictures_from_the_future_are_finished_too(unirain, tmp_path):
    """Of a camera whose clock is ahead."""
    tomorrow = time.time() + 86400
    os.utime(picture(tmp_path / "in" / "a.png"), (tomorrow, tomorrow))
    unirain(tmp_path / "in", "--output", tmp_path / "out", "--compare")
    assert "Skipped 1 finished" in unirain(tmp_path / "in", "--output", tmp_path / "out", "--compare")


def test_pictures_of_another_checkpoint_are_not_taken_as_finished(unirain, other_checkpoint, tmp_path):
    picture(tmp_path / "in" / "a.png")
    unirain(tmp_path / "in", "-o", tmp_path / "out")
    again = ["-o", tmp_path / "out"]
    one_sentence(unirain(tmp_path / "in", *again, checkpoint=other_checkpoint, code=1), "another checkpoint")
    unirain(tmp_path / "in", *again, "--overwrite", checkpoint=other_checkpoint)
    assert json.loads((tmp_path / "out" / RUN_RECORD).read_text())["checkpoint"] == str(other_checkpoint)


def test_pictures_of_one_way_are_not_taken_as_finished_the_other(unirain, tmp_path):
    picture(tmp_path / "in" / "a.png")
    run, ensemble = (tmp_path / "in", "-o", tmp_path / "out"), "--self-ensemble"
    unirain(*run)
    one_sentence(unirain(*run, ensemble, code=1), "made without --self-ensemble")
    one_sentence(unirain(*run, "--dtype", "bfloat16", code=1), "made with --dtype float32")
    before = (tmp_path / "out" / "a.png").read_bytes()
    unirain(*run, ensemble, "--overwrite")
    assert (tmp_path / "out" / "a.png").read_bytes() != before
    assert "Skipped 1" in unirain(*run, ensemble)
    one_sentence(unirain(*run, code=1), "made with --self-ensemble")


def test_input_is_never_overwritten_unasked(unirain, tmp_path):
    source = picture(tmp_path / "a.png")
    before = source.read_bytes()
    (tmp_path / "link.png").symlink_to(source)
    for arguments in ((source, "-o", source), (source, "-o", tmp_path), (source, "-o", tmp_path / "link.png")):
        one_sentence(unirain(*arguments, code=1), "overwrite its own input")
    assert source.read_bytes() == before
    unirain(source, "-o", source, "--overwrite")
    assert source.read_bytes() != before


def test_existing_file_is_not_replaced_unasked(unirain, tmp_path):
    source, other = picture(tmp_path / "a.png"), picture(tmp_path / "b.png")
    one_sentence(unirain(source, "-o", other, code=1), "exists already")


def test_sheet_is_checked_like_a_result(unirain, tmp_path):
    source, own = picture(tmp_path / "in" / "a.png"), tmp_path / "b.png-compare.jpg"
    own.write_text("mine")
    one_sentence(unirain(source, "-o", tmp_path / "b.png", "--compare", code=1), f"{own} exists already")
    (tmp_path / "out").mkdir()
    own = own.rename(tmp_path / "out" / "a.png-compare.jpg")
    said = unirain(source, "-o", tmp_path / "out", "--compare", code=1)
    assert f"Failed: {own} is not the result of {source}" in said
    assert own.read_text() == "mine" and tree(tmp_path / "out") == {own.name, RUN_RECORD}
    picture(tmp_path / "in" / "a.png-compare.jpg")
    said = unirain(tmp_path / "in", "-o", tmp_path / "new", "--compare", code=1)
    one_sentence(said, "would both be written to", tmp_path / "new" / "a.png-compare.jpg")


def test_file_from_before_the_first_run_is_not_taken_as_finished(unirain, tmp_path):
    source = picture(tmp_path / "in" / "a.png")
    (tmp_path / "out").mkdir()
    copy = Path(shutil.copyfile(source, tmp_path / "out" / "a.png"))
    said = unirain(tmp_path / "in", "-o", tmp_path / "out", code=1)
    assert f"{copy} is not the result of" in said and copy.read_bytes() == source.read_bytes()


def test_damaged_record_is_one_sentence(unirain, tmp_path):
    source, record = picture(tmp_path / "a.png"), tmp_path / "out" / RUN_RECORD
    record.parent.mkdir()
    for text in ("{", "[]", "{}", "\xff"):
        record.write_text(text, encoding="latin-1")
        one_sentence(unirain(source, "-o", record.parent, code=1), record, "is damaged")


MANY = 16
"""Pictures of a run that is to be stopped: enough that it is not over before the signal arrives."""


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def environment() -> dict[str, str]:
    """As many threads as here: another number rounds sums in another way, and bytes are compared."""
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])} | threads


def derain_folder(checkpoint, *options, output="out") -> list:
    """The command that derains `in/` into `out/`, for another process."""
    command = f"-m modeling_unirain.cli derain in -o {output} --checkpoint"
    return [sys.executable, *command.split(), checkpoint, *options]


def heed_interrupts() -> None:
    """A shell starts what it runs in the background, these tests perhaps, with SIGINT ignored, which children inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(checkpoint, folder: Path, *options, output="out") -> subprocess.Popen:
    """A run in another process over 600 x 800 pictures, of which at least one is done and counted."""
    for number in range(MANY):
        path = picture(folder / "in" / f"{number}.png", 600, 800, seed=number)
        os.utime(path, (0, 0))  # older than any output
    command = derain_folder(checkpoint, *options, output=output)
    since, second = time.time(), folder / output / "1.png"
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(),
        preexec_fn=heed_interrupts,
    )
    while not (second.exists() and second.stat().st_mtime > since):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    return process


def test_killed_folder_run_goes_on_where_it_was(unirain, tiny_checkpoint, tmp_path):
    process = started(tiny_checkpoint, tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("[0-9]*.png")}
    assert 1 <= len(finished) < MANY
    for path in finished:
        open_image(path)  # complete
    output = unirain(tmp_path / "in", "-o", tmp_path / "out")
    assert f"Skipped {len(finished)} finished" in output and f"Derained {MANY - len(finished)} of" in output
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())
    assert tree(tmp_path / "out") == {*(f"{number}.png" for number in range(MANY)), RUN_RECORD}
    unirain(tmp_path / "in" / "[01].png", "-o", tmp_path / "undisturbed")
    for number in range(2):
        a, b = (digest(tmp_path / folder / f"{number}.png") for folder in ("out", "undisturbed"))
        assert a == b


def test_killed_run_that_replaces_another_checkpoints_pictures_leaves_no_mixture(
    unirain, tiny_checkpoint, other_checkpoint, tmp_path
):
    for number in range(MANY):
        picture(tmp_path / "in" / f"{number}.png", seed=number)  # small: what is left of these results is easy to tell
    unirain(tmp_path / "in", "-o", tmp_path / "out")
    process = started(other_checkpoint, tmp_path, "--overwrite")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = [path for path in (tmp_path / "out").glob("[0-9]*.png") if open_image(path).size != (600, 800)]
    assert 1 <= len(left) < MANY
    one_sentence(unirain(tmp_path / "in", "-o", tmp_path / "out", code=1), "another checkpoint")
    for path in left[2:]:  # a few are enough
        (tmp_path / "in" / path.name).unlink()
    left, finished = left[:2], MANY - len(left)
    output = unirain(tmp_path / "in", "-o", tmp_path / "out", checkpoint=other_checkpoint)
    assert f"Skipped {finished} finished" in output and f"Derained {len(left)} of" in output
    derain = load_derainer(other_checkpoint)
    for path in [*left, tmp_path / "out" / "0.png"]:
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(derain(tmp_path / "in" / path.name)))


def test_ctrl_c_says_how_far_it_came(tiny_checkpoint, tmp_path):
    process = started(tiny_checkpoint, tmp_path)
    process.send_signal(signal.SIGINT)
    output = process.communicate()[0].decode()
    assert process.returncode == cli.INTERRUPTED
    assert re.search(rf"Interrupted: \d+ of {MANY} done", output) and "Traceback" not in output
    assert not list((tmp_path / "out").glob(".*.part"))


def test_ctrl_c_in_place_says_where_to_go_on(tiny_checkpoint, tmp_path):
    process = started(tiny_checkpoint, tmp_path, "--overwrite", output="in")
    process.send_signal(signal.SIGINT)
    output = process.communicate()[0].decode()
    done, last = re.search(rf"Interrupted: (\d+) of {MANY} done. Replaced up to (\S+): give only", output).groups()
    order = sorted((tmp_path / "in").glob("*.png"))
    assert tmp_path / last == order[int(done) - 1]
    replaced = [path for path in order if path.stat().st_mtime_ns > 0]
    assert int(done) <= len(replaced) <= int(done) + 1  # one more where the signal came between writing and counting
    assert replaced == order[: len(replaced)]


def test_ctrl_c_in_place_names_no_picture_that_was_only_found_damaged(tiny_checkpoint, tmp_path):
    for number in range(1, 4):
        picture(tmp_path / "in" / f"{number}.png", 600, 800)
    (tmp_path / "in" / "0.png").write_text("no picture")
    process = subprocess.Popen(
        derain_folder(tiny_checkpoint, "--overwrite", "--batch-size", "4", output="in"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(),
        preexec_fn=heed_interrupts,
    )
    while b"0.png" not in (line := process.stdout.readline()):  # it is told while the batch is read
        assert line
    process.send_signal(signal.SIGINT)
    output = process.communicate()[0].decode()
    assert process.returncode == cli.INTERRUPTED
    assert "Interrupted: 0 of 4 done. Nothing was replaced." in output


@pytest.mark.parametrize("script", ["unirain.py", "train_unirain.py", "distill_dataset.py"])
def test_ctrl_c_while_it_is_imported_is_one_line(tmp_path, script):
    (tmp_path / "transformers.py").write_text("import time; print('imported', flush=True); time.sleep(100)")
    process = subprocess.Popen(
        [sys.executable, Path(cli.__file__).parents[1] / script, "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment() | {"PYTHONPATH": str(tmp_path)},
        preexec_fn=heed_interrupts,
    )
    assert process.stdout.readline() == "imported\n"
    process.send_signal(signal.SIGINT)
    output = process.communicate()[0]
    assert process.returncode == cli.INTERRUPTED
    assert "Interrupted" in output and len(output.splitlines()) == 1


# What it says


def test_bad_files_do_not_stop_the_others(unirain, tmp_path):
    rainy = tmp_path / "in"
    for name in ("a.png", "z.png"):
        picture(rainy / name)
    (rainy / "empty.png").touch()
    (rainy / "text.jpg").write_text("no picture")
    (rainy / "cut.png").write_bytes((rainy / "a.png").read_bytes()[:400])
    for batch_size in (1, 8):
        out = tmp_path / f"out{batch_size}"
        output = unirain(rainy, "-o", out, "--batch-size", batch_size, code=1)
        assert "Derained 2 of 5. 3 failed." in output
        for name in ("empty.png", "text.jpg", "cut.png"):
            assert len([line for line in output.splitlines() if line.startswith("Failed: ") and name in line]) == 1
        assert tree(out) == {"a.png", "z.png", RUN_RECORD}


def test_a_name_too_long_for_its_result_does_not_stop_the_others(unirain, tmp_path):
    long = picture(tmp_path / "in" / f"{'a' * 251}.png")
    picture(tmp_path / "in" / "b.png")
    for options in (("--compare",), ("--compare", "--overwrite"), ("--format", "tiff")):
        output = unirain(long.parent, "-o", tmp_path / f"out{len(options)}{options[0]}", *options, code=1)
        assert "Derained 1 of 2. 1 failed." in output
        assert re.search(r"Failed: \S+aaa\.\S+ could not be written: File name too long\.", output), output


def test_pictures_of_other_formats_are_counted_not_passed_over_silently(unirain, tmp_path, caplog):
    picture(tmp_path / "in" / "a.png")
    for name in ("b.HEIC", "deep/c.heic", "d.gif", "._d.gif", "notes.txt"):
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    left_out = "left out 1 .gif, 2 .heic: only PNG, JPEG, WebP, TIFF and BMP are read."
    for number, inputs in enumerate([tmp_path / "in", f"{tmp_path}/in/**", f"{tmp_path}/i?"]):
        caplog.clear()
        assert "Derained 1 of 1" in unirain(inputs, "-o", tmp_path / f"out{number}")
        assert [message.split(": ", 1)[1] for message in caplog.messages] == [left_out]


@pytest.mark.parametrize("name", ["scan.tiff", "moving.webp"])
def test_further_pages_are_not_lost_to_their_own_first_one(unirain, tmp_path, name):
    pages = [Image.fromarray(np.full((20, 30, 3), level, np.uint8)) for level in (20, 120, 220)]
    (tmp_path / "in").mkdir()
    pages[0].save(tmp_path / "in" / name, save_all=True, append_images=pages[1:])
    before = (tmp_path / "in" / name).read_bytes()
    output = unirain(tmp_path / "in", "-o", tmp_path / "in", "--overwrite", code=1)
    assert "holds 3 pictures, of which only the first would be left: choose another --output" in output
    assert (tmp_path / "in" / name).read_bytes() == before
    assert "Derained 1 of 1" in unirain(tmp_path / "in", "-o", tmp_path / "out")


def test_names_that_are_no_text_do_not_stop_the_others(tiny_checkpoint, tmp_path):
    picture(tmp_path / "in" / "b.png")
    (tmp_path / "in" / os.fsdecode(b"a\xe9.png")).write_bytes(b"no picture")
    command = [
        sys.executable,
        "-m",
        "modeling_unirain.cli",
        "derain",
        "in",
        "-o",
        "out",
        "--checkpoint",
        tiny_checkpoint,
    ]
    done = subprocess.run([*command, "--device", "cpu"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and r"a\udce9.png" in done.stderr and "Derained 1 of 2. 1 failed." in done.stdout
    assert (tmp_path / "out" / "b.png").exists()


def test_another_format_beside_the_pictures_themselves_is_refused(unirain, tmp_path):
    """The next run would take the results for pictures to derain."""
    picture(tmp_path / "in" / "a.bmp")
    output = unirain(tmp_path / "in", "--output", tmp_path / "in", "--format", "png", code=1)
    one_sentence(output, "choose another --output")
    assert tree(tmp_path / "in") == {"a.bmp"}


def test_lying_file_is_derained_by_what_it_is(unirain, tmp_path):
    picture(tmp_path / "a.jpg").rename(tmp_path / "a.png")
    unirain(tmp_path / "a.png", "-o", tmp_path / "b.png")
    assert open_image(tmp_path / "b.png").format == "PNG"


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["missing.png", "-o", "b.png"], ["missing.png does not exist"]),
        (["none-*.png", "-o", "b"], ["none-*.png matches no picture"]),
        (["empty", "-o", "b"], ["empty contains no pictures"]),
        (["a.png", "-o", "-"], ["not written to standard output"]),
        (["a.png", "-o", "b.xyz"], ["b.xyz does not say in which format"]),
        (["a.png", "-o", "b", "--format", "gif"], ["no format 'gif'"]),
        (["a.png", "-o", "b.jpg", "--format", "png"], ["b.jpg does not end in .png"]),
        (["a.png", "in", "-o", "a.png"], ["a.png is a file"]),
        (["a.png", "in/a.png", "-o", "b"], ["would both be written to b/a.png"]),
        (["a.png", "-o", "a.png/b.png"], ["could not be written"]),
        (["a.png", "-o", "b.png", "--device", "abacus"], ["no device 'abacus'"]),
        (["a.png", "-o", "b.png", "--dtype", "int"], ["no dtype"]),
        (["a.png", "-o", "b.png", "--dtype", "float8_e4m3fn"], ["no dtype"]),
    ],
)
def test_each_bad_input_is_one_sentence(unirain, tmp_path, monkeypatch, arguments, parts):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a.png")
    picture(tmp_path / "in" / "a.png")
    (tmp_path / "empty").mkdir()
    before = tree(tmp_path)
    output = unirain(*arguments, code=1)
    if "could not be written" not in parts[0]:
        one_sentence(output, *parts)
    assert parts[0] in output
    assert tree(tmp_path) == before


def test_bombs_are_refused_and_the_limit_can_be_chosen(unirain, tmp_path):
    picture(tmp_path / "a.png", 100, 200)
    output = unirain(tmp_path / "a.png", "-o", tmp_path / "b.png", "--max-megapixels", 0.01, code=1)
    assert "guards against decompression bombs" in output and not (tmp_path / "b.png").exists()
    unirain(tmp_path / "a.png", "-o", tmp_path / "b.png", "--max-megapixels", "inf")
    assert (tmp_path / "b.png").exists()


def test_a_picture_without_extension_keeps_its_name_and_format(unirain, tmp_path):
    picture(tmp_path / "a.png").rename(tmp_path / "a")
    unirain(tmp_path / "a", "-o", tmp_path / "out")
    assert open_image(tmp_path / "out" / "a").format == "PNG"


def test_checkpoints_that_cannot_be_used_are_one_sentence(unirain, tiny_checkpoint, tmp_path):
    source, target = picture(tmp_path / "a.png"), tmp_path / "b.png"
    one_sentence(unirain(source, "-o", target, checkpoint=tmp_path / "nowhere", code=1), "There is no checkpoint")
    pickled = shutil.copytree(tiny_checkpoint, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    one_sentence(unirain(source, "-o", target, checkpoint=pickled, code=1), "safetensors")
    other = shutil.copytree(tiny_checkpoint, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "swin2sr"}))
    one_sentence(unirain(source, "-o", target, checkpoint=other, code=1), "architecture 'swin2sr'")
    assert not target.exists()


@pytest.mark.parametrize("options", [["--tile", "x"], ["--tile", "0"], ["--batch-size", "0"], ["--nonsense"], []])
def test_nonsense_options_are_refused_by_name(unirain, tmp_path, options):
    source = picture(tmp_path / "a.png")
    output = ["-o", tmp_path / "b.png"] if options else []
    said = unirain(source, *output, *options, code=2)
    assert (options[0] if options else "--output") in said


def test_full_disk_stops_the_run_with_one_sentence(unirain, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        for number in range(4):
            picture(tmp_path / "in" / f"{number}.png", 150, 150, seed=number)
        output = unirain(tmp_path / "in", "-o", disk / "out", code=1)
        assert len(re.findall("No space left on device", output)) == 1
        done = [path for path in (disk / "out").iterdir() if path.name != RUN_RECORD]
        assert 1 <= len(done) < 4
        for path in done:
            open_image(path)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root may write everywhere")
def test_unwritable_output_is_one_sentence(tiny_checkpoint, tmp_path):
    picture(tmp_path / "a.png")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    command = [sys.executable, "-m", "modeling_unirain.cli", "derain", tmp_path / "a.png", "-o", locked / "b.png"]
    if os.geteuid() == 0:  # root without the capability to write everywhere
        command = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override", *command]
    result = subprocess.run(
        [*command, "--checkpoint", tiny_checkpoint], env=environment(), capture_output=True, text=True
    )
    assert result.returncode == 1, result.stderr
    assert "could not be written: Permission denied" in result.stderr and "Traceback" not in result.stderr
    assert not list(locked.iterdir())
