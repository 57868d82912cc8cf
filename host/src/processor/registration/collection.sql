-- Makes sure that a collection is the processor's, or another tenant's of its family: those share it, each with documents of its own tenant.
-- $1 collection text · $2 processor text
select sandmill.ensure_collection($1, coalesce((
  select owner.id from sandmill.collections c join sandmill.processors owner on owner.id = c.processor
    join sandmill.processors p on p.family = owner.family
  where c.name = $1 and p.id = $2 and p.tenant <> '' and owner.tenant <> ''
), $2))
