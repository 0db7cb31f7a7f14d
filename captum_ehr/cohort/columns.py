"""Explanations as the tables of a cohort, and back.

``rows.parquet`` has a row per token or value, with the numbers of
:meth:`captum_ehr.Explanation.to_frame`; ``patients.parquet`` one per sample. What is
the same for all of them (vocabularies, names, the model) is said once, in
``cohort.json``, as :func:`header_of` gives it. ``sample`` is the index in the dataset:
a patient may have several samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from ..explanation import Explanation, FeatureRecord
from ..explanation.data import padding_sums
from ..explanation.explained import Contrast, Explained, Place
from ..explanation.feature_record import range_of
from ..explanation.frame import build_rows
from ..explanation.sample_columns import PER_PATIENT, plain
from ..explanation.selecting import told_of
from ..explanation.words import cancellation
from ..propagation import Diagnostics

WORDS = ("patient_id", "feature", "code")
"""The columns of the rows that are words, kept as dictionaries."""

TAKEN = (
    *("patient_id", "sample", *PER_PATIENT, "padding"),
    *("target", "observed", "messages", "layout"),
)
"""The columns of the patients besides those that were asked for."""

_PLAIN = (
    "model_name output target_names baseline names units mode fingerprint target_unit"
).split()


def rows_schema() -> pa.Schema:
    """The columns of ``rows.parquet``.

    ``visit`` is null where a feature has no visits, ``time`` where it is unknown or
    does not run forward, ``value`` for tokens and for values that are missing,
    ``attribution`` where the model has no answer, ``measured`` where it is not known;
    of cohorts of which that is known of no feature there is no such column.
    """
    word = pa.dictionary(pa.int32(), pa.string())
    small = dict.fromkeys(("sample", "visit", "position"), pa.int32())
    number = dict.fromkeys(("time", "value", "attribution"), pa.float32())
    types = {**dict.fromkeys(WORDS, word), **small, **number, "measured": pa.bool_()}
    order = "patient_id sample feature code visit position time value attribution"
    order += " measured"
    return pa.schema([(name, types[name]) for name in order.split()])


def patients_schema(explanation: Explanation, observed: pa.DataType) -> pa.Schema:
    """The columns of ``patients.parquet``, but those that were asked for.

    ``padding`` is the sum of what is attributed to places without a row (padding, or
    absent categories). ``target`` is an index, or a list of them where outputs have
    more dimensions; of a contrast a struct of two, ``a`` and ``b``;
    ``messages`` are those of the batch that the patient was explained in, without what
    is said of others; ``layout`` has, per feature in the order of ``cohort.json``, the
    shape of its tensor and the times as the record has them.
    """
    layout = pa.struct(
        [("shape", pa.list_(pa.int32())), ("time", pa.list_(pa.float64()))]
    )
    return pa.schema(
        [
            ("patient_id", pa.string()),
            ("sample", pa.int32()),
            *((name, pa.float64()) for name in (*PER_PATIENT, "padding")),
            ("target", _target_type(explanation.target)),
            ("observed", observed),
            ("messages", pa.list_(pa.string())),
            ("layout", pa.list_(layout)),
        ]
    )


def _target_type(targets: Sequence[Explained]) -> pa.DataType:
    """The type of the column of explained outputs."""
    ends = [t.a if isinstance(t, Contrast) else t for t in targets]
    several = any(isinstance(end, tuple) for end in ends)
    place = pa.list_(pa.int32()) if several else pa.int32()
    contrasts = any(isinstance(target, Contrast) for target in targets)
    return pa.struct([("a", place), ("b", place)]) if contrasts else place


def target_of(stored: Any) -> Explained:
    """An explained output as the column has it."""
    if isinstance(stored, Mapping):
        return Contrast(_place(stored["a"]), _place(stored["b"]))
    return _place(stored)


def _place(stored: Any) -> Place:
    return tuple(stored) if isinstance(stored, list) else stored


def rows_table(explanation: Explanation, samples: Sequence[int]) -> pa.Table:
    """A row per token or value of each patient; see :func:`rows_schema`.

    ``samples`` are the indices of the explained ones in the dataset.
    """
    rows = build_rows(explanation)
    rows["sample"] = np.asarray(samples)[rows["sample"]]
    absent = {
        "visit": rows["_no_visit"],
        "measured": rows["_unknown"],
        **{name: np.isnan(rows[name]) for name in ("time", "value", "attribution")},
    }
    arrays = []
    for field in rows_schema():
        column = rows[field.name]
        if field.name in WORDS:
            arrays.append(pa.array(column, pa.string()).dictionary_encode())
        else:
            arrays.append(pa.array(column, mask=absent.get(field.name)))
    names = rows_schema().names
    return pa.Table.from_arrays(arrays, names).cast(rows_schema())


def patients_table(
    explanation: Explanation, samples: Sequence[int], observed: pa.Array
) -> pa.Table:
    """A row per patient; see :func:`patients_schema`."""
    count = len(explanation)
    columns: dict[str, Any] = {
        name: _nullable(getattr(explanation, name)) for name in PER_PATIENT
    }
    columns |= {
        "padding": _nullable(padding_sums(explanation)),
        "patient_id": list(explanation.patient_ids),
        "sample": list(samples),
        "target": [
            asdict(target) if isinstance(target, Contrast) else target
            for target in explanation.target
        ],
        "observed": observed,
        "messages": [
            list(told_of(explanation.diagnostics, [row]).messages)
            for row in range(count)
        ],
        "layout": [
            [_layout(record, row) for record in explanation.features.values()]
            for row in range(count)
        ],
    }
    schema = patients_schema(explanation, observed.type)
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def header_of(explanation: Explanation) -> dict[str, Any]:
    """What all patients' explanations have in common, as plain data for JSON."""
    words = {name: getattr(explanation, name) for name in _PLAIN}
    for name in ("names", "units"):
        words[name] = {
            key: dict(table) if isinstance(table, Mapping) else table
            for key, table in words[name].items()
        }
    features = [
        {
            "key": key,
            "dtype": _dtype_name(record.values),
            "time_dtype": None if record.time is None else _dtype_name(record.time),
            "vocabulary": record.vocabulary and list(record.vocabulary),
            "columns": record.columns and list(record.columns),
            "times": record.times,
            "measured": record.measured is not None,
        }
        for key, record in explanation.features.items()
    ]
    # JSON has no infinite numbers.
    words["ranges"] = {
        key: {
            code: [end if math.isfinite(end) else None for end in bounds]
            for code, bounds in table.items()
        }
        for key, table in explanation.ranges.items()
    }
    return {**words, "features": features, "dtype": _dtype_name(explanation.f_input)}


