# A node in a container. The RUN steps are what `make` does on a bare machine, and `make fresh`
# runs them on one.
#   docker build -t mesh --build-arg MESH_COMMIT="$(git rev-parse --short=12 HEAD)" .
#   docker run -v mesh-keys:/keys -v mesh-data:/data mesh --help
FROM python:3.11-slim

RUN apt-get update \
 && apt-get install --yes --no-install-recommends make \
 && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 10001 mesh \
 && install -d -o mesh -g mesh -m 0700 /keys /data /models

WORKDIR /opt/mesh
COPY pyproject.toml constraints.txt requirements.lock hatch_build.py Makefile README.md LICENSE ./
COPY keys keys
COPY consensus consensus
COPY mesh mesh
COPY devchain devchain
COPY subnet subnet
# What `mesh --version` names; the folder has no git here.
ARG MESH_COMMIT=unknown
RUN make install-node

ENV PATH=/opt/mesh/.venv/bin:$PATH \
    MESH_HOME=/data \
    HF_HOME=/models \
    PYTHONUNBUFFERED=1 \
    OMP_WAIT_POLICY=passive

USER mesh
WORKDIR /keys
VOLUME ["/keys", "/data", "/models"]
EXPOSE 31330/tcp 31330/udp
HEALTHCHECK --interval=30s --timeout=10s --start-period=10m CMD ["mesh", "status"]
ENTRYPOINT ["mesh-test"]
