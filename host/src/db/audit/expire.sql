-- Deletes old rows of the audit log. Rows that another command deletes at the same time are left to
-- it.
--
-- $1 integer  age in days
-- $2 bigint   maximum number of rows
delete from sandmill.audit
where id in (
  select id from sandmill.audit
  where at < now() - make_interval(days => $1::integer)
  order by at
  limit $2::bigint
  for update skip locked
)
