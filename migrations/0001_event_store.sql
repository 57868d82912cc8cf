-- The event store: streams, their events, and `sandmill.append`, the only way for applications to
-- append events.
--
-- Readers of the log rely on three rules:
--
-- * An event's position is drawn after its stream's row is locked. So positions grow within a
--   stream in the order of its versions.
-- * An event carries the id of the transaction that appended it (`xid`). So a reader can select
--   what is visible in one snapshot and not in another. Positions alone are not enough: they become
--   visible out of order.
-- * A row of `events` is never changed or deleted while a cursor needs it.
--
-- `data` and `metadata` are json instead of jsonb: the text is kept as written, and reading is two
-- to three times faster. Identifiers are compared by bytes (collation "C"), which is cheaper and
-- gives the same order on every machine.

-- Settings of the event store. Always one row.
create table sandmill.store (
  -- Allows one row only.
  singleton boolean primary key default true check (singleton),
  -- The scope within which events are ordered, changed by `sandmill migrate --ordering`:
  -- * stream: appends to one stream are serialized.
  -- * tenant: appends of one tenant are serialized. So positions, commits and deliveries of a
  --   tenant have one order.
  ordering text not null default 'stream' check (ordering in ('stream', 'tenant')),
  -- The database cluster that assigned the transaction ids in `events`. A dump that is restored
  -- into another cluster brings foreign ids, and the host must detect that.
  system_identifier bigint not null
);
insert into sandmill.store (system_identifier) select system_identifier from pg_control_system();

-- The streams, each with its version.
create table sandmill.streams (
  -- The tenant that owns the stream.
  tenant text collate "C" not null check (tenant ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
  -- The stream's name, unique within the tenant.
  stream text collate "C" not null check (octet_length(stream) between 1 and 512),
  -- The version of the last event. The first event has version 1.
  version bigint not null check (version > 0),
  primary key (tenant, stream)
) with (fillfactor = 80);

-- Positions of events. Gaps are normal: a transaction that rolls back keeps its numbers.
create sequence sandmill.event_position as bigint cache 1;

-- The log of events.
create table sandmill.events (
  -- Number within the log.
  position bigint not null default nextval('sandmill.event_position'),
  -- The transaction that appended the event.
  xid xid8 not null default pg_current_xact_id(),
  -- The tenant that owns the stream.
  tenant text collate "C" not null,
  -- The stream's name.
  stream text collate "C" not null,
  -- Number within the stream, counted from 1.
  version bigint not null check (version > 0),
  -- The event's type, such as `ItemAdded`.
  type text collate "C" not null check (octet_length(type) between 1 and 200),
  -- The event's id. A random UUID if the application gave none.
  id text collate "C" not null default gen_random_uuid()::text check (octet_length(id) between 1 and 200),
  -- When the event was recorded. Default: now; an application or an import may give another time.
  recorded_at timestamptz not null default now() check (isfinite(recorded_at)),
  -- The event's content, any JSON value.
  data json not null,
  -- A JSON object about the event, such as its trace.
  metadata json not null default '{}' check (json_typeof(metadata) = 'object'),
  constraint events_pkey primary key (position),
  constraint events_stream_version_key unique (tenant, stream, version),
  constraint events_id_key unique (id),
  -- json accepts U+0000 and lone surrogates as escapes, which jsonb and so documents cannot hold.
  -- Only a text with an escape pays for the cast to jsonb; the cast's error names the offending
  -- escape.
  constraint events_data_check check (strpos(data::text, '\u') = 0 or data::jsonb is not null),
  constraint events_metadata_text_check check (strpos(metadata::text, '\u') = 0 or metadata::jsonb is not null)
);
-- For the tail of the log: the events that committed between two snapshots, and the first of them.
create index events_xid_position on sandmill.events (xid, position);
-- For a lane that reads the log itself: its tenant's first event of a difference, then its pages.
create index events_tenant_xid on sandmill.events (tenant, xid, position);
create index events_tenant_position on sandmill.events (tenant, position);

-- Serializes appends of one tenant, if the store is ordered by tenant. The lock lasts until the
-- transaction ends.
create function sandmill.lock_tenant_order(p_tenant text) returns void
language plpgsql as $$
declare
  v_ordering text := (select s.ordering from sandmill.store s);
begin
  if v_ordering = 'tenant' then
    -- 5 is the class of this lock among Sandmill's two-number advisory locks. Two tenants with the
    -- same hash only wait for each other.
    perform pg_advisory_xact_lock(5, hashtext(p_tenant));
  elsif v_ordering is null then
    -- A change of the ordering truncates and refills its table. A repeatable-read transaction with
    -- an older snapshot then finds no row, instead of the old ordering.
    raise exception 'the order of the store was changed while this transaction ran'
      using errcode = 'serialization_failure', hint = 'Repeat the transaction.';
  end if;
end
$$;

-- Appends events to a stream in the caller's transaction. Returns one row per event, in order.
--
--   select * from sandmill.append(
--     'acme', 'cart-1', array['ItemAdded'], array['{"sku":"x"}']::json[]);
--
-- p_expected_version: null = any version, 0 = the stream must not exist, n = its last event must
-- have version n. Another version raises SQLSTATE SM409 and appends nothing. An existing id raises
-- unique_violation on events_id_key.
create function sandmill.append(
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
  v_count int := coalesce(cardinality(p_types), 0);
  v_before bigint;
begin
  if v_count = 0 then
    raise exception 'sandmill.append: no events given' using errcode = '22023', hint = 'Pass at least one event type and its data.';
  end if;
  if coalesce(cardinality(p_data), 0) <> v_count
     or coalesce(cardinality(p_metadata), v_count) <> v_count
     or coalesce(cardinality(p_ids), v_count) <> v_count
     or coalesce(cardinality(p_recorded_at), v_count) <> v_count then
    raise exception 'sandmill.append: % types, but % data, % metadata, % ids and % times',
      v_count, cardinality(p_data), cardinality(p_metadata), cardinality(p_ids), cardinality(p_recorded_at)
      using errcode = '22023', hint = 'All arrays have one entry for each event; leave out the optional ones altogether.';
  end if;

  perform sandmill.lock_tenant_order(p_tenant);
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
    select p_tenant, p_stream, v_before + n.ordinal, n.type, coalesce(n.id, gen_random_uuid()::text),
           coalesce(n.recorded_at, now()), n.data, coalesce(n.metadata, '{}')
    from unnest(p_types, p_data, p_metadata, p_ids, p_recorded_at)
         with ordinality as n (type, data, metadata, id, recorded_at, ordinal)
    order by n.ordinal
    returning e.id, e.version, e.position;
end
$$;
