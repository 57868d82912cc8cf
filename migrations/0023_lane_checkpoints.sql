-- Renames `sandmill.exceptions` to `sandmill.lane_checkpoints`: each row is the checkpoint of one
-- lane that lags behind the cursor. Its index and constraints are renamed with it.

alter table sandmill.exceptions rename to lane_checkpoints;
alter index sandmill.exceptions_resumed rename to lane_checkpoints_resumed;

do $$
declare
  v_name text;
begin
  for v_name in
    select conname from pg_constraint
    where conrelid = 'sandmill.lane_checkpoints'::regclass and starts_with(conname, 'exceptions')
  loop
    execute format('alter table sandmill.lane_checkpoints rename constraint %I to %I', v_name,
                   'lane_checkpoints' || substr(v_name, length('exceptions') + 1));
  end loop;
end
$$;
