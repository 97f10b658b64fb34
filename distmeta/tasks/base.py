"""What a task family is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from distmeta.config.sections import SizeRange, limits
from distmeta.core.records import Inputs, InputSpec, Split, TaskBatch, TensorSpec

if TYPE_CHECKING:
    import torch

    from distmeta.config.schema import Config
    from distmeta.config.sections import TaskOptions


@dataclass(frozen=True)
class Episode:
    """The size of a split's tasks and the seed that, with the split and a task's id, fixes their content.

    Attributes:
        shots: support examples a class (a task, in families without classes); 0 in families that do not call them so.
        queries: query examples a class (a task, in families without classes); 0 likewise.
        seed: run seed for training, evaluation seed for validation and test.
        ways: classes a task; ``None`` in families without classes.
        drawn: where shots or ways are drawn for every meta-step, from what; the sizes above are then the largest, and
            those of given tasks are what :meth:`at` gives. Only families whose settings take ranges see such episodes.
    """

    shots: int
    queries: int
    seed: int
    ways: int | None = None
    drawn: DrawnSizes | None = None

    def at(self, ids: Sequence[int]) -> Episode:
        """The size of training tasks, which are all of one size: of one meta-step, or of several of the same size.

        >>> drawn = DrawnSizes(meta_batch=4, shots=(1, 5), ways=(5, 5), constant=True)
        >>> largest = Episode(shots=5, queries=10, seed=0, ways=5, drawn=drawn)
        >>> [(each.shots, each.queries) for each in (largest.at(range(4 * s, 4 * s + 4)) for s in range(4))]
        [(1, 14), (1, 14), (5, 10), (4, 11)]
        """
        if self.drawn is None or len(ids) == 0:
            return self
        found = {self._of_step(step) for step in {task // self.drawn.meta_batch for task in ids}}
        assert len(found) == 1, "tasks of several sizes cannot be stacked"
        return found.pop()

    def _of_step(self, step: int) -> Episode:
        from distmeta.core.philox import Purpose, integers, words  # here: settings are checked without NumPy

        assert self.drawn is not None
        (first, second), ways = self.drawn.shots, self.drawn.ways
        drawn = words(self.seed, "train", [step], Purpose.SIZES, 2)[0]
        shots = first + int(integers(drawn[0], second - first + 1))
        queries = self.shots + self.queries - shots if self.drawn.constant else self.queries
        classes = None if ways is None else ways[0] + int(integers(drawn[1], ways[1] - ways[0] + 1))
        return Episode(shots, queries, self.seed, classes)


@dataclass(frozen=True)
class DrawnSizes:
    """What the sizes of a meta-step's training tasks are drawn from: by its number and the seed, each as likely.

    Attributes:
        meta_batch: tasks of a meta-step.
        shots: the least and the most.
        ways: likewise; ``None`` in families without classes.
        constant: whether shots and queries together stay the same.
    """

    meta_batch: int
    shots: tuple[int, int]
    ways: tuple[int, int] | None
    constant: bool

    @property
    def count(self) -> int:
        """How many different sizes there are."""
        least, most = self.ways or (1, 1)
        return (self.shots[1] - self.shots[0] + 1) * (most - least + 1)


def episodes(config: Config) -> dict[Split, Episode]:
    """The episode of every split that a resolved configuration asks for."""
    own = config.tasks
    shots, ways = getattr(own, "shots", 0), getattr(own, "ways", None)
    drawn = None
    if isinstance(shots, SizeRange) or isinstance(ways, SizeRange):
        constant = getattr(own, "examples", None) is not None
        drawn = DrawnSizes(config.run.meta_batch, limits(shots), None if ways is None else limits(ways), constant)
        shots, ways = drawn.shots[1], drawn.ways and drawn.ways[1]
    train = Episode(shots, getattr(own, "queries", 0), config.seed, ways, drawn)
    evaluation = config.evaluation
    held_out = Episode(evaluation.shots or 0, evaluation.queries or 0, evaluation.seed, evaluation.ways)
    return {"train": train, "validation": held_out, "test": held_out}


@dataclass(frozen=True)
class TaskSpec:
    """What an example of a family's tasks is.

    Attributes:
        inputs: one tensor, which stands under ``x`` in a task's data and is the module's only argument; or tensors by
            name, which stand there under these names and are the module's keyword arguments.
        outputs: the training ways (the most of them, where they are drawn), or the dimension of ``y``. A network gives
            so many numbers for one example, where the objective asks for no other number.
        program: entry of :data:`distmeta.programs.PROGRAMS`.
        actions: of reinforcement-learning tasks, whether ``outputs`` is the dimension of an action or their number.
        successes: of reinforcement-learning tasks, whether they tell which episodes succeed.
        scale: (D,) what 1 of each dimension of ``y`` is in the user's unit, where targets are standardised; metrics are
            told in the user's unit. ``None`` where they are the same.
        unit: name of the user's unit of ``y``, as metrics tell it; empty where it has none.
        weighted: whether tasks have unequal numbers of examples, filled up to one number with padding. Their data then
            holds ``weight`` (T, N) float32 in support and query: 0 for padding, 1 (or what it weighs) for an example;
            inputs and targets of padding are finite numbers, for example 0. Losses, metrics and closed-form solutions
            heed it. Each query set has at least one example.
    """

    inputs: InputSpec
    outputs: int
    program: str = "supervised"
    actions: Literal["continuous", "discrete"] | None = None
    successes: bool = False
    scale: tuple[float, ...] | None = None
    unit: str = ""
    weighted: bool = False


FIRST_TASK = "first task"
"""In a fingerprint: a hash of the training split's task 0, which changes with data and code that a user accepts."""


