"""The report: one HTML page that needs no network. What was kept and dropped, why, and what it looks like."""

import base64
import hashlib
import heapq
import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from modeling_unirain.distillation.reading import read_pixels
from modeling_unirain.distillation.records import ImageLocation
from modeling_unirain.distillation.reference_index import ReferenceIndex
from modeling_unirain.distillation.shards import ShardStore
from modeling_unirain.distillation.structural import thumbnail_jpeg
from modeling_unirain.distillation.voting import UNDECIDED, VOTED_DOWN
from modeling_unirain.files import written


KEPT = "kept"
RETRIEVAL = "retrieval"
EXAMPLES_KEPT = 12
EXAMPLES_PER_REASON = 6
VALUES = 5_000
"""Pairs that the histograms are drawn from, evenly spread over the list, so that memory stays bounded."""
BINS = 40
THUMBNAIL_HEIGHT = 130
DETAIL_LENGTH = 400

STYLE = """
:root { --kept: #1a7f5a; --rejected: #c2452d; --line: #d9dee3; --muted: #5b6670; }
body { font: 15px/1.45 system-ui, sans-serif; color: #1b2126; margin: 0 auto; max-width: 1240px; padding: 24px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 36px 0 10px; } h3 { font-size: 15px; margin: 0 0 6px; }
p.lead { color: var(--muted); margin: 0 0 16px; }
table { display: block; overflow-x: auto; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 4px 14px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; }
.bar { display: inline-block; height: 10px; background: var(--kept); border-radius: 2px; vertical-align: middle; }
.track { display: inline-block; width: 160px; background: #f0d9d4; border-radius: 2px; line-height: 10px; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 18px; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 26px; } .sides > div { min-width: 0; }
.pair { border: 1px solid var(--line); border-left: 5px solid var(--rejected); border-radius: 6px; padding: 10px 12px; margin-bottom: 14px; }
.pair.kept { border-left-color: var(--kept); }
.pair .id { font-weight: 600; overflow-wrap: anywhere; } .pair .why { color: var(--rejected); overflow-wrap: anywhere; }
.pictures { display: flex; flex-wrap: wrap; gap: 6px; margin: 6px 0; } figure { margin: 0; }
figcaption { font-size: 11px; color: var(--muted); max-width: 200px; overflow-wrap: anywhere; }
.pictures img { height: 96px; display: block; border-radius: 3px; } figure.reference img { height: 72px; }
.votes { font-size: 13px; margin: 0; padding: 0; list-style: none; overflow-wrap: anywhere; }
.yes { color: var(--kept); } .no { color: var(--rejected); } .abstained { color: var(--muted); } b.vote { display: inline-block; min-width: 24px; }
details { margin: 8px 0; } summary { cursor: pointer; font-weight: 600; margin-bottom: 8px; }
svg text { font: 10px system-ui, sans-serif; fill: #5b6670; } .legend b { font-weight: 600; }
@media (max-width: 820px) { .sides { grid-template-columns: 1fr; } }
"""


def write_report(
    path: Path, verdicts: ShardStore, index: ReferenceIndex, counts: dict[str, Counter], settings: dict[str, Any]
) -> None:
    """Write the page.

    Args:
        path (`Path`): the HTML file.
        verdicts (`ShardStore`): the verdict tables, complete.
        index (`ReferenceIndex`): for the references' pictures.
        counts (`dict[str, Counter]`): `kept`, `rejected` by (source, type); `reasons` by (source, type, reason).
        settings (`dict`): shown as they are.
    """
    kept, rejected = counts["kept"].total(), counts["rejected"].total()
    examples = _examples(verdicts)
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Distillation report</title><style>{STYLE}</style></head><body>",
        "<h1>Distillation report</h1>",
        f"<p class=lead>{kept:,} of {kept + rejected:,} candidate pairs kept, beside {len(index):,} real rainy photographs.</p>",
        "<h2>By source and type</h2>",
        _share_table(counts),
        "<h2>Why pairs were rejected</h2>",
        _reason_table(counts["reasons"]),
        "<h2>Scores</h2><p class=legend><b class=yes>kept</b> beside <b class=no>rejected</b>, each as a share of its own.</p>",
        *_histograms(verdicts, kept + rejected),
        "<h2>Pictures</h2><p class=legend>Under a reference: its name, the distance of the captions, the cosine of the "
        "features, SSIM.</p><div class=sides><div><h3 class=yes>Kept</h3>",
        *(_example(row, index) for row in examples.pop(KEPT, [])),
        "</div><div>",
    ]
    for reason, rows in sorted(examples.items()):
        parts += [f"<h3 class=no>Rejected: {escape(reason)}</h3>", *(_example(row, index) for row in rows)]
    parts += ["</div></div><h2>Settings</h2>", _settings_table(settings), "</body></html>\n"]
    with written(path) as temporary:
        temporary.write_text("".join(parts), encoding="utf-8")


