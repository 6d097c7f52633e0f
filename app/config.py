"""The service's settings, read from the environment and from `.env`, grouped by concern."""

import json
from email.utils import parseaddr
from functools import lru_cache
from ipaddress import ip_network
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

DEVELOPMENT_SECRET = "development-only-secret-that-production-refuses"  # noqa: S105 (production refuses to start with it)
MINIMUM_SECRET_LENGTH = 32
MINIMUM_PRODUCTION_ROUNDS = 12

# Here nothing is a value of its own: no subdomains, an empty list, and an environment that nobody can have meant.
EMPTY_MEANS_SOMETHING = {"environment", "base_domain", "allowed_hosts", "allowed_origins", "trusted_proxies", "secret_keys_previous"}

CommaSeparated = Annotated[tuple[str, ...], NoDecode]


class TierLimits(BaseModel):
    """What a subscription tier allows. `None` means unlimited."""

    model_config = ConfigDict(frozen=True)

    requests_per_minute: PositiveInt
    burst: PositiveInt
    users: PositiveInt | None
    projects: PositiveInt | None
    resources: PositiveInt | None
    audit_days: PositiveInt


def default_tiers() -> dict[str, TierLimits]:
    """Return the tiers as they are sold when nothing else is configured."""
    rows: dict[str, tuple[int, int, int | None, int | None, int | None, int]] = {
        "free": (120, 60, 10, 100, 1_000, 30),
        "basic": (600, 150, 50, 1_000, 20_000, 90),
        "premium": (3_000, 600, 500, 10_000, 500_000, 365),
        "enterprise": (12_000, 2_400, None, None, None, 7 * 365),
    }
    names = tuple(TierLimits.model_fields)
    return {tier: TierLimits(**dict(zip(names, row, strict=True))) for tier, row in rows.items()}


class UnsafeSettings(ValueError):
    """The settings are fit for development only, and ENVIRONMENT is production."""


