"""Routes of the page's sign-in: a key in, a cookie out."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from rentgen.records.studies import Principal, Role
from rentgen.service.problems import CODES, Problem, responses
from rentgen.service.security import Gatekeeper, needs
from rentgen.service.sessions import COOKIE, TLS_COOKIE
from rentgen.service.throttle import caller_address

router = APIRouter(prefix="/v1", tags=["session"])

LANGUAGES = ("en", "uk")


class SignIn(BaseModel):
    """An API key, or a token of the identity provider."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"key": "rk_" + "x" * 43}]})

    key: SecretStr = Field(min_length=1, max_length=16_384)


class SignedIn(BaseModel):
    """What a page must send with everything that changes something, as `X-CSRF-Token`."""

    csrf: str


class Who(BaseModel):
    """Who asks."""

    name: str = Field(
        description="Of the key; `oidc:` and the subject of a token; `local` where no keys are asked for."
    )
    role: Role
    auth: Literal["none", "keys", "oidc", "platform"]
    csrf: str | None = Field(description="Of the session; null where the caller has none.")
    languages: list[str]


@router.post(
    "/session",
    summary="Sign in",
    responses=responses("unauthorised", "forbidden", "conflict", "invalid_request", "rate_limited", "store_failed"),
)
async def sign_in(request: Request, response: Response, form: SignIn) -> SignedIn:
    """Open a session for the page and set its cookie: `HttpOnly`, `SameSite=Strict`, and `Secure` under TLS."""
    gatekeeper: Gatekeeper = request.app.state.gatekeeper
    if gatekeeper.is_open:
        raise Problem(409, "conflict", "This service asks for no keys, so there is nothing to sign in to.")
    address = caller_address(request.scope, trust_proxy=gatekeeper.settings.trust_proxy)
    wait_s = gatekeeper.logins.take(address, gatekeeper.clock())
    if wait_s:
        raise Problem(429, "rate_limited", headers={"Retry-After": str(math.ceil(wait_s))})
    credential = form.key.get_secret_value().strip()
    if await gatekeeper.judge(credential) is None:
        headers = {"WWW-Authenticate": 'Bearer realm="rentgen", error="invalid_token"'}
        raise Problem(401, "unauthorised", "The key is not valid, or no more.", headers)
    old = gatekeeper.session(request)
    if old is not None:
        gatekeeper.sessions.close(old[0])
    identity, session = gatekeeper.sessions.open(credential)
    _set_cookie(response, identity, secure=gatekeeper.is_tls(request))
    return SignedIn(csrf=session.csrf)


@router.delete("/session", summary="Sign out", status_code=204, responses=responses("forbidden"))
async def sign_out(request: Request) -> Response:
    """End the session of the cookie, if there is one."""
    gatekeeper: Gatekeeper = request.app.state.gatekeeper
    found = gatekeeper.session(request)
    if found is not None:
        identity, session = found
        if not session.confirms(request.headers.get("x-csrf-token")):
            raise Problem(403, "forbidden", CODES["forbidden"].detail)
        gatekeeper.sessions.close(identity)
    response = Response(status_code=204)
    _set_cookie(response, None, secure=gatekeeper.is_tls(request))
    return response


@router.get("/whoami", summary="Who asks", responses=responses("unauthorised", "forbidden", "store_failed"))
async def whoami(request: Request, who: Annotated[Principal, Depends(needs(Role.READER))]) -> Who:
    """Return name and role of the caller, and the CSRF token of its session."""
    gatekeeper: Gatekeeper = request.app.state.gatekeeper
    by_cookie = not {"authorization", "x-api-key"} & set(request.headers)
    found = gatekeeper.session(request) if by_cookie and not gatekeeper.is_open else None
    return Who(
        name=who.name,
        role=who.role,
        auth=gatekeeper.settings.resolved_auth.value,
        csrf=None if found is None else found[1].csrf,
        languages=list(LANGUAGES),
    )


def _set_cookie(response: Response, identity: str | None, *, secure: bool) -> None:
    """Set the cookie, without Expires: it goes when the browser is closed. None takes it away."""
    response.set_cookie(
        TLS_COOKIE if secure else COOKIE,
        identity or "",
        max_age=None if identity else 0,
        path="/",
        secure=secure,
        httponly=True,
        samesite="strict",
    )
