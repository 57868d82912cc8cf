-- Renames the event `refused` of a plugin's history to `rejected`: a host rejects files. It refuses
-- only calls, which a limit does not allow.

do $$
declare
  v_name text;
begin
  for v_name in
    select conname from pg_constraint
    where conrelid = 'sandmill.plugin_versions'::regclass and contype = 'c' and strpos(pg_get_constraintdef(oid), '''refused''') > 0
  loop
    execute format('alter table sandmill.plugin_versions drop constraint %I', v_name);
  end loop;
end
$$;
update sandmill.plugin_versions set event = 'rejected' where event = 'refused';
alter table sandmill.plugin_versions
  add constraint plugin_versions_event_check
    check (event in ('started', 'swapped', 'restarted', 'rolled-back', 'renamed', 'stopped', 'rejected')),
  add constraint plugin_versions_reason_check check (event <> 'rejected' or reason <> '');
