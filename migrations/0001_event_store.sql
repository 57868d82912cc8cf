-- The event store: streams, their events, and the one function through which applications append.
--
-- What must be true of it, because the tail relies on it:
--   * an event's position is drawn after its stream's row is locked, so that positions grow within a stream in the order in
--     which its versions were given out;
--   * an event carries the xid of the transaction that appended it, so that a reader can ask "visible in that snapshot and not
--     visible in this one" instead of trusting that positions become visible in order (they do not);
--   * rows are never changed or deleted while any cursor needs them.
-- `data` and `metadata` are json, not jsonb: kept as written, and read two to three times faster.
-- Identifiers are compared by bytes (collation "C"): cheaper, and the same on every machine.

create table sandmill.store (
  singleton boolean primary key default true check (singleton),
  -- 'stream': appends of one stream are serialised. 'tenant': appends of one tenant are, so that position order, commit order
  -- and delivery order are one within a tenant. Changed by `sandmill migrate --ordering`.
  ordering text not null default 'stream' check (ordering in ('stream', 'tenant')),
  -- The cluster that handed out the xids in `events`. A dump restored elsewhere carries foreign xids, which the host must notice.
  system_identifier bigint not null
);
insert into sandmill.store (system_identifier) select system_identifier from pg_control_system();

create table sandmill.streams (
  tenant text collate "C" not null check (tenant ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
  stream text collate "C" not null check (octet_length(stream) between 1 and 512),
  -- The version of the last event; the first event has 1.
  version bigint not null check (version > 0),
  primary key (tenant, stream)
) with (fillfactor = 80);

create sequence sandmill.event_position as bigint cache 1;

create table sandmill.events (
  position bigint not null default nextval('sandmill.event_position'),
  xid xid8 not null default pg_current_xact_id(),
  tenant text collate "C" not null,
  stream text collate "C" not null,
  version bigint not null check (version > 0),
  type text collate "C" not null check (octet_length(type) between 1 and 200),
  id text collate "C" not null default gen_random_uuid()::text check (octet_length(id) between 1 and 200),
  recorded_at timestamptz not null default now() check (isfinite(recorded_at)),
  data json not null,
  metadata json not null default '{}' check (json_typeof(metadata) = 'object'),
  constraint events_pkey primary key (position),
  constraint events_stream_version_key unique (tenant, stream, version),
  constraint events_id_key unique (id),
  -- json lets U+0000 and lone surrogates pass as escapes, which no jsonb document can hold. Only a text with an escape
  -- pays for the cast, whose own error names the culprit.
  constraint events_data_check check (strpos(data::text, '\u') = 0 or data::jsonb is not null),
  constraint events_metadata_text_check check (strpos(metadata::text, '\u') = 0 or metadata::jsonb is not null)
);
-- The tail: what committed between two snapshots, and where it begins.
create index events_xid_position on sandmill.events (xid, position);
-- A lane that reads for itself: where its difference begins, and paging through it.
create index events_tenant_xid on sandmill.events (tenant, xid, position);
create index events_tenant_position on sandmill.events (tenant, position);

-- Takes what makes appends of one tenant follow each other, where the store is ordered by tenant.
create function sandmill.lock_tenant_order(p_tenant text) returns void
language plpgsql as $$
declare
  v_ordering text := (select s.ordering from sandmill.store s);
begin
  if v_ordering = 'tenant' then
    -- 5 is this lock's class among Sandmill's two-number advisory locks. Two tenants of one hash merely wait for each other.
    perform pg_advisory_xact_lock(5, hashtext(p_tenant));
  elsif v_ordering is null then
    -- A change of the order refills its table by truncating, so that a snapshot taken before it, which a transaction at
    -- repeatable read keeps, finds no order rather than the old one.
    raise exception 'the order of the store was changed while this transaction ran'
      using errcode = 'serialization_failure', hint = 'Repeat the transaction.';
  end if;
end
$$;

-- Appends events to a stream in the caller's transaction and returns one row for each, in order.
--
--   select * from sandmill.append('acme', 'cart-1', array['ItemAdded'], array['{"sku":"x"}']::json[]);
--
-- p_expected_version: null = any, 0 = the stream must not exist, n = its last event must have version n. Anything else than what
-- is there raises SQLSTATE SM409 and appends nothing. An id that exists already raises unique_violation on events_id_key.
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
