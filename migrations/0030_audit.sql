-- The audit log: what operators changed, when, and who did so.
--
-- A pause, a removal or a rollback changed the database without a trace of who asked for it. Each
-- such command now writes a row in the transaction of its change, so that neither exists without
-- the other. A role that may make the change may also delete the row; the log explains changes, and
-- does not prove them.
--
-- Rows outlive the processors that they name. Each new row deletes rows that are older than 400
-- days (`host/src/db/audit.rs`).
create table sandmill.audit (
  -- The order of the rows. Numbers may be missing.
  id bigint generated always as identity primary key,
  -- When the change was made.
  at timestamptz not null default now(),
  -- Who asked for it: a user of the operating system and a host, a person whom the command named,
  -- or the failure policy.
  who text not null,
  -- The database role that made it.
  role text not null default session_user,
  -- The command without its arguments, such as processors remove.
  command text not null,
  -- The processor; empty if it concerns none.
  processor text collate "C" not null,
  -- The tenant; empty if it concerns no single one.
  tenant text collate "C" not null,
  -- The lane; empty if it concerns no single one.
  lane_key text collate "C" not null,
  -- What else there is to know, as a JSON object that depends on the command.
  details json not null
);
-- Finds old rows.
create index audit_at on sandmill.audit (at);
-- Finds the rows of one tenant, newest first.
create index audit_tenant on sandmill.audit (tenant, id);
