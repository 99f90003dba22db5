# koala with all that it needs, as constraints.txt pins it. CUDA comes with torch and DALI, the driver with the host.
#
#   docker build --tag koala .                                          --build-arg EXTRAS=demo,eval,gallery,photos for more
#   docker run --rm --gpus all --shm-size 8g --volume "$PWD:/work" koala koala train launch/smoke.toml --data.shards DIR
#
# For Slurm (slurm/README.md): apptainer build koala.sif docker-daemon://koala:latest
#                              enroot import --output koala.sqsh dockerd://koala
FROM python:3.11-slim-bookworm
# torch.compile writes C for the GPU's kernels and C++ for the CPU's
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc g++ libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY koala koala
COPY launch launch
COPY shards shards
COPY slurm slurm
ARG EXTRAS=demo
RUN python -m venv /opt/koala \
 && /opt/koala/bin/pip install --no-cache-dir --constraint constraints.txt ".${EXTRAS:+[$EXTRAS]}"
# what the NVIDIA container runtime lets in: all GPUs, and of the driver CUDA, nvidia-smi and the video codecs
ENV PATH=/opt/koala/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
WORKDIR /work
CMD ["koala", "--help"]
