# Two images: `cpu` (the default) and `cuda`. Needs BuildKit, the builder of Docker since 23.0.
#
#   docker build -t matchpoint .
#   docker build -t matchpoint:cuda --target cuda .
#   docker run --rm matchpoint inspect --model /models/efficientnet-lite0
#
# To serve, see deploy/compose.yaml and deploy/kubernetes/.
#
# Health is served over gRPC (grpc.health.v1), where Docker asks by `matchpoint health`, and over HTTP
# beside the metrics (/ready and /live), where Kubernetes asks; Prometheus sees `matchpoint_ready`.
#
# The server listens on all addresses of the container, and so starts only with a certificate and keys,
# or where it is told that it needs none: docs/security.md. With a certificate, tell `matchpoint health`
# too: MATCHPOINT_SERVER=https://NAME:50051, and MATCHPOINT_SERVER_CA.

ARG VERSION=0.1.0

# --- The program --------------------------------------------------------------------------------

# The minor version of rust-toolchain.toml, which stays out of the build: rustup would download the
# components that it names for developers.
FROM rust:1.95-bookworm AS build
# For libjpeg-turbo. Not pinned: Debian removes a version from its mirrors when it is superseded.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends binutils cmake nasm \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --features object-stores --bin matchpoint \
    && install -D target/release/matchpoint /out/matchpoint \
    && scripts/strip-program.sh /out/matchpoint

# --- ONNX Runtime -------------------------------------------------------------------------------

# From its PyPI wheel, pinned by SHA-256 in the script. Of its own, so that a change to the source
# does not fetch it again.
FROM debian:bookworm-slim AS fetch
# Not pinned: Debian removes a version from its mirrors when it is superseded.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
COPY scripts/fetch-onnxruntime.sh /usr/local/bin/

FROM fetch AS runtime-cpu
RUN fetch-onnxruntime.sh --dir /runtime

FROM fetch AS runtime-cuda
RUN fetch-onnxruntime.sh --cuda --dir /runtime

# --- NVIDIA GPUs --------------------------------------------------------------------------------

# The pinned onnxruntime-gpu 1.31.1 is built for CUDA 13.0 (it is linked with libcudart.so.13 and
# libcublas.so.13) and cuDNN 9; images of CUDA 12 lack these libraries. CUDA 13 needs a driver of the
# 580 series or newer on the host, and the NVIDIA Container Toolkit: docker run --gpus all ...
FROM nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04 AS cuda
# The program looks for libonnxruntime.so beside itself, hence a folder for the two.
COPY --from=build /out/matchpoint /opt/matchpoint/
COPY models /models
# What `matchpoint demo` tells its story on.
COPY examples/photos /examples/photos
COPY LICENSE* NOTICE THIRD-PARTY-LICENSES.txt /usr/share/doc/matchpoint/
COPY --from=runtime-cuda /runtime/*.so /opt/matchpoint/
COPY --from=runtime-cuda /runtime/LICENSE /runtime/ThirdPartyNotices.txt /usr/share/doc/onnxruntime/
ENV PATH="/opt/matchpoint:${PATH}" \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
    MATCHPOINT_LISTEN=0.0.0.0:50051 \
    MATCHPOINT_METRICS_LISTEN=0.0.0.0:9464
# The second command opens the model as the server would, golden check included: an image whose
# runtime does not load, or computes something else, is not built. On the CPU, since a builder has
# no GPU.
RUN install -d -o 65532 -g 65532 /data \
    && matchpoint inspect --model /models/efficientnet-lite0 --device cpu
# Refuses to start without a GPU, instead of being slow without a word.
ENV MATCHPOINT_DEVICE=cuda
USER 65532:65532
WORKDIR /data
VOLUME /data
EXPOSE 50051 9464
ENTRYPOINT ["matchpoint"]
CMD ["serve"]
# Ready, and not only alive: opening a large gallery takes minutes.
HEALTHCHECK --interval=10s --timeout=6s --start-period=10m CMD ["matchpoint", "health", "--quiet"]
ARG VERSION
ARG REVISION
ARG CREATED
LABEL org.opencontainers.image.title="matchpoint" \
      org.opencontainers.image.description="Image matching over gRPC with a calibrated accept or reject decision" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="docker.io/nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04"

# --- CPU ----------------------------------------------------------------------------------------

FROM debian:bookworm-slim AS cpu
COPY --from=build /out/matchpoint /opt/matchpoint/
COPY models /models
# What `matchpoint demo` tells its story on.
COPY examples/photos /examples/photos
COPY LICENSE* NOTICE THIRD-PARTY-LICENSES.txt /usr/share/doc/matchpoint/
COPY --from=runtime-cpu /runtime/*.so /opt/matchpoint/
COPY --from=runtime-cpu /runtime/LICENSE /runtime/ThirdPartyNotices.txt /usr/share/doc/onnxruntime/
# In a container, the address that others reach is never 127.0.0.1. Large pages: docs/operations.md.
ENV PATH="/opt/matchpoint:${PATH}" \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
    MATCHPOINT_LISTEN=0.0.0.0:50051 \
    MATCHPOINT_METRICS_LISTEN=0.0.0.0:9464
# As above: an image whose model does not compute what it should is not built.
RUN install -d -o 65532 -g 65532 /data \
    && matchpoint inspect --model /models/efficientnet-lite0
# Writes nothing outside /data (and /tmp), so the root file system can be read-only.
USER 65532:65532
WORKDIR /data
VOLUME /data
EXPOSE 50051 9464
ENTRYPOINT ["matchpoint"]
CMD ["serve"]
# Ready, and not only alive: opening a large gallery takes minutes.
HEALTHCHECK --interval=10s --timeout=6s --start-period=10m CMD ["matchpoint", "health", "--quiet"]
ARG VERSION
ARG REVISION
ARG CREATED
LABEL org.opencontainers.image.title="matchpoint" \
      org.opencontainers.image.description="Image matching over gRPC with a calibrated accept or reject decision" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"
