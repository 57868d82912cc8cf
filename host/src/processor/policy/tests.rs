//! Tests of the policy's verdicts, over all classes.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;

/// All known classes, and some that plugins and other handlers give.
fn classes() -> Vec<&'static str> {
    CLASSES.iter().map(|(class, _)| *class).chain(["plugin", "plugin:card-declined", "unheard-of"]).collect()
}

const WISHES: [Wish; 4] =
    [Wish::None, Wish::Retry { after: None }, Wish::Retry { after: Some(Duration::ZERO) }, Wish::Stop];

fn parse(settings: Value) -> FailureSettings {
    serde_json::from_value(settings).unwrap()
}

fn policy(manifest: Value) -> FailurePolicy {
    FailurePolicy::new(FailureSettings::default(), parse(manifest))
}

fn failed(class: &str, wish: Wish, attempt: u32) -> FailedAttempt<'_> {
    FailedAttempt { class, wish, attempt, on_probation: false, spread: 7 }
}

/// The verdicts on all attempts at one event until the last one, with the time between them.
fn attempts(policy: &FailurePolicy, class: &str, wish: Wish) -> (u32, Duration, Verdict) {
    let mut total = Duration::ZERO;
    for attempt in 1..=1_000 {
        match policy.verdict(&failed(class, wish, attempt)) {
            Verdict::Again { after, counts: true } => total += after,
            verdict => return (attempt, total, verdict),
        }
    }
    (1_000, total, policy.verdict(&failed(class, wish, 1_000)))
}

#[test]
fn every_class_in_the_sources_has_a_family() {
    let sources = [
        include_str!("../../consumer/deferred.rs"),
        include_str!("../../consumer/router.rs"),
        include_str!("../../processor/appends.rs"),
        include_str!("../../processor/budgets.rs"),
        include_str!("../../processor/engine/commits.rs"),
        include_str!("../../processor/engine/set_aside_events.rs"),
        include_str!("../../processor/lane.rs"),
        include_str!("../../processor/policy.rs"),
        include_str!("../../projections/documents.rs"),
        include_str!("../../sandbox/answer.rs"),
        include_str!("../../sandbox/answer/reaction.rs"),
        include_str!("../../sandbox/capabilities.rs"),
        include_str!("../../sandbox/failure.rs"),
        include_str!("../../sandbox/guest/state.rs"),
        include_str!("../../sandbox/wasi.rs"),
    ];
    let mut found = BTreeSet::new();
    for source in sources {
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        for before in [
            "Reason::new(",
            "block(",
            "refuse(",
            "malformed(",
            "NO_INSTANCE: &str = ",
            "None, ",
            "class: ",
            "LETTERS_LIMIT: &str = ",
            "REFUSED_COMMIT: &str = ",
            "APPEND_CONFLICT: &str = ",
            "HOP_LIMIT: &str = ",
        ] {
            for (at, _) in code.match_indices(before) {
                let rest = code[at + before.len()..].trim_start();
                let class = rest.strip_prefix('"').and_then(|rest| rest.split_once('"'));
                found.extend(class.map(|(class, _)| class).filter(|class| is_name(class)));
            }
        }
    }
    let known: BTreeSet<&str> = CLASSES.iter().map(|(class, _)| *class).filter(|class| *class != THROTTLED).collect();
    let missing: Vec<_> = found.difference(&known).collect();
    assert!(missing.is_empty(), "give these classes a family in CLASSES: {missing:?}");
    let unused: Vec<_> = known.difference(&found).collect();
    assert!(unused.is_empty(), "nothing produces these classes: {unused:?}");
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
}

#[test]
fn without_settings_each_family_has_its_own_number_of_attempts() {
    let policy = FailurePolicy::default();
    for class in classes() {
        let (attempts_made, total, last) = attempts(&policy, class, Wish::None);
        match Blame::of(class) {
            Blame::Event | Blame::Plugin => assert_eq!((attempts_made, last), (1, Verdict::Stop), "{class}"),
            Blame::Load => {
                assert_eq!((attempts_made, last), (10, Verdict::Stop), "{class}");
                assert!(total >= Duration::from_secs(300), "{class}: {total:?}");
            }
            Blame::Host => assert!(matches!(last, Verdict::Again { counts: false, .. }), "{class}"),
            Blame::World => assert_eq!(attempts_made, 1_000, "{class}"),
        }
    }
}

#[test]
fn ten_attempts_under_load_take_five_minutes_with_any_jitter() {
    for spread in 0..1_000 {
        let verdict = |attempt| FailedAttempt { spread, ..failed("wall-time-limit", Wish::None, attempt) };
        let total: Duration = (1..10)
            .map(|attempt| match FailurePolicy::default().verdict(&verdict(attempt)) {
                Verdict::Again { after, counts: true } => after,
                other => panic!("{other:?}"),
            })
            .sum();
        assert!(total >= Duration::from_secs(300), "{total:?}");
    }
}

#[test]
fn a_shortage_of_the_host_never_counts_and_never_exhausts() {
    let strict = policy(json!({"attempts": 1, "then": "dead-letter"}));
    for class in classes().into_iter().filter(|class| Blame::of(class) == Blame::Host) {
        for (attempt, wish) in [1, 2, 10, u32::MAX].into_iter().flat_map(|attempt| WISHES.map(|wish| (attempt, wish))) {
            for on_probation in [false, true] {
                let failed = FailedAttempt { on_probation, ..failed(class, wish, attempt) };
                let verdict = strict.verdict(&failed);
                assert!(matches!(verdict, Verdict::Again { counts: false, after } if after >= back_off::FLOOR));
            }
        }
    }
}

