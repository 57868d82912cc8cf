-- Reads the audit log, newest first.
--
-- $1 text         processor; null = all
-- $2 text         tenant; null = all
-- $3 timestamptz  earliest time; null = any
-- $4 bigint       id of the last row of the page before; only older rows are read
-- $5 bigint       maximum number of rows
select id, at, who, role, command, processor, tenant, lane_key, details
from sandmill.audit
where id < $4::bigint and ($1::text is null or processor = $1::text) and ($2::text is null or tenant = $2::text)
  and ($3::timestamptz is null or at >= $3::timestamptz)
order by id desc
limit $5::bigint
