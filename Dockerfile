# docker build -t pawl .
# A static binary and nothing else: it runs as nobody in particular, with a read-only root. See docs/operations.md.
FROM rust:1.95-alpine AS build
RUN apk add --no-cache musl-dev
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p pawl && strip target/release/pawl && mkdir -m 700 /empty

FROM scratch
COPY --from=build /src/target/release/pawl /pawl
COPY --from=build --chown=65532:65532 /empty /data
USER 65532:65532
VOLUME /data
EXPOSE 7295
HEALTHCHECK --interval=10s --timeout=6s CMD ["/pawl", "health"]
ENTRYPOINT ["/pawl"]
CMD ["serve", "--data", "/data", "--listen", "0.0.0.0:7295"]
