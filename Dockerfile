# The control plane; the demo's shop and people run from the same image. Envoys are containers of their own.
FROM python:3.11-slim AS build
WORKDIR /src
COPY requirements.txt ./
# Every package is checked against its hash here, once; the image below installs from these wheels and from nowhere else.
RUN pip wheel --no-cache-dir --require-hashes --wheel-dir /wheels --requirement requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY analysis analysis
COPY xds_server xds_server
RUN pip install --no-index --find-links /wheels hatchling editables \
    && pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheels .

FROM python:3.11-slim
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels \
    serinus aiohttp opentelemetry-exporter-otlp-proto-grpc \
    # xds-protos installs older copies of the same modules over it; the demo's shop needs the real ones
    && pip install --no-cache-dir --no-index --find-links /wheels --no-deps --force-reinstall opentelemetry-proto \
    && useradd --uid 10001 --create-home serinus \
    && install --directory --owner serinus /var/lib/serinus
USER serinus
WORKDIR /var/lib/serinus
VOLUME /var/lib/serinus
ENV PYTHONUNBUFFERED=1
# xDS, access logs, OTLP and control API; OTLP; health and metrics
EXPOSE 18000 4317 8080
ENTRYPOINT ["serinus"]
CMD ["--help"]
