# orlop in a container: the binary, the root certificates, an ordinary user, nothing else.
#
#   docker build -t orlop .
#   docker run -p 127.0.0.1:7070:7070 -v orlop-data:/data -e ORLOP_INSECURE_HTTP=true orlop
#
# Inside a container orlop listens on all addresses, where it wants TLS (ORLOP_TLS_CERT, ORLOP_TLS_KEY) or the
# explicit word that plain HTTP is meant, as above, and a token: docker exec … orlop token create.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build

# The dependencies alone, behind empty sources: this layer is kept until Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir server \
 && touch server/lib.rs \
 && echo 'fn main() {}' > server/main.rs \
 && cargo build --release --locked \
 && rm -r server

COPY . .
# The empty sources were written after these files were last changed: cargo goes by the clock.
RUN touch server/lib.rs server/main.rs \
 && cargo build --release --locked \
 && mkdir data

# glibc, libgcc and the root certificates; no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/release/orlop /usr/local/bin/orlop
# A new volume takes its owner from the image.
COPY --from=build --chown=65532:65532 /build/data /data
ENV ORLOP_DATA_DIR=/data \
    ORLOP_LISTEN=0.0.0.0:7070
USER 65532:65532
VOLUME /data
EXPOSE 7070
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["orlop", "health"]
ENTRYPOINT ["orlop"]
CMD ["serve"]
