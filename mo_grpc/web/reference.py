"""The API's reference: the OpenAPI document, in Swagger UI and in ReDoc; both from packages, none from another host."""

import json
from importlib.metadata import distribution
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from mo_grpc.config import ROOT, Settings
from mo_grpc.web.headers import policy

DOCUMENT = ROOT / "generated" / "openapi.json"
PAGES = Path(__file__).parent / "static"

# Of these packages only the files are used; what they were made for, Flask, is never imported.
SWAGGER = ("flask-openapi3-swagger", "flask_openapi3_swagger/templates/swagger")
REDOC = ("flask-openapi3-redoc", "flask_openapi3_redoc/templates/redoc")

# Both make styles as they run, and ReDoc searches in a worker that it makes itself.
_STYLES = {"content-security-policy": policy(style_src="'self' 'unsafe-inline'", worker_src="'self' blob:")}


def routes(settings: Settings) -> list[BaseRoute]:
    """The document and the two ways to read it."""
    document = _document(settings)

    async def openapi(_: Request) -> Response:
        return Response(document, media_type="application/json")

    # Its picture of itself is the one thing that it would fetch from elsewhere.
    source = (_folder(REDOC) / "js" / "redoc.standalone.js").read_text(encoding="utf-8")
    redoc = source.replace("https://cdn.redoc.ly/redoc/logo-mini.svg", "assets/images/redoc.svg")

    async def redoc_script(_: Request) -> Response:
        return Response(redoc, media_type="text/javascript")

    own = [Route("/openapi.json", openapi), Route("/redoc/redoc.js", redoc_script)]
    return [*own, *_reader("swagger", SWAGGER), *_reader("redoc", REDOC)]


def _document(settings: Settings) -> str:
    """The generated document, with the headers of the settings for credentials."""
    document = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    schemes = document["components"]["securitySchemes"]
    schemes["apiKey"]["name"] = settings.api_key_custom_header
    if settings.auth_jwt_behind_basic:
        for name, word in (("accessToken", "Bearer"), ("basic", "Basic")):
            description = f"{schemes[name]['description']} It begins with `{word} `."
            place = {"type": "apiKey", "in": "header", "name": settings.token_header}
            schemes[name] = place | {"description": description}
    return json.dumps(document, ensure_ascii=False)


def _folder(assets: tuple[str, str]) -> Path:
    package, folder = assets
    return Path(str(distribution(package).locate_file(folder)))


def _reader(name: str, assets: tuple[str, str]) -> list[BaseRoute]:

    async def page(_: Request) -> Response:
        return FileResponse(PAGES / f"{name}.html", headers=_STYLES)

    async def to_page(_: Request) -> Response:
        return RedirectResponse(f"/{name}/", status_code=308)

    async def script(_: Request) -> Response:
        return FileResponse(PAGES / f"{name}.js")

    return [
        Route(f"/{name}", to_page),
        Route(f"/{name}/", page),
        Route(f"/{name}/page.js", script),
        Mount(f"/{name}/assets", StaticFiles(directory=_folder(assets))),
    ]
