# Builds the image of the server: docker build -t ota-server .   (docs/container.md tells more.)
#
# Any base with Python 3.11 or newer and its venv module does; it needs no compiler, since every dependency is a wheel.
ARG BASE=docker.io/library/python:3.13-slim-bookworm

# Wheels to install from where there is no network: docker build --build-context wheels=FOLDER --build-arg PIP_NO_INDEX=1
FROM scratch AS wheels

FROM ${BASE} AS dependencies
# pip reads these as its own settings where they are given, such as --build-arg PIP_INDEX_URL=https://…
ARG PIP_INDEX_URL
ARG PIP_NO_INDEX
ARG EXTRAS=postgresql
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PIP_FIND_LINKS=/wheels
WORKDIR /build
# The first environment has pip, and stays here; the second is what goes into the image.
RUN python3 -m venv /pip && python3 -m venv --without-pip /opt/ota-server
# Nothing but the list, so that a change of the program leaves this layer as it is.
COPY pyproject.toml .
RUN --mount=type=bind,from=wheels,target=/wheels \
    python3 -c 'import sys, tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*project["dependencies"], *(name for extra in sys.argv[1:] for name in project["optional-dependencies"][extra]), sep="\n")' ${EXTRAS} >requirements.txt \
    && /pip/bin/pip --python /opt/ota-server/bin/python install --only-binary :all: --requirement requirements.txt

FROM dependencies AS program
COPY setup.py README.md LICENSE ./
COPY ota_server ota_server
COPY twisted twisted
RUN --mount=type=bind,from=wheels,target=/wheels \
    /pip/bin/pip --python /opt/ota-server/bin/python install --no-deps --root /program .

FROM ${BASE}
ARG BASE
ARG VERSION
LABEL org.opencontainers.image.title="OTA Server" \
      org.opencontainers.image.description="Firmware updates for ESP8266, ESP32 and Arduino devices" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.base.name="${BASE}"
# Two layers: an upgrade of the program alone fetches the small one.
COPY --from=dependencies /opt/ota-server /opt/ota-server
COPY --from=program /program/ /
# Twisted keeps a list of its plugins beside them. It is made here, since nobody may write there later. A new volume
# takes its owner from the folder that it covers.
RUN /opt/ota-server/bin/twistd --help >/dev/null \
    && mkdir -m 755 /firmware \
    && mkdir -m 750 /state \
    && chown 10001:10001 /state
ENV PATH=/opt/ota-server/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /state
VOLUME ["/state"]
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-m", "ota_server.health"]
ENTRYPOINT ["python", "-m", "ota_server.container", "--dir", "/firmware", "--state", "/state"]
CMD ["--port", "8000", "--log", "info"]