def matching(rows: pa.Table, header: Mapping[str, Any]) -> pa.Table:
    """Rows with the columns that the cohort's files have, as it was begun."""
    known = any(feature.get("measured") for feature in header["features"])
    return rows if known else rows.drop_columns("measured")


def explanation_of(
    rows: pa.Table,
    patients: pa.Table,
    header: Mapping[str, Any],
    diagnostics: Diagnostics,
) -> Explanation:
    """The explanation that rows and patients were made of; attributions as float32.

    Padding is cut to what each patient needs; several samples are padded to the widest.

    Args:
        rows: All rows of these patients, in any order.
        patients: One row or several of ``patients.parquet``.
        header: What :func:`header_of` said.
        diagnostics: The account of the partition; the messages are each patient's own.

    Raises:
        ValueError: If there are no patients, or a row does not fit their layout.
    """
    by_sample = rows["sample"]
    return Explanation.concat(
        _one(rows.filter(pc.equal(by_sample, p["sample"])), p, header, diagnostics)
        for p in patients.to_pylist()
    )


def _one(
    rows: pa.Table,
    patient: Mapping[str, Any],
    header: Mapping[str, Any],
    report: Diagnostics,
) -> Explanation:
    """One sample's explanation."""
    features, shares = {}, {}
    columns = rows.select([n for n in rows.schema.names if n != "patient_id"])
    for described, layout in zip(header["features"], patient["layout"], strict=True):
        mine = columns.filter(pc.equal(columns["feature"], described["key"]))
        try:
            record, share = _feature(mine, described, layout)
        except (IndexError, ValueError, KeyError) as error:
            raise ValueError(
                f"patient {patient['patient_id']!r}, feature {described['key']!r}: its "
                f"rows do not fit the shape {layout['shape']}: {error}"
            ) from error
        features[described["key"]], shares[described["key"]] = record, share
    dtype = getattr(torch, header["dtype"])
    fields: dict[str, Any] = {n: _number(patient[n], dtype) for n in PER_PATIENT}
    messages = list(patient["messages"])
    if lost := patient.get("padding"):  # which has no place: the rest falls short of it
        fields["delta"] = fields["delta"] - lost / fields["rescale_factor"]
        messages.append(
            f"{lost:.3g} is attributed to padding, of which there are no rows"
        )
    names = header["target_names"]
    change = fields["f_input"] - fields["f_baseline"]
    is_answered = bool(change.isfinite())
    times = cancellation(shares.values(), change) if is_answered else 0.0
    # Cohorts of earlier versions say less.
    fields |= {name: header.get(name, "") for name in _PLAIN}
    fields["ranges"] = {
        key: {code: range_of(code, bounds) for code, bounds in table.items()}
        for key, table in header.get("ranges", {}).items()
    }
    fields["target_names"] = None if names is None else tuple(names)
    return Explanation(
        attributions=shares,
        features=features,
        target=(target_of(patient["target"]),),
        diagnostics=replace(
            report,
            messages=tuple(messages),
            cancellation=float(times),
        ),
        patient_ids=(patient["patient_id"],),
        sample_columns={
            name: (plain(value),)
            for name, value in patient.items()
            if name not in TAKEN
        },
        **fields,
    )


