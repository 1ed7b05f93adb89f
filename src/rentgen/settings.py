"""How this installation runs: read once, at an entry point, from the environment (`RENTGEN_...`); then passed on."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

import platformdirs
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from rentgen.errors import SettingError
from rentgen.records import Precision

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Auth(StrEnum):
    """Who may ask."""

    NONE = "none"
    """Anyone who reaches the port, as admin: on loopback only."""
    KEYS = "keys"
    """API keys of the store (`rentgen keys add`)."""
    OIDC = "oidc"
    """Bearer tokens of an OpenID Connect provider; API keys, too."""
    PLATFORM = "platform"
    """A cloud stands in front and has asked already: cloud routes only; `/v1`, the page and `/metrics` need a key."""


def _default_database() -> SecretStr:
    folder = Path(platformdirs.user_data_dir("rentgen", appauthor=False))
    return SecretStr(f"sqlite:///{folder / 'rentgen.db'}")


def _listed(value: Any) -> Any:  # noqa: ANN401
    """Return a comma-separated string as a list; anything else as it is."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """Everything that an installation may choose, with its default.

    Every field is an environment variable too: `RENTGEN_` and the name in capitals. Lists are separated by commas.
    """

    model_config = SettingsConfigDict(env_prefix="RENTGEN_", frozen=True, extra="forbid", hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="Address to listen on. Anything but loopback demands authentication.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    models: Names = Field(
        ("pneumonia",), min_length=1, description="Bundles to serve, by name or file; the first is the default."
    )
    precision: Precision = Field(Precision.AUTO, description="Arithmetic of the engine: auto, f32 or bf16.")
    streams: int | None = Field(None, ge=1, le=64, description="Films computed side by side; by default one a core.")
    queue: int = Field(64, ge=1, le=10_000, description="Films that may wait for the engine; beyond it comes 429.")
    max_body_mb: float = Field(200.0, gt=0, le=10_000, description="Largest request, MB of 10^6 bytes.")
    max_bodies_mb: float = Field(
        1000.0, gt=0, description="Bodies of all requests at once, MB; beyond it comes 429. At least max_body_mb."
    )
    max_films: int = Field(64, ge=1, le=10_000, description="Most films in one request.")
    film_memory_mb: float = Field(512.0, ge=0, description="Memory for films that are looked at but not kept, MB.")
    film_minutes: float = Field(60.0, gt=0, description="How long such a film stays in memory.")
    drain_s: float = Field(25.0, ge=0, le=600, description="How long a stopping service finishes what it began.")
    request_timeout_s: float = Field(60.0, gt=0, le=3600, description="Longest wait for an answer.")

    store: bool = Field(True, description="Keep studies, results, feedback and the audit trail.")
    database: SecretStr = Field(
        default_factory=_default_database, description="SQLAlchemy URL of the store: SQLite or PostgreSQL."
    )
    key: SecretStr | None = Field(None, description="Base64 of 32 bytes: encrypts files, names and comments at rest.")
    keep_files: bool = Field(False, description="Keep the films themselves; needs a key.")
    keep_days: int | None = Field(None, ge=1, description="Delete studies after so many days.")

    auth: Auth | None = Field(None, description="none, keys, oidc or platform; by default none on loopback, else keys.")
    oidc_issuer: str | None = Field(None, description="Issuer of the bearer tokens, https://...")
    oidc_audience: str | None = Field(None, description="Audience that the tokens must name.")
    oidc_jwks: str | None = Field(None, description="Address of the issuer's keys; found by discovery where not given.")
    oidc_role_claim: str = Field("roles", description="Claim with the role (reader, physician, admin), or a list.")
    tls_certificate: Path | None = Field(None, description="Certificate chain, PEM.")
    tls_key: SecretStr | None = Field(None, description="File of the certificate's private key, PEM.")
    allowed_hosts: Names = Field((), description="Host names under which it may be called, beside the address itself.")
    rate_per_minute: int = Field(0, ge=0, description="Requests a minute and caller; 0 for no limit.")
    trust_proxy: bool = Field(False, description="Believe X-Forwarded-For and -Proto of a proxy in front.")

    sets: Names = Field((), description="Sets of films to compare models on, NAME=PATH.")
    reports: Path | None = Field(None, description="Folder of training reports to list.")
    otlp_endpoint: str | None = Field(None, description="Where traces go, OTLP over HTTP; the extra `telemetry`.")
    log_format: str = Field("json", pattern="^(json|text)$", description="Logs as JSON lines or as text.")

    @field_validator("models", "allowed_hosts", "sets", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:  # noqa: ANN401
        return _listed(value)

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if not self.on_loopback and self.auth is Auth.NONE:
            raise ValueError(
                f"host {self.host} can be reached from elsewhere, so auth must be keys, oidc or platform; "
                "make a key with `rentgen keys add NAME --role physician`"
            )
        if self.resolved_auth in (Auth.KEYS, Auth.OIDC) and not self.store:
            raise ValueError("auth needs the store, where the keys are; leave store on")
        if self.resolved_auth is Auth.OIDC and not (self.oidc_issuer and self.oidc_audience):
            raise ValueError("auth oidc needs oidc_issuer and oidc_audience")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        if self.max_bodies_mb < self.max_body_mb:
            raise ValueError("max_bodies_mb must be at least max_body_mb, or no request of that size could be taken")
        if self.keep_files and self.key is None:
            raise ValueError(
                "keep_files needs a key, for films are encrypted at rest; make one with `openssl rand -base64 32` and "
                "give it in RENTGEN_KEY"
            )
        return self

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        return self.host in LOOPBACK

    @property
    def resolved_auth(self) -> Auth:
        """Return who may ask, after the default."""
        return self.auth or (Auth.NONE if self.on_loopback else Auth.KEYS)


def load(**given: Any) -> Settings:  # noqa: ANN401
    """Return the settings: what is given here, else the environment, else the default.

    Args:
        given: field to value; None counts as not given.

    Raises:
        SettingError: a value that is not allowed, by name and without the value.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        faults = "; ".join(_told(fault["loc"], fault["msg"]) for fault in error.errors())
        raise SettingError(f"The settings are not allowed: {faults}.") from error


def _told(place: tuple[int | str, ...], words: str) -> str:
    """Return a fault in words; one of several settings together has no place, and names them itself."""
    told = words.removeprefix("Value error, ")
    return f"{'.'.join(map(str, place))}: {told}" if place else told
