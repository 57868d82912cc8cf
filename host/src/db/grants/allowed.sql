-- Whether a role may do what a permission is about, no matter why.
-- $1 role text · $2 permission text, append or read
select has_database_privilege($1::text::name, current_database(), 'connect') and case $2::text
  when 'append' then
    has_schema_privilege($1::text::name, 'sandmill', 'usage')
    and has_function_privilege($1::text::name, 'sandmill.append(text, text, text[], json[], bigint, json[], text[], timestamptz[])', 'execute')
    and (
      select bool_and(has_column_privilege($1::text::name, 'sandmill.events', name, 'select'))
      from unnest(array['position', 'tenant', 'stream', 'version', 'type', 'id', 'recorded_at', 'data', 'metadata']) as name
    )
  else
    coalesce(has_schema_privilege($1::text::name, to_regnamespace('public'), 'usage'), false)
    and not exists (
      select from sandmill.collections c
      where not has_table_privilege($1::text::name, to_regclass(format('public.%I', c.view)), 'select')
    )
end
