"""The caller's side of dask: a client, what it is sent, and what may go wrong."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .durable import owner
from .manifest import CohortError
from .partition import Job
from .progress import logger
from .worker import Caller, Sealed, check, explain_on, measure_on, seal


class Workers:
    """A client whose workers have what they need to explain."""

    def __init__(self, client: Any, job: Job, out: Path, folder: Path) -> None:
        self.client, self.job, self.out, self.folder = client, job, out, folder
        #: Whether workers read the dataset themselves.
        self.read = is_on_disk(job.dataset)
        sent = job if self.read else replace(job, dataset=None)
        self.sealed = seal(folder / "job.pkl", sent)
        self._compiles = bool(getattr(job.explainer, "compile", False))
        if not client.scheduler_info()["workers"]:
            logger.warning("%s has no workers yet; waiting", client)
        host = self._results([self._submit(check)])
        logger.info("a worker on %s reads model and dataset", next(host))

    def measure(self, names: Sequence[str], ranges: Sequence[range]) -> list[pa.Table]:
        """The lengths of all samples, in the dataset's order."""
        futures = [self._submit(measure_on, names, rows) for rows in ranges]
        tables = list(self._results(futures))
        return sorted(tables, key=lambda table: table["sample"][0].as_py())

    def explain(
        self, numbers: Sequence[int], order: pa.Table
    ) -> Iterator[dict[str, Any]]:
        """The reports of partitions, as they are done; the first ones begin first."""
        first = numbers[:1] if self._compiles else []
        for some in (first, numbers[len(first) :]):
            futures = []
            for number in some:
                samples = None if self.read else self._samples(number, order)
                args = str(self.out), number, samples
                futures.append(self._submit(explain_on, *args))
            yield from self._results(futures)

    def _samples(self, number: int, order: pa.Table) -> Sealed:
        """A partition's samples in a file, where no worker can read the dataset."""
        mine = order.filter(pc.equal(order["partition"], number))["sample"].to_pylist()
        samples = {index: self.job.dataset[index] for index in mine}
        return seal(self.folder / f"samples-{number:05d}.pkl", samples)

    def _submit(self, task: Any, *args: Any) -> Any:
        name = f"{task.__name__}-{uuid.uuid4().hex}"
        return self.client.submit(
            task, self.sealed, Caller.here(), *args, key=name, pure=False
        )

    def _results(self, futures: Sequence[Any]) -> Iterator[Any]:
        """The results as they come; an error takes back what is not done."""
        from dask.distributed import as_completed
        from distributed.comm.core import CommClosedError
        from distributed.scheduler import KilledWorker

        try:
            for future in as_completed(futures):
                yield future.result()
        except KilledWorker as error:
            raise CohortError(
                f"workers died again and again at the same partition: {error}. Mostly "
                "that is memory: give them more, or explain fewer at a time with "
                "DeepLiftEHR(model, internal_batch_size=4). What is done stays; run "
                "again."
            ) from error
        except (CancelledError, CommClosedError) as error:
            raise CohortError(
                f"the scheduler is gone ({error}). What is done stays; run again."
            ) from error
        finally:
            self.client.cancel([f for f in futures if not f.done()])


@contextmanager
def connected(client: Any, job: Job, out: Path) -> Iterator[Workers | None]:
    """Workers to explain on; None for this process."""
    if client is None:
        yield None
        return
    folder = out / f".work.{owner()}.{uuid.uuid4().hex}.tmp"
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield Workers(_client(client, stack), job, out, folder)


def _client(client: Any, stack: ExitStack) -> Any:
    """A client, closed with the stack if it was made here."""
    from dask.distributed import Client, LocalCluster

    if isinstance(client, int) and not isinstance(client, bool):
        try:
            cluster = LocalCluster(
                n_workers=client,
                threads_per_worker=1,
                dashboard_address="localhost:0",  # else on every address
            )
        except RuntimeError as error:
            raise CohortError(
                f"{client} worker process(es) could not be started ({error}). Each runs"
                " your script again from the top: what it does has to stand under "
                "if __name__ == '__main__':"
            ) from error
        client = stack.enter_context(cluster)
    if isinstance(client, Client):
        return client
    try:
        return stack.enter_context(Client(client))
    except (OSError, ValueError, TypeError) as error:
        raise CohortError(
            f"client={client!r}: there is no scheduler of dask to connect to ({error})."
            " Give a dask.distributed.Client, an address such as tcp://host:8786, or "
            "how many processes to start here."
        ) from error


def is_on_disk(dataset: Any) -> bool:
    """Whether a dataset is a folder that others can read, not samples in memory."""
    return hasattr(dataset, "input_dir") and not hasattr(dataset, "_data")
