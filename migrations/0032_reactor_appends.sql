-- Appends of reactors: events that the host appends in the transaction that moves its cursor.
--
-- An application may hold a stream's row lock indefinitely. Waiting for it would delay every other
-- lane in the commit. So the host does not wait. If a stream is busy, the function fails and names
-- the lanes that append to it; the host commits without them.

-- Appends events to many streams, of several lanes, in the caller's transaction. It never waits for
-- a stream that exists, and at most 20 ms for a new stream or for an id that another transaction
-- also uses. Errors name lanes by the caller's numbers:
--
--   SM424  streams are busy: another transaction, or another lane in this one, appends to them. The
--          detail is a JSON array of the lanes to leave out.
--   SM409  streams have other versions than expected. The detail is a JSON array with
--          [append, version] for each, counted from 1. The version includes what the lane itself
--          appends before.
--   SM413  an event is larger than the store's limit.
--   SM422  an event is nested too deeply, or has too long a number.
--   others as sandmill.append
--
-- p_tenants, p_streams: the streams, each once, in ascending order. Locks are taken in this order.
-- p_targets, p_lanes, p_expected, p_counts: one entry for each append, in order. The number of its
--   stream, its lane, the version expected before it (null: any), and its number of events.
--   Appends of one lane are adjacent.
-- p_naming: the lanes that append events with ids of their own choice.
-- p_appends, p_numbers, p_types, p_ids, p_data, p_metadata: one entry for each event, in order. The
--   number of its append, and its number in that append. Data and metadata are JSON.
create function sandmill.append_all(
  p_tenants text[],
  p_streams text[],
  p_targets int[],
  p_lanes int[],
  p_expected bigint[],
  p_counts int[],
  p_naming int[],
  p_appends int[],
  p_numbers int[],
  p_types text[],
  p_ids text[],
  p_data text[],
  p_metadata text[]
) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_streams constant int := cardinality(p_tenants);
  v_appends constant int := cardinality(p_targets);
  v_limit int;
  v_found record;
  -- The versions before: null for a stream that does not exist.
  v_stored bigint[] := array_fill(null::bigint, array[cardinality(p_tenants)]);
  -- The versions after the appends so far.
  v_versions bigint[] := array_fill(0::bigint, array[cardinality(p_tenants)]);
  -- The version before each append.
  v_before bigint[] := array_fill(0::bigint, array[cardinality(p_targets)]);
  v_busy int[] := '{}';
  v_conflicts text := '';
  v_neighbours text := '';
  v_lane int;
  v_lane_conflicts boolean;
  v_first int;
  v_version bigint;
  v_timeout text;
  v_current int;
