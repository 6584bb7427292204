"""An evaluation's figures, what it writes, and that it survives being killed."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from evaluation.rainy_pictures import clean_picture, median_filter, write_pairs
from PIL import Image
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from modeling_unirain.evaluation import EvaluationPair, evaluate, evaluate_pairs, find_pairs, load_lpips
from modeling_unirain.evaluation.run import JOURNAL


REPOSITORY = Path(__file__).parents[2]
CORPUS = next(
    (folder for folder in (REPOSITORY / "data", REPOSITORY.parent / "shared" / "corpus") if folder.is_dir()), None
)


class Counted:
    """The median filter, counting its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, image: Image.Image) -> Image.Image:
        self.calls += 1
        return median_filter(image)


def expected_figures(pair: EvaluationPair) -> tuple[dict, dict]:
    """Input's and output's figures by scikit-image."""

    def figures(picture, clean):
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
        y, clean_y = rgb2ycbcr(picture)[..., 0], rgb2ycbcr(clean)[..., 0]
        return {
            "psnr_rgb": peak_signal_noise_ratio(clean, picture, data_range=255),
            "ssim_rgb": structural_similarity(clean, picture, channel_axis=-1, **options),
            "psnr_y": peak_signal_noise_ratio(clean_y, y, data_range=255),
            "ssim_y": structural_similarity(clean_y, y, **options),
        }

    rainy, clean = pair.read()
    return figures(rainy, clean), figures(np.asarray(median_filter(Image.fromarray(rainy))), clean)


def test_every_figure_equals_scikit_image_and_every_mean_is_one(test_sets):
    pairs = find_pairs(test_sets)
    report = evaluate_pairs(median_filter, pairs)
    expected = {pair.key: expected_figures(pair) for pair in pairs}
    for result in report.results:
        assert result.input == pytest.approx(expected[result.key][0], abs=1e-6)
        assert result.output == pytest.approx(expected[result.key][1], abs=1e-6)

    def mean(side, **fixed):
        rows = [row for row in report.results if all(getattr(row, key) == value for key, value in fixed.items())]
        return fmean(getattr(row, side)["psnr_rgb"] for row in rows)

    assert [(m.dataset, m.rain_type, m.images) for m in report.datasets()] == [
        ("heavy", "DRS", 1),
        ("light", "DRS", 3),
        ("flakes", "SNOW", 2),
    ]
    assert report.datasets()[1].output["psnr_rgb"] == pytest.approx(mean("output", dataset="light"))
    drs, snow = report.types()
    assert drs.input["psnr_rgb"] == pytest.approx(mean("input", rain_type="DRS"))
    # Every type counts alike in the average, however many images it has.
    expected_average = (mean("output", rain_type="DRS") + mean("output", rain_type="SNOW")) / 2
    assert report.average().output["psnr_rgb"] == pytest.approx(expected_average)
    assert report.average().images == 6


def test_equal_pictures_count_as_100_db():
    clean = np.asarray(clean_picture(0))
    pair = EvaluationPair("set", "DRS", "0", lambda: (clean, clean))
    figures = evaluate_pairs(None, [pair]).average().input
    assert figures["psnr_rgb"] == figures["psnr_y"] == 100
    assert figures["ssim_rgb"] == pytest.approx(1)


def test_reports_are_written_in_three_forms_that_agree(test_sets, tmp_path):
    report = evaluate(median_filter, find_pairs(test_sets), tmp_path / "out", settings={"checkpoint": "median"})
    written = json.loads((tmp_path / "out" / "report.json").read_text(), parse_constant=pytest.fail)
    assert written["settings"] == {"checkpoint": "median"}
    assert written["paired"]["average"]["output"] == report.average().output
    assert len(written["paired"]["images"]) == 6
    rows = list(csv.DictReader((tmp_path / "out" / "images.csv").open()))
    assert [float(row["psnr_rgb_output"]) for row in rows] == [r.output["psnr_rgb"] for r in report.results]
    snow = report.types()[1]
    before, after = snow.input["psnr_rgb"], snow.output["psnr_rgb"]
    row = f"| SNOW | flakes | 2 | {before:.2f} → {after:.2f} ({after - before:+.2f}) |"
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert row in markdown and "| DRS | all | 4 |" in markdown and "| mean over types | all | 6 |" in markdown
    assert "| SNOW | all |" not in markdown  # it would repeat its only dataset
    assert not (tmp_path / "out" / JOURNAL).exists()