def _share_table(counts: dict[str, Counter]) -> str:
    rows = []
    groups = sorted({*counts["kept"], *counts["rejected"]})
    types = sorted({rain_type for _, rain_type in groups})
    totals = [("all sources", rain_type) for rain_type in types] if len({s for s, _ in groups}) > 1 else []
    for source, rain_type in [*groups, *totals]:
        kept, rejected = (
            sum(n for (s, t), n in counts[name].items() if t == rain_type and source in (s, "all sources"))
            for name in ("kept", "rejected")
        )
        share = kept / (kept + rejected)
        bar = f"<span class=track><span class=bar style='width:{round(160 * share)}px'></span></span>"
        rows.append(
            f"<tr><td>{escape(source)}<td>{escape(rain_type)}<td class=number>{kept + rejected:,}"
            f"<td class=number>{kept:,}<td class=number>{share:.1%}<td>{bar}"
        )
    head = "<tr><th>source<th>type<th class=number>candidates<th class=number>kept<th class=number>share<th>"
    return f"<table>{head}{''.join(rows)}</table>"


def _reason_table(reasons: Counter) -> str:
    if not reasons:
        return "<p>None was.</p>"
    types = sorted({rain_type for _, rain_type, _ in reasons})
    head = "".join(f"<th class=number>{escape(rain_type)}" for rain_type in types)
    rows = []
    for reason in sorted({reason for _, _, reason in reasons}):
        cells = [sum(n for (_, t, r), n in reasons.items() if (t, r) == (rain_type, reason)) for rain_type in types]
        numbers = "".join(f"<td class=number>{n:,}" for n in (*cells, sum(cells)))
        rows.append(f"<tr><td>{escape(reason)}{numbers}")
    return f"<table><tr><th>reason{head}<th class=number>all</tr>{''.join(rows)}</table>"


def _settings_table(settings: dict[str, Any]) -> str:
    rows = (
        f"<tr><td>{escape(name)}<td>{escape(', '.join(map(str, value)) if isinstance(value, list) else str(value))}"
        for name, value in settings.items()
    )
    return f"<table>{''.join(rows)}</table>"


def _histograms(verdicts: ShardStore, total: int) -> Iterator[str]:
    """One per score: of the retrieval's levels (mean over S(q)), and of every judge, folded away."""
    stride = max(1, math.ceil(total / VALUES))
    values: dict[str, dict[str, dict[bool, list[float]]]] = {RETRIEVAL: {}}
    position = 0
    for shard in range(verdicts.num_shards):
        table = verdicts.read(shard, ["kept", "references", "votes"])
        every = range(-position % stride, len(table), stride)
        position += len(table)
        for row in table.take(pa.array(every, pa.int64())).to_pylist():
            for group, name, value in _scores(row):
                sides = values.setdefault(group, {}).setdefault(name, {True: [], False: []})
                sides[row["kept"]].append(value)
    for group, scores in values.items():
        drawn = "".join(_histogram(name, np.array(s[True]), np.array(s[False])) for name, s in scores.items())
        unfolded = " open" if group == RETRIEVAL else ""
        yield f"<details{unfolded}><summary>{escape(group)}</summary><div class=columns>{drawn}</div></details>"


def _scores(row: dict) -> Iterator[tuple[str, str, float]]:
    references = row["references"]
    for level in ("semantic_distance", "feature_similarity", "structural_similarity"):
        if references:
            yield RETRIEVAL, level.replace("_", " "), float(np.mean([reference[level] for reference in references]))
    for vote in row["votes"]:
        for score in vote["scores"]:
            if np.isfinite(score["value"]):
                yield f"judge {vote['judge']}", score["name"].replace("_", " "), score["value"]


