-- Readies a session for reading. It may not write. And as each of its statements has one index that is right for it whatever the log
-- holds, the planner is left no other way: statistics of a log that grows are always behind, and differ from the parameters of the
-- moment. So no scan of the table, no sort, and one plan for all parameters, which also saves planning at every look.
select set_config(name, value, false)
from (values
  ('default_transaction_read_only', 'on'),
  ('plan_cache_mode', 'force_generic_plan'),
  ('enable_seqscan', 'off'),
  ('enable_bitmapscan', 'off'),
  ('enable_sort', 'off'),
  ('enable_incremental_sort', 'off')
) as setting (name, value)
