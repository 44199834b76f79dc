# The image of kvtierd and kvtier: docker build -t kvtier:0.1.0 .
# scripts/image.sh does it with whichever of docker, podman and buildah there is.
#
# To get the same image again, pin both bases by digest; scripts/image.sh gives the time of the commit:
#   scripts/image.sh kvtier:0.1.0 --build-arg BUILD_BASE=rust:1.95-bookworm@sha256:… --build-arg BASE=debian:bookworm-slim@sha256:…
# docker gives that time to files only when it is asked to (--output type=docker,name=kvtier:0.1.0,rewrite-timestamp=true).
ARG BUILD_BASE=rust:1.95-bookworm
ARG BASE=debian:bookworm-slim

FROM ${BUILD_BASE} AS build
WORKDIR /src
COPY . .
ARG SOURCE_DATE_EPOCH=0
# Paths of the build stay out of the programs, so that equal sources make equal programs. The base's toolchain is the one that
# rust-toolchain.toml names; said so, rustup looks for no components of it that only developers need.
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} \
    CARGO_INCREMENTAL=0 \
    KVTIER_CACHE=/cache \
    RUSTUP_TOOLCHAIN=${RUST_VERSION} \
    RUSTFLAGS="--remap-path-prefix=/src=kvtier --remap-path-prefix=/usr/local/cargo=cargo --remap-path-prefix=/cache/target=target" \
    CXXFLAGS="-ffile-prefix-map=/src=kvtier -ffile-prefix-map=/usr/local/cargo=cargo"
# It asks Debian for what it needs (libclang, for the catalogue's bindings).
RUN scripts/setup.sh daemon && \
    scripts/build.sh daemon && \
    install -D --strip -t /out/usr/bin /cache/target/release/kvtierd /cache/target/release/kvtier

FROM ${BASE}
LABEL org.opencontainers.image.title="kvtier" \
      org.opencontainers.image.description="Keeps the KV cache of inference engines in tiers on each node" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/usr/bin/kvtierd /out/usr/bin/kvtier /usr/bin/
COPY --from=build /src/LICENSE /usr/share/doc/kvtier/LICENSE
# Whom to trust for https. The base has no such file, and with an empty set no client for a bucket can be made, not even for http.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# As in the chart's security.runAsUser. It has no name and no home, and owns nothing in the image.
USER 10470:10470
EXPOSE 9470
STOPSIGNAL SIGTERM
ENTRYPOINT ["kvtierd"]
