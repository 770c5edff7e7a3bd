# The gateway, and simulated engines:
#   docker build -t pd-router .                        docker run -p 8000:8000 -e PD_ROUTER_API_KEY pd-router serve --decode http://HOST:8201
#   docker build -t pd-router-sim --target sim .       docker run --network host --no-healthcheck pd-router-sim --role decode --port 8201
# A base image that is named by its digest (--build-arg BASE_IMAGE=python@sha256:...) makes the same layers again: what is
# installed is locked by hashes, and compiled so that it does not tell when. `make image` builds without Docker.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
WORKDIR /src
RUN python3 -m venv /opt/pd-router
COPY requirements.lock .
RUN /opt/pd-router/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-compile --require-hashes --no-deps -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY router router
RUN /opt/pd-router/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-compile --no-build-isolation --no-deps . \
    && /opt/pd-router/bin/python -m pip uninstall --yes setuptools pip \
    && find /opt/pd-router -name __pycache__ -prune -exec rm -rf {} + \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/pd-router/lib

FROM ${BASE_IMAGE} AS program
COPY --from=build /opt/pd-router /opt/pd-router
ENV PATH=/opt/pd-router/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
STOPSIGNAL SIGTERM
ARG VERSION=unknown REVISION=unknown
LABEL org.opencontainers.image.title=pd-router \
    org.opencontainers.image.description="Gateway for disaggregated (prefill/decode) LLM fleets" \
    org.opencontainers.image.licenses=Apache-2.0 \
    org.opencontainers.image.version=${VERSION} \
    org.opencontainers.image.revision=${REVISION}

# An engine has to listen on the name under which the others know it (--host), as that is where decode pulls KV from.
# Only on that name, and on port 8200, is its health looked at.
FROM program AS sim
EXPOSE 8200
HEALTHCHECK --interval=5s --timeout=2s --start-period=10s \
    CMD ["python3", "-c", "import socket; socket.create_connection((socket.gethostname(), 8200), 1)"]
ENTRYPOINT ["pd-router", "sim"]
CMD ["--role", "aggregated", "--host", "0.0.0.0", "--port", "8200"]

FROM program AS gateway
ENV PD_ROUTER_LOG__FORMAT=json PD_ROUTER_LISTEN__REQUIRE_KEY=true
# The operations listener (8001) stays on the container's loopback unless PD_ROUTER_OPS__HOST says otherwise.
EXPOSE 8000
# Of a port that a flag or a file says this knows nothing: say it by PD_ROUTER_LISTEN__PORT, or give --health-cmd.
HEALTHCHECK --interval=10s --timeout=2s --start-period=10s \
    CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ.get('PD_ROUTER_LISTEN__PORT', 8000)}/health\", timeout=1)"]
ENTRYPOINT ["pd-router"]
CMD ["serve"]
