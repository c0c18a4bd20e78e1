# Two images that share their layers: `service` answers requests and has no torch, `trainer` takes jobs from the queue.
#   docker build -t neuroserve:service .
#   docker build -t neuroserve:trainer --target trainer .
# For NVIDIA GPUs (CUDA 13, several gigabytes): --build-arg EXTRAS=gpu

ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS requirements
ARG EXTRAS=""
WORKDIR /src
COPY pyproject.toml deploy/requirements.py ./
# hadolint ignore=SC2086
RUN python requirements.py ${EXTRAS}


FROM ${BASE} AS runtime
LABEL org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin neuroserve \
 && install -d -o neuroserve -g neuroserve /var/lib/neuroserve
WORKDIR /app
COPY constraints.txt ./
COPY --from=requirements /src/base.txt ./
RUN pip install --no-cache-dir --only-binary :all: -c constraints.txt -r base.txt
COPY LICENSE ./
ENV PYTHONUNBUFFERED=1 \
    NEUROSERVE_HOST=0.0.0.0 \
    NEUROSERVE_STATE=/var/lib/neuroserve \
    DATA_DIR=/var/lib/neuroserve/data
STOPSIGNAL SIGTERM


FROM runtime AS trainer
ARG EXTRAS=""
# The default index has torch for Linux with CUDA only; without a GPU it comes from PyTorch's own index of CPU builds.
# Where that cannot be reached, what pip is configured with is the last resort.
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
COPY --from=requirements /src/trainer.txt ./
RUN case " ${EXTRAS} " in *" gpu "*) ;; *) \
      pip install --no-cache-dir --only-binary :all: --timeout 10 --retries 1 --index-url "${TORCH_CPU_INDEX}" \
        -c constraints.txt torch || echo "WARNING: no CPU build of torch at ${TORCH_CPU_INDEX}: asking the default index" ;; \
    esac \
 && pip install --no-cache-dir --only-binary :all: -c constraints.txt -r trainer.txt
COPY models ./models
COPY training ./training
RUN python -m compileall -q models training
LABEL org.opencontainers.image.title="neuroserve trainer" \
      org.opencontainers.image.description="Takes training jobs from the queue, exports to ONNX, publishes what passes the gate"
USER 10001:10001
VOLUME /var/lib/neuroserve
CMD ["python", "-m", "training", "worker"]


FROM runtime AS service
COPY --from=requirements /src/service.txt ./
RUN test ! -s service.txt || pip install --no-cache-dir --only-binary :all: -c constraints.txt -r service.txt
COPY models ./models
COPY service ./service
RUN python -m compileall -q models service
LABEL org.opencontainers.image.title="neuroserve" \
      org.opencontainers.image.description="Serves neural networks with ONNX Runtime and retrains them safely"
USER 10001:10001
VOLUME /var/lib/neuroserve
EXPOSE 8000
# http.client asks this container and never a proxy, whatever HTTP_PROXY says.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('NEUROSERVE_PORT', 8000)), timeout=4); c.request('GET', '/health/ready'); sys.exit(c.getresponse().status != 200)"]
CMD ["python", "-m", "service"]
