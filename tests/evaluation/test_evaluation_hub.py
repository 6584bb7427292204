"""The evaluate module and a corpus as they come from the Hub, in a process that knows only its address."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation.rainy_pictures import median_filter, write_pairs
from huggingface_hub import HfApi

import modeling_unirain
from modeling_unirain.evaluation import evaluate_pairs, find_pairs


PACKAGE = Path(modeling_unirain.__file__).parent

SCRIPT = """
import json, sys
import datasets, evaluate
import numpy as np
from PIL import Image
from evaluation.rainy_pictures import median_filter
from modeling_unirain.evaluation import find_pairs

folder = sys.argv[1]
rows = [(pair, *pair.read()) for pair in find_pairs(folder)]
features = datasets.Features(
    {"input": datasets.Image(), "target": datasets.Image(), "type": datasets.ClassLabel(names=["DRS"])}
)
columns = {
    "input": [Image.fromarray(rainy) for _, rainy, _ in rows],
    "target": [Image.fromarray(clean) for _, _, clean in rows],
    "type": [0] * len(rows),
}
datasets.Dataset.from_dict(columns, features=features).push_to_hub("someone/rain", split="test")

metrics = evaluate.load("someone/unirain_metrics", module_type="metric")
for pair in find_pairs("someone/rain"):
    rainy, clean = pair.read()
    metrics.add(prediction=median_filter(Image.fromarray(rainy)), reference=clean)
print(json.dumps(metrics.compute()))
"""


def test_module_and_corpus_work_from_the_hub(hub, tmp_path):
    write_pairs(tmp_path / "DRS" / "light", 3)
    api = HfApi(endpoint=hub.url, token="hf_dummy")
    api.create_repo("someone/unirain_metrics", repo_type="space", space_sdk="gradio")
    api.upload_folder(
        repo_id="someone/unirain_metrics", repo_type="space", folder_path=PACKAGE / "evaluation" / "unirain_metrics"
    )
    path = os.pathsep.join([str(PACKAGE.parent), str(PACKAGE.parent / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "DRS")],
        env=hub.env | {"PYTHONPATH": path, "HF_EVALUATE_OFFLINE": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = evaluate_pairs(median_filter, find_pairs(tmp_path / "DRS")).average().output
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(expected)
