"""The names that a request to /v1/detect may have in its address, and what to say about any other name."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from starlette.exceptions import HTTPException
from starlette.requests import Request

from common.display import display_name

PARAMETERS = ("min_score", "min_face")
MAX_SHOWN = 40  # characters of a client's name in a message
EXAMPLE = f"/v1/detect?{PARAMETERS[0]}=0.3"


def shown(name: str) -> str:
    """Return a client's text for a message: short, on one line and in quotes."""
    return repr(display_name(name)[:MAX_SHOWN])


def check_query(request: Request) -> None:
    """Raise HTTPException 422 for an unknown name in the address, or for one that is there twice."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in PARAMETERS:
            raise HTTPException(422, f"the query name {shown(name)} is unknown; {_advice(name)}")
        if names.count(name) > 1:
            raise HTTPException(422, f"the query name {shown(name)} is there {names.count(name)} times; give it once")


def check_fields(names: Sequence[str]) -> None:
    """Raise HTTPException 422 for form fields next to the photo; the parameters belong in the address."""
    for name in names:
        if name in PARAMETERS:
            raise HTTPException(422, f"the form field {shown(name)} belongs in the address, as in {EXAMPLE}")
        what = f"the form field {shown(name)} is unknown; {_advice(name)}"
        raise HTTPException(422, f"{what}, and belong in the address, as in {EXAMPLE}")


def _advice(name: str) -> str:
    """Return the parameters, after the one of nearly this name."""
    near = get_close_matches(name.lower()[:MAX_SHOWN], PARAMETERS, n=1)
    listed = f"the parameters are {' and '.join(PARAMETERS)}"
    return f"did you mean {near[0]}? {listed.capitalize()}" if near else listed
