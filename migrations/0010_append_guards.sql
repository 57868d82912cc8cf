-- Guards of `sandmill.append`: a size limit for events, bounds that keep JSON readable in every plugin language, and a refusal on a
-- cluster that is not the store's.
--
-- Size. An event's data and metadata together have at most `store.max_event_bytes` bytes, as text. Default 4 MiB; change it with
-- `sandmill migrate --max-event-bytes N`. The upper bound keeps an event below what a host and a plugin can hold several times.
--
-- Readability. JSON is nested 512 levels at most, and a number has 1,000 characters at most. CPython's parser ends near 1,000 levels
-- and refuses integers over 4,300 digits, QuickJS ends near 3,000 levels; both would trap before a plugin's own code runs.
--
-- Cluster. Events carry transaction ids, which mean nothing in another cluster. An event that is appended to a restored store before
-- `sandmill migrate --reanchor` may look handled to every processor, so `append` refuses there.
--
-- The functions run with their caller's search_path: pinning it costs a few per cent of an append. Instead every function is called
-- by its schema, and every operator fits its operands exactly, so that nothing in another schema takes part.

alter table sandmill.store
  add column max_event_bytes integer not null default 4194304 check (max_event_bytes between 1024 and 33554432);

-- Returns the identifier of the cluster that this session is connected to. With the owner's rights: a role that may append need not
-- be allowed to call pg_control_system.
create function sandmill.this_cluster() returns bigint
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select system_identifier from pg_control_system()
$$;

-- Opens an append of a tenant: refuses a foreign cluster, takes the tenant's order where the store is ordered by tenant, and returns
-- the size limit of an event.
create function sandmill.begin_append(p_tenant text) returns integer
language plpgsql as $$
declare
  v_store record;
  v_cluster text;
begin
  select s.ordering, s.max_event_bytes, s.system_identifier::text as cluster into v_store from sandmill.store s;
  if not found then
    -- A change of the order refills its table by truncating, so that a snapshot taken before it, which a transaction at
    -- repeatable read keeps, finds no order rather than the old one.
    raise exception 'the order of the store was changed while this transaction ran'
      using errcode = 'serialization_failure', hint = 'Repeat the transaction.';
  end if;
  -- Reading the control file takes 10 µs, so a session asks once and keeps the answer. A session never moves between clusters. A role
  -- that sets this by hand deceives only itself.
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
    -- 5 is this lock's class among Sandmill's two-number advisory locks. Two tenants of one hash merely wait for each other.
    perform pg_catalog.pg_advisory_xact_lock(5, pg_catalog.hashtext(p_tenant));
  end if;
  return v_store.max_event_bytes;
end
$$;

-- Returns why a JSON text is unreadable for some plugin language, or null. Linear in the length of the text. Texts of at most 1,000
-- bytes are always readable. Two scans for brackets and a look at every 1,000th byte find almost all others readable; only what these
-- suspect is looked at exactly.
create function sandmill.unreadable_json(p_json text) returns text
language plpgsql immutable strict as $$
declare
  -- + - . 0 to 9 E e
  c_number constant int[] := array[43, 45, 46, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 69, 101];
  -- What is neither a bracket nor a part of a number, strings included, as one regular expression each.
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
      -- jsonb holds no text with such a number, or is too deep itself: brackets are counted, which takes several times as long.
      v_brackets := pg_catalog.translate(pg_catalog.regexp_replace(p_json, c_no_brackets, '', 'g'), '{}', '[]');
      v_deep := false;
      -- Runs of brackets go up and down again.
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
  -- A plain copy, but where it would convert the text for the client.
  v_bytes := case pg_catalog.pg_client_encoding() when 'UTF8' then pg_catalog.textsend(p_json) else pg_catalog.convert_to(p_json, 'UTF8') end;
  v_last := pg_catalog.octet_length(v_bytes) - 1;
  -- A number of more than 1,000 characters covers a place of these, and 500 characters before or after it.
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

-- Appends events to a stream in the caller's transaction and returns one row for each, in order.
--
--   select * from sandmill.append('acme', 'cart-1', array['ItemAdded'], array['{"sku":"x"}']::json[]);
--
-- p_expected_version: null = any, 0 = the stream must not exist, n = its last event must have version n. What it raises, and appends
-- nothing then:
--   SM409             the stream has another version
--   SM413             an event is larger than the store takes
--   SM421             the store was restored from a dump or moved, and is not yet re-anchored
--   SM422             an event is nested too deeply, or has too long a number
--   unique_violation  an event of this tenant has the id already
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
  -- Below 1,000 bytes in all there is nothing to find: no limit is lower.
  if pg_catalog.pg_column_size(p_data) + coalesce(pg_catalog.pg_column_size(p_metadata), 0) > 1000 then
    -- What is not numbered from 1 in one dimension is numbered anew, so that no event passes unseen.
    if pg_catalog.array_ndims(p_data) <> 1 or pg_catalog.array_lower(p_data, 1) <> 1 then
      p_data := array(select e from unnest(p_data) as e);
    end if;
    if pg_catalog.array_ndims(p_metadata) <> 1 or pg_catalog.array_lower(p_metadata, 1) <> 1 then
      p_metadata := array(select e from unnest(p_metadata) as e);
    end if;
    if v_count > 1 then
      -- For many small events this is cheaper than the loop.
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

-- The same rules as before, cheaper: most texts have no backslash at all, and one byte is found faster than two. Rows that are there
-- passed the same test, so that there is nothing to validate.
alter table sandmill.events
  drop constraint events_data_check,
  drop constraint events_metadata_text_check,
  add constraint events_data_check
    check (strpos(data::text, '\') = 0 or strpos(data::text, '\u') = 0 or data::jsonb is not null) not valid,
  add constraint events_metadata_text_check
    check (strpos(metadata::text, '\') = 0 or strpos(metadata::text, '\u') = 0 or metadata::jsonb is not null) not valid;
