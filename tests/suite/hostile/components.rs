//! Hand-made components that no compiler would produce. Each is hostile for the tenant [`TENANT`],
//! the only one with a name of three letters, and harmless for all others.

use sandmill_tests::handmade;

use super::packed;

/// The tenant for which they are hostile.
pub(super) const TENANT: &str = "bad";
/// Length of its name, by which the components recognise it.
const TENANT_LENGTH: usize = TENANT.len();

pub(super) struct Component {
    pub(super) id: &'static str,
    pub(super) bytes: Vec<u8>,
    /// The beginning of the reason for which the lane of [`TENANT`] is blocked, if it is.
    pub(super) reason: Option<&'static str>,
}

/// All components that load.
pub(super) fn all() -> Vec<Component> {
    let small = r#"(memory (export "memory") 1)"#;
    // Grown only for the hostile tenant, as initial memory would burden all tenants.
    let grow = "(drop (memory.grow (i32.const 959)))";
    // An answer with `count` changes. The list is at 64 KiB, each entry has 28 bytes, and an entry
    // of zeros is a put of three empty strings.
    let answer = |count: u32| {
        format!("(i32.store (i32.const 4096) (i32.const 65536)) (i32.store (i32.const 4100) (i32.const {count}))")
    };
    // 1024 documents that are all the same mebibyte. A text's pointer and length are at 20 and 24
    // of its entry.
    let gibibyte = format!(
        "(local $at i32) {grow} (local.set $at (i32.const 65560))
         (loop (i32.store (local.get $at) (i32.const 1048576))
               (i32.store (i32.sub (local.get $at) (i32.const 4)) (i32.const 2097152))
               (br_if 0 (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 28))) (i32.const {}))))
         {}",
        65_560 + 28 * 1_024,
        answer(1_024)
    );
    let fill = "(memory.fill (i32.const 0) (i32.const 0) (i32.const 62914560))";
    let copy = "(memory.copy (i32.const 1) (i32.const 0) (i32.const 62914559))";
    let tables = "(table.fill 0 (i32.const 0) (ref.null func) (i32.const 20000))";
    let plain = [
        of(
            "invalid-utf8",
            small,
            "",
            "(i32.store16 (i32.const 65532) (i32.const 0xfeff)) (i32.store (i32.const 4096) (i32.const 60000)) (i32.store (i32.const 4100) (i32.const 1)) (i32.store (i32.const 60004) (i32.const 65532)) (i32.store (i32.const 60008) (i32.const 2))",
            Some("malformed-output: gave the host data that it cannot use: "),
        ),
        of(
            "wild-list",
            small,
            "",
            &answer(1_000_000),
            Some("malformed-output: gave the host data that it cannot use: "),
        ),
        of(
            "million-changes",
            small,
            "",
            &format!("{grow} {}", answer(1_000_000)),
            Some("output-limit: passed more data to the host than"),
        ),
        of("gibibyte-answer", small, "", &gibibyte, Some("output-limit: passed more data to the host than")),
        of(
            "grows-tables",
            small,
            "(table 1 funcref)",
            "(loop (br_if 0 (i32.ne (table.grow (ref.null func) (i32.const 1000)) (i32.const -1)))) unreachable",
            Some("table-limit: asked for a table of "),
        ),
        of(
            "fills-memory",
            small,
            "",
            &format!("{grow} (loop {fill} (br 0))"),
            Some("cpu-limit: computed for more than 200 ms"),
        ),
        // There is no loop here: the limit holds because every bulk instruction checks the clock
        // too.
        of(
            "fills-in-a-line",
            small,
            "",
            &format!("{grow} {}", fill.repeat(400)),
            Some("cpu-limit: computed for more than 200 ms"),
        ),
        of(
            "copies-in-a-line",
            small,
            "",
            &format!("{grow} {}", copy.repeat(400)),
            Some("cpu-limit: computed for more than 200 ms"),
        ),
        of(
            "fills-tables",
            small,
            "(table 20000 funcref)",
            &format!("(loop {tables} (br 0))"),
            Some("cpu-limit: computed for more than 200 ms"),
        ),
        // The descriptor is at 1024, with `max-batch-size` at 56 and 60 of it.
        of(
            "huge-batches",
            small,
            "(func $describe (i32.store8 (i32.const 1080) (i32.const 1)) (i32.store (i32.const 1084) (i32.const -1)))",
            "",
            None,
        ),
    ];
    plain.into_iter().chain(packed::all()).collect()
}

/// Files that are rejected: name, bytes, and part of the host's message.
pub(super) fn rejected() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let describing = |body: &str| handmade::plugin(&format!("(func $describe {body})"));
    vec![
        ("never-describes", describing("(loop br 0)"), "`describe` failed: cpu-limit: computed for more than "),
        (
            "describes-by-filling",
            describing(&format!(
                "(drop (memory.grow (i32.const 900))) {}",
                "(memory.fill (i32.const 4096) (i32.const 0) (i32.const 58000000))".repeat(200)
            )),
            "`describe` failed: cpu-limit: ",
        ),
        ("empty-batches", describing("(i32.store8 (i32.const 1080) (i32.const 1))"), "max-batch-size is 0"),
        // It claims the id of a file before it in the order of names.
        ("zz-liar", handmade::named("scripted", ""), "claims the processor id scripted, which "),
        (
            "calls-out",
            importing("wasi:http/outgoing-handler@0.2.0"),
            "imports `wasi:http/outgoing-handler@0.2.0`, which",
        ),
        (
            "wants-the-future",
            importing("wasi:clocks/monotonic-clock@0.3.0"),
            "imports `wasi:clocks/monotonic-clock@0.3.0`",
        ),
    ]
}

fn of(id: &'static str, memory: &str, fields: &str, body: &str, reason: Option<&'static str>) -> Component {
    made(handmade::named, id, memory, fields, body, reason)
}

/// A component of a form of the contract, which `make` makes from its id and fields.
pub(super) fn made(
    make: impl Fn(&str, &str) -> Vec<u8>,
    id: &'static str,
    memory: &str,
    fields: &str,
    body: &str,
    reason: Option<&'static str>,
) -> Component {
    let spare = format!("(if (i32.ne (local.get $name) (i32.const {TENANT_LENGTH})) (then return))");
    let (locals, body) = match body.strip_prefix("(local $at i32)") {
        Some(rest) => ("(local $at i32)", rest),
        None => ("", body),
    };
    let bytes = make(id, &format!("{memory} {fields} (func $body (param $name i32) {locals} {spare} {body})"));
    Component { id, bytes, reason }
}

fn importing(interface: &str) -> Vec<u8> {
    let text = format!(
        r#"(component (import "{interface}" (instance)) (instance $nothing)
            (export "sandmill:processor/description@0.1.0" (instance $nothing))
            (export "sandmill:processor/projector@0.1.0" (instance $nothing)))"#
    );
    wat::parse_str(text).expect("a component's text")
}