def test_inputs_alone_can_be_measured(test_sets, tmp_path):
    report = evaluate(None, find_pairs(test_sets), tmp_path)
    assert all(result.output is None for result in report.results)
    assert f"| SNOW | flakes | 2 | {report.types()[1].input['psnr_rgb']:.2f} |" in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "sheets").exists()


def test_sheets_show_best_median_and_worst_of_every_dataset(tmp_path):
    write_pairs(tmp_path / "data" / "DRS" / "light", 5)
    report = evaluate(median_filter, find_pairs(tmp_path / "data"), tmp_path / "out")
    ranked = sorted(report.results, key=lambda result: result.gain, reverse=True)
    sheet = np.asarray(Image.open(tmp_path / "out" / "sheets" / "DRS-light.png"))
    for result, place in ((ranked[0], 0), (ranked[2], 1), (ranked[4], 2)):
        # The targets stand in the last column: each is on the sheet at its own row.
        target = Image.open(tmp_path / "data" / "DRS" / "light" / "target" / f"{result.name}.png")
        shown = np.asarray(target.resize((480, 360), Image.Resampling.LANCZOS))
        column = sheet[:, -488:-8]
        tops = [top for top in range(len(column) - 359) if (column[top] == shown[0]).all()]
        assert len(tops) == 1 and (column[tops[0] : tops[0] + 360] == shown).all()
        assert tops[0] // (len(sheet) // 3) == place


def test_real_photographs_are_measured_without_a_twin(tmp_path):
    (tmp_path / "real" / "DRD").mkdir(parents=True)
    write_pairs(tmp_path / "real", 1)
    large = clean_picture(0, (192, 96)).convert("RGB")
    noisy = np.asarray(large) + np.random.default_rng(0).normal(0, 25, (96, 192, 3))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(tmp_path / "real" / "DRD" / "large.png")
    clean_picture(0, (95, 200)).save(tmp_path / "real" / "DRD" / "small.png")
    report = evaluate(median_filter, find_pairs(tmp_path / "real" / "DRD"), tmp_path / "out")
    large, small = report.part(paired=False)
    assert large.output["niqe"] < large.input["niqe"] and large.gain > 0
    assert math.isnan(small.input["niqe"])
    assert report.average(paired=False).input["niqe"] == large.input["niqe"]
    written = json.loads((tmp_path / "out" / "report.json").read_text(), parse_constant=pytest.fail)
    assert written["unpaired"]["images"][1]["input"] == {"niqe": None}
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert "NIQE (our pristine model)" in markdown and "not with published ones" in markdown
    assert "PSNR" not in markdown


