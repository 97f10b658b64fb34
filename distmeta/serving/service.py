"""The service: routes, checks of who asks and how much, metrics, and the page for people."""

import asyncio
import gc
import hmac
import logging
import pickle
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from ray import serve

from distmeta.runs.inference import MetaLearner
from distmeta.serving.answering import Answers
from distmeta.serving.bodies import BadRequest, Body, BodyReader, whole_number
from distmeta.serving.documents import description, document
from distmeta.serving.measuring import Counts
from distmeta.serving.settings import ServeSettings
from distmeta.serving.warming import warm
from distmeta.version import __version__
from distmeta.workers.bundle import unpack_modules
from distmeta.workers.worker import shorten_switch_interval

log = logging.getLogger("ray.serve")

FORM = "multipart/form-data"
REPORT_EVERY = 1.0
"""Seconds between a replica's reports of its counts."""

Handler = Callable[[Request], Awaitable[Response]]

app = FastAPI(title="distmeta", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)


@serve.deployment(max_ongoing_requests=512, health_check_period_s=2, graceful_shutdown_timeout_s=5)
@serve.ingress(app)
class Service:
    """One replica.

    Args:
        learner: pickled, since its code comes with ``modules``.
        modules: sources of the user's modules.
        settings: of the service.
        store: handle of a :class:`~distmeta.serving.models.ModelStore`.
    """

    def __init__(self, learner: bytes, modules: Mapping[str, bytes], settings: ServeSettings, store: Any) -> None:
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

    @app.get("/", response_class=HTMLResponse)
    async def page(self) -> str:
        """The page for people."""
        return (Path(__file__).parent / "page.html").read_text(encoding="utf-8")

    @app.get("/health")
    async def health(self) -> dict[str, str]:
        """Whether this replica answers."""
        return {"status": "ok"}

    @app.get("/openapi.json")
    async def openapi(self) -> dict[str, Any]:
        """What can be asked, in OpenAPI's words."""
        return description(self._reader.kind)

    @app.get("/docs", response_class=HTMLResponse)
    async def docs(self) -> str:
        """The same as a page."""
        return document(self._reader.kind)

    @app.get("/learner")
    async def learner(self, request: Request) -> Response:
        """What the learner is and takes."""
        return await self._answered(request, "learner", self._described)

    @app.post("/adapt")
    async def adapt(self, request: Request) -> Response:
        """Adapt to a support set."""
        return await self._answered(request, "adapt", self._adapted)

    @app.post("/predict")
    async def predict(self, request: Request) -> Response:
        """Predict with an adapted model."""
        return await self._answered(request, "predict", self._predicted)

    @app.delete("/models/{name}")
    async def forget(self, name: str, request: Request) -> Response:
        """Forget an adapted model."""

        async def forgotten(_: Request) -> Response:
            if not await self._answers.forget(name):
                raise BadRequest("there is no such model", 404)
            return Response(status_code=204)

        return await self._answered(request, "forget", forgotten)

    @app.get("/metrics")
    async def metrics(self, request: Request) -> Response:
        """Counts of all replicas, for Prometheus."""
        return await self._answered(request, "metrics", self._measured)

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

    async def _measured(self, _: Request) -> Response:
        total = await self._store.count.remote(self._name, self._counts.values)
        return Response(self._counts.text(total), media_type="text/plain; version=0.0.4")

    async def _body(self, request: Request) -> Body:
        kind = request.headers.get("content-type", "")
        content = await self._content(request)
        if kind.partition(";")[0].strip().lower() == FORM:
            return await self._form(request, content)
        return await asyncio.to_thread(self._reader.read, content, kind)

    async def _content(self, request: Request) -> bytes:
        """The body, as far as it is not too large or too slow."""
        most = self._settings.body_bytes
        told = request.headers.get("content-length", "0")
        if not isinstance(size := whole_number(told), int) or size > most:
            raise BadRequest(f"a body has at most {most:,} bytes", 413)

        async def read() -> bytes:
            parts, size = [], 0
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise BadRequest(f"a body has at most {most:,} bytes", 413)
                parts.append(part)
            return b"".join(parts)

        try:
            return await asyncio.wait_for(read(), self._settings.patience)
        except asyncio.TimeoutError:
            raise BadRequest(f"the body did not arrive within {self._settings.patience:g} s", 408) from None

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
        client, now = request.client.host if request.client else "", time.monotonic()
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
