-- Processors: what follows the log, how far each has come, what it left behind, and the documents it keeps.
--
-- Progress is a triple (A, B, last position), written `A||` between two differences and `A|B|last` inside one. It is compared and
-- set as a whole: A alone is the same for every page of one difference. It moves only in a transaction that shows the fence, a
-- random token that every new ownership of a bucket writes anew.

create domain sandmill.progress as text check (
  value ~ '^[0-9]+:[0-9]+:[0-9,]*\|([0-9]+:[0-9]+:[0-9,]*\|-?[0-9]+|\|)$'
);

create table sandmill.processors (
  id text collate "C" primary key check (id ~ '^[a-z][a-z0-9-]{0,62}$'),
  -- The plugin that last ran it: file name, SHA-256 of the file, the author's version.
  plugin text not null,
  digest text not null,
  version text not null,
  -- What its documents were built by: a change of these asks for a rebuild, not for a silent mixture.
  event_types text[],
  partition_by text not null,
  read_model_version integer not null,
  started_at timestamptz not null default now(),
  -- For people, written with a commit at most once a second: events handled so far and how many a second lately.
  handled bigint not null default 0,
  rate double precision not null default 0,
  -- What the host measured since the report before: averages in milliseconds and its memory in MiB, as a JSON object.
  measures json not null default '{}',
  reported_at timestamptz not null default now()
);

create table sandmill.cursors (
  processor text collate "C" not null references sandmill.processors on delete cascade,
  bucket smallint not null check (bucket between 0 and 15),
  progress sandmill.progress not null,
  -- Empty until somebody owns the bucket.
  fence text not null default '',
  primary key (processor, bucket)
) with (fillfactor = 50);

-- Lanes behind their bucket's cursor. Each reads the log for itself from its own progress on; the cursor's commits leave it out.
create table sandmill.exceptions (
  processor text collate "C" not null,
  bucket smallint not null,
  tenant text collate "C" not null,
  lane_key text collate "C" not null,
  progress sandmill.progress not null,
  state text not null check (state in ('catching-up', 'retrying', 'blocked', 'paused')),
  -- How often the event it stands before has been tried.
  attempts integer not null default 0 check (attempts >= 0),
  next_at timestamptz,
  -- Why it does not move, or why it last did not: kind and words.
  class text not null default '',
  reason text not null default '',
  -- The event it stands before, where that is known.
  event_position bigint,
  since timestamptz not null default now(),
  primary key (processor, tenant, lane_key),
  foreign key (processor, bucket) references sandmill.cursors on delete cascade,
  check ((state = 'retrying') = (next_at is not null)),
  -- No lane stands still without saying why.
  check (state = 'catching-up' or reason <> '')
);

-- What people told to wait: a whole processor, one tenant of it, or one lane. The host takes a change up within a second.
create table sandmill.pauses (
  processor text collate "C" not null references sandmill.processors on delete cascade,
  -- Empty: all of them.
  tenant text collate "C" not null default '',
  lane_key text collate "C" not null default '',
  since timestamptz not null default now(),
  paused_by text not null default session_user,
  primary key (processor, tenant, lane_key),
  check (lane_key = '' or tenant <> '')
);

-- Events set aside so that their lane could go on.
create table sandmill.dead_letters (
  processor text collate "C" not null references sandmill.processors on delete cascade,
  tenant text collate "C" not null,
  lane_key text collate "C" not null,
  position bigint not null,
  event_id text collate "C" not null,
  class text not null,
  message text not null,
  digest text not null,
  attempts integer not null,
  dead_since timestamptz not null default now(),
  primary key (processor, position)
);

-- Which processor a collection belongs to, and which of its generations serves.
create table sandmill.collections (
  name text collate "C" primary key check (name ~ '^[a-z][a-z0-9_]{0,47}$'),
  processor text collate "C" not null references sandmill.processors,
  generation integer not null default 1 check (generation > 0)
);

-- Documents live in a schema of their own, one table a collection and generation; views without suffix stand in `public`.
-- It may be there already: whoever may not create schemas lets somebody else prepare both.
do $$
begin
  if to_regnamespace('sandmill_documents') is null then
    create schema sandmill_documents;
  end if;
end
$$;

-- Makes sure that a collection belongs to the processor and that its table and view are there.
-- The table has the layout that Pongo reads, with the tenant in `_partition` and in the key.
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

-- Fails the transaction it stands in unless as many rows changed as must have: the check of a fence, a progress or a document's
-- version, made by the statement itself so that a whole commit travels in one round trip.
create function sandmill.must_change(p_what text, p_expected bigint, p_changed bigint) returns void
language plpgsql as $$
begin
  if p_changed <> p_expected then
    raise exception '%: % rows where % were expected', p_what, p_changed, p_expected
      using errcode = 'SM412', hint = 'Somebody else owns this processor now, or wrote its rows. This term ends; nothing of it was committed.';
  end if;
end
$$;
