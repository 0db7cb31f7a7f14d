"""Explanations made by hand, any explanation at all, and whether two are the same."""

import math
from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from captum_ehr.explanation import Explanation, FeatureRecord
from captum_ehr.propagation.diagnostics import Diagnostics, Operation

VOCABULARY = ("<pad>", "<unk>", "I50", "E11", "N18")


def explain(
    features: dict[str, FeatureRecord],
    attributions: dict[str, Tensor] | None = None,
    **changes: object,
) -> Explanation:
    """An explanation of some features; attributions are random on the mask.

    What they do not explain of the outputs is the delta.
    """
    count = next(iter(features.values())).values.shape[0] if features else 2
    if attributions is None:
        attributions = {
            key: torch.randn(record.values.shape) * record.mask
            for key, record in features.items()
        }
    given: dict[str, object] = {
        "f_input": torch.linspace(0.5, 1.5, count),
        "f_baseline": torch.zeros(count),
        "rescale_factor": torch.ones(count),
        "target": (0,) * count,
        "diagnostics": Diagnostics(),
        "patient_ids": tuple(f"p{i}" for i in range(count)),
    }
    given |= changes
    if "delta" not in given:
        total = torch.zeros(count, dtype=torch.float64)
        for one in attributions.values():
            total += one.detach().double().reshape(count, -1).sum(1)
        given["delta"] = total - (given["f_input"] - given["f_baseline"])
    return Explanation(attributions=attributions, features=features, **given)


def tokens(ids: list, time: Tensor | None = None) -> FeatureRecord:
    """A record of token ids, 0 being padding."""
    values = torch.tensor(ids)
    return FeatureRecord(values, values != 0, time, VOCABULARY)


def values(
    numbers: list, time: list | None = None, columns: tuple[str, ...] | None = None
) -> FeatureRecord:
    """A record of values, all of them observed."""
    tensor = torch.tensor(numbers, dtype=torch.float32)
    mask = torch.ones(tensor.shape, dtype=torch.bool)
    return FeatureRecord(
        tensor, mask, None if time is None else torch.tensor(time), None, columns
    )


def rows(explanation: Explanation, *columns: str) -> list[tuple]:
    """The frame's rows, NA and NaN as None."""
    frame = explanation.to_frame()[list(columns)].astype(object)
    return list(frame.where(frame.notna(), None).itertuples(index=False, name=None))


def same(one: Tensor | None, other: Tensor | None) -> bool:
    """True for tensors with the same dtype, shape and bits."""
    if one is None or other is None:
        return one is other
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return one.numpy().tobytes() == other.numpy().tobytes()


def assert_same(one: Explanation, other: Explanation) -> None:
    """Assert that two explanations hold the same, bit for bit."""
    assert list(one.features) == list(other.features)
    for key, record in one.features.items():
        back = other.features[key]
        assert same(one.attributions[key], other.attributions[key])
        assert same(record.values, back.values)
        assert same(record.mask, back.mask)
        assert same(record.time, back.time)
        assert same(record.measured, back.measured)
        assert (record.vocabulary, record.columns) == (back.vocabulary, back.columns)
    for name in ("f_input", "f_baseline", "delta", "rescale_factor"):
        assert same(getattr(one, name), getattr(other, name))
    plain = "target diagnostics patient_ids model_name output target_names baseline"
    plain += " names units ranges sample_columns mode fingerprint target_unit"
    for name in plain.split():
        assert getattr(one, name) == getattr(other, name)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
FLOATS = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16])
INTEGERS = st.sampled_from([torch.int64, torch.int32, torch.uint8])


