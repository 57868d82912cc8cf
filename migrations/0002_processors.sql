-- Processors: followers of the log, with their cursors, lane checkpoints, pauses, dead letters, and
-- documents.
--
-- Progress is a triple of snapshot A, snapshot B and last position. All events visible in A are
-- handled, and those visible in B up to the last position. The text is `A||` between two
-- differences and `A|B|last` inside one. Progress is compared and set as a whole, because A alone
-- is equal for all pages of a difference. It moves only in a transaction that presents the fencing
-- token of the current term.

-- A progress as text: `A||` or `A|B|last`, where A and B are snapshots (pg_snapshot).
create domain sandmill.progress as text check (
  value ~ '^[0-9]+:[0-9]+:[0-9,]*\|([0-9]+:[0-9]+:[0-9,]*\|-?[0-9]+|\|)$'
);

-- The processors, one per plugin.
create table sandmill.processors (
  -- The name that the plugin gives itself in its descriptor.
  id text collate "C" primary key check (id ~ '^[a-z][a-z0-9-]{0,62}$'),
  -- The file name of the plugin that last ran it.
  plugin text not null,
  -- SHA-256 of that file, in hexadecimal.
  digest text not null,
  -- The author's version of the plugin.
  version text not null,
  -- How its documents were built: event types, partitioning and read-model version. A change of
  -- these needs a rebuild, as documents built by both would be mixed. Null: all event types.
  event_types text[],
  -- What its lanes are keyed by.
  partition_by text not null,
  -- The version of its read model, as the descriptor gives it.
  read_model_version integer not null,
  -- When it was last started.
  started_at timestamptz not null default now(),
  -- Number of events handled. For people: written with a commit, at most once a second.
  handled bigint not null default 0,
  -- Recent events per second. For people, written with `handled`.
  rate double precision not null default 0,
  -- What the host measured since the report before, as a JSON object: averages in milliseconds, its
  -- memory in MiB.
  measures json not null default '{}',
  -- When `handled`, `rate` and `measures` were last written.
  reported_at timestamptz not null default now()
);

-- The cursors of processors, one per bucket. A bucket is a fixed share of a processor's lanes.
create table sandmill.cursors (
  -- The processor.
  processor text collate "C" not null references sandmill.processors on delete cascade,
  -- The bucket, from the hash of a lane's key.
  bucket smallint not null check (bucket between 0 and 15),
  -- The progress of all lanes of the bucket that have no row in `exceptions`.
  progress sandmill.progress not null,
  -- Fencing token: a random text per term. Empty before the first term.
  fence text not null default '',
  primary key (processor, bucket)
) with (fillfactor = 50);

-- Lane checkpoints: the lanes that are behind their bucket's cursor. Each reads the log itself from
-- its own progress on; commits of the cursor leave it out.
create table sandmill.exceptions (
  -- The processor.
  processor text collate "C" not null,
  -- The lane's bucket.
  bucket smallint not null,
  -- The lane's tenant.
  tenant text collate "C" not null,
  -- The lane's partition key: the tenant again, or what the processor partitions by.
  lane_key text collate "C" not null,
  -- How far the lane has handled the log.
  progress sandmill.progress not null,
  -- The lane's state:
  -- * catching-up: reads the log itself.
  -- * retrying: waits for its next attempt.
  -- * blocked: failed, and waits for manual action.
  -- * paused: an operator paused it.
  state text not null check (state in ('catching-up', 'retrying', 'blocked', 'paused')),
  -- How often the next event has been tried.
  attempts integer not null default 0 check (attempts >= 0),
  -- When it is tried next. Set in the state `retrying` only.
  next_at timestamptz,
  -- Kind of the reason why the lane does not move, or last did not.
  class text not null default '',
  -- The reason, for people.
  reason text not null default '',
  -- Position of the event that the lane waits before, if known.
  event_position bigint,
  -- Since when the lane is in this state for this reason.
  since timestamptz not null default now(),
  primary key (processor, tenant, lane_key),
  foreign key (processor, bucket) references sandmill.cursors on delete cascade,
  check ((state = 'retrying') = (next_at is not null)),
  -- A lane that does not move has a reason.
  check (state = 'catching-up' or reason <> '')
);

