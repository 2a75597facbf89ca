# syntax=docker/dockerfile:1

# Two images, which differ in the vLLM that they stand on:
#
#   docker build -t drr .                     # NVIDIA GPUs: vLLM's own image and DRR on top
#   docker build -t drr-demo --target cpu .   # any machine: the reference models
#
#   docker run -p 8000:8000 drr-demo
#   docker run --gpus all --shm-size 2g -p 8000:8000 -v drr-models:/models drr --model MODEL --dm /models/dm
#
# Arguments behind the image's name are those of `drr serve`. docs/operations.md tells the rest.

# The newest one that DRR supports (pyproject.toml); 0.32.0 is the other.
ARG VLLM_VERSION=0.33.0
ARG VLLM_IMAGE=vllm/vllm-openai:v${VLLM_VERSION}
ARG DEBIAN_IMAGE=debian:bookworm-slim


FROM ${DEBIAN_IMAGE} AS python
ENV PIP_NO_CACHE_DIR=1
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libnuma1 python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*


# DRR itself, and the reference models that are a part of it.
FROM python AS wheel
WORKDIR /src
RUN python3 -m venv /opt/build
COPY pyproject.toml README.md LICENSE ./
COPY drr drr
COPY server server
COPY clients clients
RUN /opt/build/bin/pip wheel -q --no-deps --wheel-dir /wheels .


FROM python AS cpu-environment
COPY pyproject.toml /src/
COPY scripts /src/scripts
RUN python3 /src/scripts/image.py cpu /opt/drr
COPY --from=wheel /wheels /wheels
RUN /opt/drr/bin/pip install -q --no-deps --no-index /wheels/*.whl \
    && python3 /src/scripts/sbom.py /opt/drr /opt/drr/sbom.cdx.json


FROM python AS cpu
LABEL org.opencontainers.image.title="DRR" \
      org.opencontainers.image.description="DRR on a CPU, with the reference models" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 drr \
    && useradd --uid 10001 --gid 10001 --create-home drr \
    && install -d -o 10001 -g 10001 /models
COPY --from=cpu-environment /opt/drr /opt/drr
ENV PATH=/opt/drr/bin:$PATH \
    HF_HOME=/models \
    PYTHONUNBUFFERED=1 \
    VLLM_NO_USAGE_STATS=1 \
    DRR_READY_URL=http://127.0.0.1:8000/ready
USER 10001:10001
WORKDIR /home/drr
VOLUME /models
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=6s --start-period=3m --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(os.environ['DRR_READY_URL'], timeout=5)"]
ENTRYPOINT ["drr", "serve"]


# hadolint ignore=DL3006
FROM ${VLLM_IMAGE} AS cuda
LABEL org.opencontainers.image.title="DRR" \
      org.opencontainers.image.description="DRR on vLLM, for NVIDIA GPUs" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PIP_NO_CACHE_DIR=1
RUN groupadd --gid 10001 drr \
    && useradd --uid 10001 --gid 10001 --create-home drr \
    && install -d -o 10001 -g 10001 /models
COPY pyproject.toml /opt/drr-build/
COPY scripts /opt/drr-build/scripts
RUN python3 /opt/drr-build/scripts/image.py cuda /opt/drr
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    /opt/drr/bin/pip install -q --no-deps --no-index /wheels/*.whl \
    && python3 /opt/drr-build/scripts/sbom.py /opt/drr /opt/drr/sbom.cdx.json
ENV PATH=/opt/drr/bin:$PATH \
    HF_HOME=/models \
    PYTHONUNBUFFERED=1 \
    VLLM_NO_USAGE_STATS=1 \
    DRR_READY_URL=http://127.0.0.1:8000/ready
USER 10001:10001
WORKDIR /home/drr
VOLUME /models
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=6s --start-period=30m --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(os.environ['DRR_READY_URL'], timeout=5)"]
ENTRYPOINT ["drr", "serve"]
