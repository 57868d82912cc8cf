-- Reads every processor with the bucket of its cursors that is furthest behind. A rate that was not reported lately is 0.
select p.id, p.plugin, p.version, p.digest,
       (select c.progress::text from sandmill.cursors c where c.processor = p.id order by c.bucket limit 1),
       case when p.reported_at > now() - interval '5 seconds' then p.rate else 0 end, p.handled
from sandmill.processors p
order by p.id