def test_a_killed_evaluation_goes_on_and_ends_as_an_unbroken_one(tmp_path):
    write_pairs(tmp_path / "data" / "DRS" / "light", 8)
    script = f"""
import time
from modeling_unirain.evaluation import evaluate, find_pairs
from evaluation.rainy_pictures import median_filter
calls = []
def stuck_at_the_fifth(image):
    calls.append(1)
    if len(calls) == 5:
        time.sleep(10_000)
    return median_filter(image)
evaluate(stuck_at_the_fifth, find_pairs({str(tmp_path / "data")!r}), {str(tmp_path / "killed")!r}, settings={{"checkpoint": "x"}})
"""
    journal = tmp_path / "killed" / JOURNAL
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.DEVNULL)
    while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "report.json").exists()
    with journal.open("ab") as file:
        file.write(b'{"dataset": "light", "rain_ty')  # as a kill in the middle of a write leaves it
    finished = journal.read_bytes().count(b"\n") - 1

    pairs = find_pairs(tmp_path / "data")
    derain = Counted()
    evaluate(derain, pairs, tmp_path / "killed", settings={"checkpoint": "x"})
    assert derain.calls == 8 - finished + 3  # the sheet derains three once more
    evaluate(median_filter, pairs, tmp_path / "unbroken", settings={"checkpoint": "x"})
    for name in ("report.json", "report.md", "images.csv", "sheets/DRS-light.png"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


def test_a_second_evaluation_is_kept_out_of_the_folder_of_one_at_work(test_sets, tmp_path):
    pairs = find_pairs(test_sets / "DRS" / "heavy")

    def derain_beside_another(image):
        with pytest.raises(ValueError, match=f"Another evaluation is at work in {tmp_path}: let it end first"):
            evaluate(None, pairs, tmp_path, overwrite=True)
        return median_filter(image)

    evaluate(derain_beside_another, pairs, tmp_path)
    assert len(evaluate(None, pairs, tmp_path, overwrite=True).results) == len(pairs)


def test_an_interrupted_evaluation_is_not_continued_with_other_settings(test_sets, tmp_path):
    def interrupted(image):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(interrupted, find_pairs(test_sets), tmp_path, settings={"checkpoint": "a"})
    with pytest.raises(ValueError, match="interrupted evaluation of something else"):
        evaluate(median_filter, find_pairs(test_sets), tmp_path, settings={"checkpoint": "b"})
    evaluate(median_filter, find_pairs(test_sets), tmp_path, settings={"checkpoint": "b"}, overwrite=True)
    assert json.loads((tmp_path / "report.json").read_text())["settings"] == {"checkpoint": "b"}


def test_a_picture_that_was_changed_while_an_evaluation_was_interrupted_is_measured_anew(tmp_path):
    for name in ("first", "second"):
        for half, seed in (("input", 0), ("target", 1)):
            file = tmp_path / "pairs" / half / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            clean_picture(seed, (32, 32)).save(file)
    measured = []

    def derain(image):
        if len(measured) == 1:
            measured.append(None)
            raise KeyboardInterrupt
        measured.append(image)
        return image

    with pytest.raises(KeyboardInterrupt):
        evaluate(derain, find_pairs(tmp_path / "pairs"), tmp_path / "out")
    clean_picture(0, (32, 32)).save(tmp_path / "pairs" / "target" / "first.png")  # the right one at last
    report = evaluate(derain, find_pairs(tmp_path / "pairs"), tmp_path / "out")
    first, second = sorted(report.results, key=lambda result: result.name)
    assert first.output["psnr_rgb"] == 100 > second.output["psnr_rgb"]


@pytest.mark.parametrize("line", [b"{\n", b"[]\n", b'{"name": 1}\n'])
def test_a_damaged_journal_is_named_and_can_be_overwritten(test_sets, tmp_path, line):
    pairs = find_pairs(test_sets / "DRS" / "heavy")
    header = json.dumps({"settings": {}, "lpips": False, "pairs": sorted(pair.key for pair in pairs)}).encode()
    (tmp_path / JOURNAL).write_bytes(header + b"\n" + line)
    with pytest.raises(ValueError, match=f"{JOURNAL} is damaged"):
        evaluate(None, pairs, tmp_path)
    assert len(evaluate(None, pairs, tmp_path, overwrite=True).results) == len(pairs)


def test_a_row_of_the_journal_that_is_of_none_of_the_pictures_is_passed_over(test_sets, tmp_path):
    pairs = find_pairs(test_sets / "DRS" / "heavy")
    header = {"settings": {}, "lpips": False, "pairs": sorted(pair.key for pair in pairs)}
    foreign = {"dataset": "heavy", "rain_type": "DRS", "name": "999", "input": {}, "output": None}
    (tmp_path / JOURNAL).write_text(f"{json.dumps(header)}\n{json.dumps(foreign)}\n")
    assert [result.key for result in evaluate(None, pairs, tmp_path).results] == [pair.key for pair in pairs]


def test_an_overwritten_report_leaves_no_sheets_behind(test_sets, tmp_path):
    evaluate(median_filter, find_pairs(test_sets), tmp_path)
    before = {sheet.name for sheet in (tmp_path / "sheets").iterdir()}
    (tmp_path / "sheets" / "mine.png").write_bytes(b"not a sheet of ours")
    evaluate(median_filter, find_pairs(test_sets / "DRS" / "heavy"), tmp_path, overwrite=True)
    assert {sheet.name for sheet in (tmp_path / "sheets").iterdir()} == {"DRS-heavy.png", "mine.png"} and len(
        before
    ) > 1
    evaluate(None, find_pairs(test_sets / "DRS" / "heavy"), tmp_path, overwrite=True)
    assert [sheet.name for sheet in (tmp_path / "sheets").iterdir()] == ["mine.png"]


def test_a_report_is_not_overwritten_unasked(test_sets, tmp_path):
    pairs = find_pairs(test_sets / "DRS" / "heavy")
    evaluate(None, pairs, tmp_path)
    before = (tmp_path / "report.json").read_bytes()
    with pytest.raises(ValueError, match="exists already"):
        evaluate(median_filter, pairs, tmp_path)
    assert (tmp_path / "report.json").read_bytes() == before
    evaluate(median_filter, pairs, tmp_path, overwrite=True)
    assert (tmp_path / "report.json").read_bytes() != before


@pytest.mark.parametrize("name", ["images.csv", "report.md", "report.json"])
def test_files_called_as_a_reports_are_not_overwritten_unasked(test_sets, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(ValueError, match=f"{name} exists already: give another folder, or --overwrite"):
        evaluate(None, find_pairs(test_sets / "DRS" / "heavy"), out)
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [(name, "mine")]


def test_an_evaluation_killed_while_its_report_was_written_goes_on(test_sets, tmp_path):
    pairs = find_pairs(test_sets / "DRS" / "heavy")
    header = json.dumps({"settings": {}, "lpips": False, "pairs": sorted(pair.key for pair in pairs)})
    (tmp_path / JOURNAL).write_text(f"{header}\n")
    (tmp_path / "images.csv").write_text("of the killed run")
    evaluate(None, pairs, tmp_path)
    assert (tmp_path / "images.csv").read_text() != "of the killed run"


def test_a_damaged_picture_is_named_before_anything_is_derained(test_sets, tmp_path):
    path = test_sets / "SNOW" / "flakes" / "input" / "001.png"
    path.write_bytes(path.read_bytes()[:-200])
    derain = Counted()
    with pytest.raises(ValueError, match="flakes/input/001.png"):
        evaluate(derain, find_pairs(test_sets), tmp_path / "out")
    assert derain.calls == 0


def test_an_output_of_another_size_is_an_error(test_sets):
    with pytest.raises(ValueError, match=r"\(24, 32, 3\), but went in as \(48, 64, 3\)"):
        evaluate_pairs(lambda image: image.resize((32, 24)), find_pairs(test_sets))


def test_the_same_pictures_twice_are_an_error(test_sets, tmp_path):
    with pytest.raises(ValueError, match="heavy / DRS / 000 was given twice"):
        evaluate(None, find_pairs(test_sets) + find_pairs(test_sets / "DRS" / "heavy"), tmp_path)


def test_lpips_is_measured_or_said_to_be_missing():
    """Without the package or AlexNet's weights there is one sentence, never another metric."""
    try:
        lpips = load_lpips()
    except ValueError as error:
        assert "pip install lpips torchvision" in str(error)
        return
    clean = np.asarray(clean_picture(0))
    pair = EvaluationPair("set", "DRS", "0", lambda: (255 - clean, clean))
    assert evaluate_pairs(None, [pair], lpips).average().input["lpips"] > 0.1


@pytest.mark.skipif(CORPUS is None, reason="needs the rain corpus, linked as data or at ../shared/corpus")
@pytest.mark.parametrize(
    "folder, count, stated",
    [
        ("DRD/qian2018", 7, ("19.17", "0.7450", "20.72", "0.7908")),
        ("NRS/nitedr_night", 21, ("26.09", "0.7423", "27.81", "0.7816")),
    ],
)
def test_the_inputs_have_the_figures_that_the_corpus_states(folder, count, stated):
    """`benchmarks/inputs.py` does this for every set."""
    average = evaluate_pairs(None, find_pairs(CORPUS / "test" / folder)).average()
    figures = average.input
    measured = (f"{figures['psnr_rgb']:.2f}", f"{figures['ssim_rgb']:.4f}")
    measured += (f"{figures['psnr_y']:.2f}", f"{figures['ssim_y']:.4f}")
    assert (average.images, measured) == (count, stated)