class BadSettings(ValueError):
    """The environment or `.env` asks for something that cannot be. The text is one line, names the variables, and shows no value of a secret."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"The environment or .env is wrong: {problem}.")


class Settings(BaseSettings):
    """Every setting, with the default that suits development. Lists are comma separated, `TIERS` is JSON."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True)

    # The process
    environment: Literal["development", "test", "production"] = "development"
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    metrics_port: int | None = Field(default=None, ge=1, le=65535, description="Internal port of /metrics on METRICS_HOST; unset: off")
    worker_metrics_port: int | None = Field(default=None, ge=1, le=65535, description="The same for the worker")
    metrics_host: str = "127.0.0.1"
    drain_seconds: float = Field(default=0.0, ge=0, description="How long after SIGTERM the process still serves while /health/ready says 503")

    # Who may call, and under which names
    base_domain: str | None = Field(default="localhost", description="acme.<BASE_DOMAIN> is the tenant with the subdomain acme")
    allowed_hosts: CommaSeparated = ("*",)
    allowed_origins: CommaSeparated = ()
    trusted_proxies: CommaSeparated = Field(default=(), description="Addresses or networks whose X-Forwarded-* headers count")

    # PostgreSQL: the service's role owns nothing; the owner's role migrates
    database_url: SecretStr = SecretStr("postgresql://saas_service:saas_service@127.0.0.1:5432/saas")
    database_admin_url: SecretStr | None = None
    database_listen_url: SecretStr | None = Field(default=None, description="The worker's direct way to PostgreSQL, where DATABASE_URL leads through PgBouncer")
    database_pool_size: PositiveInt = 40
    database_max_overflow: int = Field(default=20, ge=0)
    database_pool_timeout: float = Field(default=5.0, gt=0, description="Seconds a request waits for a connection before it is told 503")
    database_connect_timeout: float = Field(default=5.0, gt=0)

    # Redis
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    redis_timeout: float = Field(default=0.08, gt=0, description="Seconds one call may take before Redis counts as away")
    redis_max_connections: PositiveInt = 50

    # Tokens and passwords
    secret_key: SecretStr = SecretStr(DEVELOPMENT_SECRET)
    secret_keys_previous: CommaSeparated = Field(default=(), description="Keys that still verify tokens, after SECRET_KEY was changed")
    access_token_minutes: PositiveInt = 30
    refresh_token_days: PositiveInt = 30
    token_issuer: str = "saas-platform"  # noqa: S105 (a name)
    token_audience: str = "saas-platform-api"  # noqa: S105 (a name)
    password_hash_rounds: int = Field(default=12, ge=4, le=16)

    # Accounts
    email_verification_required: bool | None = Field(default=None, description="Whether an unverified address may not sign in; unset: in production only")
    captcha_required: bool = Field(default=False, description="Whether registration and password/forgot demand a solved proof of work")

    # Mail
    public_url: str = Field(
        default="http://127.0.0.1:8000", pattern=r"^https?://[^/?#\s]+[^?#\s]*$", description="Where people open the links in mails; never taken from a request"
    )
    smtp_url: SecretStr | None = Field(default=None, description="smtp://, smtp+starttls:// or smtps://; unset: mail goes to the terminal and to .local/outbox")
    mail_from: str = "SaaS platform <no-reply@example.com>"

    # Limits
    rate_limit_fallback: Literal["local", "open", "closed"] = "local"
    anonymous_requests_per_minute: PositiveInt = 60
    anonymous_burst: PositiveInt = 30
    max_body_bytes: PositiveInt = 1_048_576
    body_timeout: float = Field(
        default=30.0, gt=0, description="Seconds a client has to send the head of a request, again for a whole body, and to read on in an answer"
    )
    tiers: Annotated[dict[str, TierLimits], NoDecode] = Field(default_factory=default_tiers)

    # Background work
    view_flush_seconds: PositiveInt = Field(default=5, description="How often buffered view counts are written to PostgreSQL; a divisor of 60")

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: dict[str, object]) -> dict[str, object]:
        for name in ("allowed_hosts", "allowed_origins", "trusted_proxies", "secret_keys_previous"):
            value = values.get(name)
            if isinstance(value, str):
                values[name] = tuple(part.strip() for part in value.split(",") if part.strip())
        return values

    @model_validator(mode="before")
    @classmethod
    def _leave_out_what_is_empty(cls, values: dict[str, object]) -> dict[str, object]:
        return {name: value for name, value in values.items() if value != "" or name in EMPTY_MEANS_SOMETHING}

    @field_validator("tiers", mode="before")
    @classmethod
    def _read_json(cls, tiers: object) -> object:
        try:
            return json.loads(tiers) if isinstance(tiers, str) else tiers
        except ValueError:
            raise ValueError("TIERS is no JSON") from None

    @field_validator("trusted_proxies")
    @classmethod
    def _refuse_what_is_no_network(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            try:
                ip_network(proxy, strict=False)
            except ValueError:
                raise ValueError(f"TRUSTED_PROXIES names addresses and networks, such as 10.0.0.0/8, and {proxy!r} is neither") from None
        return proxies

    @field_validator("database_url", "database_admin_url", "database_listen_url")
    @classmethod
    def _refuse_other_databases(cls, url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        try:
            if url is not None:
                with_driver(url.get_secret_value(), "psycopg2")
        except (ArgumentError, ValueError):
            raise ValueError(f"{str(info.field_name).upper()} is not a URL such as postgresql://user:password@host:5432/database") from None
        return url

    @field_validator("redis_url")
    @classmethod
    def _refuse_other_caches(cls, url: SecretStr) -> SecretStr:
        try:
            parsed = urlsplit(url.get_secret_value())
            fit = parsed.scheme in ("redis", "rediss", "unix") and parsed.port != 0
        except ValueError:
            fit = False
        if not fit:
            raise ValueError("REDIS_URL is not a URL such as redis://:password@host:6379/0")
        return url

    @field_validator("view_flush_seconds")
    @classmethod
    def _refuse_uneven_minutes(cls, seconds: int) -> int:
        if 60 % seconds:
            raise ValueError("VIEW_FLUSH_SECONDS must divide a minute: 1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30 or 60")
        return seconds

    @field_validator("smtp_url")
    @classmethod
    def _refuse_other_servers(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not is_smtp_url(url.get_secret_value()):
            raise ValueError(
                "SMTP_URL must be smtp://host:25, smtp+starttls://user:password@host:587 or smtps://user:password@host:465. "
                "What is not a letter or digit in user and password is percent-encoded, and without TLS there is neither"
            )
        return url

    @field_validator("mail_from")
    @classmethod
    def _refuse_no_address(cls, sender: str) -> str:
        if not all(parseaddr(sender)[1].partition("@")):
            raise ValueError("MAIL_FROM must be an address, such as no-reply@example.com, or a name with one: Example <no-reply@example.com>")
        return sender

    @model_validator(mode="after")
    def _refuse_unsafe_production(self) -> Self:
        if missing := set(default_tiers()) - set(self.tiers):
            raise ValueError(f"TIERS lacks {', '.join(sorted(missing))}")
        if self.environment != "production":
            return self
        secrets = (self.secret_key.get_secret_value(), *self.secret_keys_previous)
        unsafe = {
            f"SECRET_KEY must be set, and have at least {MINIMUM_SECRET_LENGTH} characters": any(
                secret == DEVELOPMENT_SECRET or len(secret) < MINIMUM_SECRET_LENGTH for secret in secrets
            ),
            "ALLOWED_HOSTS must name the hosts that are served": "*" in self.allowed_hosts,
            "ALLOWED_ORIGINS must not be *": "*" in self.allowed_origins,
            "BASE_DOMAIN must be your domain, or empty": self.base_domain == "localhost",
            "PUBLIC_URL must be the https:// address that people open": not self.public_url.startswith("https://"),
            "SMTP_URL must name the server that sends mail": self.smtp_url is None,
            "MAIL_FROM must be an address of yours": "@example.com" in self.mail_from,
            f"PASSWORD_HASH_ROUNDS must be at least {MINIMUM_PRODUCTION_ROUNDS}": self.password_hash_rounds < MINIMUM_PRODUCTION_ROUNDS,
        }
        if problems := [text for text, broken in unsafe.items() if broken]:
            raise UnsafeSettings("ENVIRONMENT is production, but: " + "; ".join(problems))
        return self

    @property
    def demands_verified_email(self) -> bool:
        """Whether an address must be verified before its owner may sign in."""
        return self.environment == "production" if self.email_verification_required is None else self.email_verification_required

    @property
    def service_url(self) -> URL:
        """The service role's URL, for asyncpg."""
        return with_driver(self.database_url.get_secret_value(), "asyncpg")

    @property
    def listen_url(self) -> str:
        """The service role's URL for a connection of its own that can LISTEN, as asyncpg itself takes it."""
        url = with_driver((self.database_listen_url or self.database_url).get_secret_value(), "psycopg2")
        return url.set(drivername="postgresql").render_as_string(hide_password=False)

    @property
    def owner_url(self) -> URL:
        """The owner role's URL, for psycopg2. Raises `ValueError` where DATABASE_ADMIN_URL is not set."""
        if self.database_admin_url is None:
            raise ValueError("DATABASE_ADMIN_URL is not set: migrations and the operator's commands need the role that owns the tables")
        return with_driver(self.database_admin_url.get_secret_value(), "psycopg2")


def with_driver(url: str, driver: Literal["asyncpg", "psycopg2"]) -> URL:
    """Return the URL with the driver put in, and the TLS option under the name that the driver knows."""
    parsed = make_url(url)
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise ValueError("a database URL begins with postgresql://")
    parsed = parsed.set(drivername=f"postgresql+{driver}")
    if driver == "asyncpg" and "sslmode" in parsed.query:
        parsed = parsed.difference_update_query(["sslmode"]).update_query_dict({"ssl": str(parsed.query["sslmode"])})
    return parsed


def is_smtp_url(url: str) -> bool:
    """Whether the URL names an SMTP server, and no password that would travel in the clear."""
    try:
        parsed = urlsplit(url)
        named = bool(parsed.hostname) and parsed.port != 0
    except ValueError:
        return False
    safe = parsed.scheme in ("smtp+starttls", "smtps") or (parsed.scheme == "smtp" and parsed.username is None)
    return named and safe and not (parsed.path.strip("/") or parsed.query or parsed.fragment)


@lru_cache
def get_settings() -> Settings:
    """Return the process's settings. Raises `BadSettings` when they are invalid or unsafe."""
    try:
        return Settings()
    except ValidationError as error:
        problem = "; ".join(_sentence(list(map(str, item["loc"])), item["msg"].removeprefix("Value error, ")) for item in error.errors())
    except UnicodeDecodeError:
        problem = "a file .env has to be text in UTF-8"
    except OSError as error:
        problem = f"{error.filename} cannot be read ({error.strerror})"
    raise BadSettings(problem)


def _sentence(location: list[str], message: str) -> str:
    """Return what is wrong with a setting, behind its name where the message does not begin with that."""
    name = ".".join([location[0].upper(), *location[1:]]) if location else ""
    return message if not name or message.startswith(name) else f"{name}: {message}"
