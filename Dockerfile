# The service, and the tool that renders Envoy's configuration; PostgreSQL and Envoy have images of their own.

# A release names both bases by digest, too (CONTRIBUTING.md).
FROM python:3.13-slim AS build
ARG UV_VERSION=0.13.9
RUN pip install --no-cache-dir --disable-pip-version-check "uv==${UV_VERSION}"
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
WORKDIR /app
# The libraries first: they change less often than the source. Without the extra `local` there is no PostgreSQL and no Envoy.
COPY pyproject.toml uv.lock ./
RUN uv sync --locked --no-dev --extra s3 --extra celery --extra traces --no-install-project --no-cache
COPY README.md LICENSE ./
COPY mo_grpc ./mo_grpc
COPY generated ./generated
COPY migrations ./migrations
COPY envoy ./envoy
COPY deploy/prometheus/rules.yml ./deploy/prometheus/rules.yml
COPY docker/healthcheck.py ./docker/healthcheck.py
# As a wheel, which has all that the service reads. Whatever the modes of the checkout, the service's user may read it.
RUN uv sync --locked --no-dev --extra s3 --extra celery --extra traces --no-editable --no-cache && chmod -R a+rX .

FROM python:3.13-slim
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="mo-grpc" \
    org.opencontainers.image.description="A lender's back end: customers with a credit line, loans, payments; gRPC and JSON over REST" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
# /edge is for the volume in which Envoy finds its configuration: a new volume takes over the folder's owner.
RUN useradd --system --uid 10001 --user-group --home-dir /nonexistent --shell /usr/sbin/nologin mo \
    && install --directory --owner=mo --group=mo /edge \
    && install --directory --owner=mo --group=mo --mode=0700 /run/mo /run/mo/objects
COPY --from=build /app/.venv /app/.venv
COPY --from=build /app/docker /app/docker
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 MO_DATA_DIR=/run/mo
WORKDIR /app
USER 10001:10001
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["python", "docker/healthcheck.py"]
ENTRYPOINT ["mo-grpc"]
CMD ["serve"]
