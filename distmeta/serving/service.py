"""The service: routes, checks of who asks and how much, metrics, and the page for people."""

import asyncio
import gc
import hmac
import logging
import os
import pickle
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from distmeta.runs.inference import MetaLearner
from distmeta.serving.answering import Answers
from distmeta.serving.bodies import BadRequest, Body, BodyReader, whole_number
from distmeta.serving.documents import description, document
from distmeta.serving.internals import without_back_door
from distmeta.serving.measuring import Counts
from distmeta.serving.proxy import TELLS_CLIENTS
from distmeta.serving.settings import ServeSettings
from distmeta.serving.warming import warm
from distmeta.workers.bundle import unpack_modules
from distmeta.workers.worker import shorten_switch_interval

log = logging.getLogger("ray.serve")

FORM = "multipart/form-data"
REPORT_EVERY = 1.0
"""Seconds between a replica's reports of its counts."""

LOOPBACK = "127.0.0.1"
"""Address of a Ray that no other machine reaches; and of its HAProxy, to replicas."""

READ_AT_ONCE = 16 * 1024
"""Bytes of a body that is read where it arrives: a thread for it would take longer than reading it does."""

Handler = Callable[[Request], Awaitable[Response]]


@serve.deployment(max_ongoing_requests=512, health_check_period_s=2, graceful_shutdown_timeout_s=5)
@serve.ingress()
class Service:
    """One replica.

    Args:
        learner: pickled, since its code comes with ``modules``.
        modules: sources of the user's modules.
        settings: of the service.
        store: handle of a :class:`~distmeta.serving.models.ModelStore`.
    """

    def __init__(self, learner: bytes, modules: Mapping[str, bytes], settings: ServeSettings, store: Any) -> None:
        if ray.util.get_node_ip_address() == LOOPBACK:
            without_back_door()
        unpack_modules(modules)
        self._learner: MetaLearner = pickle.loads(learner)
        self._learner.batch_by(settings.batch, steady=False)
        if settings.batch > 1:
            warm(self._learner, settings.batch)
        self._settings, self._store = settings, store
        self._counts = Counts()
        self._reader = BodyReader(self._learner, settings.examples)
        self._answers = Answers(self._learner, settings, store, self._counts.batch)
        self._buckets: dict[str, tuple[float, float]] = {}
        self._name = uuid.uuid4().hex
        self._reported = 0.0
        shorten_switch_interval()
        gc.collect()
        gc.freeze()  # what is there by now stays; Ray looks for garbage every now and then

    async def __serve_build_asgi_app__(self) -> Router:  # Ray Serve's name for it
        """The routes; those that are asked often come first."""
        return Router(
            [
                self._route("/predict", "POST", self._predicted),
                self._route("/adapt", "POST", self._adapted),
                Route("/health", self._healthy),
                self._route("/metrics", "GET", self._measured),
                self._route("/models/{name}", "DELETE", self._forgotten),
                self._route("/learner", "GET", self._described),
                Route("/", self._page),
                Route("/openapi.json", self._openapi),
                Route("/docs", self._documents),
            ],
            default=self._unknown,
        )

    def _route(self, path: str, method: str, handler: Handler) -> Route:
        """A route with checks and counts."""
        name = "forget" if method == "DELETE" else path[1:]

        async def endpoint(request: Request) -> Response:
            return await self._answered(request, name, handler)

        return Route(path, endpoint, methods=[method])

    async def _page(self, _: Request) -> Response:
        return HTMLResponse((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))

    async def _healthy(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _openapi(self, _: Request) -> Response:
        return JSONResponse(description(self._reader.kind))

    async def _documents(self, _: Request) -> Response:
        return HTMLResponse(document(self._reader.kind))

    async def _unknown(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Whatever no route has."""
        answer = JSONResponse({"error": "there is no such page; GET /docs lists what there is"}, 404)
        await answer(scope, receive, send)

    async def _answered(self, request: Request, route: str, handler: Handler) -> Response:
        """A handler's answer; what is wrong with a request is an answer too, and a bug is one without its details."""
        began, status = time.perf_counter(), 500
        try:
            self._check_token(request)
            self._check_rate(request)
            response = await handler(request)
            status = response.status_code
            return response
        except BadRequest as error:
            status = error.status
            headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
            return JSONResponse({"error": str(error)}, status, headers)
        except Exception:  # it is logged here, and not told there
            log.exception("%s failed", route)
            return JSONResponse({"error": "the service failed; its log says why"}, 500)
        finally:
            self._counts.request(route, status, time.perf_counter() - began)
            await self._report()

    async def _described(self, _: Request) -> Response:
        config, spec = self._learner.config, self._learner.parts.spec
        shape = getattr(spec.inputs, "shape", None)
        return JSONResponse(
            {
                "name": config.name,
                "algorithm": config.algorithm.name,
                "tasks": config.tasks.kind,
                "takes": self._reader.kind,
                "shape": None if shape is None else list(shape),
                "classes": bool(self._learner.parts.objective.classes),
                "ways": self._learner.ways,
                "inner_steps": config.evaluation.inner_steps,
            }
        )

    async def _adapted(self, request: Request) -> Response:
        return JSONResponse(await self._answers.adapt(await self._body(request)))

    async def _predicted(self, request: Request) -> Response:
        body = await self._body(request)
        name = body.options.get("model") or request.query_params.get("model")
        if not isinstance(name, str) or not name:
            raise BadRequest("model: expected the id that /adapt gave, in the body or as ?model=")
        return JSONResponse(await self._answers.predict(body, name))

    async def _forgotten(self, request: Request) -> Response:
        if not await self._answers.forget(request.path_params["name"]):
            raise BadRequest("there is no such model", 404)
        return Response(status_code=204)

    async def _measured(self, _: Request) -> Response:
        total = await self._store.count.remote(self._name, self._counts.values)
        return Response(self._counts.text(total), media_type="text/plain; version=0.0.4")

    async def _body(self, request: Request) -> Body:
        kind = request.headers.get("content-type", "")
        content = await self._content(request)
        if kind.partition(";")[0].strip().lower() == FORM:
            return await self._form(request, content)
        if len(content) <= READ_AT_ONCE:
            return self._reader.read(content, kind)
        return await asyncio.to_thread(self._reader.read, content, kind)

    async def _content(self, request: Request) -> bytes:
        """The body, as far as it is not too large or too slow."""
        most = self._settings.body_bytes
        told = request.headers.get("content-length", "0")
        if not isinstance(size := whole_number(told), int) or size > most:
            raise BadRequest(f"a body has at most {most:,} bytes", 413)

        parts, size = [], 0
        try:
            with anyio.fail_after(self._settings.patience):
                async for part in request.stream():
                    size += len(part)
                    if size > most:
                        raise BadRequest(f"a body has at most {most:,} bytes", 413)
                    parts.append(part)
        except TimeoutError:
            raise BadRequest(f"the body did not arrive within {self._settings.patience:g} s", 408) from None
        return b"".join(parts)

    async def _form(self, request: Request, content: bytes) -> Body:
        """Images of a form: the name of each part is its label; ``image`` has none."""
        from starlette.formparsers import MultiPartException, MultiPartParser

        async def stream() -> Any:
            yield content

        parser = MultiPartParser(request.headers, stream(), max_files=self._settings.examples, max_fields=16)
        try:
            form = await parser.parse()
        except (MultiPartException, ValueError, KeyError) as error:
            raise BadRequest(f"the form cannot be read: {error!s:.200}") from None
        files = [(name, value) for name, value in form.multi_items() if hasattr(value, "read")]
        images = [await value.read() for _, value in files]  # type: ignore[union-attr]
        labels = [name for name, _ in files]
        unlabelled = set(labels) == {"image"}
        options: dict[str, Any] = {}
        if isinstance(steps := form.get("steps"), str):
            options["steps"] = whole_number(steps)
        if isinstance(model := form.get("model"), str):
            options["model"] = model
        return await asyncio.to_thread(self._reader.of_images, images, None if unlabelled else labels, options)

    def _check_token(self, request: Request) -> None:
        token = self._settings.token
        if token is None:
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
            raise BadRequest("expected the header Authorization: Bearer TOKEN, as the service printed it", 401)

    def _check_rate(self, request: Request) -> None:
        """A bucket of requests for each client, filled at the allowed rate, that holds one second's."""
        rate = self._settings.rate
        if not rate:
            return
        client, now = client_of(request), time.monotonic()
        filled, then = self._buckets.get(client, (max(1.0, rate), now))
        filled = min(max(1.0, rate), filled + (now - then) * rate)
        if len(self._buckets) > 10_000:
            self._buckets = {name: each for name, each in self._buckets.items() if now - each[1] < 60}
        self._buckets[client] = max(0.0, filled - 1), now
        if filled < 1:
            raise BadRequest(f"more than {rate:g} requests a second; slow down", 429)

    async def _report(self) -> None:
        now = time.monotonic()
        if now - self._reported > REPORT_EVERY:
            self._reported = now
            self._store.count.remote(self._name, self._counts.values)


def client_of(request: Request) -> str:
    """The address of who asks; where the service's own HAProxy stands between, that is what it has added last."""
    peer = request.client.host if request.client else ""
    if TELLS_CLIENTS in os.environ and peer == LOOPBACK:
        told = request.headers.getlist("x-forwarded-for")
        return told[-1].rpartition(",")[2].strip() if told else peer
    return peer
