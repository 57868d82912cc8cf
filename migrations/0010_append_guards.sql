-- Guards of `sandmill.append`: a size limit, bounds that keep JSON readable in every plugin
-- language, and a check of the cluster.
--
-- * Size: data and metadata of an event together have at most `store.max_event_bytes` bytes as
--   text. Default 4 MiB, changed by `sandmill migrate --max-event-bytes N`. Its upper bound of 32
--   MiB keeps an event below what a host and a plugin can hold several times.
-- * Readability: JSON is nested at most 512 levels, and a number has at most 1,000 characters.
--   CPython's parser fails near 1,000 levels and rejects integers over 4,300 digits; QuickJS fails
--   near 3,000 levels. Both would trap before a plugin's own code runs.
-- * Cluster: events carry transaction ids, which mean nothing in another cluster. An event that is
--   appended to a restored store before `sandmill migrate --reanchor` could look handled to every
--   processor, so `append` refuses it.
--
-- The functions use the caller's search_path, because pinning it costs a few per cent of an append.
-- Instead, each function is called by its schema and each operator fits its operand types exactly,
-- so no object of another schema can take part.

alter table sandmill.store
  -- The most bytes that data and metadata of an event may have together, as text.
  add column max_event_bytes integer not null default 4194304 check (max_event_bytes between 1024 and 33554432);

-- The system identifier of this database cluster. Runs with its owner's rights, so that a role that
-- appends needs no right to call pg_control_system.
create function sandmill.this_cluster() returns bigint
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select system_identifier from pg_control_system()
$$;

-- Begins an append: checks the cluster, locks the tenant if the store is ordered by tenant, and
-- returns the size limit of an event in bytes.
create function sandmill.begin_append(p_tenant text) returns integer
language plpgsql as $$
declare
  v_store record;
  v_cluster text;
begin
  select s.ordering, s.max_event_bytes, s.system_identifier::text as cluster into v_store from sandmill.store s;
  if not found then
    -- A change of the ordering truncates and refills its table. A repeatable-read transaction with
    -- an older snapshot then finds no row, instead of the old ordering.
    raise exception 'the order of the store was changed while this transaction ran'
      using errcode = 'serialization_failure', hint = 'Repeat the transaction.';
  end if;
  -- Reading the control file takes 10 µs, so a session asks once and keeps the answer. A session
  -- never moves to another cluster. A role that sets this by hand deceives only itself.
  if pg_catalog.current_setting('sandmill.cluster', true) is distinct from v_store.cluster then
    v_cluster := sandmill.this_cluster()::text;
    if v_cluster <> v_store.cluster then
      raise exception 'this event store belongs to another database cluster: it was restored from a dump, moved or upgraded'
        using errcode = 'SM421',
              detail = pg_catalog.format('The store has system identifier %s, this cluster has %s.', v_store.cluster, v_cluster),
              hint = 'Run `sandmill migrate --reanchor`, then append again. Nothing was appended.';
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

-- The reason why a JSON text is unreadable in some plugin language, or null. Takes time linear in
-- the text's length. A text of at most 1,000 bytes is always readable. Two searches for brackets
-- and a look at every 1,000th byte clear nearly all others; only the remaining ones are examined
-- exactly.
create function sandmill.unreadable_json(p_json text) returns text
language plpgsql immutable strict as $$
declare
  -- The bytes of a number: + - . 0 to 9 E e
  c_number constant int[] := array[43, 45, 46, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 69, 101];
  -- Text, including strings, that has no bracket, or no part of a number, as regular expressions.
  c_no_brackets constant text := '(?:"(?:[^"\\]|\\.)*"|[^][{}"]+)+';
  c_no_numbers constant text := '(?:"(?:[^"\\]|\\.)*"|[^-+.0-9Ee"]+)+';
  v_deep boolean;
  v_brackets text;
  v_run text;
  v_depth int := 0;
  v_bytes bytea;
  v_last int;
