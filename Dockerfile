# The service alone, without the embedded broker of the demo.

# As rust-toolchain.toml and the prerequisites of `cargo xtask` have it.
FROM rust:1.95.0-slim-bookworm AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends build-essential libclang-dev pkg-config libssl-dev zlib1g-dev \
 && rm -rf /var/lib/apt/lists/*
# The image's toolchain as it is: no tools of developers on top.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    cargo build --locked --release --package holdfast --no-default-features --features jemalloc --bin holdfast \
 && install target/release/holdfast /usr/local/bin/holdfast

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates libgcc-s1 libssl3 libstdc++6 zlib1g \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin holdfast \
 && install --directory --owner=holdfast --group=holdfast /var/lib/holdfast
COPY --from=build /usr/local/bin/holdfast /usr/local/bin/holdfast
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
ENV HOLDFAST_LISTEN=0.0.0.0:7070 HOLDFAST_STATE_DIR=/var/lib/holdfast/state
VOLUME /var/lib/holdfast
EXPOSE 7070 7071
ENTRYPOINT ["holdfast"]
CMD ["serve"]