@st.composite
def explanations(draw: st.DrawFn) -> Explanation:
    """Any explanation: odd texts, dtypes, NaN, padding that is not zero.

    The delta is what the attributions lack; it is NaN where they are.
    """
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    count = draw(st.integers(0, 3))

    def floats(*shape: int) -> Tensor:
        wide = torch.randn(shape, generator=random, dtype=torch.float64)
        odd = torch.rand(shape, generator=random)
        wide[odd < 0.1], wide[odd > 0.95], wide[odd > 0.98] = math.nan, -0.0, math.inf
        return wide.to(draw(FLOATS))

    features, attributions = {}, {}
    for key in draw(st.lists(TEXT, unique=True, max_size=3)):
        is_token = draw(st.booleans())
        sizes = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
        shape = (count, *sizes)
        mask = torch.rand(shape, generator=random) > draw(st.floats(0, 1))
        time, vocabulary = None, None
        if draw(st.booleans()):
            time = floats(count, sizes[0])
        if is_token:
            vocabulary = tuple(draw(st.lists(TEXT, min_size=1, max_size=5)))
            ids = torch.randint(0, len(vocabulary), shape, generator=random)
            record_values = torch.where(mask, ids, ids + 100).to(draw(INTEGERS))
        elif draw(st.booleans()):
            record_values = floats(*shape)
        else:
            record_values = torch.randint(0, 2, shape, generator=random).bool()
        columns = None
        if not is_token and draw(st.booleans()):
            columns = tuple(draw(TEXT) for _ in range(sizes[-1]))
        measured = None
        if not is_token and draw(st.booleans()):
            measured = torch.rand(shape, generator=random) > 0.5
        record = FeatureRecord(
            record_values, mask, time, vocabulary, columns, None, measured
        )
        features[key], attributions[key] = record, floats(*shape)
    words = st.dictionaries(TEXT, TEXT, max_size=2)
    if features:
        own = st.dictionaries(st.sampled_from(list(features)), words)
        words = st.builds(lambda common, own: common | own, words, own)
    ends = st.tuples(st.floats(-math.inf, 0), st.floats(0, math.inf))
    ranges = st.dictionaries(
        st.sampled_from([*features, ""]), st.dictionaries(TEXT, ends, max_size=2)
    ).map(lambda held: {key: held[key] for key in held if key in features})
    words_of_samples = st.sampled_from([TEXT, st.booleans(), st.integers(-9, 9)])
    columns_of_samples = {
        f"s{name}": tuple(draw(st.none() | kind) for _ in range(count))
        for name, kind in draw(st.dictionaries(TEXT, words_of_samples)).items()
    }
    f_input, f_baseline = floats(count), floats(count)
    factor = 1 + torch.rand(count, generator=random)
    total = torch.zeros(count, dtype=torch.float64)
    for one in attributions.values():
        total += one.double().flatten(1).sum(1)
    change = f_input.double() - f_baseline.double()
    index = st.integers(0, 5) | st.tuples(st.integers(0, 5), st.integers(0, 5))
    return explain(
        features,
        attributions,
        f_input=f_input,
        f_baseline=f_baseline,
        delta=total / factor - change,
        rescale_factor=factor,
        target=tuple(draw(index) for _ in range(count)),
        diagnostics=Diagnostics(
            (Operation(draw(TEXT), draw(TEXT), 2, draw(st.booleans())),),
            tuple(draw(st.lists(TEXT, max_size=2))),
            tuple(draw(st.lists(TEXT, max_size=2))),
        ),
        patient_ids=tuple(draw(TEXT) for _ in range(count)),
        model_name=draw(TEXT),
        output=draw(st.sampled_from(["logit", "probability"])),
        target_names=draw(st.none() | st.tuples(TEXT, TEXT)),
        baseline=draw(TEXT),
        names=draw(words),
        units=draw(words),
        mode=draw(st.sampled_from([None, "binary", "multiclass"])),
        fingerprint=draw(TEXT),
        target_unit=draw(TEXT),
        ranges=draw(ranges),
        sample_columns=columns_of_samples,
    )


def bits(explanation: Explanation) -> Explanation:
    """The same with bfloat16 seen as int16, which numpy knows, and one kind of NaN."""

    def seen(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            nan = torch.tensor(math.nan, dtype=tensor.dtype)
            tensor = torch.where(tensor.isnan(), nan, tensor)
        return tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor

    copy = object.__new__(Explanation)
    fields = dict(vars(explanation))
    for name in ("f_input", "f_baseline", "delta", "rescale_factor"):
        fields[name] = seen(fields[name])
    fields["attributions"] = {k: seen(v) for k, v in fields["attributions"].items()}
    fields["features"] = {
        key: replace(
            record,
            values=seen(record.values),
            time=None if record.time is None else seen(record.time),
        )
        for key, record in fields["features"].items()
    }
    copy.__dict__.update(fields)
    return copy


CODES = ("<pad>", "<unk>", "4280", "250.00", "V5861", "I50.9", "E119", "no code")


@st.composite
def cohorts(draw: st.DrawFn) -> Explanation:
    """Some patients as a model would explain them: every kind of feature, finite.

    Patients may have several samples; padding has an attribution of 0.
    """
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    count, steps = draw(st.integers(0, 5)), draw(st.integers(1, 4))
    time = torch.randint(0, 3, (count, steps), generator=random).float()

    def codes(*shape: int, time: Tensor | None = None) -> FeatureRecord:
        ids = torch.randint(0, len(CODES), (count, *shape), generator=random)
        return FeatureRecord(ids, ids > 0, time, CODES)

    def numbers(*shape: int, time: Tensor | None = None) -> FeatureRecord:
        drawn = torch.randn(count, *shape, generator=random)
        return FeatureRecord(drawn, drawn > -0.5, time)

    kinds = {
        "flat": lambda: codes(4),
        "nested": lambda: codes(steps, 2, time=time),
        "untimed": lambda: codes(steps, 2),
        "deep": lambda: codes(steps, 2, 2, time=time),
        "series": lambda: numbers(steps, 3, time=time),
        "untimed_series": lambda: numbers(steps, 3),
        "columns": lambda: numbers(3),
        "one": lambda: numbers(steps, time=time),
    }
    keys = draw(st.lists(st.sampled_from(list(kinds)), unique=True, min_size=1))
    features = {key: kinds[key]() for key in keys}
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    attributions = {
        key: torch.randn(record.values.shape, generator=random).to(dtype) * record.mask
        for key, record in features.items()
    }
    total = torch.zeros(count, dtype=torch.float64)
    for one in attributions.values():
        total += one.double().flatten(1).sum(1)
    at_baseline = torch.randn(count, generator=random, dtype=torch.float64) * 3
    return explain(
        features,
        attributions,
        f_input=at_baseline + total,
        f_baseline=at_baseline,
        delta=torch.zeros(count),
        target=(0,) * count,
        patient_ids=tuple(draw(st.sampled_from("pqr")) for _ in range(count)),
        mode="binary",
    )