#[test]
fn a_plugins_retry_has_no_limit_unless_one_is_set() {
    for class in ["plugin", "plugin:card-declined"] {
        for after in [None, Some(Duration::ZERO), Some(Duration::from_secs(1))] {
            let (made, ..) = attempts(&FailurePolicy::default(), class, Wish::Retry { after });
            assert_eq!(made, 1_000);
            let (made, _, last) = attempts(&policy(json!({"plugin": {"attempts": 3}})), class, Wish::Retry { after });
            assert_eq!((made, last), (3, Verdict::Stop));
        }
        assert_eq!(attempts(&policy(json!({"attempts": 3})), class, Wish::Stop).0, 1, "a stop is not retried");
    }
}

#[test]
fn a_plugins_delay_is_clamped_to_the_bounds() {
    let after = |policy: &FailurePolicy, after| {
        let wish = Wish::Retry { after: Some(after) };
        match policy.verdict(&failed("plugin:later", wish, 1)) {
            Verdict::Again { after, .. } => after,
            other => panic!("{other:?}"),
        }
    };
    let usual = FailurePolicy::default();
    assert!(after(&usual, Duration::ZERO) >= Duration::from_millis(150));
    assert_eq!(after(&usual, Duration::from_secs(3_600)), Duration::from_secs(3_600));
    let bounded = policy(json!({"first-ms": 2_000, "longest-s": 60}));
    assert!(after(&bounded, Duration::ZERO) >= Duration::from_millis(1_500));
    assert_eq!(after(&bounded, Duration::from_secs(3_600)), Duration::from_secs(60));
}

#[test]
fn a_class_takes_precedence_over_its_family_and_this_over_all_key_by_key() {
    let policy = policy(json!({
        "attempts": 2, "then": "dead-letter",
        "event": {"attempts": 3},
        "trap": {"attempts": 4, "then": "stop"},
        "plugin": {"then": "stop-processor"},
    }));
    let last = |class| {
        let (made, _, last) = attempts(&policy, class, Wish::None);
        (made, last)
    };
    assert_eq!(last("trap"), (4, Verdict::Stop));
    assert_eq!(last("malformed-output"), (3, Verdict::SetAside));
    assert_eq!(last("cpu-limit"), (2, Verdict::SetAside));
    assert_eq!(attempts(&policy, "plugin:x", Wish::Stop).2, Verdict::StopProcessor);
    assert_eq!(last("plugin"), (2, Verdict::StopProcessor));
}

#[test]
fn the_operators_settings_take_precedence_over_a_manifest_as_a_whole() {
    let manifest = json!({"attempts": 1_000, "trap": {"attempts": 900, "then": "dead-letter"}});
    let policy = FailurePolicy::new(parse(json!({"attempts": 2})), parse(manifest));
    let (made, _, last) = attempts(&policy, "trap", Wish::None);
    assert_eq!((made, last), (2, Verdict::SetAside), "the manifest supplies what the operator leaves open");
}

#[test]
fn a_version_on_probation_retries_only_on_request_and_sets_nothing_aside() {
    let counted = classes().into_iter().filter(|class| Blame::of(class) != Blame::Host);
    for (class, then) in counted.flat_map(|class| [(class, "dead-letter"), (class, "stop-processor")]) {
        let lenient = policy(json!({"attempts": 100, "then": then}));
        for attempt in [1, 2, 99, 100, u32::MAX] {
            for wish in WISHES {
                let failed = FailedAttempt { on_probation: true, ..failed(class, wish, attempt) };
                let verdict = lenient.verdict(&failed);
                match wish {
                    Wish::Retry { .. } => {
                        assert!(matches!(verdict, Verdict::Again { .. } | Verdict::Stop), "{class}: {verdict:?}");
                    }
                    Wish::None | Wish::Stop => assert_eq!(verdict, Verdict::Stop, "{class}"),
                }
            }
        }
    }
}

#[test]
fn a_resumed_lane_has_as_many_attempts_again() {
    let policy = policy(json!({"attempts": 3}));
    let verdicts: Vec<bool> =
        (1..=7).map(|attempt| policy.verdict(&failed("trap", Wish::None, attempt)) == Verdict::Stop).collect();
    assert_eq!(verdicts, [false, false, true, false, false, true, false]);
}

/// For any class, wish and settings: delays are within the bounds, and a limit ends each round.
#[test]
fn each_policy_ends_after_its_attempts_with_delays_within_its_bounds() {
    let is_retried = |class: &&str| Blame::of(class) != Blame::Host && *class != LETTERS_LIMIT;
    for class in classes().into_iter().filter(is_retried) {
        for wish in WISHES {
            for limit in [1, 2, 5, 40] {
                for (first, longest) in [(100, 1), (2_000, 60), (86_400_000, 4_320_000_u64)] {
                    let settings =
                        json!({"attempts": limit, "first-ms": first, "longest-s": longest, "then": "dead-letter"});
                    let policy = policy(settings.clone());
                    let (made, _, last) = attempts(&policy, class, wish);
                    let expected = if wish == Wish::Stop { 1 } else { limit };
                    assert_eq!((made, last), (expected, Verdict::SetAside), "{class} {wish:?} {settings}");
                    for attempt in 1..made {
                        let Verdict::Again { after, .. } = policy.verdict(&failed(class, wish, attempt)) else {
                            unreachable!()
                        };
                        let longest = Duration::from_secs(longest).mul_f64(1.25);
                        assert!(after >= back_off::FLOOR && after <= longest, "{class}: {after:?}");
                    }
                }
            }
        }
    }
}
