# syntax=docker/dockerfile:1
# One image for Vertex AI, SageMaker, Azure Machine Learning, Cloud Run and Kubernetes:
#   docker build --target serve --tag rentgen:serve .     (the default: answers; 499 MB of packages)
#   docker build --target train --tag rentgen:train .     (trains and answers: PyTorch makes it larger)
# PyTorch comes with CUDA for x86-64. For its CPU build give the address of PyTorch's index of CPU builds:
#   docker build --target train --build-arg TORCH_INDEX=... .
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build-serve
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
WORKDIR /source
RUN python -m venv /opt/rentgen
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
# Tests and stubs of others are not run here; pip has nothing more to do in the finished image.
RUN /opt/rentgen/bin/pip install --constraint constraints.txt '.[service,postgres,telemetry]' google-cloud-storage \
    && find /opt/rentgen -type d \( -name tests -o -name test -o -name __pycache__ \) -prune -exec rm -rf '{}' + \
    && find /opt/rentgen -type f -name '*.pyi' -delete \
    && /opt/rentgen/bin/python -m compileall -q /opt/rentgen/lib \
    && /opt/rentgen/bin/pip uninstall --yes pip setuptools

FROM python:${PYTHON} AS build-train
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
WORKDIR /source
RUN python -m venv /opt/rentgen
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN if [ -n "$TORCH_INDEX" ]; then \
        grep -viE '^(torch|torchvision|triton|nvidia-|cuda-)' constraints.txt > other.txt \
        && mv other.txt constraints.txt \
        && /opt/rentgen/bin/pip install --index-url "$TORCH_INDEX" torch torchvision; \
    fi
COPY src ./src
RUN /opt/rentgen/bin/pip install --constraint constraints.txt '.[service,train]' google-cloud-storage \
    && find /opt/rentgen -type d -name __pycache__ -prune -exec rm -rf '{}' + \
    && /opt/rentgen/bin/python -m compileall -q /opt/rentgen/lib \
    && /opt/rentgen/bin/pip uninstall --yes pip setuptools

FROM python:${PYTHON} AS base
LABEL org.opencontainers.image.title="Rentgen" \
      org.opencontainers.image.description="Radiograph classifier: trains and serves. Research software; not a medical device." \
      org.opencontainers.image.licenses="Apache-2.0" \
      com.amazonaws.sagemaker.capabilities.accept-bind-to-port="true"
# Any user may run it, with or without an entry in /etc/passwd and a home: what is written goes below /tmp.
ENV PATH=/opt/rentgen/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    XDG_CACHE_HOME=/tmp/cache \
    XDG_DATA_HOME=/tmp/data
WORKDIR /tmp
EXPOSE 8080
# The platforms probe by HTTP; a check within the container would only cost.
HEALTHCHECK NONE
USER 10001:10001
# No shell and no init in between: the platforms append `serve` or `train`, and signals reach the process itself.
ENTRYPOINT ["rentgen-container"]

FROM base AS train
COPY --from=build-train /opt/rentgen /opt/rentgen

FROM base AS serve
COPY --from=build-serve /opt/rentgen /opt/rentgen
