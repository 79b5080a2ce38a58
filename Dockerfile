# One image for the API and the workers: `api`, `worker`, `migrate` and `check` are subcommands of its entry point.
# It needs no BuildKit. Any Debian-based Python 3.11+ image can be its base: --build-arg PYTHON_IMAGE=...
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /app
# The base's own pip fills the environment, so that no pip is left in the final image.
RUN python -m venv --without-pip /opt/venv
# requirements-otel.txt: with what OTEL_ENABLED needs.
ARG REQUIREMENTS=requirements.txt
COPY requirements.txt requirements-otel.txt ./
RUN python -m pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
      --requirement ${REQUIREMENTS}
COPY jobs_service ./jobs_service
COPY actors ./actors
COPY seeds ./seeds
# What each error means: the API serves it as a page.
COPY docs/errors.md ./docs/errors.md
# Compiled here because the file system is read-only later; by content, because copies need not keep file times.
# A checkout made under a strict umask keeps its modes in COPY, and the service's user is not the files' owner.
RUN /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash jobs_service actors \
 && chmod -R a+rX,go-w /app

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="async-job-system" org.opencontainers.image.licenses="MIT"
# A fixed id: docker-compose.yml gives this group the right to write into ./output.
RUN groupadd --gid 10001 jobs \
 && useradd --uid 10001 --gid jobs --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin jobs \
 && install -d -o jobs -g jobs /app/output
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
# 0.0.0.0: inside a container loopback reaches nobody; what is published is decided outside.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LOG_FORMAT=json \
    API_HOST=0.0.0.0 \
    METRICS_HOST=0.0.0.0 \
    PROMETHEUS_MULTIPROC_DIR=/tmp/metrics
WORKDIR /app
USER 10001:10001
EXPOSE 3000 9191
# Process 1 is gunicorn, which `api` becomes by exec, or the supervisor of `worker`. Both get the stop signal themselves
# and reap the orphans that become theirs, so no init is needed.
ENTRYPOINT ["python", "-m", "jobs_service"]
CMD ["api"]
