-- Deletes versions of each tenant's removed plugins beyond a number of bytes. Deletes versions that
-- ran earlier before those that ran last, and then those of the plugins that have been gone for
-- longest.
--
-- $1 bigint  maximum bytes per tenant
delete from sandmill.retained_versions r
using (
  select v.plugin, v.digest, sum(octet_length(c.bytes)) over (
    partition by split_part(v.plugin, '/', 1)
    order by v.digest = p.digest desc, p.gone_since desc, v.ran_at desc, v.plugin, v.digest
    rows unbounded preceding
  ) as bytes
  from sandmill.retained_versions v
  join sandmill.plugins p on p.plugin = v.plugin
  join sandmill.components c on c.digest = v.digest
  where p.gone_since is not null and position('/' in p.plugin) > 0
) gone
where r.plugin = gone.plugin and r.digest = gone.digest and gone.bytes > $1
