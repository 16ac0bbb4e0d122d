# One image for every process of the shop; docker-compose.yml says which process a container is.
FROM python:3.11-slim AS packages
COPY requirements.txt .
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --require-hashes -r requirements.txt

FROM python:3.11-slim
RUN groupadd --gid 10001 shop \
    && useradd --uid 10001 --gid shop --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin shop \
    && install --directory --owner=shop --group=shop --mode=700 /data
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 DATA_DIR=/data
WORKDIR /app
COPY --from=packages /venv /venv
COPY . .
# Collecting needs some key to start Django. This one is used on this line only.
RUN SECRET_KEY=thrown-away python manage.py collectstatic --noinput
USER shop
