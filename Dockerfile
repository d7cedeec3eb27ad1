# The image of Trellis: one binary that links nothing but glibc and libgcc, and a user who owns /data.
#   docker build -t trellis .
# Needs BuildKit, for the cache mounts: a second build compiles only what changed.

FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /build
COPY . .
# `target` is a cache and no part of a layer, so the binary is moved out of it in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/build/target,sharing=locked \
    cargo build --profile dist --locked --bin trellis \
    && install -m 0755 target/dist/trellis /usr/local/bin/trellis

# The same Debian as the build's, so the same glibc. slim holds all that the binary links; nothing is installed, and
# there is a shell for whoever has to look inside. It trusts no authority for https, so probes get those of the build's.
FROM debian:bookworm-20260803-slim
ARG VERSION=0.0.0-dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Trellis" \
      org.opencontainers.image.description="Click-tracking redirect server" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# A fixed number, so that volumes and `runAsUser` can name it. A new named volume takes over owner and mode of /data.
RUN groupadd --gid 10001 trellis \
    && useradd --uid 10001 --gid trellis --no-create-home --home-dir /data --shell /usr/sbin/nologin trellis \
    && install -d -o trellis -g trellis -m 0700 /data
COPY --from=build /usr/local/bin/trellis /usr/local/bin/trellis
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# The notices of what is built into the binary go with every copy of it.
COPY LICENSE-MIT LICENSE-APACHE config/data/README.md config/data/*.LICENSE /usr/share/doc/trellis/
ENV TRELLIS_DATA_DIR=/data
USER 10001:10001
WORKDIR /data
# The only path that Trellis writes to: the root may be read-only.
VOLUME /data
# Edge and control. Control listens on loopback unless TRELLIS_CONTROL__LISTEN says otherwise.
EXPOSE 8080 8081
# Drains, then exits; see [shutdown].
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["/usr/local/bin/trellis", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/trellis"]
