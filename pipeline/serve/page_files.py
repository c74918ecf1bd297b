"""The web page's files, and its HTML for a server or a static site."""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError

STATIC = Path(__file__).parent / "static"
DEVICE_FOLDER = "device"  # of the model and its runtime, next to the page
# Attributes of the html element: the places where photos can be looked at, for page.js.
SERVER_ONLY = 'data-backends="server"'
SERVER_AND_DEVICE = 'data-backends="server device"'
MODEL_JSON = "model.json"  # in DEVICE_FOLDER


def page_html(attributes: str = SERVER_ONLY, head: str = "") -> str:
    """Return the page's HTML.

    Args:
        attributes: of the html element.
        head: elements for the start of the head.
    """
    text = (STATIC / "index.html").read_text(encoding="utf-8")
    text = text.replace(SERVER_ONLY, attributes, 1)
    return text.replace("<head>", f"<head>\n  {head}", 1) if head else text


def checked_device_folder(site: Path) -> Path:
    """Return the folder of the model and runtime in a site of `pipeline.export --web`.

    Raises:
        UserError: the folder is no such site.
    """
    folder = site / DEVICE_FOLDER
    if not (folder / MODEL_JSON).is_file():
        raise UserError(f"--on-device {site}: is not a site; make one with `python -m pipeline.export --web {site}`")
    return folder
