"""What a service can be asked: as OpenAPI, and as a page that needs no network."""

from __future__ import annotations

from html import escape
from typing import Any

from distmeta.version import __version__

FIELDS = {
    "images": ("images", "base64 texts or data: URIs of image files", "string"),
    "texts": ("texts", "the texts", "string"),
    "columns": ("columns", "lists of values by the columns' names", "object"),
    "inputs": ("inputs", "numbers (N, ...), or these by the inputs' names", "array"),
}


def description(kind: str) -> dict[str, Any]:
    """The service in OpenAPI 3.1.

    Args:
        kind: what the learner takes, one of :data:`FIELDS`.
    """
    plain = {"200": {"description": "as told"}}
    forget = {
        "summary": "Forget an adapted model",
        "parameters": [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}],
        "responses": {"204": {"description": "forgotten"}, **_wrong()},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "distmeta: a meta-learner", "version": __version__},
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}],
        "paths": {
            **_asked(kind),
            "/models/{model}": {"delete": forget},
            "/learner": {"get": {"summary": "What the learner is and takes", "responses": plain}},
            "/health": {"get": {"summary": "Whether it answers", "security": [], "responses": plain}},
            "/metrics": {"get": {"summary": "Counts for Prometheus", "responses": plain}},
        },
    }


def _asked(kind: str) -> dict[str, Any]:
    """The requests that compute."""
    field, told, item = FIELDS[kind]
    inputs: dict[str, Any] = {"type": "object", "description": told}
    if item != "object":
        inputs = {"type": "array", "items": {} if item == "array" else {"type": item}, "description": told}
    labels = {"type": "array", "items": {}, "description": "a class (text or whole number) or value of each example"}
    steps = {"type": "integer", "minimum": 0, "description": "inner steps; as in the run's meta-test by default"}
    model = {"type": "string", "description": "the id that /adapt gave"}
    adapt = {"required": [field, "labels"], "properties": {field: inputs, "labels": labels, "steps": steps}}
    predict = {"required": [field, "model"], "properties": {field: inputs, "model": model}}
    adapted = {"model": model, "classes": {"type": ["array", "null"]}, "expires_in": {"type": "number"}}
    rows = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
    anything = {"type": "array", "items": {}}
    predicted = {"predictions": anything, "probabilities": rows, "classes": anything}
    return {
        "/adapt": {"post": _operation("Adapt to a support set", {"type": "object", **adapt}, adapted)},
        "/predict": {"post": _operation("Predict with an adapted model", {"type": "object", **predict}, predicted)},
    }


def _wrong() -> dict[str, Any]:
    """Answers to what cannot be answered."""
    error = {"type": "object", "properties": {"error": {"type": "string"}}}
    told = {
        "400": "the request cannot be read",
        "401": "no token, or another one",
        "404": "there is no such model",
        "408": "the body came too slowly",
        "413": "too large",
        "415": "another type of content",
        "422": "it does not fit the learner",
        "429": "too many requests",
    }
    content = {"application/json": {"schema": error}}
    return {code: {"description": each, "content": content} for code, each in told.items()}


def _operation(summary: str, body: Any, answer: Any) -> dict[str, Any]:
    content = {"application/json": {"schema": body}}
    found = {"application/json": {"schema": {"type": "object", "properties": answer}}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": {"description": "", "content": found}, **_wrong()},
    }


def document(kind: str) -> str:
    """The same as HTML."""
    parts = []
    for path, operations in description(kind)["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<section><h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(operation['summary'])}</p>")
            for title, content in (
                ("Body", operation.get("requestBody")),
                ("Answer", operation["responses"].get("200")),
            ):
                schema = (content or {}).get("content", {}).get("application/json", {}).get("schema")
                parts.append(_fields(title, schema) if schema else "")
            codes = [f"{code} {told['description']}" for code, told in operation["responses"].items() if code >= "400"]
            parts.append(f"<p>Otherwise: {escape('; '.join(codes))}.</p>" if codes else "")
            parts.append("</section>")
    style = (
        ":root{color-scheme:light dark}"
        "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:0 auto;padding:1rem}"
        "table{border-collapse:collapse}td,th{text-align:left;padding:.2rem .8rem .2rem 0;vertical-align:top}"
        "section{border-top:1px solid #8888}"
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>distmeta: requests</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{style}</style></head><body><h1>Requests</h1><p>Each with the header <code>Authorization: Bearer "
        f'TOKEN</code>. <a href="/openapi.json">As OpenAPI</a>. <a href="/">The page to try it</a>.</p>'
        f"{''.join(parts)}</body></html>"
    )


def _fields(title: str, schema: Any) -> str:
    needed = schema.get("required", [])
    rows = "".join(
        f"<tr><th scope='row'><code>{escape(name)}</code></th><td>{escape(str(each.get('type', '')))}"
        f"{'' if name in needed or title == 'Answer' else ', optional'}</td>"
        f"<td>{escape(each.get('description', ''))}</td></tr>"
        for name, each in schema["properties"].items()
    )
    return f"<h3>{title}</h3><table>{rows}</table>"