class TaskFamily(Protocol):
    """A distribution of tasks, opened on one device.

    A family whose tasks are computed from their ids can be a subclass, and leave all out that concerns data: by default
    there is nothing to prepare, to hold or to move.

    Attributes:
        Options: the settings that stand under ``tasks`` in a configuration.
        lot: tasks that are best sampled at once; ``None`` where many cost little more than one.
    """

    Options: type[TaskOptions]

    @property
    def lot(self) -> int | None:  # noqa: D102
        return None

    def __init__(self, options: TaskOptions, episodes: Mapping[Split, Episode], device: torch.device) -> None:
        """Open the data. Raises ``DataError`` or ``ConfigError`` exactly as :meth:`prepare` does."""
        ...

    @classmethod
    def prepare(cls, options: TaskOptions, episodes: Mapping[Split, Episode]) -> None:
        """Fetch or build on this host what opening needs, and check that the episodes can be drawn from it.

        Raises:
            DataError: data is missing, damaged or incomplete.
            ConfigError: an episode asks for more than the data has, for example more ways than a split has classes.
        """
        return

    @classmethod
    def fit(cls, options: TaskOptions, episodes: Mapping[Split, Episode]) -> Mapping[str, Any] | None:
        """What :meth:`spec` and users of a trained model need to know of the training split, without the data.

        For example the names and scales of a table's columns, or a tokenizer. It is computed once, as a run begins, and
        before the network is built; from then on it is ``options.fitted``, in every process and in what is loaded from
        a checkpoint, whose ``fitted.json`` it is.

        Returns:
            JSON values, a function of the settings and the data; ``None`` where there is nothing to learn.

        Raises:
            DataError, ConfigError: as :meth:`prepare` does; it prepares what it needs itself.
        """
        return None

    @classmethod
    def holdings(cls, options: TaskOptions) -> Mapping[str, Path]:
        """Prepared files that workers on other hosts need, by the name under which :meth:`moved` finds them."""
        return {}

    @classmethod
    def contents(cls, options: TaskOptions) -> Mapping[str, str]:
        """A content hash of each data set that tasks are drawn from, by name; none where they are computed."""
        return {}

    @classmethod
    def moved(cls, options: TaskOptions, folder: Path) -> TaskOptions:
        """The settings for a host that has the :meth:`holdings` in this folder."""
        return options

    @classmethod
    def spec(cls, options: TaskOptions) -> TaskSpec:
        """What an example is, known without opening the data."""
        ...

    @classmethod
    def fingerprint(cls, options: TaskOptions) -> Mapping[str, str]:
        """What beside the settings may decide the tasks, by name, such as versions: workers of a run agree on it."""
        return {}

    @classmethod
    def groups(cls, options: TaskOptions, split: Split, ids: Sequence[int]) -> Sequence[str] | None:
        """The group of each task, where there are several whose measurements are worth telling apart."""
        return None

    @classmethod
    def picture(cls, options: TaskOptions, content: bytes) -> torch.Tensor:
        """The content of an image file as the network's input (C, H, W), brought to size and colours as in training.

        Raises:
            OSError, ValueError: it cannot be decoded, or is too large.
        """
        import torch

        from distmeta.data.images.pixels import pixels

        inputs = cls.spec(options).inputs
        assert isinstance(inputs, TensorSpec)
        channels, height, width = inputs.shape
        image = torch.from_numpy(pixels(content, (height, width), channels).copy()).float() / 255
        return image.reshape(height, width, channels).permute(2, 0, 1).contiguous()

    @classmethod
    def encode(cls, options: TaskOptions, values: Any) -> Inputs | None:
        """The inputs of examples as people have them (texts, for example); ``None`` where they are tensors already.

        For users of a trained model, whose ``options.fitted`` is there.
        """
        return None

    @classmethod
    def encode_targets(cls, options: TaskOptions, values: Any) -> torch.Tensor | None:
        """Targets as people have them, as the network learns them; ``None`` where they are that already."""
        return None

    @classmethod
    def decode(cls, options: TaskOptions, outputs: torch.Tensor) -> torch.Tensor:
        """A network's outputs (N, ...) as people want them, for example in the unit of the targets."""
        return outputs

    def sample(self, split: Split, ids: Sequence[int]) -> TaskBatch:
        """These tasks, on the family's device; a task depends on (seed, split, id) alone."""
        ...

    def class_count(self, split: Split) -> int | None:
        """How many classes a split has, of which tasks take some; ``None`` where classes are not known across tasks."""
        return None

    def class_ids(self, split: Split, ids: Sequence[int]) -> torch.Tensor:
        """(T, ways) int64: which of all classes of the split the labels 0, 1, ... of these tasks stand for.

        Only asked where :meth:`class_count` knows them.
        """
        raise NotImplementedError

    def use(self, processes: int) -> None:
        """Told how many processes it may start to sample in, beside the worker's own; most families need none."""
        return

    def close(self) -> None:
        """End what was started for sampling."""
        return