def _feature(
    rows: pa.Table, described: Mapping[str, Any], layout: Mapping[str, Any]
) -> tuple[FeatureRecord, Tensor]:
    """One feature's record and attributions from its rows."""
    shape, vocabulary = tuple(layout["shape"]), described["vocabulary"]
    inner = shape[-1:] if vocabulary is not None else shape[1:]
    visit, position = (
        rows[name].fill_null(0).to_numpy().astype(np.int64)
        for name in ("visit", "position")
    )
    index = torch.from_numpy(visit * math.prod(inner) + position)
    mask = torch.zeros(math.prod(shape), dtype=torch.bool)
    mask[index] = True
    if int(mask.sum()) != len(index):
        raise ValueError("two rows stand at one place")
    dtype = getattr(torch, described["dtype"])
    values = torch.zeros(len(mask), dtype=dtype)
    if vocabulary is None:
        values[index] = _floats(rows["value"]).to(dtype)
    else:
        ids = {code: i for i, code in reversed([*enumerate(vocabulary)])}
        values.fill_(ids.get("<pad>", 0))
        codes = [ids[code] for code in rows["code"].to_pylist()]
        values[index] = torch.tensor(codes, dtype=dtype)
    shares = torch.zeros(len(mask))
    shares[index] = _floats(rows["attribution"])
    measured = None
    if described.get("measured") and "measured" in rows.schema.names:
        measured = torch.zeros(len(mask), dtype=torch.bool)
        flags = rows["measured"].fill_null(False).to_numpy()
        measured[index] = torch.from_numpy(flags.astype(bool))
        measured = measured.view(1, *shape)
    time = layout["time"]
    if time is not None:
        time = torch.tensor([time], dtype=getattr(torch, described["time_dtype"]))
    record = FeatureRecord(
        values.view(1, *shape),
        mask.view(1, *shape),
        time,
        vocabulary and tuple(vocabulary),
        described["columns"] and tuple(described["columns"]),
        described.get("times"),
        measured,
    )
    return record, shares.view(1, *shape)


def _layout(record: FeatureRecord, row: int) -> dict[str, Any]:
    """The shape of one patient's tensor without the batch's padding, and its times."""
    shape = list(record.values.shape[1:])
    time: list[float] = [] if record.time is None else record.time[row].tolist()
    steps = record.is_token or record.is_series or len(shape) > 1
    if shape and steps:
        used = record.mask[row].reshape(shape[0], -1).any(1).tolist()
        timed = len(time) == len(used)
        if timed:
            used = [flag or t != 0 for flag, t in zip(used, time)]
        shape[0] = max((k for k, flag in enumerate(used, 1) if flag), default=1)
        time = time[: shape[0]] if timed else time
    return {"shape": shape, "time": None if record.time is None else time}


def _nullable(numbers: Tensor) -> Iterable[float | None]:
    """Numbers with None for what is none."""
    listed = numbers.detach().cpu().double().tolist()
    return [None if math.isnan(number) else number for number in listed]


def _number(number: float | None, dtype: torch.dtype) -> Tensor:
    return torch.tensor([math.nan if number is None else number], dtype=dtype)


def _floats(column: pa.ChunkedArray) -> Tensor:
    """Float32, NaN for null."""
    return torch.from_numpy(column.fill_null(math.nan).to_numpy().astype(np.float32))


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def observed_of(samples: Sequence[Mapping[str, Any]], adapter: Any) -> pa.Array:
    """The true label of each sample: 0 or 1, the index of a class, a number.

    Of several labels at once a list with 0 or 1 for each; null where it is unknown.
    """
    keys: Sequence[str] = getattr(adapter.model, "label_keys", ())
    several = adapter.mode == "multilabel"
    labels = []
    for sample in samples:
        label = sample.get(keys[0]) if len(keys) == 1 else None
        flat = [] if label is None else np.asarray(label, dtype=float).ravel().tolist()
        labels.append(flat or None if several else flat[0] if len(flat) == 1 else None)
    return pa.array(labels, pa.list_(pa.float64()) if several else pa.float64())