-- Pauses that operators asked for: a processor, one tenant of it, or one lane. The host applies a
-- change within a second.
create table sandmill.pauses (
  -- The processor.
  processor text collate "C" not null references sandmill.processors on delete cascade,
  -- The tenant. Empty: all tenants.
  tenant text collate "C" not null default '',
  -- The lane. Empty: all lanes.
  lane_key text collate "C" not null default '',
  -- When the pause was asked for.
  since timestamptz not null default now(),
  -- The database role that asked for it.
  paused_by text not null default session_user,
  primary key (processor, tenant, lane_key),
  check (lane_key = '' or tenant <> '')
);

-- Dead letters: events that were set aside so that their lane could continue.
create table sandmill.dead_letters (
  -- The processor that did not handle the event.
  processor text collate "C" not null references sandmill.processors on delete cascade,
  -- The event's tenant.
  tenant text collate "C" not null,
  -- The event's lane.
  lane_key text collate "C" not null,
  -- Position of the event in the log.
  position bigint not null,
  -- The event's id.
  event_id text collate "C" not null,
  -- Kind of failure.
  class text not null,
  -- What went wrong, for people.
  message text not null,
  -- SHA-256 of the plugin's file, in hexadecimal.
  digest text not null,
  -- How often the event was tried.
  attempts integer not null,
  -- When it was set aside.
  dead_since timestamptz not null default now(),
  primary key (processor, position)
);

-- The collections of documents, each owned by one processor.
create table sandmill.collections (
  -- The collection's name.
  name text collate "C" primary key check (name ~ '^[a-z][a-z0-9_]{0,47}$'),
  -- The processor that writes it.
  processor text collate "C" not null references sandmill.processors,
  -- The generation that readers see. A rebuild writes the next one.
  generation integer not null default 1 check (generation > 0)
);

-- The schema of the documents: one table per collection and generation. A view per collection,
-- without the generation, lies in `public`. The schema may exist already, created for a role that
-- cannot create schemas.
do $$
begin
  if to_regnamespace('sandmill_documents') is null then
    create schema sandmill_documents;
  end if;
end
$$;

-- Assigns a collection to a processor and creates its table and view where missing. The table has
-- the layout that Pongo reads, with the tenant in `_partition` and in the key. Raises SM423 if
-- another processor owns the collection or another relation has the view's name.
create function sandmill.ensure_collection(p_name text, p_processor text) returns void
language plpgsql as $$
declare
  v_table text;
  v_owner text;
  v_generation integer;
begin
  insert into sandmill.collections (name, processor) values (p_name, p_processor) on conflict (name) do nothing;
  select c.processor, c.generation into v_owner, v_generation from sandmill.collections c where c.name = p_name for share;
  if v_owner <> p_processor then
    raise exception 'collection % belongs to processor %', p_name, v_owner
      using errcode = 'SM423', hint = 'A collection belongs to one processor. Name another one in this plugin''s descriptor.';
  end if;
  v_table := format('%s_%s', p_name, v_generation);
  if to_regclass(format('sandmill_documents.%I', v_table)) is null then
    execute format(
      'create table sandmill_documents.%I (
         _id text collate "C" not null,
         data jsonb not null,
         metadata jsonb not null default ''{}'',
         _version bigint not null default 1,
         _partition text collate "C" not null default ''png_global'',
         _archived boolean not null default false,
         _created timestamptz not null default now(),
         _updated timestamptz not null default now(),
         primary key (_partition, _id)
       ) with (fillfactor = 80)', v_table);
  end if;
  if to_regclass(format('public.%I', p_name)) is null then
    execute format('create view public.%I as select * from sandmill_documents.%I', p_name, v_table);
    execute format('comment on view public.%I is %L', p_name, 'sandmill collection');
  elsif obj_description(to_regclass(format('public.%I', p_name)), 'pg_class') is distinct from 'sandmill collection' then
    raise exception 'public.% exists and is not a view of Sandmill''s', p_name
      using errcode = 'SM423', hint = 'Name another collection in the plugin''s descriptor, or move that relation away.';
  end if;
end
$$;

-- Fails the transaction unless the expected number of rows changed. This is the check of a fence, a
-- progress or a document's version. The statement that changes the rows makes the check, so a whole
-- commit travels in one round trip.
create function sandmill.must_change(p_what text, p_expected bigint, p_changed bigint) returns void
language plpgsql as $$
begin
  if p_changed <> p_expected then
    raise exception '%: % rows where % were expected', p_what, p_changed, p_expected
      using errcode = 'SM412', hint = 'Somebody else owns this processor now, or wrote its rows. This term ends; nothing of it was committed.';
  end if;
end
$$;
