#!/bin/sh
# Run once by the image of PostgreSQL, on an empty volume: make the role `mo`, no superuser, and its database. It owns the schema;
# `mo-grpc migrate` logs in with it, and creates the login of the service, `mo_service`.
set -eu
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\getenv password DATABASE_OWNER_PASSWD
CREATE ROLE mo LOGIN CREATEROLE PASSWORD :'password';
CREATE DATABASE mo OWNER mo;
SQL
