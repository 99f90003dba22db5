# koala with all that it needs, as constraints.txt pins it. CUDA comes with torch and DALI, the driver with the host.
#
#   docker build --tag koala .
#   docker run --rm --gpus all --shm-size 8g --volume "$PWD:/work" koala koala train launch/smoke.toml --data.shards DIR
#
# For Slurm (slurm/README.md): apptainer build koala.sif docker-daemon://koala:latest
#                              enroot import --output koala.sqsh dockerd://koala
FROM python:3.11-slim-bookworm
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY koala koala
COPY launch launch
COPY shards shards
COPY slurm slurm
RUN python -m venv /opt/koala \
 && /opt/koala/bin/pip install --no-cache-dir --constraint constraints.txt ".[demo]"
ENV PATH=/opt/koala/bin:$PATH
WORKDIR /work
CMD ["koala", "--help"]