def _histogram(name: str, kept: np.ndarray, rejected: np.ndarray) -> str:
    """Inline SVG. The range leaves out the outermost half per cent, which goes into the last bins."""
    both = np.concatenate([kept, rejected])
    low, high = np.quantile(both, [0.005, 0.995])
    if high <= low:
        low, high = float(both.min()) - 0.5, float(both.max()) + 0.5
    width, height = 300, 90
    shares = [
        np.histogram(np.clip(side, low, high), bins=BINS, range=(low, high))[0] / max(1, len(side))
        for side in (kept, rejected)
    ]
    top = max(share.max() for share in shares) or 1
    step = width / BINS
    bars = []
    for share, colour in zip(shares, ("var(--kept)", "var(--rejected)"), strict=True):
        for i, value in enumerate(share):
            tall = height * value / top
            bars.append(
                f"<rect x='{i * step:.1f}' y='{height - tall:.1f}' width='{step - 0.6:.1f}' height='{tall:.1f}' "
                f"fill='{colour}' fill-opacity='.55'/>"
            )
    return (
        f"<div><h3>{escape(name)}</h3><svg viewBox='0 0 {width} {height + 16}' width='100%' role=img>{''.join(bars)}"
        f"<line x1='0' x2='{width}' y1='{height}' y2='{height}' stroke='#9aa4ad'/>"
        f"<text x='0' y='{height + 12}'>{low:.3g}</text>"
        f"<text x='{width}' y='{height + 12}' text-anchor='end'>{high:.3g}</text></svg></div>"
    )


def _examples(verdicts: ShardStore) -> dict[str, list[dict]]:
    """A few pairs of every reason, chosen by the hash of their id: the same in every run, and spread over all shards."""
    chosen: dict[str, list[tuple[str, int, int]]] = {}
    for shard in range(verdicts.num_shards):
        table = verdicts.read(shard, ["pair_id", "reason"])
        groups: dict[str, list] = {}
        for row, (pair_id, reason) in enumerate(
            zip(*(table.column(name).to_pylist() for name in ("pair_id", "reason")), strict=True)
        ):
            digest = hashlib.sha256(pair_id.encode()).hexdigest()
            groups.setdefault(reason or KEPT, []).append((digest, shard, row))
        for reason, found in groups.items():
            most = EXAMPLES_KEPT if reason == KEPT else EXAMPLES_PER_REASON
            chosen[reason] = heapq.nsmallest(most, [*chosen.get(reason, []), *found])
    return {
        reason: [verdicts.read(shard).slice(row, 1).to_pylist()[0] for _, shard, row in found]
        for reason, found in chosen.items()
    }


def _example(row: dict, index: ReferenceIndex) -> str:
    pictures = [_figure(row["input"], "input"), _figure(row["target"], "target")]
    pictures += [
        _figure(
            vars(index.reference(reference["row"]).image),
            f"{Path(reference['reference_id']).name}, {reference['semantic_distance']:.2f}, "
            f"{reference['feature_similarity']:.2f}, {reference['structural_similarity']:.2f}",
            "reference",
        )
        for reference in row["references"]
    ]
    told = row["kept"] or row["reason"] in (VOTED_DOWN, UNDECIDED)  # by the votes below
    why = "" if told else f"<div class=why>{escape(_shortened(row['detail']))}</div>"
    caption = f"<div>{escape(row['caption'])}</div>" if row["caption"] else ""
    return (
        f"<div class='pair{' kept' if row['kept'] else ''}'><div class=id>{escape(row['pair_id'])}</div>{caption}{why}"
        f"<div class=pictures>{''.join(pictures)}</div><ul class=votes>{''.join(_votes(row['votes']))}</ul></div>"
    )


def _votes(votes: Iterable[dict]) -> Iterator[str]:
    words = {True: "yes", False: "no", None: "abstained"}
    for vote in votes:
        word = words[vote["decision"]]
        said = vote["reason"] or vote["raw_answer"]
        yield f"<li><b class='vote {word}'>{word}</b> {escape(vote['judge'])}: {escape(_shortened(said))}</li>"


def _shortened(text: str) -> str:
    return textwrap.shorten(text, DETAIL_LENGTH, placeholder=" …")


def _figure(location: dict | None, label: str, kind: str = "picture") -> str:
    """A picture of the page; words in its place where it cannot be read."""
    try:
        if location is None:
            raise OSError("there is none")
        data = thumbnail_jpeg(read_pixels(ImageLocation(**location)), THUMBNAIL_HEIGHT)
        shown = f"<img alt='{escape(label)}' src='data:image/jpeg;base64,{base64.b64encode(data).decode()}'>"
    except (OSError, ValueError):
        shown = "<div>no picture</div>"
    return f"<figure class={kind}>{shown}<figcaption>{escape(label)}</figcaption></figure>"
