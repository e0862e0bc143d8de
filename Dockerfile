# Two images without torch, a service and a page: docs/deploy.md.
#   docker build --target service .     answers HTTP requests on port 8000 (what a bare build makes)
#   docker build --target page .        shows the page on port 8501

# Python on Debian 12, by version and by digest
ARG PYTHON_IMAGE=python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
# what changes rarely comes first, so that a build after a change of code is short
COPY requirements/build.txt requirements/serve.txt requirements/
RUN python -m venv --without-pip /cascade \
    && python -m pip --python /cascade/bin/python install \
        --require-hashes --only-binary :all: --requirement requirements/serve.txt \
    && python -m pip install \
        --require-hashes --only-binary :all: --requirement requirements/build.txt
COPY setup.py setup.cfg pyproject.toml MANIFEST.in README.md LICENSE constraints.txt ./
COPY models/ models/
COPY cascade/ cascade/
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && python -m pip --python /cascade/bin/python install --no-deps --no-index /wheels/*.whl

FROM ${PYTHON_IMAGE} AS runtime
# nothing can be installed where nobody can install; no program of the image needs these
RUN python -m pip uninstall --yes --quiet --root-user-action ignore setuptools wheel pip \
    && groupadd --gid 10001 cascade \
    && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home \
        --shell /usr/sbin/nologin cascade
COPY --from=build /cascade /cascade
ENV PATH=/cascade/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /tmp
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["cascade"]

FROM runtime AS page
EXPOSE 8501
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client as c; h = c.HTTPConnection('127.0.0.1', 8501, timeout=4); h.request('GET', '/_stcore/health'); raise SystemExit(h.getresponse().status != 200)"]
CMD ["app", "--host", "0.0.0.0", "--port", "8501"]

FROM runtime AS service
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client as c; h = c.HTTPConnection('127.0.0.1', 8000, timeout=4); h.request('GET', '/readyz'); raise SystemExit(h.getresponse().status != 200)"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
