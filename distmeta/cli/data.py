"""``distmeta data build``, ``check`` and ``show``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from distmeta.cli.common import Overrides, TrustCode, check_tasks, errors
from distmeta.cli.display import Display, consoles, messages
from distmeta.config.text import check_local
from distmeta.core.records import SPLITS
from distmeta.errors import ConfigError
from distmeta.loading import load_config

if TYPE_CHECKING:  # these bring pyarrow and torch
    from distmeta.data.store import EpisodeStore
    from distmeta.tasks.options import StoredImageOptions

_STORE = ".arrow"
_STORE_SETTINGS = ("size", "channels", "splits")
_MOST_TASKS = 64


def build(
    family: Annotated[str, typer.Argument(help="omniglot, images, or a published data set, as under tasks.kind.")],
    source: Annotated[str, typer.Option(help="The images, as under tasks.root; they are only read.")],
    out: Annotated[Path, typer.Option(help="Folder that gets the store.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings of the store, as under tasks: size, channels, splits."),
    ] = None,
) -> dict[str, Any]:
    """Build an episode store from a data set's images."""
    terminal, err = consoles()
    with errors(), messages(err), Display(err, 0, 1) as display:
        check_local(out, "folder of --out")
        if family == "omniglot":
            from distmeta.data.omniglot_build import build_omniglot

            if settings:
                raise ConfigError(f"{settings[0]}: the store of omniglot has no settings; leave it out")
            path = build_omniglot(source, out, progress=display.built)
        else:
            from distmeta.tasks import TASKS

            options = _options(family, source, settings or ())
            path = TASKS[family].build(options, out, display.built)  # type: ignore[attr-defined]
    terminal.print(str(path), markup=False, highlight=False, soft_wrap=True)
    return {"store": str(path)}


def check(
    data: Annotated[str, typer.Argument(metavar="STORE_OR_CONFIG", help="A built store (.arrow) or a configuration.")],
    overrides: Overrides = None,
    trust_code: TrustCode = False,
) -> dict[str, Any]:
    """Read all of a store or of a configuration's data, compare it with its hash, and count it."""
    out, err = consoles()
    with errors(), messages(err), Display(err, 0, 1):
        if data.partition("?")[0].endswith(_STORE):
            from distmeta.data.images.fetch import open_store

            store = open_store(data)
            store.verify()
            groups = {split: [at for at, group in enumerate(store.groups) if group == split] for split in SPLITS}
            found = groups if any(groups.values()) else {"all": list(range(len(store.classes)))}
            out.print(_counts(store, found))
            out.print(f"whole, as written: {store.content_hash}", markup=False, highlight=False, soft_wrap=True)
            return {"contents": {"store": store.content_hash}, "splits": _table(store, found)}
        config = load_config(data, overrides or (), trust_code=trust_code)
        from distmeta.data.verified import SMALL
        from distmeta.tasks import TASKS, prepare_family
        from distmeta.tasks.options import UnlabelledOptions

        prepare_family(config)
        contents, splits = dict(TASKS[config.tasks.kind].contents(config.tasks)), dict[str, Any]()
        # Tasks without labels are of another family's images, of which validation and test have classes.
        images = config.tasks.source if isinstance(config.tasks, UnlabelledOptions) else config.tasks
        family = TASKS[images.kind]
        if hasattr(family, "classes"):
            store, classes = family.classes(images)
            if store.nbytes > SMALL:  # of small ones contents are verified
                store.verify()
            out.print(_counts(store, classes))
            splits = _table(store, classes)
        for name, digest in contents.items():
            out.print(f"{name}: {digest}", markup=False, highlight=False, soft_wrap=True)
        if not contents:
            out.print(f"tasks of kind {config.tasks.kind} are computed: there is no data to check", highlight=False)
    return {"contents": contents, "splits": splits}


def show(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML configuration file.")],
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    tasks: Annotated[int, typer.Option(help="How many tasks.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Write a picture (.png) of image tasks there.")] = None,
    trust_code: TrustCode = False,
) -> dict[str, Any]:
    """Show a few tasks, support and query, as the learner sees them."""
    terminal, err = consoles()
    with errors(), messages(err):
        check_tasks(split, tasks, _MOST_TASKS)
        loaded = load_config(config, overrides or (), trust_code=trust_code)
        if out is not None:
            check_local(out, "file of --out")
        import torch

        from distmeta.tasks.options import EnvironmentOptions

        if isinstance(loaded.tasks, EnvironmentOptions):
            raise ConfigError(
                f"tasks.kind = {loaded.tasks.kind} has environments and no examples to show; distmeta data show is for "
                "tasks with support and query sets"
            )
        from distmeta.cli.task_views import picture, views
        from distmeta.tasks import fit_family, open_family, prepare_family

        loaded = fit_family(loaded)
        prepare_family(loaded)
        family = open_family(loaded, torch.device("cpu"))
        if out is not None:
            picture(family, split, range(tasks), out)
            terminal.print(str(out), markup=False, highlight=False, soft_wrap=True)
            return {"picture": str(out)}
        for view in views(loaded.tasks.kind, family, split, range(tasks), terminal):
            terminal.print(view)
    return {"kind": loaded.tasks.kind, "split": split, "tasks": list(range(tasks))}


def _options(family: str, source: str, settings: Sequence[str]) -> StoredImageOptions:
    """A family's settings for a source."""
    from pydantic import ValidationError

    from distmeta.config.problems import choose, describe, listed
    from distmeta.config.text import parse_override, plain, put
    from distmeta.tasks import TASKS
    from distmeta.tasks.options import StoredImageOptions

    own = {name: options for name, options in TASKS.options.items() if issubclass(options, StoredImageOptions)}
    values: dict[str, Any] = {"kind": family, "root": source}
    for setting in settings:
        key, value = parse_override(setting)
        put(values, key.removeprefix("tasks."), value)
    try:
        choose({"omniglot": None, **own}, family, "FAMILY")
        options: StoredImageOptions = own[family].model_validate(plain(values))
        others = [key for key in values if key not in ("kind", "root", *_STORE_SETTINGS)]
        if others:
            raise ValueError(
                f"tasks.{others[0]}: no setting of a store, which has {', '.join(_STORE_SETTINGS)}; leave it out here, "
                "and set it where the store is used"
            )
        return options
    except ValidationError as error:
        problems = describe(error, "tasks", own[family])
    except ValueError as error:
        problems = [str(error)]
    raise ConfigError("the store cannot be built so:" + listed(problems))


def _table(store: EpisodeStore, classes: Any) -> dict[str, Any]:
    """The same as plain values."""
    counts = {split: store.counts[list(indices)] for split, indices in classes.items()}
    return {split: {"classes": len(each), "images": int(each.sum())} for split, each in counts.items()}


def _counts(store: EpisodeStore, classes: Any) -> Table:
    """Classes and images of each split."""
    height, width, *channels = store.shape
    kind = "colour" if channels else "grey"
    table = Table(title=Text(f"{store.path.name}: {len(store):,} {kind} images of {height} x {width}"))
    for column in ("split", "classes", "images", "fewest of a class", "most"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for row in _rows(store, classes):
        table.add_row(*row)
    return table


def _rows(store: EpisodeStore, classes: Any) -> Iterator[tuple[str, ...]]:
    for split, indices in classes.items():
        counts = store.counts[list(indices)]
        fewest, most = (str(counts.min()), str(counts.max())) if len(counts) else ("", "")
        yield split, f"{len(counts):,}", f"{int(counts.sum()):,}", fewest, most
