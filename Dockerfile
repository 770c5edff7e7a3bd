# The gateway alone: docker build -t pd-router . && docker run -p 8000:8000 pd-router serve --decode http://HOST:8201
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
WORKDIR /src
RUN python3 -m venv /opt/pd-router
COPY requirements.lock .
RUN /opt/pd-router/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY router router
RUN /opt/pd-router/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-build-isolation --no-deps . \
    && /opt/pd-router/bin/python -m pip uninstall --yes setuptools pip

FROM ${BASE_IMAGE}
COPY --from=build /opt/pd-router /opt/pd-router
ENV PATH=/opt/pd-router/bin:$PATH PYTHONUNBUFFERED=1 PD_ROUTER_LOG__FORMAT=json PD_ROUTER_LISTEN__REQUIRE_KEY=true
USER 65532:65532
# The operations listener (8001) stays on the container's loopback unless PD_ROUTER_OPS__HOST says otherwise.
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=2s --start-period=10s \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=1)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["pd-router"]
CMD ["serve"]
