// Dead letters on the command line: what `dead-letters list` and `show` select and print.

use std::process::Output;

use sandmill::db::{
    Session,
    migrate::{MIGRATIONS, migrate},
};
use sandmill_tests::{
    Database, database, empty_database,
    host::{catch_up, root, sandmill, stderr, stdout},
};
use serde_json::{Value, json};

/// A database in which `scripted` has set aside the events at the positions 2, 4 and 6: two of
/// tenant `acme` with different classes, and one of `globex`.
async fn with_letters() -> (Database, Session) {
    let database = database().await;
    let skip = |code: &str| json!({"do": "skip", "code": code, "message": "not\nfor \u{1b}[31mme"});
    database.append("acme", "first", &[json!({}), skip("odd"), json!({}), skip("old")]).await;
    database.append("globex", "second", &[json!({}), skip("odd")]).await;
    catch_up(&database, &["scripted"], &[]).await;
    let session = database.db.connect("test").await.unwrap();
    (database, session)
}

/// Runs `sandmill dead-letters`.
async fn run(database: &Database, arguments: &[&str]) -> Output {
    let mut command = sandmill(&database.address);
    command.arg("dead-letters").args(arguments);
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

/// Runs a command that succeeds, and returns its JSON objects.
async fn objects(database: &Database, arguments: &[&str]) -> Vec<Value> {
    let output = run(database, &[arguments, &["--json"]].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The positions of the letters that a filter selects, in the order of the listing.
async fn positions(database: &Database, filter: &[&str]) -> Vec<i64> {
    let listed = objects(database, &[&["list"], filter].concat()).await;
    listed.iter().map(|letter| letter["position"].as_i64().unwrap()).collect()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_select_letters_and_the_highest_position_comes_first() {
    let (database, session) = with_letters().await;
    // A rebuild may set events aside again; readers do not see its documents yet.
    session
        .batch_execute(
            "alter table sandmill.generations drop constraint generations_state_check;
             insert into sandmill.generations (processor, generation, state) values ('scripted', 2, 'building');
             insert into sandmill.dead_letters (processor, generation, tenant, lane_key, position, event_id, class, message, digest, attempts)
             select processor, 2, tenant, lane_key, position + 1, event_id, class, message, digest, attempts from sandmill.dead_letters;
             update sandmill.dead_letters set last_at = now() - interval '3 hours' where generation = 1 and position = 4",
        )
        .await
        .unwrap();
    for (filter, expected) in [
        (&[][..], &[6, 4, 2][..]),
        (&["--processor", "scripted"], &[6, 4, 2]),
        (&["--tenant", "acme"], &[4, 2]),
        (&["--class", "plugin:odd"], &[6, 2]),
        (&["--tenant", "acme", "--class", "plugin:odd", "--processor", "scripted"], &[2]),
        (&["--since", "2h"], &[6, 2]),
        (&["--since", "4h", "--limit", "0"], &[6, 4, 2]),
        (&["--since", "2001-01-01T00:00:00Z", "--limit", "2"], &[6, 4]),
        (&["--since", "9999-01-01T00:00:00Z"], &[]),
    ] {
        assert_eq!(positions(&database, filter).await, expected, "{filter:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_is_a_table_for_people_and_lines_of_json_for_scripts() {
    let (database, session) = with_letters().await;
    let listed = run(&database, &["list", "--limit", "2"]).await;
    let text = stdout(&listed);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["PROCESSOR", "TENANT", "POSITION", "TYPE", "STREAM", "CLASS", "ATTEMPTS", "AT", "MESSAGE"]);
    assert_eq!(lines[1][..7], ["scripted", "globex", "6", "Scripted", "second@2", "plugin:odd", "1"], "{text}");
    assert_eq!(lines[2][..7], ["scripted", "acme", "4", "Scripted", "first@4", "plugin:old", "1"], "{text}");
    assert!(text.lines().nth(1).unwrap().ends_with("Z  not for \u{fffd}[31mme"), "{text}");
    assert_eq!(lines.len(), 4, "{text}");
    assert!(text.ends_with("\n1 more dead letter; --limit 0 lists all\n"), "{text}");

    session.batch_execute("delete from sandmill.events where position = 4").await.unwrap();
    let letters = objects(&database, &["list"]).await;
    let documented = [
        "attempts",
        "class",
        "digest",
        "eventId",
        "firstAt",
        "key",
        "lastAt",
        "message",
        "position",
        "processor",
        "stream",
        "tenant",
        "type",
        "version",
    ];
    for letter in &letters {
        let mut found = keys(letter);
        found.sort_unstable();
        assert_eq!(found, documented);
    }
    let of = |letter: &Value| ["type", "stream", "version"].map(|key| letter[key].clone());
    assert_eq!(of(&letters[0]), [json!("Scripted"), json!("second"), json!(2)]);
    assert_eq!(letters[0]["message"], "not\nfor \u{1b}[31mme");
    assert_eq!(of(&letters[1]), [Value::Null, json!("first"), json!(4)]);
    let cut = run(&database, &["list", "--limit", "1", "--json"]).await;
    assert_eq!(stderr(&cut), "2 more dead letters; --limit 0 lists all\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_another_id_is_not_shown_as_that_of_a_letter() {
    let (database, session) = with_letters().await;
    session.batch_execute("update sandmill.events set id = 'another' where position = 4").await.unwrap();
    let letters = objects(&database, &["list", "--class", "plugin:old"]).await;
    assert_eq!(letters[0]["type"], Value::Null);
    assert_eq!(objects(&database, &["show", "scripted", "4"]).await[0]["event"], Value::Null);
    let shown = stdout(&run(&database, &["show", "scripted", "4"]).await);
    assert!(shown.contains("no longer in the store\n"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_shown_with_its_event_and_with_what_can_be_done() {
    let (database, session) = with_letters().await;
    let shown = run(&database, &["show", "scripted", "6"]).await;
    let text = stdout(&shown);
    let rows: Vec<(&str, &str)> =
        text.lines().filter_map(|line| line.split_once("  ")).map(|(name, value)| (name, value.trim_start())).collect();
    let value = |name: &str| rows.iter().find(|row| row.0 == name).unwrap_or_else(|| panic!("{name}: {text}")).1;
    for (name, expected) in [
        ("processor", "scripted"),
        ("tenant", "globex"),
        ("lane", "globex"),
        ("position", "6"),
        ("type", "Scripted"),
        ("stream", "second@2"),
        ("attempts", "1"),
        ("class", "plugin:odd"),
    ] {
        assert_eq!(value(name), expected, "{text}");
    }
    assert!(value("data").contains("\"code\":\"odd\"") || value("data").contains("\"code\": \"odd\""), "{text}");
    assert!(value("plugin").starts_with("scripted "), "{text}");
    assert!(text.contains("message") && text.contains("not\n") && text.contains("  for \u{fffd}[31mme\n"), "{text}");
    assert!(text.contains("append a corrected event"), "{text}");
    assert!(text.contains("`sandmill dead-letters retry scripted 6`"), "{text}");
    assert!(!text.contains("now runs"), "{text}");

    let letter = objects(&database, &["show", "scripted", "6"]).await.remove(0);
    let mut found = keys(&letter);
    found.sort_unstable();
    let documented = [
        "attempts",
        "backtrace",
        "class",
        "digest",
        "event",
        "eventId",
        "firstAt",
        "key",
        "lastAt",
        "log",
        "message",
        "plugin",
        "pluginVersion",
        "position",
        "processor",
        "stream",
        "tenant",
        "version",
    ];
    assert_eq!(found, documented);
    assert_eq!(letter["event"]["data"]["code"], "odd");
    assert_eq!(letter["event"]["id"], letter["eventId"]);
    assert!(letter["pluginVersion"].is_string(), "{letter}");
    assert_eq!((&letter["stream"], &letter["version"]), (&json!("second"), &json!(2)));
    assert_eq!((&letter["backtrace"], &letter["log"]), (&Value::Null, &Value::Null), "it did not fail, nor log");

    // Another version runs now. The history knows the version that set the event aside.
    let swapped = "update sandmill.processors set digest = repeat('b', 64), version = '9.9.9'";
    session.batch_execute(swapped).await.unwrap();
    let later = objects(&database, &["show", "scripted", "6"]).await.remove(0);
    assert_eq!(later["pluginVersion"], letter["pluginVersion"]);
    let text = stdout(&run(&database, &["show", "scripted", "6"]).await);
    assert!(text.contains("scripted 9.9.9 bbbbbbbbbbbb\n"), "{text}");
}

/// A database in which `scripted` has set all events aside that trap or time out.
async fn with_failures(events: &[(&str, Value)]) -> (Database, Session) {
    let database = database().await;
    for (tenant, event) in events {
        database.append(tenant, tenant, std::slice::from_ref(event)).await;
    }
    let policy = ["processors.scripted.failures.event.then=dead-letter", "limits.log-lines=3"];
    let once = ["processors.scripted.failures.load.then=dead-letter", "processors.scripted.failures.load.attempts=1"];
    catch_up(&database, &["scripted"], &[&policy[..], &once, &["limits.cpu-ms=200"]].concat()).await;
    let session = database.db.connect("test").await.unwrap();
    (database, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_shows_where_the_plugin_failed_and_what_it_logged_last() {
    let logs = json!({"do": "log", "lines": 2});
    let (database, _) = with_failures(&[
        ("acme", logs),
        ("acme", json!({"do": "trap", "message": "about seat 12"})),
        ("globex", json!({"do": "log-forever", "message": "still here"})),
    ])
    .await;
    let letter = objects(&database, &["show", "scripted", "2"]).await.remove(0);
    assert_eq!((&letter["stream"], &letter["version"]), (&json!("acme"), &json!(2)));
    assert_eq!(letter["firstAt"], letter["lastAt"]);
    let backtrace: Vec<&str> = letter["backtrace"].as_str().unwrap().lines().collect();
    assert!(backtrace.len() > 3 && backtrace[0].starts_with("0: "), "{backtrace:#?}");
    // The innermost functions are those of the language's runtime.
    assert!(backtrace.iter().any(|frame| frame.contains(": scripted::ruin::trap at 0x")), "{backtrace:#?}");
    // Lines of the call with the event before, which the same instance handled, are not here.
    let log: Vec<&str> = letter["log"].as_str().unwrap().lines().collect();
    assert!(log.len() == 2 && log[0].starts_with("CRITICAL panic: panicked at "), "{log:#?}");
    let event = letter["eventId"].as_str().unwrap();
    assert_eq!(log[1], format!("  event {event} asks for a trap about seat 12"), "{log:#?}");
    let text = stdout(&run(&database, &["show", "scripted", "2"]).await);
    assert!(text.contains(&format!("\n\nbacktrace:\n  {}\n", backtrace[0])), "{text}");
    assert!(text.contains(&format!("\n\nlast log lines of the call:\n  {}\n", log[0])), "{text}");

    // The last lines are kept although the log of a call holds only the first three.
    let letter = objects(&database, &["show", "scripted", "3"]).await.remove(0);
    assert_eq!(letter["class"], "cpu-limit");
    assert!(letter["backtrace"].as_str().unwrap().contains(": scripted::ruin::log_forever at 0x"), "{letter:#}");
    let log = letter["log"].as_str().unwrap();
    assert!(log.len() > 4_000 && log.len() <= 4 << 10, "{}", log.len());
    assert!(log.starts_with("…\nWARN ") && log.lines().skip(1).all(|line| line.ends_with(": still here")), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_event_that_a_call_skips_has_its_log_lines() {
    let database = database().await;
    let skip = json!({"do": "skip", "code": "odd"});
    let log = json!({"do": "log", "lines": 2});
    database.append("acme", "s", &[skip.clone(), log, skip, json!({})]).await;
    catch_up(&database, &["scripted"], &[]).await;
    let shown = async |position: &str| objects(&database, &["show", "scripted", position]).await.remove(0);
    let last = shown("3").await;
    assert_eq!(last["log"], "INFO scripted: line 1 of 2\nINFO scripted: line 2 of 2\n");
    assert_eq!(last["backtrace"], Value::Null);
    assert_eq!(shown("1").await["log"], Value::Null, "the call stores its lines once");
}

/// Each tenant has a secret of its own in its log lines. One instance of the plugin after the other
/// fails, and all run in the same process.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_holds_no_log_line_of_another_tenant() {
    let tenants: Vec<String> = (0..12).map(|number| format!("tenant-{number:02}")).collect();
    let secret = |tenant: &str| format!("SECRET-{tenant};");
    let mut events = Vec::new();
    for _ in 0..3 {
        for tenant in &tenants {
            events.push((tenant.as_str(), json!({"do": "shout", "message": secret(tenant), "lines": 3})));
            events.push((tenant.as_str(), json!({"do": "trap", "message": secret(tenant)})));
        }
    }
    let (_, session) = with_failures(&events).await;
    let rows = session
        .query(
            "select tenant, concat(message, backtrace, log_tail), octet_length(log_tail) from sandmill.dead_letters",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(rows.len(), events.len() / 2);
    for row in &rows {
        let (tenant, text, bytes): (&str, &str, i32) = (row.get(0), row.get(1), row.get(2));
        assert!(bytes > 0 && text.contains(&secret(tenant)), "{tenant}: {text}");
        for other in tenants.iter().filter(|other| *other != tenant) {
            assert!(!text.contains(&secret(other)), "{tenant} has lines of {other}: {text}");
        }
    }
}

/// A letter that is stored again, as after a rebuild or a retry.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_is_stored_again_keeps_its_first_time_and_has_the_last_diagnostics() {
    let (database, session) = with_letters().await;
    session.batch_execute("update sandmill.dead_letters set first_at = first_at - interval '1 day'").await.unwrap();
    let before = objects(&database, &["show", "scripted", "2"]).await.remove(0);
    let store = std::fs::read_to_string(root().join("host/src/processor/commit/dead_letters.sql")).unwrap();
    session
        .batch_execute(&format!(
            "prepare store (text, int, text[], text[], text[], bigint[], text[], text[], bigint[], text[], text[], int[], text[], text[]) as {store};
             execute store ('scripted', 1, array['d'], array['acme'], array['acme'], array[2], array['2'], array['first'], array[2],
               array['trap'], array['again'], array[3], array['0: f'], array['INFO x'])"
        ))
        .await
        .unwrap();
    let after = objects(&database, &["show", "scripted", "2"]).await.remove(0);
    assert_eq!((&after["firstAt"], &after["attempts"]), (&before["firstAt"], &json!(4)));
    assert!(after["lastAt"].as_str() > before["lastAt"].as_str(), "{after:#}");
    for (key, expected) in [("class", "trap"), ("message", "again"), ("backtrace", "0: f"), ("log", "INFO x")] {
        assert_eq!(after[key], expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_an_older_schema_get_the_streams_of_their_events() {
    let database = empty_database().await;
    let mut session = database.db.connect("test").await.unwrap();
    let history = std::fs::read_to_string(root().join("host/src/db/migrate/history.sql")).unwrap();
    session.batch_execute(&history).await.unwrap();
    for migration in MIGRATIONS.iter().take_while(|migration| migration.name != "0029_letter_contents") {
        session.batch_execute(migration.sql).await.unwrap();
        let record = "insert into sandmill.migrations (version, name, checksum) values ($1, $2, $3)";
        session.execute(record, &[&migration.version(), &migration.name, &migration.checksum()]).await.unwrap();
    }
    // The event of the second letter is gone, and another one has its position.
    session
        .batch_execute(
            "select sandmill.append('acme', 's', array['T', 'T'], array['{}', '{}']::json[], p_ids => array['e1', 'e2']);
             insert into sandmill.processors (id, family, plugin, digest, version, partition_by, read_model_version)
             values ('carts', 'carts', '', '', '', 'tenant', 1);
             insert into sandmill.generations (processor, generation, state) values ('carts', 1, 'serving');
             insert into sandmill.dead_letters
               (processor, generation, tenant, lane_key, position, event_id, class, message, digest, attempts, dead_since)
             values ('carts', 1, 'acme', 'acme', 1, 'e1', 'trap', 'm', '', 1, '2026-01-02T03:04:05Z'),
                    ('carts', 1, 'acme', 'acme', 2, 'gone', 'trap', 'm', '', 1, '2026-01-02T03:04:05Z')",
        )
        .await
        .unwrap();
    migrate(&mut session).await.unwrap();
    let letters = objects(&database, &["list"]).await;
    let found: Vec<_> = letters.iter().map(|letter| ["type", "stream", "version"].map(|key| &letter[key])).collect();
    assert_eq!(found, [[&Value::Null; 3], [&json!("T"), &json!("s"), &json!(1)]]);
    for letter in &letters {
        assert_eq!([&letter["firstAt"], &letter["lastAt"]], ["2026-01-02T03:04:05.000Z"; 2]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_data_is_shortened_for_people_and_whole_for_scripts() {
    let (database, session) = with_letters().await;
    let sql = "update sandmill.events set data = json_build_object('long', repeat('x', 10000)) where position = 6";
    session.batch_execute(sql).await.unwrap();
    let text = stdout(&run(&database, &["show", "scripted", "6"]).await);
    assert!(text.contains(" bytes more)\n") && text.len() < 6_000, "{text}");
    let letter = objects(&database, &["show", "scripted", "6"]).await.remove(0);
    assert_eq!(letter["event"]["data"]["long"].as_str().unwrap().len(), 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_listing_succeeds_and_unknown_names_are_errors() {
    let (database, _) = with_letters().await;
    for (arguments, code, printed, error) in [
        (&["list", "--class", "trap"][..], 0, "there are no dead letters with class trap\n", ""),
        (&["list", "--class", "trap", "--json"], 0, "", "there are no dead letters with class trap\n"),
        (
            &["list", "--processor", "scriptet"],
            1,
            "",
            "error: there is no processor `scriptet`; the nearest is `scripted`; `sandmill processors list` lists all\n",
        ),
        (
            &["list", "--tenant", "acne"],
            1,
            "",
            "error: tenant acne has no events; the nearest is acme; `sandmill tenants --by name --limit 0` lists all tenants\n",
        ),
        (
            &["show", "scriptet", "2"],
            1,
            "",
            "error: there is no processor `scriptet`; the nearest is `scripted`; `sandmill processors list` lists all\n",
        ),
        (
            &["show", "scripted", "3"],
            1,
            "",
            "error: scripted has no dead letter at position 3; `sandmill dead-letters list --processor scripted` lists those that it has\n",
        ),
    ] {
        let output = run(&database, arguments).await;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert_eq!((&*stdout(&output), &*stderr(&output)), (printed, error), "{arguments:?}");
    }
    let wrong = run(&database, &["list", "--since", "yesterday"]).await;
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("2h"), "{}", stderr(&wrong));
}

/// A tenant's listing reads no other tenant's letters, and any listing stops at its limit.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_many_letters_reads_only_what_it_returns() {
    let (_database, session) = with_letters().await;
    session
        .batch_execute(
            "insert into sandmill.dead_letters (processor, generation, tenant, lane_key, position, event_id, class, message, digest, attempts)
             select processor, generation, tenant, lane_key, 100 + n, event_id || n, class, message, digest, attempts
             from sandmill.dead_letters, generate_series(1, 30000) n where position = 6;
             analyze sandmill.dead_letters",
        )
        .await
        .unwrap();
    let listed = std::fs::read_to_string(root().join("host/src/processor/dead_letters/list.sql")).unwrap();
    for (filter, rows) in [("null, null", 20), ("'scripted', null", 20), ("null, 'acme'", 4), ("'scripted', 'acme'", 4)]
    {
        let explain = format!(
            "deallocate all; prepare listed (text, text, text, timestamptz, bigint, text, bigint) as {listed};
             explain (analyze, timing off, format json) execute listed ({filter}, null, null, {}, '', 10)",
            i64::MAX
        );
        let messages = session.simple_query(&explain).await.unwrap();
        let plan = messages.iter().find_map(|message| match message {
            sandmill::db::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        let plan: Value = serde_json::from_str(plan.unwrap()).unwrap();
        let read = letters_read(&plan[0]["Plan"]);
        assert!(read <= rows, "{filter}: {read} letters: {plan:#}");
    }
}

/// Two processors have a letter at each position, so a page may end between the two.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_all_letters_repeats_and_omits_none() {
    let (database, session) = with_letters().await;
    session
        .batch_execute(
            "insert into sandmill.processors (id, family, plugin, digest, version, partition_by, read_model_version)
             values ('other', 'other', '', '', '', 'tenant', 1);
             insert into sandmill.generations (processor, generation, state) values ('other', 1, 'serving');
             insert into sandmill.dead_letters (processor, generation, tenant, lane_key, position, event_id, class, message, digest, attempts)
             select p, 1, tenant, lane_key, 100 + n, event_id || n, class, message, digest, attempts
             from sandmill.dead_letters, generate_series(1, 1500) n, unnest(array['other', 'scripted']) p
             where position = 6 and not (n = 1500 and p = 'other')",
        )
        .await
        .unwrap();
    let letters = objects(&database, &["list", "--limit", "0"]).await;
    let listed: Vec<(i64, String)> = letters
        .iter()
        .map(|letter| (-letter["position"].as_i64().unwrap(), letter["processor"].as_str().unwrap().to_string()))
        .collect();
    assert_eq!(listed.len(), 2 * 1_500 - 1 + 3);
    assert!(listed.is_sorted_by(|one, next| one < next), "a letter is repeated or out of order");
}

/// The number of letters that a plan read.
fn letters_read(node: &Value) -> i64 {
    let number = |key: &str| node[key].as_f64().unwrap_or(0.0) as i64;
    let own = (number("Actual Rows") + number("Rows Removed by Filter")) * number("Actual Loops");
    let own = if node["Relation Name"] == "dead_letters" { own } else { 0 };
    own + node["Plans"].as_array().into_iter().flatten().map(letters_read).sum::<i64>()
}
