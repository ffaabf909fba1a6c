# docker build -t rfd_tf .                          for processors
# docker build -t rfd_tf --build-arg EXTRAS=gpu .   for NVIDIA GPUs: docker run --gpus all ...
# How to run it: docs/install.md
FROM python:3.12-slim

ARG EXTRAS=report

COPY setup.cfg pyproject.toml README.md LICENSE /src/
COPY rfd_tf /src/rfd_tf
COPY configs /src/configs
COPY exported /src/exported
COPY research/published.json /src/research/published.json
RUN pip install --no-cache-dir "/src[${EXTRAS}]" && rm -rf /src

RUN useradd --create-home user && mkdir /work && chown user /work
USER user
WORKDIR /work
ENTRYPOINT ["rfd-tf"]
CMD ["--help"]
