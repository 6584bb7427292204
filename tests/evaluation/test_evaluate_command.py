"""`unirain evaluate`: tables and sheets of a real checkpoint, and one sentence for whatever is wrong."""

import json
import os

import pytest
import torch
from evaluation.rainy_pictures import clean_picture
from typer.testing import CliRunner

from modeling_unirain import UniRainConfig, UniRainForImageDeraining
from modeling_unirain.cli import app


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    UniRainForImageDeraining(UniRainConfig.from_name("unirain-tiny")).save_pretrained(folder)
    return str(folder)


def run(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def test_pairs_and_real_photographs_share_a_report(test_sets, checkpoint, tmp_path):
    real = tmp_path / "real" / "NRD"
    real.mkdir(parents=True)
    clean_picture(0, (130, 100)).save(real / "night.png")
    result = run(test_sets, tmp_path / "real", "--output", tmp_path / "out", "--checkpoint", checkpoint)
    assert result.exit_code == 0, result.output
    assert "| DRS | light | 3 |" in result.output and "| NRD | real | 1 |" in result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["settings"]["checkpoint"] == checkpoint and len(report["settings"]["weights"]) == 64
    assert len(report["paired"]["images"]) == 6 and len(report["unpaired"]["images"]) == 1
    sheets = {path.name for path in (tmp_path / "out" / "sheets").iterdir()}
    assert sheets == {"DRS-heavy.png", "DRS-light.png", "SNOW-flakes.png", "NRD-real.png"}


def test_inputs_alone_need_no_checkpoint(test_sets, tmp_path):
    result = run(test_sets, "-o", tmp_path / "out", "--inputs-only")
    assert result.exit_code == 0, result.output
    assert "→" not in result.output


@pytest.mark.parametrize("option", [["--checkpoint", "unirain"], ["--tile", "64"], ["--self-ensemble"]])
def test_options_of_the_network_are_not_passed_over_where_none_is_asked(test_sets, tmp_path, option):
    result = run(test_sets, "-o", tmp_path / "out", "--inputs-only", *option)
    assert result.exit_code == 1 and not (tmp_path / "out").exists()
    assert result.output == f"Error: --inputs-only asks no network: leave {option[0]} out.\n"


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["{tmp}/nowhere"], "nowhere does not exist"),
        (["{tmp}/empty"], "holds no pictures"),
        (["{sets}", "--split", "test"], "no split"),
        (["{sets}", "--checkpoint", "{tmp}/empty"], "empty"),
        (["{sets}", "{sets}/DRS"], "was given twice"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(test_sets, checkpoint, tmp_path, arguments, sentence):
    (tmp_path / "empty").mkdir()
    arguments = [argument.format(tmp=tmp_path, sets=test_sets) for argument in arguments]
    if "--checkpoint" not in arguments:
        arguments += ["--checkpoint", checkpoint]
    result = run(*arguments, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert sentence in result.output and "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_a_folder_whose_name_is_no_text_is_measured_and_named(test_sets, tmp_path):
    odd = test_sets.rename(tmp_path / os.fsdecode(b"sets-\xe9"))
    result = run(odd, "-o", tmp_path / "out", "--inputs-only")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "report.json").read_text())["settings"]["data"].endswith(r"sets-\udce9")


def test_a_report_is_replaced_only_when_asked(test_sets, tmp_path):
    arguments = (test_sets, "-o", tmp_path / "out", "--inputs-only")
    assert run(*arguments).exit_code == 0
    again = run(*arguments)
    assert again.exit_code == 1 and "--overwrite" in again.output
    assert run(*arguments, "--overwrite").exit_code == 0
