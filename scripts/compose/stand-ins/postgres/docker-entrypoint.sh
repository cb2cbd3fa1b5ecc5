#!/bin/sh
# What the image `postgres` does with POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB: make the cluster once, then run.
set -eu
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA"
    chown postgres:postgres "$PGDATA" /var/run/postgresql
    chmod 700 "$PGDATA"
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi
user=${POSTGRES_USER:-postgres}
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    if [ -z "${POSTGRES_PASSWORD:-}" ]; then
        echo "Error: Database is uninitialized and superuser password is not specified. Set POSTGRES_PASSWORD." >&2
        exit 1
    fi
    secret=$(mktemp)
    echo "$POSTGRES_PASSWORD" >"$secret"
    initdb -D "$PGDATA" -U "$user" --pwfile="$secret" -A scram-sha-256 --auth-local=trust -E UTF8 --locale=C.UTF-8
    rm -f "$secret"
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    pg_ctl -D "$PGDATA" -w -o "-c listen_addresses=" start
    if [ "${POSTGRES_DB:-$user}" != postgres ]; then
        psql -U "$user" -d postgres -c "create database \"${POSTGRES_DB:-$user}\""
    fi
    pg_ctl -D "$PGDATA" -w -m fast stop
fi
exec "$@" -c listen_addresses='*'
