-- Deletes retained versions of each plugin beyond a number. Deletes versions that were rolled back
-- first, then those that ran longest ago, and never the one that runs.
--
-- $1 bigint  maximum number of versions of a plugin
delete from sandmill.retained_versions r
using (
  select v.plugin, v.digest, row_number() over (
    partition by v.plugin order by v.digest = p.digest desc, h.digest is not null, v.ran_at desc, v.digest
  ) as place
  from sandmill.retained_versions v
  join sandmill.plugins p on p.plugin = v.plugin
  left join sandmill.plugin_holds h on h.plugin = v.plugin and h.digest = v.digest
) ranked
where r.plugin = ranked.plugin and r.digest = ranked.digest and ranked.place > $1
