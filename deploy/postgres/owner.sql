-- Run once by the container of PostgreSQL, as its superuser, on an empty data directory: makes the role that owns the database and migrates it.
-- It has BYPASSRLS, because the policies are forced on owners too, and a migration or a backup has to see every row; it is no superuser.
-- The role that the service runs as is made by `python -m app.cli database prepare`.
\getenv owner_password DATABASE_OWNER_PASSWORD
CREATE ROLE saas_owner LOGIN NOSUPERUSER BYPASSRLS CREATEDB CREATEROLE PASSWORD :'owner_password';
CREATE DATABASE saas OWNER saas_owner TEMPLATE template0 ENCODING 'UTF8';
