"""``distmeta serve``."""

from __future__ import annotations

import json
import os
import secrets
import time
from typing import Annotated, Any

import typer

from distmeta.cli.common import Overrides, TrustCode, errors
from distmeta.cli.display import consoles, messages
from distmeta.cli.learners import RunOrArtefact
from distmeta.cli.style import STYLE
from distmeta.errors import ConfigError, Interrupted
from distmeta.runs.interrupts import interruptible

TOKEN = "DISTMETA_SERVE_TOKEN"
"""Environment variable with the service's token; without it one is drawn."""

LOOK_EVERY = 0.5
"""Seconds between looks at whether to end."""


def serve(
    learner: RunOrArtefact,
    overrides: Overrides = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    replicas: Annotated[int, typer.Option(min=1, help="Processes that answer.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Requests that are computed together at most.")] = 32,
    models: Annotated[int, typer.Option(min=1, help="Adapted models that are kept at most.")] = 10_000,
    ttl: Annotated[float, typer.Option(min=1, help="Seconds after its last use for which a model is kept.")] = 3600.0,
    body: Annotated[float, typer.Option(min=0.001, help="Megabytes of a request at most.")] = 32.0,
    rate: Annotated[float, typer.Option(min=0, help="Requests a second of one client; 0: no limit.")] = 0.0,
    no_token: Annotated[bool, typer.Option("--no-token", help="Answer anybody who reaches the address.")] = False,
    trust_code: TrustCode = False,
) -> dict[str, Any]:
    """Serve a learner over HTTP: adapt to a few examples, then predict; with a page to try it."""
    terminal, err = consoles()
    given = os.environ.get(TOKEN)
    token = None if no_token else given or secrets.token_urlsafe(24)
    with errors(), messages(err), interruptible() as check:
        if token is not None and len(token) < 16:
            raise ConfigError(f"{TOKEN} has {len(token)} characters; give it 16 or more")
        import distmeta
        from distmeta.serving.settings import ServeSettings
        from distmeta.serving.starting import serving

        # Its workers are the replicas, also of a learner that was trained without any, which no cluster could serve.
        own = [f"cluster.workers={replicas}", *(overrides or ())]
        loaded = distmeta.load(learner, own, trust_code=trust_code)
        settings = ServeSettings(token, batch=batch, models=models, ttl=ttl, body_bytes=int(body * 2**20), rate=rate)
        with serving(loaded, settings, host=host, port=port, replicas=replicas) as address:
            page = address if token is None else f"{address}/#token={token}"
            lines = (f"serving {loaded.config.name} at {address}", f"page: {page}", f"requests: {address}/docs")
            for line in lines:
                terminal.print(line, markup=False, highlight=False, soft_wrap=True)
            started = {"address": address} if token is None or given else {"address": address, "token": token}
            if STYLE.get().json:  # now: at the end nobody could use it any more
                print(json.dumps(started), flush=True)
            if token is not None:
                terminal.print(f"token: {token}", markup=False, highlight=False, soft_wrap=True)
            try:
                while True:
                    check()
                    time.sleep(LOOK_EVERY)
            except Interrupted:
                terminal.print("the service has ended", highlight=False)
    if STYLE.get().json:
        raise typer.Exit  # all that there is to print has been printed
    return started