begin
  if pg_catalog.octet_length(p_json) <= 1000 then
    return null;
  end if;
  if pg_catalog.strpos(p_json, '[') > 0
     and pg_catalog.octet_length(pg_catalog.replace(p_json, '[', '')) < pg_catalog.octet_length(p_json) - 256
     or pg_catalog.strpos(p_json, '{') > 0
     and pg_catalog.octet_length(pg_catalog.replace(p_json, '{', '')) < pg_catalog.octet_length(p_json) - 256 then
    begin
      v_deep := pg_catalog.jsonb_path_exists(p_json::jsonb, 'strict $.**{512}.type() ? (@ == "array" || @ == "object")');
    exception when others then
      -- jsonb cannot hold a number of this text, or is itself too deep. Counting brackets takes
      -- several times as long.
      v_brackets := pg_catalog.translate(pg_catalog.regexp_replace(p_json, c_no_brackets, '', 'g'), '{}', '[]');
      v_deep := false;
      -- Each run of brackets first goes up, then down.
      foreach v_run in array pg_catalog.string_to_array(pg_catalog.replace(v_brackets, '][', '] ['), ' ') loop
        v_depth := v_depth + pg_catalog.octet_length(pg_catalog.rtrim(v_run, ']'));
        v_deep := v_deep or v_depth > 512;
        v_depth := v_depth - pg_catalog.octet_length(pg_catalog.ltrim(v_run, '['));
      end loop;
    end;
    if v_deep then
      return 'is nested deeper than 512 levels';
    end if;
  end if;
  -- A plain copy, except where the text would be converted for the client.
  v_bytes := case pg_catalog.pg_client_encoding() when 'UTF8' then pg_catalog.textsend(p_json) else pg_catalog.convert_to(p_json, 'UTF8') end;
  v_last := pg_catalog.octet_length(v_bytes) - 1;
  -- A number of more than 1,000 characters covers one of these places, and 500 characters before or
  -- after it.
  for v_place in 1000..v_last by 1000 loop
    if pg_catalog.get_byte(v_bytes, v_place) = any (c_number)
       and (pg_catalog.get_byte(v_bytes, v_place - 50) = any (c_number)
            and pg_catalog.get_byte(v_bytes, v_place - 125) = any (c_number)
            and pg_catalog.get_byte(v_bytes, v_place - 200) = any (c_number)
            and pg_catalog.get_byte(v_bytes, v_place - 350) = any (c_number)
            and pg_catalog.get_byte(v_bytes, v_place - 499) = any (c_number)
         or pg_catalog.get_byte(v_bytes, least(v_place + 50, v_last)) = any (c_number)
            and pg_catalog.get_byte(v_bytes, least(v_place + 125, v_last)) = any (c_number)
            and pg_catalog.get_byte(v_bytes, least(v_place + 200, v_last)) = any (c_number)
            and pg_catalog.get_byte(v_bytes, least(v_place + 350, v_last)) = any (c_number)
            and pg_catalog.get_byte(v_bytes, least(v_place + 499, v_last)) = any (c_number)) then
      if exists (
        select
        from pg_catalog.unnest(pg_catalog.string_to_array(pg_catalog.regexp_replace(p_json, c_no_numbers, ' ', 'g'), ' ')) as part (number)
        where pg_catalog.octet_length(part.number) > 1000
      ) then
        return 'has a number of more than 1,000 characters';
      end if;
      exit;
    end if;
  end loop;
  return null;
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
--   SM409             the stream is at a different version
--   SM413             an event is larger than the store's limit
--   SM421             the store was restored from a dump or moved, and is not re-anchored yet
--   SM422             an event is nested too deeply, or has too long a number
--   unique_violation  the tenant already has an event with this id
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
language plpgsql as $$
declare
  v_count int := coalesce(pg_catalog.cardinality(p_types), 0);
  v_limit int;
  v_largest int;
  v_bytes int;
  v_fault text;
  v_before bigint;
