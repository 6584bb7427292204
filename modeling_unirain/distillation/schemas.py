"""Columns of the tables in the work folder: of the two lists, and of the stages that make more of them."""

import pyarrow as pa


LOCATION = pa.struct([("path", pa.string()), ("row", pa.int64()), ("part", pa.string())])
REFERENCE_SCHEMA = pa.schema(
    [
        ("reference_id", pa.string()),
        ("source", pa.string()),
        ("rain_type", pa.string()),
        ("origin", pa.string()),
        ("image", LOCATION),
    ]
)
PAIR_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("source", pa.string()),
        ("rain_type", pa.string()),
        ("origin", pa.string()),
        ("input", LOCATION),
        ("target", LOCATION),
        ("problem", pa.string()),
    ]
)
INSPECTED_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("pixels", pa.uint64()),
        ("hash", pa.uint64()),
        ("rain_energy", pa.float64()),
        ("thumbnail", pa.binary()),
    ]
)
RETRIEVED_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("rows", pa.list_(pa.int64())),
        ("semantic_distance", pa.list_(pa.float64())),
        ("feature_similarity", pa.list_(pa.float64())),
        ("structural_similarity", pa.list_(pa.float64())),
    ]
)
SCORES = pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())]))
VOTE_FIELDS = [
    ("judge", pa.string()),
    ("decision", pa.bool_()),
    ("raw_answer", pa.string()),
    ("reason", pa.string()),
    ("scores", SCORES),
]
VOTE_SCHEMA = pa.schema([("pair_id", pa.string()), *VOTE_FIELDS])
VERDICT_SCHEMA = pa.schema(
    [
        *PAIR_SCHEMA,
        ("kept", pa.bool_()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("caption", pa.string()),
        (
            "references",
            pa.list_(
                pa.struct(
                    [
                        ("reference_id", pa.string()),
                        ("row", pa.int64()),
                        ("semantic_distance", pa.float64()),
                        ("feature_similarity", pa.float64()),
                        ("structural_similarity", pa.float64()),
                    ]
                )
            ),
        ),
        ("votes", pa.list_(pa.struct(VOTE_FIELDS))),
    ]
)
