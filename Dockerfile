# One image for the API, the worker, migrations and the operator's command line.

FROM python:3.13-slim-trixie AS build
COPY requirements.txt /
# Wheels only: nothing is compiled, so no compiler is needed; and pip itself stays behind in this stage.
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check --only-binary :all: --require-hashes -r /requirements.txt

FROM python:3.13-slim-trixie
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="Multi-tenant SaaS platform" \
      org.opencontainers.image.description="A multi-tenant SaaS backend on FastAPI, PostgreSQL and Redis" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT"
ENV PATH="/opt/venv/bin:${PATH}" \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /srv
COPY --from=build /opt/venv /opt/venv
COPY alembic.ini LICENSE ./
COPY alembic alembic
COPY app app
# The user below may write nothing here, so the byte code is made now.
RUN python -m compileall -q app alembic
# By number, so that Kubernetes' runAsNonRoot can see that it is not root.
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/live', timeout=2)"]
CMD ["python", "-m", "app.server", "--host", "0.0.0.0", "--port", "8000"]
