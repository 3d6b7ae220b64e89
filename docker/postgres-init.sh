#!/bin/sh
# Run once by the image of PostgreSQL, on an empty volume: make the role `mo`, no superuser, and its database. The service logs
# in as it and acts as `mo_service`, which the first migration makes.
set -eu
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\getenv password MO_POSTGRES_PASSWORD
CREATE ROLE mo LOGIN CREATEROLE PASSWORD :'password';
CREATE DATABASE mo OWNER mo;
SQL
