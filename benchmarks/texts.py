"""Few-shot classification of texts without meta-learning, on the meta-test tasks of a configuration.

    python benchmarks/texts.py configs/clinc150_5w1s_protonet.yaml --json FILE

Every method gives a text a vector of length 1; a query is of the class whose mean vector is nearest. Counts and TF-IDF
see all words and all runs of characters, also those that training texts have not; inverse document frequencies are
those of the training classes' texts. The untrained network is the configuration's own, with its first weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import show, write
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.preprocessing import normalize

from distmeta import load_config
from distmeta.config.schema import Config
from distmeta.core.requests import Start
from distmeta.programs.supervised import SupervisedProgram
from distmeta.runs.metrics import mean_ci
from distmeta.tasks import fit_family, open_family
from distmeta.tasks.base import episodes
from distmeta.tasks.texts import Text

FEATURES = 2**22
"""Hashed words and runs of characters; so many that hardly two of them meet."""

_WORDS = {"token_pattern": r"\w+|[^\w\s]+"}
_RUNS = {"analyzer": "char_wb", "ngram_range": (2, 5)}
METHODS: dict[str, tuple[dict[str, Any], bool]] = {
    "counts of words": (_WORDS, False),
    "TF-IDF of words": (_WORDS, True),
    "TF-IDF of runs of 2 to 5 characters": (_RUNS, True),
}
"""What is counted, and whether rare things count more."""

CHUNK = 50
"""Tasks that are measured at a time."""

Accuracies = NDArray[np.float64]


def vectors(texts: list[str], training: NDArray[np.bool_], counted: dict[str, Any], weighted: bool) -> Any:
    """Sparse vectors (N, features) of length 1."""
    counts = HashingVectorizer(n_features=FEATURES, norm=None, alternate_sign=False, **counted).transform(texts)
    counts = counts[:, np.unique(counts.indices)]
    if weighted:
        counts = TfidfTransformer(norm=None).fit(counts[np.flatnonzero(training)]).transform(counts)
    return normalize(counts)


def nearest_means(found: Any, rows: NDArray[np.int64], shots: int) -> float:
    """Accuracy on one task, whose rows are (ways, shots + queries)."""
    ways, queries = len(rows), rows.shape[1] - shots
    averaging = csr_matrix(np.kron(np.eye(ways), np.full((1, shots), 1 / shots)))
    means = averaging @ found[rows[:, :shots].reshape(-1)]
    # |q| is 1, so that the nearest mean m has the largest q m - |m|^2 / 2.
    products = (found[rows[:, shots:].reshape(-1)] @ means.T).toarray()
    nearest = (products - (means @ means.T).diagonal() / 2).argmax(1)
    return float((nearest == np.repeat(np.arange(ways), queries)).mean())


def of_counts(config: Config, tasks: int) -> dict[str, Accuracies]:
    """Each method's accuracies (tasks,)."""
    family = open_family(config, torch.device("cpu"))
    assert isinstance(family, Text)
    texts = [text for rows in type(family).source(config.tasks).rows() for text in rows.texts]
    drawn, shots = family.draw("test", range(tasks)), episodes(config)["test"].shots
    measured = {}
    for name, (counted, weighted) in METHODS.items():
        found = vectors(texts, family.training_rows(), counted, weighted)
        measured[name] = np.array([nearest_means(found, rows, shots) for rows in drawn])
    return measured


def of_untrained(config: Config, tasks: int) -> Accuracies:
    """Accuracies (tasks,) of the network's first weights."""
    program = SupervisedProgram(config, torch.device("cpu"))
    start = Start.of(0, program.initial_vector())
    measure: Callable[[range], Any] = lambda ids: program.evaluate(start, "test", ids, details=False)  # noqa: E731
    parts = [measure(range(first, min(first + CHUNK, tasks))) for first in range(0, tasks, CHUNK)]
    return np.concatenate([part.values["accuracy"].numpy() for part in parts])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    config = fit_family(load_config(options.config, options.overrides))
    tasks = config.evaluation.tasks
    measured = {**of_counts(config, tasks), "the network, untrained": of_untrained(config, tasks)}
    figures = {name: mean_ci(torch.from_numpy(values)) for name, values in measured.items()}
    show(
        f"meta-test, {tasks:,} tasks",
        [
            {"method": name, "accuracy": f"{100 * value['mean']:.2f} ± {100 * value['ci95']:.2f} %"}
            for name, value in figures.items()
        ],
    )
    write(options.json, "texts", {"tasks": tasks, "accuracy": figures})


if __name__ == "__main__":
    main()
