-- Configures a session for reading the log. No binds.
--
-- It is read-only. Each of its statements has one right index, no matter what the log contains, so
-- the planner gets no other choice. There is no table scan, no sort, and one plan for all
-- parameters. Statistics of a growing log are always outdated and do not fit the parameters. A
-- fixed plan also saves the planning of each read.
select set_config(name, value, false)
from (values
  ('default_transaction_read_only', 'on'),
  ('plan_cache_mode', 'force_generic_plan'),
  ('enable_seqscan', 'off'),
  ('enable_bitmapscan', 'off'),
  ('enable_sort', 'off'),
  ('enable_incremental_sort', 'off')
) as setting (name, value)
