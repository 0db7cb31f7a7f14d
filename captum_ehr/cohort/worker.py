"""What runs on a dask worker: a job is read from a file, once, and kept.

Workers get paths. The file is this package's own, and read only if its contents are
those that the caller has announced: nothing else is unpickled.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import socket
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch

from .contents import digest
from .durable import make_private, owner, private_file, whole_file
from .identity import differences, versions
from .manifest import CohortError
from .order import measured
from .partition import Job, explain_partition


class Caller(NamedTuple):
    """The process that sends tasks, and its versions of what numbers depend on."""

    process: str
    versions: tuple[tuple[str, str], ...]

    @classmethod
    def here(cls) -> Caller:
        """This process."""
        return cls(owner(), tuple(versions().items()))


class Sealed(NamedTuple):
    """A pickle in a file, and the hash of its bytes."""

    path: str
    sha256: str


def seal(path: Path, content: Any) -> Sealed:
    """Write a pickle that :func:`unsealed` reads; what it replaces is gone."""
    import cloudpickle

    class Light(cloudpickle.Pickler):
        """Leaves out the samples of datasets in memory; models hold theirs."""

        def reducer_override(self, thing: Any) -> Any:
            samples = getattr(thing, "_data", None)
            if isinstance(samples, list) and hasattr(thing, "input_processors"):
                state = {**vars(thing), "_data": []}
                state |= dict.fromkeys(("patient_to_index", "record_to_index"), {})
                return type(thing).__new__, (type(thing),), state
            return super().reducer_override(thing)

    buffer = io.BytesIO()
    Light(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(content)
    make_private(path.parent)
    with whole_file(path) as temporary, private_file(temporary) as file:
        file.write(buffer.getbuffer())
    return Sealed(str(path), hashlib.sha256(buffer.getbuffer()).hexdigest())


def unsealed(sealed: Sealed) -> Any:
    """Read what :func:`seal` wrote.

    Raises:
        CohortError: If it is not there, or not what was written.
    """
    here = socket.gethostname()
    try:
        content = Path(sealed.path).read_bytes()
    except OSError as error:
        raise CohortError(
            f"the worker on {here} cannot read {sealed.path} ({error.strerror}): the "
            "cohort's folder has to be on a disk that all workers share, under the "
            "same path."
        ) from error
    if hashlib.sha256(content).hexdigest() != sealed.sha256:
        raise CohortError(
            f"{sealed.path} was changed since it was written, or {here} sees another "
            "one; nothing of it is loaded. Run again."
        )
    return pickle.loads(content)


@lru_cache(maxsize=1)
def _job(sealed: Sealed, caller: Caller) -> Job:
    """The job, checked once in each process: versions, dataset, threads."""
    here = socket.gethostname()
    if said := differences(versions(), dict(caller.versions)):
        raise CohortError(
            f"the worker on {here} has other versions than the caller: "
            f"{'; '.join(said)}. Install the same."
        )
    job: Job = unsealed(sealed)
    if job.dataset is not None:
        _check_dataset(job, here)
    if owner() != caller.process:
        torch.set_num_threads(1)  # a worker beside others, one for each core
    return job


def _check_dataset(job: Job, here: str) -> None:
    """The worker has to see the samples that the caller sees."""
    index, sample = job.probe
    try:
        same = digest(job.dataset[index]) == digest(sample)
    except Exception as error:
        raise CohortError(
            f"the worker on {here} cannot read the dataset "
            f"{getattr(job.dataset, 'path', '')} ({type(error).__name__}: {error}): it "
            "has to be on a disk that all workers share, under the same path."
        ) from error
    if not same:
        raise CohortError(
            f"the worker on {here} finds another sample {index} in the dataset "
            f"{getattr(job.dataset, 'path', '')} than the caller: is it another folder?"
        )


def check(sealed: Sealed, caller: Caller) -> str:
    """Whether this worker can do the job; its host."""
    _job(sealed, caller)
    return socket.gethostname()


def measure_on(
    sealed: Sealed, caller: Caller, names: Sequence[str], rows: range
) -> pa.Table:
    """:func:`.order.measured` on a worker."""
    job = _job(sealed, caller)
    return measured(job.dataset, job.explainer.model.features, names, rows)


def explain_on(
    sealed: Sealed,
    caller: Caller,
    out: str,
    number: int,
    samples: Sealed | None,
) -> dict[str, Any]:
    """:func:`.partition.explain_partition` on a worker.

    Where the dataset is in no file, ``samples`` are the partition's, by index.
    """
    job = _job(sealed, caller)
    if samples is not None:
        job = replace(job, dataset=unsealed(samples))
    return explain_partition(job, Path(out), number)
