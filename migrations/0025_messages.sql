-- Clearer messages of functions that earlier migrations created. SQLSTATEs, details and everything
-- that the functions do stay the same.
--
-- Each change replaces one text in the definition that the database has. A text that is missing is
-- an error, so no change is lost.

do $migration$
declare
  v_change record;
  v_definition text;
begin
  for v_change in
    select * from (values
      ('must_change', $t$'%: % rows where % were expected'$t$, $t$'%: changed % rows, expected %'$t$),
      ('must_change', $t$Somebody else owns this processor now, or wrote its rows. This term ends; nothing of it was committed.$t$,
        $t$Another host runs this processor now, or another program changed its rows. The term ends, and this transaction is rolled back.$t$),
      ('ensure_collection', $t$tenant % may have % collections in all its own plugins, and would have more$t$,
        $t$tenant % has reached its limit of % collections over all its own plugins$t$),
      ('ensure_collection', $t$Remove a processor of it with its documents (sandmill processors), or$t$,
        $t$Remove one of its processors with its documents (sandmill processors remove), or$t$),
      ('ensure_collection', $t$collection % holds documents that processor % left there$t$,
        $t$collection % contains documents of the removed processor %$t$),
      ('ensure_collection', $t$With on-change = "continue" in its manifest this plugin takes them over; `sandmill processors remove %s --drop-documents` drops them.$t$,
        $t$To continue with them, set on-change = "continue" in the plugin''s manifest. To drop them: sandmill processors remove %s --drop-documents$t$),
      ('ensure_collection', $t$A collection belongs to one processor. Name another one in this plugin''s descriptor.$t$,
        $t$Each collection belongs to one processor. Use another name in this plugin''s descriptor.$t$),
      ('register', $t$Its kind, its plugin''s own id or its tenant differ. Give this plugin another id.$t$,
        $t$That processor has another kind, plugin id or tenant. Give this plugin another id.$t$),
      ('make_documents_view', $t$% exists and is not a view of Sandmill''s$t$, $t$% already exists, and Sandmill did not create it$t$),
      ('make_documents_view', $t$Name another collection in the plugin''s descriptor, move that relation away, or give the views another schema:$t$,
        $t$Use another collection name in the plugin''s descriptor, rename that relation, or choose another schema for the views:$t$),
      ('move_documents_views', $t$%.% exists and is in the way of the view that would be moved there$t$,
        $t$cannot move a view to %.%: a relation of that name already exists$t$),
      ('move_documents_views', $t$Move that relation away, or name another schema.$t$, $t$Rename that relation, or choose another schema.$t$),
      ('tenant_of', $t$no tenant is chosen, and the role % may read several$t$, $t$the role % may read several tenants, and none is selected$t$),
      ('tenant_of', $t$Choose one first:$t$, $t$Select one first:$t$),
      ('tenant_of', $t$Grant it that:$t$, $t$To allow it:$t$),
      ('begin_append', $t$the order of the store was changed while this transaction ran$t$, $t$the ordering of the store changed during this transaction$t$),
      ('append', $t$All arrays have one entry for each event; leave out the optional ones altogether.$t$,
        $t$Each array needs one entry per event; omit the optional arrays that you do not need.$t$),
      ('append', $t$this store takes % at most$t$, $t$this store allows at most %$t$),
      ('refuse_event', $t$Give the event a shorter id, or none: then the store makes one.$t$,
        $t$Give the event a shorter id, or omit it: the store then generates one.$t$),
      ('refuse_event', $t$Leave the time out for the present one.$t$, $t$Omit the time to use the current one.$t$),
      ('refuse_ids', $t$Give each event an id of its own, or none: then the store makes one.$t$,
        $t$Give each event a unique id, or omit the ids: the store then generates them.$t$)
    ) as change (function, before, after)
  loop
    v_definition := pg_get_functiondef(('sandmill.' || v_change.function)::regproc);
    if strpos(v_definition, v_change.before) = 0 then
      raise exception 'the function sandmill.% does not have the text: %', v_change.function, v_change.before
        using hint = 'It differs from the one that Sandmill created. Restore it, then migrate again.';
    end if;
    execute replace(v_definition, v_change.before, v_change.after);
  end loop;
end
$migration$;