begin
  if v_count = 0 then
    raise exception 'sandmill.append: no events given' using errcode = '22023', hint = 'Pass at least one event type and its data.';
  end if;
  if coalesce(pg_catalog.cardinality(p_data), 0) <> v_count
     or coalesce(pg_catalog.cardinality(p_metadata), v_count) <> v_count
     or coalesce(pg_catalog.cardinality(p_ids), v_count) <> v_count
     or coalesce(pg_catalog.cardinality(p_recorded_at), v_count) <> v_count then
    raise exception 'sandmill.append: % types, but % data, % metadata, % ids and % times',
      v_count, pg_catalog.cardinality(p_data), pg_catalog.cardinality(p_metadata), pg_catalog.cardinality(p_ids),
      pg_catalog.cardinality(p_recorded_at)
      using errcode = '22023', hint = 'All arrays have one entry for each event; leave out the optional ones altogether.';
  end if;

  v_limit := sandmill.begin_append(p_tenant);
  -- Up to 1,000 bytes in total no check can fail: no limit is lower.
  if pg_catalog.pg_column_size(p_data) + coalesce(pg_catalog.pg_column_size(p_metadata), 0) > 1000 then
    -- Arrays with other bounds or more dimensions become plain ones, so that the loop sees every
    -- event.
    if pg_catalog.array_ndims(p_data) <> 1 or pg_catalog.array_lower(p_data, 1) <> 1 then
      p_data := array(select e from unnest(p_data) as e);
    end if;
    if pg_catalog.array_ndims(p_metadata) <> 1 or pg_catalog.array_lower(p_metadata, 1) <> 1 then
      p_metadata := array(select e from unnest(p_metadata) as e);
    end if;
    if v_count > 1 then
      -- Cheaper than the loop for many small events.
      select pg_catalog.max(pg_catalog.octet_length(n.data::text) + coalesce(pg_catalog.octet_length(n.metadata::text), 0))
      into v_largest from unnest(p_data, p_metadata) as n (data, metadata);
    end if;
    for v_ordinal in 1..case when v_largest <= 1000 then 0 else v_count end loop
      v_bytes := pg_catalog.octet_length(p_data[v_ordinal]::text) + coalesce(pg_catalog.octet_length(p_metadata[v_ordinal]::text), 0);
      continue when v_bytes <= 1000;
      if v_bytes > v_limit then
        raise exception 'event % of % for stream % of tenant % has % bytes of data and metadata; this store takes % at most',
          v_ordinal, v_count, p_stream, p_tenant, v_bytes, v_limit
          using errcode = 'SM413',
                hint = 'Keep large content elsewhere and append a reference to it, or raise the limit: sandmill migrate --max-event-bytes N';
      end if;
      v_fault := coalesce('data ' || sandmill.unreadable_json(p_data[v_ordinal]::text),
                          'metadata ' || sandmill.unreadable_json(p_metadata[v_ordinal]::text));
      if v_fault is not null then
        raise exception 'event % of % for stream % of tenant %: its %', v_ordinal, v_count, p_stream, p_tenant, v_fault
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
            hint = 'Read the stream again and decide anew, or pass null to append whatever its version.';
  end if;

  -- The sequence is drawn above the sort, row by row, after the stream's row was locked.
  return query
    insert into sandmill.events as e (tenant, stream, version, type, id, recorded_at, data, metadata)
    select p_tenant, p_stream, v_before + n.ordinal, n.type, coalesce(n.id, pg_catalog.gen_random_uuid()::text),
           coalesce(n.recorded_at, pg_catalog.now()), n.data, coalesce(n.metadata, '{}')
    from unnest(p_types, p_data, p_metadata, p_ids, p_recorded_at)
         with ordinality as n (type, data, metadata, id, recorded_at, ordinal)
    order by n.ordinal
    returning e.id, e.version, e.position;
end
$$;

drop function sandmill.lock_tenant_order(text);

-- The same rules, cheaper: most texts contain no backslash, and one byte is found faster than two.
-- Existing rows passed the same check, so they need no validation.
alter table sandmill.events
  drop constraint events_data_check,
  drop constraint events_metadata_text_check,
  add constraint events_data_check
    check (strpos(data::text, '\') = 0 or strpos(data::text, '\u') = 0 or data::jsonb is not null) not valid,
  add constraint events_metadata_text_check
    check (strpos(metadata::text, '\') = 0 or strpos(metadata::text, '\u') = 0 or metadata::jsonb is not null) not valid;