begin
  -- Waits for the write-ahead log: no reader may see an event that a crash could undo.
  perform set_config('synchronous_commit', 'on', true);
  if (select s.ordering from sandmill.store s) = 'tenant' then
    -- The lock that sandmill.append waits for.
    select array_agg(n.ordinal) into v_busy
    from unnest(p_tenants) with ordinality as n (tenant, ordinal)
    where not pg_try_advisory_xact_lock(5, hashtext(n.tenant));
    v_busy := coalesce(v_busy, '{}');
  end if;
  if cardinality(v_busy) = 0 then
    v_limit := sandmill.begin_append(p_tenants[1], p_streams[1]);
    for v_found in
      select n.ordinal, s.version
      from unnest(p_tenants, p_streams) with ordinality as n (tenant, stream, ordinal)
        join sandmill.streams s on s.tenant = n.tenant and s.stream = n.stream
      order by n.ordinal
      for update of s skip locked
    loop
      v_stored[v_found.ordinal] := v_found.version;
      v_versions[v_found.ordinal] := v_found.version;
    end loop;
    -- A stream that exists and was not locked is busy.
    select coalesce(array_agg(n.ordinal), '{}') into v_busy
    from unnest(p_tenants, p_streams, v_stored) with ordinality as n (tenant, stream, stored, ordinal)
    where n.stored is null
      and exists (select from sandmill.streams s where s.tenant = n.tenant and s.stream = n.stream);
  end if;
  if cardinality(v_busy) > 0 then
    perform sandmill.refuse_busy(v_busy, p_targets, p_lanes);
  end if;

  for v_append in 1..v_appends loop
    if v_lane is distinct from p_lanes[v_append] then
      v_lane := p_lanes[v_append];
      v_lane_conflicts := false;
      v_first := v_append;
    end if;
    continue when v_lane_conflicts;
    v_before[v_append] := v_versions[p_targets[v_append]];
    if p_expected[v_append] <> v_before[v_append] then
      -- Undoes this lane's appends before those of later lanes are compared.
      for v_earlier in v_first..v_append - 1 loop
        v_versions[p_targets[v_earlier]] := v_versions[p_targets[v_earlier]] - p_counts[v_earlier];
      end loop;
      v_lane_conflicts := true;
      -- The version without the appends of other lanes.
      v_version := coalesce(v_stored[p_targets[v_append]], 0) + v_before[v_append] - v_versions[p_targets[v_append]];
      if v_version = p_expected[v_append] then
        v_neighbours := v_neighbours || ',' || v_lane;
      else
        v_conflicts := v_conflicts || ',[' || v_append || ',' || v_version || ']';
      end if;
      continue;
    end if;
    v_versions[p_targets[v_append]] := v_before[v_append] + p_counts[v_append];
  end loop;
  if v_conflicts <> '' then
    raise exception 'streams have other versions than expected'
      using errcode = 'SM409', detail = '[' || substr(v_conflicts, 2) || ']';
  end if;
  if v_neighbours <> '' then
    raise exception 'streams are busy: other lanes of the commit append to them'
      using errcode = 'SM424', detail = '[' || substr(v_neighbours, 2) || ']';
  end if;

  select n.type, n.append, octet_length(n.data) + octet_length(n.metadata) as bytes into v_found
  from unnest(p_appends, p_types, p_data, p_metadata) as n (append, type, data, metadata)
  where octet_length(n.data) + octet_length(n.metadata) > v_limit limit 1;
  if found then
    raise exception 'an event of type % for stream % of tenant % has % bytes of data and metadata; this store takes % at most',
      left(v_found.type, 100), left(p_streams[p_targets[v_found.append]], 100), p_tenants[p_targets[v_found.append]],
      v_found.bytes, v_limit
      using errcode = 'SM413',
            hint = 'Keep large content elsewhere and append a reference to it, or raise the limit: sandmill migrate --max-event-bytes N';
  end if;
  -- Up to 1,000 bytes the check cannot fail.
  select n.type, n.append, coalesce('data ' || sandmill.unreadable_json(n.data), 'metadata ' || sandmill.unreadable_json(n.metadata)) as fault
  into v_found
  from unnest(p_appends, p_types, p_data, p_metadata) as n (append, type, data, metadata)
  where octet_length(n.data) + octet_length(n.metadata) > 1000
    and (sandmill.unreadable_json(n.data) is not null or sandmill.unreadable_json(n.metadata) is not null)
  limit 1;
  if found then
    raise exception 'an event of type % for stream % of tenant %: its %',
      left(v_found.type, 100), left(p_streams[p_targets[v_found.append]], 100), p_tenants[p_targets[v_found.append]], v_found.fault
      using errcode = 'SM422', hint = 'Plugins could not read it. Flatten it, or write the number as a string.';
  end if;

  update sandmill.streams s set version = n.version
  from unnest(p_tenants, p_streams, v_versions, v_stored) as n (tenant, stream, version, stored)
  where n.stored is not null and s.tenant = n.tenant and s.stream = n.stream;
  -- All that follows may meet rows of another transaction: streams that it creates, and events with
  -- the same ids.
  v_timeout := current_setting('lock_timeout');
  perform set_config('lock_timeout', '20ms', true);
  begin
    for v_stream in 1..v_streams loop
      continue when v_stored[v_stream] is not null;
      v_current := v_stream;
      insert into sandmill.streams as s (tenant, stream, version)
      values (p_tenants[v_stream], p_streams[v_stream], v_versions[v_stream])
      on conflict (tenant, stream) do nothing;
      if not found then
        raise lock_not_available;
      end if;
    end loop;
    v_current := null;
    -- The sequence is drawn above the sort, row by row, after the streams' rows were locked. The
    -- xid is that of the whole transaction.
    insert into sandmill.events (tenant, stream, version, type, id, data, metadata)
    select s.tenant, s.stream, v_before[n.append] + n.number, n.type, n.id, n.data::json, n.metadata::json
    from unnest(p_appends, p_numbers, p_types, p_ids, p_data, p_metadata)
           with ordinality as n (append, number, type, id, data, metadata, ordinal)
      join unnest(p_tenants, p_streams) with ordinality as s (tenant, stream, ordinal)
        on s.ordinal = p_targets[n.append]
    order by n.ordinal;
  exception when lock_not_available then
    if v_current is not null then
      perform sandmill.refuse_busy(array[v_current], p_targets, p_lanes);
    end if;
    raise exception 'event ids are busy: another transaction appends events with them'
      using errcode = 'SM424',
            detail = '[' || array_to_string(case when cardinality(p_naming) > 0 then p_naming else p_lanes end, ',') || ']';
  end;
  perform set_config('lock_timeout', v_timeout, true);
end
$$;

-- Refuses appends to busy streams. Never returns.
create function sandmill.refuse_busy(p_busy int[], p_targets int[], p_lanes int[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception 'streams are busy: another transaction appends to them'
    using errcode = 'SM424',
          detail = (
            select '[' || string_agg(distinct n.lane::text, ',') || ']'
            from unnest(p_targets, p_lanes) as n (target, lane) where n.target = any (p_busy)
          );
end
$$;
