"""The API's reference: the OpenAPI document, in Swagger UI and in ReDoc; both from packages, none from another host."""

import json
from importlib.metadata import distribution
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from mo_grpc.config import Settings
from mo_grpc.package_data import data_path
from mo_grpc.web.assets import ASK_AGAIN, Assets, asset
from mo_grpc.web.headers import policy

DOCUMENT = data_path("generated/openapi.json")
PAGES = Path(__file__).parent / "static"
_TEMPLATES = Environment(loader=FileSystemLoader(PAGES), autoescape=True)

# Of these packages only the files are used. They were made for Flask, which they require and nothing here imports.
SWAGGER = ("flask-openapi3-swagger", "flask_openapi3_swagger/templates/swagger")
REDOC = ("flask-openapi3-redoc", "flask_openapi3_redoc/templates/redoc")

# Both make styles as they run, and ReDoc searches in a worker that it makes itself.
_STYLES = {"content-security-policy": policy(style_src="'self' 'unsafe-inline'", worker_src="'self' blob:")}


def routes(settings: Settings) -> list[BaseRoute]:
    """The document and the two ways to read it."""
    document = asset("openapi.json", _document(settings).encode())

    async def openapi(request: Request) -> Response:
        return document.answer(request, ASK_AGAIN)

    return [Route("/openapi.json", openapi), *_swagger(), *_redoc()]


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


def _swagger() -> list[BaseRoute]:
    folder = _folder(SWAGGER)
    paths = ("css/swagger-ui.css", "js/swagger-ui-bundle.js", "images/swagger.svg")
    return _reader("swagger", {Path(path).name: (folder / path).read_bytes() for path in paths})


def _redoc() -> list[BaseRoute]:
    folder = _folder(REDOC)
    icon = (folder / "images" / "redoc.svg").read_bytes()
    # Its picture of itself is the one thing that it would fetch from elsewhere.
    source = (folder / "js" / "redoc.standalone.js").read_bytes()
    there, here = "https://cdn.redoc.ly/redoc/logo-mini.svg", Assets("assets/", {"redoc.svg": icon}).url("redoc.svg")
    return _reader("redoc", {"redoc.svg": icon, "redoc.js": source.replace(there.encode(), here.encode())})


def _folder(assets: tuple[str, str]) -> Path:
    package, folder = assets
    return Path(str(distribution(package).locate_file(folder)))


def _reader(name: str, files: dict[str, bytes]) -> list[BaseRoute]:
    own = {"page.js": (PAGES / f"{name}.js").read_bytes(), "page.css": (PAGES / "reference.css").read_bytes()}
    assets = Assets(f"/{name}/assets/", files | own)
    content = _TEMPLATES.get_template(f"{name}.html").render(asset=assets.url)

    async def page(_: Request) -> Response:
        return HTMLResponse(content, headers=_STYLES)

    async def to_page(_: Request) -> Response:
        return RedirectResponse(f"/{name}/", status_code=308)

    return [Route(f"/{name}", to_page), Route(f"/{name}/", page), assets.route()]
