-- Messages of `sandmill.append`: each refusal names the stream, its tenant, the event by its place
-- and id, the broken rule with its limit, and the remedy. SQLSTATEs and names of constraints stay.
--
-- A successful append pays nothing for that. The rules of a single event are part of the
-- expressions that make its row, and a message is built only for a refusal. An existing id makes no
-- row: an error of the unique index would end the function before it could name the event.

-- Names an event in a refusal: `event 2 of 3 (id e-7) for stream cart-1 of tenant acme`.
create function sandmill.event_in_words(p_tenant text, p_stream text, p_ordinal bigint, p_count integer, p_id text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format('event %s of %s%s for stream %s of tenant %s', p_ordinal, p_count, ' (id ' || left(p_id, 200) || ')', p_stream, p_tenant)
$$;

-- Refuses an event because one of its parts breaks a rule of the table. Never returns.
create function sandmill.refuse_event(
  p_tenant text, p_stream text, p_ordinal bigint, p_count integer, p_id text, p_part text, p_value text
) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_wrong text := case
    when p_value is null then 'is null'
    when p_part = 'time' then 'is ' || p_value
    when p_part = 'metadata' then format('is of the JSON type %s', json_typeof(p_value::json))
    when p_value = '' then 'is empty'
    else format('has %s bytes', octet_length(p_value))
  end;
begin
  raise exception '%: its % %; %', sandmill.event_in_words(p_tenant, p_stream, p_ordinal, p_count, p_id), p_part, v_wrong,
    case p_part
      when 'time' then 'a time must be finite'
      when 'metadata' then 'metadata must be an object'
      when 'data' then 'data must be JSON'
      else '1 to 200 bytes are allowed'
    end
    using
      errcode = case when p_value is null then '23502' else '23514' end,
      schema = 'sandmill', table = 'events', column = case p_part when 'time' then 'recorded_at' else p_part end,
      constraint = case when p_value is null then '' else format('events_%s_check', case p_part when 'time' then 'recorded_at' else p_part end) end,
      hint = case p_part
        when 'type' then 'Give the event a short type, and put the rest into its data.'
        when 'id' then 'Give the event a shorter id, or none: then the store makes one.'
        when 'time' then 'Leave the time out for the present one.'
        when 'metadata' then 'Put the value into an object, such as {"value": …}, or leave the metadata out.'
        else 'For an event without data pass the JSON null, ''null''::json.'
      end || ' Nothing was appended.';
end
$$;

-- Whether documents can hold a JSON text. If not, raises the reason with the SQLSTATE of the cast
-- to jsonb. Called only for texts with an escape.
create function sandmill.fits_jsonb(p_json json, p_part text, p_tenant text, p_stream text, p_version bigint, p_id text) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_message text;
  v_detail text;
begin
  return p_json::jsonb is not null;
exception when others then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail;
  raise exception 'the event with the id %, as version % of stream % of tenant %: its % cannot be part of a document: %',
    p_id, p_version, p_stream, p_tenant, p_part, v_message
    using errcode = sqlstate, detail = v_detail,
          hint = 'Replace U+0000 and lone surrogates, or encode the text, for example in base64. Nothing was appended.';
end
$$;

-- The same rules with better messages.
alter table sandmill.events
  drop constraint events_data_check,
  drop constraint events_metadata_text_check,
  add constraint events_data_check
    check (strpos(data::text, '\') = 0 or strpos(data::text, '\u') = 0 or sandmill.fits_jsonb(data, 'data', tenant, stream, version, id)) not valid,
  add constraint events_metadata_text_check
    check (strpos(metadata::text, '\') = 0 or strpos(metadata::text, '\u') = 0 or sandmill.fits_jsonb(metadata, 'metadata', tenant, stream, version, id)) not valid;

-- Begins an append: checks the cluster, locks the tenant if the store is ordered by tenant, and
-- returns the size limit of an event in bytes. p_stream is used in messages only; an import of
-- several streams passes null.
drop function sandmill.begin_append(text);
create function sandmill.begin_append(p_tenant text, p_stream text default null) returns integer
language plpgsql as $$
declare
  v_store record;
  v_cluster text;
  v_what text := coalesce('stream ' || p_stream || ' of ', '');
begin
  select s.ordering, s.max_event_bytes, s.system_identifier::text as cluster into v_store from sandmill.store s;
  if not found then
    -- A change of the ordering truncates and refills its table. A repeatable-read transaction with
    -- an older snapshot then finds no row, instead of the old ordering.
    raise exception 'nothing was appended to %tenant %: the order of the store was changed while this transaction ran', v_what, p_tenant
      using errcode = 'serialization_failure', hint = 'Repeat the transaction.';
  end if;
  -- Reading the control file takes 10 µs, so a session asks once and keeps the answer. A session
  -- never moves to another cluster. A role that sets this by hand deceives only itself.
  if pg_catalog.current_setting('sandmill.cluster', true) is distinct from v_store.cluster then
    v_cluster := sandmill.this_cluster()::text;
    if v_cluster <> v_store.cluster then
      raise exception 'nothing was appended to %tenant %: this event store belongs to another database cluster, because it was restored from a dump, moved or upgraded',
        v_what, p_tenant
        using errcode = 'SM421',
              detail = pg_catalog.format('The store has system identifier %s, this cluster has %s.', v_store.cluster, v_cluster),
              hint = 'Run `sandmill migrate --reanchor`, then append again.';
    end if;
    perform pg_catalog.set_config('sandmill.cluster', v_cluster, false);
  end if;
  if v_store.ordering = 'tenant' then
    -- 5 is the class of this lock among Sandmill's two-number advisory locks. Two tenants with the
    -- same hash only wait for each other.
    perform pg_catalog.pg_advisory_xact_lock(5, pg_catalog.hashtext(p_tenant));
  end if;
  return v_store.max_event_bytes;
end
$$;

-- Refuses a tenant's or a stream's name that is not allowed; returns if both are.
create function sandmill.refuse_names(p_tenant text, p_stream text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_stream constant text := coalesce(left(p_stream, 100) || case when length(p_stream) > 100 then '…' else '' end, 'null');
begin
  if p_tenant is null or not p_tenant collate "C" ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$' then
    raise exception 'nothing was appended to stream % of tenant %: a tenant''s name must be 1 to 64 letters, digits, dots, hyphens or underscores, and begin with a letter or digit',
      v_stream, coalesce(quote_literal(left(p_tenant, 100)) || case when length(p_tenant) > 100 then '…' else '' end, 'null')
      using errcode = case when p_tenant is null then '23502' else '23514' end,
            schema = 'sandmill', table = 'streams', column = 'tenant', constraint = case when p_tenant is null then '' else 'streams_tenant_check' end,
            hint = 'Use another name; an application without tenants can use ''default''.';
  end if;
  if p_stream is null or octet_length(p_stream) not between 1 and 512 then
    raise exception 'nothing was appended to stream % of tenant %: a stream''s name must have 1 to 512 bytes, and this one %',
      v_stream, p_tenant, coalesce('has ' || octet_length(p_stream), 'is null')
      using errcode = case when p_stream is null then '23502' else '23514' end,
            schema = 'sandmill', table = 'streams', column = 'stream', constraint = case when p_stream is null then '' else 'streams_stream_check' end,
            hint = 'Use a shorter name, such as a kind and an id: cart-17.';
  end if;
end
$$;

-- Refuses the event whose id is taken, when fewer rows were made than events were given. The tenant
-- has the id already, or it was given twice. Never returns.
create function sandmill.refuse_ids(
  p_tenant text, p_stream text, p_before bigint, p_types text[], p_data json[], p_metadata json[], p_ids text[]
) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v record;
begin
  -- An event of this call has the version of its place. Any other is an earlier event or a twin.
  select given.id, given.place, e.stream, e.version,
    e.stream = p_stream and e.version > p_before as is_twin,
    e.stream = p_stream and e.type = given.type and e.data::text = given.data::text
      and e.metadata::text = coalesce(given.metadata, '{}')::text as is_same
  into strict v
  from unnest(p_ids, p_types, p_data, p_metadata) with ordinality as given (id, type, data, metadata, place)
  join sandmill.events e on e.tenant = p_tenant and e.id = given.id
  where e.stream <> p_stream or e.version <> p_before + given.place
  order by given.place limit 1;
  raise exception '%: %', sandmill.event_in_words(p_tenant, p_stream, v.place, cardinality(p_ids), v.id),
    case
      when v.is_twin then format('event %s has the same id', v.version - p_before)
      when v.is_same then format('this event was appended before, as version %s', v.version)
      else format('its id is taken by an event with other content, version %s of stream %s', v.version, v.stream)
    end
    using errcode = '23505', schema = 'sandmill', table = 'events', constraint = 'events_tenant_id_key',
          detail = format('Key (tenant, id)=(%s, %s) already exists.', p_tenant, v.id),
          hint = case when v.is_same and not v.is_twin then 'If this is a repeated attempt, the first one succeeded.'
            else 'Give each event an id of its own, or none: then the store makes one.' end || ' Nothing was appended.';
end
$$;

-- Appends events to a stream in the caller's transaction. Returns one row per event, in order.
--
--   select * from sandmill.append(
--     'acme', 'cart-1', array['ItemAdded'], array['{"sku":"x"}']::json[]);
--
-- p_expected_version: null = any version, 0 = the stream must not exist, n = its last event must
-- have version n. Errors, after which nothing is appended:
--
--   SM409                   the stream is at a different version, which is the error's detail
--   23505 unique_violation  the tenant already has an event with this id
--   SM413                   an event is larger than the store's limit
--   SM422                   an event is nested too deeply, or has too long a number
--   22P05, 22P02            an event contains what no document can: U+0000 or a lone surrogate
--   23514, 23502            a name, type, id, time or metadata is not allowed, or null
--   22023                   no events, or arrays of different lengths
--   SM421                   the store was restored from a dump or moved, and is not re-anchored yet
--   40001                   the ordering changed during the transaction, which must be repeated
create or replace function sandmill.append(
  p_tenant text,
  p_stream text,
  p_types text[],
  p_data json[],
  p_expected_version bigint default null,
  p_metadata json[] default null,
  p_ids text[] default null,
  p_recorded_at timestamptz[] default null
) returns table (event_id text, stream_version bigint, log_position bigint)
-- With one plan for all parameters. By default PostgreSQL plans the insert with ids again for each
-- call, which takes 130 µs and finds the same plan.
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan as $$
declare
  v_count int := coalesce(cardinality(p_types), 0);
  v_limit int;
  v_largest int;
  v_bytes int;
  v_fault text;
  v_before bigint;
  v_inserted bigint;
begin
  if v_count = 0 then
    raise exception 'nothing was appended to stream % of tenant %: no events were given', p_stream, p_tenant
      using errcode = '22023', hint = 'Pass at least one event type and its data.';
  end if;
  if coalesce(cardinality(p_data), 0) <> v_count
     or coalesce(cardinality(p_metadata), v_count) <> v_count
     or coalesce(cardinality(p_ids), v_count) <> v_count
     or coalesce(cardinality(p_recorded_at), v_count) <> v_count then
    raise exception 'nothing was appended to stream % of tenant %: there are % types, but % data, % metadata, % ids and % times',
      p_stream, p_tenant, v_count, coalesce(cardinality(p_data), 0), coalesce(cardinality(p_metadata)::text, 'no'),
      coalesce(cardinality(p_ids)::text, 'no'), coalesce(cardinality(p_recorded_at)::text, 'no')
      using errcode = '22023', hint = 'All arrays have one entry for each event; leave out the optional ones altogether.';
  end if;
  if (p_tenant collate "C" ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$' and octet_length(p_stream) between 1 and 512) is not true then
    perform sandmill.refuse_names(p_tenant, p_stream);
  end if;

  v_limit := sandmill.begin_append(p_tenant, p_stream);
  -- Up to 1,000 bytes in total no check can fail: no limit is lower.
  if pg_column_size(p_data) + coalesce(pg_column_size(p_metadata), 0) > 1000 then
    -- Arrays with other bounds or more dimensions become plain ones, so that the loop sees every
    -- event.
    if array_ndims(p_data) <> 1 or array_lower(p_data, 1) <> 1 then
      p_data := array(select e from unnest(p_data) as e);
    end if;
    if array_ndims(p_metadata) <> 1 or array_lower(p_metadata, 1) <> 1 then
      p_metadata := array(select e from unnest(p_metadata) as e);
    end if;
    if v_count > 1 then
      -- Cheaper than the loop for many small events.
      select max(octet_length(n.data::text) + coalesce(octet_length(n.metadata::text), 0))
      into v_largest from unnest(p_data, p_metadata) as n (data, metadata);
    end if;
    for v_ordinal in 1..case when v_largest <= 1000 then 0 else v_count end loop
      v_bytes := octet_length(p_data[v_ordinal]::text) + coalesce(octet_length(p_metadata[v_ordinal]::text), 0);
      continue when v_bytes <= 1000;
      if v_bytes > v_limit then
        raise exception '% has % bytes of data and metadata; this store takes % at most',
          sandmill.event_in_words(p_tenant, p_stream, v_ordinal, v_count, (array(select unnest(p_ids)))[v_ordinal]), v_bytes, v_limit
          using errcode = 'SM413',
                hint = 'Keep large content elsewhere and append a reference to it, or raise the limit: sandmill migrate --max-event-bytes N';
      end if;
      v_fault := coalesce('data ' || sandmill.unreadable_json(p_data[v_ordinal]::text),
                          'metadata ' || sandmill.unreadable_json(p_metadata[v_ordinal]::text));
      if v_fault is not null then
        raise exception '%: its %',
          sandmill.event_in_words(p_tenant, p_stream, v_ordinal, v_count, (array(select unnest(p_ids)))[v_ordinal]), v_fault
          using errcode = 'SM422', hint = 'Plugins could not read it. Flatten it, or write the number as a string.';
      end if;
    end loop;
  end if;

  insert into sandmill.streams as s (tenant, stream, version) values (p_tenant, p_stream, v_count)
    on conflict (tenant, stream) do update set version = s.version + v_count
    returning s.version - v_count into v_before;
  if p_expected_version is distinct from null and p_expected_version <> v_before then
    raise exception 'stream % of tenant % is at version %, expected %', p_stream, p_tenant, v_before, p_expected_version
      using errcode = 'SM409', detail = v_before::text,
            hint = 'Read the stream again and repeat the decision, or pass null to append at any version. Nothing was appended.';
  end if;
  -- The sequence is drawn above the sort, row by row, after the stream's row was locked.
  if p_ids is null then
    return query
      insert into sandmill.events as e (tenant, stream, version, type, recorded_at, data, metadata)
      select p_tenant, p_stream, v_before + n.ordinal,
        case when octet_length(n.type) between 1 and 200 then n.type
          else sandmill.refuse_event(p_tenant, p_stream, n.ordinal, v_count, null, 'type', n.type) end,
        case when n.recorded_at is null then now()
          when isfinite(n.recorded_at) then n.recorded_at
          else sandmill.refuse_event(p_tenant, p_stream, n.ordinal, v_count, null, 'time', n.recorded_at::text)::timestamptz end,
        case when n.data is not null then n.data
          else sandmill.refuse_event(p_tenant, p_stream, n.ordinal, v_count, null, 'data', null)::json end,
        case when n.metadata is null then '{}'
          when json_typeof(n.metadata) = 'object' then n.metadata
          else sandmill.refuse_event(p_tenant, p_stream, n.ordinal, v_count, null, 'metadata', n.metadata::text)::json end
      from unnest(p_types, p_data, p_metadata, p_recorded_at) with ordinality as n (type, data, metadata, recorded_at, ordinal)
      order by n.ordinal
      returning e.id, e.version, e.position;
    return;
  end if;

  -- An existing id makes no row, even if another transaction inserts it at the same time.
  return query
    insert into sandmill.events as e (tenant, stream, version, type, id, recorded_at, data, metadata)
    select p_tenant, p_stream, v_before + n.ordinal,
      case when octet_length(n.type) between 1 and 200 then n.type
        else sandmill.refuse_event(p_tenant, p_stream, n.ordinal, v_count, n.id, 'type', n.type) end,
      case when n.id is null then gen_random_uuid()::text
        when octet_length(n.id) between 1 and 200 then n.id
        else sandmill.refuse_event(p_tenant, p_stream, n.ordinal, v_count, null, 'id', n.id) end,
      case when n.recorded_at is null then now()
        when isfinite(n.recorded_at) then n.recorded_at
        else sandmill.refuse_event(p_tenant, p_stream, n.ordinal, v_count, n.id, 'time', n.recorded_at::text)::timestamptz end,
      case when n.data is not null then n.data
        else sandmill.refuse_event(p_tenant, p_stream, n.ordinal, v_count, n.id, 'data', null)::json end,
      case when n.metadata is null then '{}'
        when json_typeof(n.metadata) = 'object' then n.metadata
        else sandmill.refuse_event(p_tenant, p_stream, n.ordinal, v_count, n.id, 'metadata', n.metadata::text)::json end
    from unnest(p_types, p_data, p_metadata, p_ids, p_recorded_at)
         with ordinality as n (type, data, metadata, id, recorded_at, ordinal)
    order by n.ordinal
    on conflict on constraint events_tenant_id_key do nothing
    returning e.id, e.version, e.position;
  get diagnostics v_inserted = row_count;
  if v_inserted < v_count then
    perform sandmill.refuse_ids(p_tenant, p_stream, v_before, p_types, p_data, p_metadata, p_ids);
  end if;
end
$$;
